"""Scenes with cards as a data set: new ones in every epoch, their distortions growing at first, and a fixed test set.

The numbers of the training cards are of MNIST's training digits, those of the test cards of its test digits: other
writers, on other backgrounds.
"""

from functools import partial

import torch

from stn.data import Dataset, epoch_seed
from studies.cards import card_data
from studies.cards.geometry import strips
from studies.cards.rendering import draw, small_digits, textures

N_TRAIN, N_TEST = 6000, 5000
TEST_SEED = 0  # runs have other seeds
GROWTH = 5  # epochs until the distortions have their full strength
HELD_OUT = 50_000  # training digits from this one on are those of the held-out cards


def cards(clean, straight=False, held_out=False):
    """Return scenes with cards, made of the digits of the Dataset `clean`; undisturbed ones before the first epoch.

    straight: strips that the true homographies have straightened, instead of scenes: what a reader could see at best.
    held_out: test on training digits, which are not trained on then: to choose a recipe. Raise DataError.
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
    """Return what scenes are drawn from: the small digits of a split of `clean`, their labels, and backgrounds."""
    images, labels = getattr(clean, f"{split}_images"), getattr(clean, f"{split}_labels")
    pixels = torch.cat([as_bytes(clean.pixels(part)) for part in images[:, 0].cpu().split(1000)])
    return small_digits(pixels.numpy()), labels.cpu().numpy(), textures(backgrounds)


def scenes(sources, n, seed, strength, straight=False):
    """Draw n `Scenes` from `sources_of` a data set; straight ones hold strips as images."""
    found = draw(*sources, n, seed, strength)
    if straight:
        parts = zip(found.images.split(500), found.homographies.split(500), strict=True)
        found = found._replace(images=torch.cat([as_bytes(strips(x / 255, matrices)) for x, matrices in parts]))
    return found


def as_bytes(images):
    return images.mul_(255).round_().byte()


def draw_epoch(sources, straight, data, seed, epoch):
    """Make the training scenes of `data` those of an epoch."""
    found = scenes(sources, N_TRAIN, epoch_seed(seed, epoch, stream=2), min(1.0, epoch / GROWTH), straight)
    for old, new in zip((data.train_images, data.train_labels, data.train_homographies), found, strict=True):
        old.copy_(new)
