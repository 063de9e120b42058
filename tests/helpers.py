"""What several test files share: short runs, and ways to stop them or to see that nothing is trained."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import train
from models import Net
from stn.mnist import MD5

TRIAL = "exp_99_run_01_trial"


def run(digits, out, name=TRIAL, n_epochs=3, model=Net, **options):
    """Train a new network, which has the same weights in every call, and return its results."""
    torch.manual_seed(123)
    return train.train(model(), name, n_epochs, data=digits, out=out, **options)


def write_idx(folder, arrays):
    """Write four arrays of bytes into `folder` as IDX files, in the order of `read_mnist`."""
    for name, array in zip(MD5, arrays, strict=True):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / name).write_bytes(header + array.tobytes())


class Linear(nn.Sequential):
    """A network of one's own, without a transformer and quick to train."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))


# The same network, whose steps are not recorded: the same bits (a test of test_step.py) and a second less for each run.
def Unrecorded():
    net = Net()
    net.repeatable = False
    return net


class Interruption(BaseException):
    """Ends a run where a test wants it to end; nothing in the program catches it."""


def interrupt(patch, owner, name, at_call=1):
    """Let a call of `owner.name`, by default the first, raise Interruption instead; the ones before are made."""
    original, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == at_call:
            raise Interruption
        return original(*args, **kwargs)

    patch.setattr(owner, name, interrupted)


def forbid(patch, owner, name):
    """Fail the test if `owner.name` is called."""
    patch.setattr(owner, name, lambda *_, **__: pytest.fail(f"{name} is called where it must not be"))


def picture(ink, light=1.0, paper=0.9, pen=0.15):
    """Put ink (H, W) in [0, 1] on paper."""
    return Image.fromarray(((paper + (pen - paper) * ink) * light * 255).astype(np.uint8))
