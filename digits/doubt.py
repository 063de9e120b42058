"""How far a network's answers can be trusted: probabilities that mean what they say, and when to doubt a digit.

Only networks that were taught to be unsure of what is no digit (studies/pictures) know doubt. `tools/doubt.py` fits
these numbers on pictures of its own, and measures them on others: results/doubt.json.
"""

from typing import NamedTuple

import torch


class Calibration(NamedTuple):
    """What turns the scores of a network into probabilities, and these into doubt."""

    temperature: float  # divides the scores (Guo et al., arXiv 1706.04599); 1 leaves them as they are
    threshold: float  # a digit that is less probable is in doubt


CALIBRATIONS = {"exp_302": Calibration(temperature=1.05, threshold=0.993)}  # {network of weights/: its calibration}


def soften(scores, temperature=1.0):
    """Return probabilities (N, 10), an array, from log-probabilities (N, 10), an array or a tensor."""
    return torch.softmax(torch.as_tensor(scores) / temperature, 1).numpy()


def mark(digits, doubtful):
    """Return N digits as strings, with "?" after those in doubt (N,); None: after none of them."""
    if doubtful is None:
        return [str(digit) for digit in digits]
    return [f"{digit}{'?' * bool(doubt)}" for digit, doubt in zip(digits, doubtful, strict=True)]
