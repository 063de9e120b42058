"""The data set of scenes with cards: new training scenes in every epoch, and a fixed test set.

The distortions of the training scenes grow over the first epochs. Training cards have MNIST's training digits, test
cards its test digits, which are by other writers, and other backgrounds.
"""

from functools import partial

import torch

from stn.data import Dataset, epoch_seed
from studies.cards import card_data
from studies.cards.geometry import strips
from studies.cards.rendering import draw, small_digits, textures

N_TRAIN, N_TEST = 6000, 5000
TEST_SEED = 0  # of the test set; runs have other seeds
GROWTH = 5  # epochs until the distortions have their full strength
HELD_OUT = 50_000  # held-out cards have the training digits from this index on


def cards(clean, straight=False, held_out=False):
    """Return the Dataset of scenes with cards whose numbers are digits of the Dataset `clean`.

    Its training scenes are undistorted before the first epoch.

    straight: have strips, cut out by the true homographies, instead of scenes. They stand for perfect localisation.
    held_out: test on training digits, which are then not trained on. This is for choosing a recipe.
    Raise DataError without Numba.
    """
    description = card_data(straight, held_out).describe(clean.description)
    if held_out:
        clean = clean._replace(
            train_images=clean.train_images[:HELD_OUT],
            train_labels=clean.train_labels[:HELD_OUT],
            test_images=clean.train_images[HELD_OUT:],
            test_labels=clean.train_labels[HELD_OUT:],
        )
    own = sources_of(clean, "train", "train")
    train = scenes(own, N_TRAIN, 0, 0.0, straight)
    test = scenes(sources_of(clean, "test", "train" if held_out else "test"), N_TEST, TEST_SEED, 1.0, straight)
    parts = train.images, train.labels, test.images, test.labels, description, clean
    places = {"train_homographies": train.homographies, "test_homographies": test.homographies}
    return Dataset(*parts, partial(draw_epoch, own, straight), **places)


straight_cards = partial(cards, straight=True)
held_out_cards = partial(cards, held_out=True)
held_out_straight_cards = partial(cards, straight=True, held_out=True)


def sources_of(clean, split, backgrounds):
    """Return the small digits of a split of `clean`, their labels, and backgrounds: the sources of scenes."""
    images, labels = getattr(clean, f"{split}_images"), getattr(clean, f"{split}_labels")
    pixels = torch.cat([as_bytes(clean.pixels(part)) for part in images[:, 0].cpu().split(1000)])
    return small_digits(pixels.numpy()), labels.cpu().numpy(), textures(backgrounds)


def scenes(sources, n, seed, strength, straight=False):
    """Draw n `Scenes` from the result of `sources_of`; if `straight`, their images are strips."""
    found = draw(*sources, n, seed, strength)
    if straight:
        parts = zip(found.images.split(500), found.homographies.split(500), strict=True)
        found = found._replace(images=torch.cat([as_bytes(strips(x / 255, matrices)) for x, matrices in parts]))
    return found


def as_bytes(images):
    return images.mul_(255).round_().byte()


def draw_epoch(sources, straight, data, seed, epoch):
    """Replace the training scenes of `data` by those of an epoch."""
    found = scenes(sources, N_TRAIN, epoch_seed(seed, epoch, stream=2), min(1.0, epoch / GROWTH), straight)
    for old, new in zip((data.train_images, data.train_labels, data.train_homographies), found, strict=True):
        old.copy_(new)
