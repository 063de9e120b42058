"""Scenes with a card on many more backgrounds, and a fifth of the training scenes without one.

Beside the training backgrounds of studies/cards these are five photographs and, anew in every epoch, heaps of flat
shapes, whose edges and scales are distributed like those of photographs (the dead-leaves model: Lee, Mumford and Huang,
International Journal of Computer Vision 41, 2001). The test set is that of the data set "cards".
"""

from functools import lru_cache, partial

import numpy as np
import torch
from PIL import Image, ImageDraw

from stn.data import Dataset, epoch_seed
from stn.mnist import ROOT
from studies.cards.data import GROWTH, N_TEST, N_TRAIN, TEST_SEED, sources_of
from studies.cards.rendering import TEXTURE, draw, standardise, views
from studies.pictures import CARDS_OR_NONE, NO_DIGIT, PHOTOGRAPHS

N_HEAPS, N_SHAPES = 40, 400  # an epoch's, and the shapes of each
SMALLEST, LARGEST = 3, 120  # pixels, radii of shapes


def cards_or_none(clean):
    """Return the Dataset of scenes with and without a card; those without have the label `NO_DIGIT` six times.

    Its training scenes are undistorted before the first epoch. Raise DataError without Numba.
    """
    own = sources_of(clean, "train", "train")
    train = draw(*own, N_TRAIN, 0, 0.0)
    test = draw(*sources_of(clean, "test", "test"), N_TEST, TEST_SEED, 1.0)
    return Dataset(
        *(train.images, train.labels, test.images, test.labels, clean.description | CARDS_OR_NONE, clean),
        partial(draw_epoch, own),
        train_homographies=train.homographies,
        test_homographies=test.homographies,
    )


def draw_epoch(sources, data, seed, epoch):
    """Replace the training scenes of `data` by those of an epoch; the last ones are those without a card."""
    *digits_and_labels, bank = sources
    rng = np.random.default_rng(epoch_seed(seed, epoch, stream=5))
    bank = np.concatenate([bank, photographs("train"), standardise([draw_heap(rng) for _ in range(N_HEAPS)])])
    strength, n_none = min(1.0, epoch / GROWTH), round(N_TRAIN * CARDS_OR_NONE["no_cards"])
    drawn = [
        draw(*digits_and_labels, bank, n, epoch_seed(seed, epoch, stream), strength, with_card)
        for stream, n, with_card in ((2, N_TRAIN - n_none, True), (6, n_none, False))
    ]
    drawn[1].labels.fill_(NO_DIGIT)
    new = map(torch.cat, zip(*drawn, strict=True))
    for old, drawn_part in zip((data.train_images, data.train_labels, data.train_homographies), new, strict=True):
        old.copy_(drawn_part)


def draw_heap(rng):
    """Draw discs and rectangles on top of each other, with radii r of a density as r⁻³: (256, 256) from 0 to 255."""
    heap = Image.new("L", (TEXTURE, TEXTURE))
    pencil = ImageDraw.Draw(heap)
    uniform = rng.random(N_SHAPES)
    radii = 1 / np.sqrt(uniform / SMALLEST**2 + (1 - uniform) / LARGEST**2)  # the inverse of their distribution
    centres, halves = rng.uniform(0, TEXTURE, (N_SHAPES, 2)), radii[:, None] * rng.uniform(0.3, 1, (N_SHAPES, 2))
    boxes = np.concatenate([centres - halves, centres + halves], 1)
    for box, grey, is_round in zip(boxes, rng.integers(0, 256, N_SHAPES), rng.random(N_SHAPES) < 0.5, strict=True):
        (pencil.ellipse if is_round else pencil.rectangle)(tuple(box), int(grey))
    return np.asarray(heap)


@lru_cache
def photographs(split):
    """Return the photographs to train on, or to measure with, and parts of them: (K, 256, 256) uint8."""
    names = PHOTOGRAPHS["test"] if split == "test" else sorted(PHOTOGRAPHS["taught"] + PHOTOGRAPHS["calibration"])
    return standardise([view for name in names for view in views(Image.open(ROOT / "photographs" / f"{name}.png"))])
