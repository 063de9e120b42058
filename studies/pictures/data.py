"""MNIST's training digits, drawn ones beside them, and what is no digit; all in perspective, weak or strong.

Every epoch takes other drawings and other distortions. The test set is that of the data set "perspective": MNIST's test
digits, with nothing drawn.
"""

from functools import lru_cache, partial

import numpy as np
import torch

from stn.data import Dataset, epoch_seed
from studies.perspective.data import distort, distorted_test_images, perspective_homographies
from studies.pictures import NO_DIGIT, PERSPECTIVE, PICTURES
from studies.pictures.drawing import draw_digit, draw_no_digit

BANK_SEED = 1  # of the drawings, which are the same in all runs
N_DRAWINGS = dict.fromkeys(range(10), 800) | {NO_DIGIT: 4000}


def pictures(clean, adds=PICTURES):
    """Return the Dataset `clean` with drawings among its training digits, and after these what is no digit.

    The labels of drawings are those of the digits in whose place they are; what is no digit has the label `NO_DIGIT`.
    """
    n_digits, n_others = len(clean.train_images), round(adds["no_digits"] * len(clean.train_images))
    black = clean.train_images.min()
    others = black.expand(n_others, 1, *clean.train_images.shape[2:])
    labels = torch.cat([clean.train_labels, clean.train_labels.new_full((n_others,), NO_DIGIT)])
    test_images = distorted_test_images(clean, clean.test_images.shape[2:])
    return Dataset(
        *(torch.cat([clean.train_images, others]), labels, test_images, clean.test_labels),
        clean.description | adds,
        clean,
        partial(draw_epoch, share=adds["drawn"], n_digits=n_digits),
    )


perspective_only = partial(pictures, adds=PERSPECTIVE)


@lru_cache
def draw_bank(mean, std):
    """Draw `N_DRAWINGS` of each digit, and of what is none: {label: normalised images (N, 1, 28, 28)}. A minute."""
    rng = np.random.default_rng(BANK_SEED)
    bank = {}
    for label in (*range(10), NO_DIGIT):
        drawn = [draw_no_digit(rng) if label == NO_DIGIT else draw_digit(label, rng) for _ in range(N_DRAWINGS[label])]
        bank[label] = torch.from_numpy(np.stack(drawn)).unsqueeze(1).sub(mean).div(std)
    return bank


def draw_epoch(data, seed, epoch, share, n_digits):
    """Replace `data.train_images` by those of the epoch; a `share` of the digits are drawings."""
    rng = np.random.default_rng(epoch_seed(seed, epoch, stream=4))
    n, images = len(data.train_labels), data.train_images
    images[:n_digits] = data.clean.train_images
    is_drawn = torch.from_numpy((rng.random(n) < share) | (np.arange(n) >= n_digits))
    bank = draw_bank(data.description["mean"], data.description["std"]) if is_drawn.any() else {}
    for label, drawings in bank.items():
        places = torch.nonzero(is_drawn & (data.train_labels.cpu() == label))[:, 0]
        chosen = torch.from_numpy(rng.integers(0, len(drawings), len(places)))
        images[places] = drawings[chosen].to(images)
    strengths = torch.from_numpy(rng.random(n, np.float32))[:, None, None]
    full = perspective_homographies(n, seed, epoch, images.shape[2:])
    distort(images.clone(), torch.lerp(torch.eye(3).expand_as(full), full, strengths), images)
