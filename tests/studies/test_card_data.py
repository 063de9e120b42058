"""Scenes with cards as a data set: whose digits they carry, that epochs are functions of their seed, how they grow."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import ROOT
from kornia.geometry.transform import homography_warp

from lab import catalogue
from stn import data
from stn.data import epoch_seed
from stn.mnist import read_mnist
from studies.cards import data as card_data
from studies.cards import rendering

FIELD = torch.tensor([[76 / 128, 0, 0], [0, 16 / 128, (71 + 87) / 128 - 1], [0, 0, 1]])  # the number's, see STRIP


def training_part(data):
    return [part.clone() for part in (data.train_images, data.train_labels, data.train_homographies)]


def equal(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.fixture
def told_apart(digits):
    """The few digits with the labels 0 to 4 for training, but 5 to 7 for the last of them, and 8 and 9 for testing."""
    train_labels = digits.train_labels % 5
    train_labels[400:] = 5 + digits.train_labels[400:] % 3
    return digits._replace(train_labels=train_labels, test_labels=8 + digits.test_labels % 2)


def test_scenes_are_drawn_of_the_very_pixels_of_a_split(digits):
    arrays = read_mnist()
    parts = ("train", arrays[0][:640], arrays[1][:640]), ("test", arrays[2][:500], arrays[3][:500])
    for split, pixels, labels in parts:
        small, found, bank = card_data.sources_of(digits, split, split)
        assert np.array_equal(small, rendering.small_digits(pixels))
        assert np.array_equal(found, labels)
        assert bank is rendering.textures(split)


def test_an_epoch_is_a_function_of_seed_and_epoch(few_cards):
    data, other = few_cards(), few_cards()
    data.draw_epoch(123, 1)
    first = training_part(data)
    data.draw_epoch(123, 7)
    later = training_part(data)
    other.draw_epoch(123, 7)
    assert equal(later, training_part(other))
    for seed, epoch in ((123, 8), (124, 7)):
        other.draw_epoch(seed, epoch)
        assert not any(torch.equal(a, b) for a, b in zip(later, training_part(other), strict=True))
    data.draw_epoch(123, 1)
    assert equal(first, training_part(data))
    assert first[0].shape == (100, 1, 128, 128)
    some = torch.tensor([5, 0, 99])
    assert equal(data.batch(some), [part[some] for part in first])


def test_the_test_scenes_are_the_same_for_all_and_none_of_the_training_scenes(few_cards):
    data, other = few_cards(), few_cards()
    data.draw_epoch(123, 12)
    assert torch.equal(data.test_images, other.test_images)
    assert torch.equal(data.test_homographies, other.test_homographies)
    assert not (data.train_homographies[:60] == data.test_homographies).flatten(1).all(1).any()


def test_the_distortions_grow_over_five_epochs_to_those_of_the_test(few_cards):
    data = few_cards()
    assert torch.equal(data.train_homographies, torch.eye(3).expand(100, 3, 3))  # before the first
    strengths = {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8, 5: 1.0, 6: 1.0, 20: 1.0}
    moved = []
    for epoch, strength in strengths.items():
        data.draw_epoch(123, epoch)
        expected, _ = rendering.places(100, epoch_seed(123, epoch, stream=2), strength)
        assert torch.equal(data.train_homographies, torch.from_numpy(expected))
        moved.append((data.train_homographies - torch.eye(3)).abs().mean())
    assert moved[0] < moved[1] < moved[2] < moved[3]
    assert torch.equal(data.test_homographies, torch.from_numpy(rendering.places(60, card_data.TEST_SEED, 1.0)[0]))


def test_the_test_set_is_the_one_of_the_page():
    """All 5,000 scenes, byte for byte; the checksum stands in docs/method.md."""
    drawn = card_data.scenes(card_data.sources_of(data.load(), "test", "test"), 5000, card_data.TEST_SEED, 1.0)
    digest = hashlib.sha256()
    for part in drawn:
        digest.update(part.numpy())
    assert digest.hexdigest() in (ROOT / "docs" / "method.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("straight", [False, True])
def test_training_and_test_numbers_are_of_the_digits_of_their_splits(few_cards, told_apart, straight):
    data = card_data.cards(told_apart, straight)
    data.draw_epoch(123, 1)
    assert (data.test_labels.shape, data.train_labels.shape) == ((60, 6), (100, 6))
    assert set(data.train_labels.unique().tolist()) == set(range(8))
    assert set(data.test_labels.unique().tolist()) == {8, 9}


def test_held_out_numbers_are_of_the_last_training_digits_on_training_backgrounds(few_cards, told_apart):
    """Which are not trained on then; test digits and test backgrounds stay unseen."""
    data = card_data.cards(told_apart, held_out=True)
    assert data.description == card_data.cards(told_apart).description | {"held_out": True}  # no run of the table
    data.draw_epoch(123, 1)
    assert set(data.train_labels.unique().tolist()) == set(range(5))
    assert set(data.test_labels.unique().tolist()) == {5, 6, 7}
    pixels = read_mnist()[0][400:640]
    own = rendering.small_digits(pixels), told_apart.train_labels[400:].numpy(), rendering.textures("train")
    assert torch.equal(data.test_images, rendering.draw(*own, 60, card_data.TEST_SEED, 1.0).images)


def test_straight_strips_are_the_scenes_straightened_by_the_truth(few_cards):
    data, straight = few_cards(), few_cards(straight=True)
    for each in (data, straight):
        each.draw_epoch(123, 10)
    for part in ("train", "test"):
        images, truth = (getattr(data, f"{part}_{name}") for name in ("images", "homographies"))
        expected = homography_warp(images.float(), truth @ FIELD, (28, 133), align_corners=False)
        found = getattr(straight, f"{part}_images")
        assert found.dtype == torch.uint8
        assert (found - expected).abs().max() < 0.51  # rounded
        assert torch.equal(getattr(straight, f"{part}_labels"), getattr(data, f"{part}_labels"))
        assert torch.equal(getattr(straight, f"{part}_homographies"), truth)


@pytest.mark.parametrize("name", catalogue.datasets())
def test_what_a_spec_says_of_a_data_set_is_true_of_the_data(few_cards, digits, name):
    """It is said before they are made: the description, and the size of the images."""
    spec = catalogue.datasets()[name]
    data = spec.built(digits)
    assert data.description == spec.describe(digits.description)
    assert tuple(data.test_images.shape[2:]) == spec.image_size
    assert data.test_labels.shape[1:] == ((spec.n_digits,) if spec.n_digits > 1 else ())
    assert torch.equal(data.test_labels, digits.test_labels) == spec.labels_of_digits
    assert catalogue.spec_of(data.description) is spec


def test_on_another_device_all_of_it_is(few_cards):
    data = few_cards().to("meta")
    for name, part in data._asdict().items():
        assert getattr(part, "is_meta", True), name
