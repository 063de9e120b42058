"""MNIST's training digits, drawn ones after them, and what is no digit; all in perspective, weak or strong.

Every epoch chooses other drawings and other distortions. The test set is that of the data set "perspective": MNIST's
test digits, with nothing drawn.
"""

from functools import lru_cache, partial

import numpy as np
import torch

from stn.data import Dataset, epoch_seed
from studies.perspective.data import distort, distorted_test_images, perspective_homographies
from studies.pictures import NO_DIGIT, PERSPECTIVE, PICTURES
from studies.pictures.drawing import draw_digit, draw_no_digits

BANK_SEED = 1  # of the drawings, which are the same in all runs
N_DRAWINGS = dict.fromkeys(range(10), 800) | {NO_DIGIT: 8000}


def pictures(clean, adds=PICTURES):
    """Return the Dataset `clean` with drawn digits after its training digits, and then what is no digit.

    What is no digit has the label `NO_DIGIT`. Before the first epoch, both are black.
    """
    n = len(clean.train_images)
    n_drawn, n_others = (round(adds[name] * n) for name in ("drawn", "no_digits"))
    black = clean.train_images.min().expand(n_drawn + n_others, 1, *clean.train_images.shape[2:])
    labels = [clean.train_labels, clean.train_labels[:n_drawn], clean.train_labels.new_full((n_others,), NO_DIGIT)]
    test_images = distorted_test_images(clean, clean.test_images.shape[2:])
    return Dataset(
        *(torch.cat([clean.train_images, black]), torch.cat(labels), test_images, clean.test_labels),
        clean.description | adds,
        clean,
        draw_epoch,
    )


perspective_only = partial(pictures, adds=PERSPECTIVE)


@lru_cache
def draw_bank(mean, std):
    """Draw `N_DRAWINGS` of each digit, and of what is none: {label: normalised images (N, 1, 28, 28)}. Two minutes."""
    rng = np.random.default_rng(BANK_SEED)
    bank = {label: [draw_digit(label, rng) for _ in range(N_DRAWINGS[label])] for label in range(10)}
    bank[NO_DIGIT] = draw_no_digits(rng, N_DRAWINGS[NO_DIGIT])
    return {label: torch.from_numpy(np.stack(drawn)).unsqueeze(1).sub(mean).div(std) for label, drawn in bank.items()}


def draw_epoch(data, seed, epoch):
    """Replace `data.train_images` by those of the epoch."""
    rng = np.random.default_rng(epoch_seed(seed, epoch, stream=4))
    n, n_digits, images = len(data.train_labels), len(data.clean.train_images), data.train_images
    images[:n_digits] = data.clean.train_images
    labels = data.train_labels[n_digits:].cpu()
    bank = draw_bank(data.description["mean"], data.description["std"]) if len(labels) else {}
    for label, drawings in bank.items():
        places = n_digits + torch.nonzero(labels == label)[:, 0]
        chosen = torch.from_numpy(rng.integers(0, len(drawings), len(places)))
        images[places] = drawings[chosen].to(images)
    strengths = torch.from_numpy(rng.random(n, np.float32))[:, None, None]
    full = perspective_homographies(n, seed, epoch, images.shape[2:])
    distort(images.clone(), torch.lerp(torch.eye(3).expand_as(full), full, strengths), images)
