"""Networks for people's own pictures: what they are taught, and by which loss."""

import numpy as np
import pytest
import torch

from digits import pretrained
from stn.data import load
from studies.cards import geometry
from studies.perspective.data import perspective
from studies.pictures import CARDS_OR_NONE, NO_DIGIT, PHOTOGRAPHS, PICTURES, cards, data, drawing
from studies.pictures.networks import Net_Card_Unsure, Net_Unsure

N = 500  # training digits, so that a test takes seconds


@pytest.fixture(scope="module")
def clean():
    digits = load()
    return digits._replace(train_images=digits.train_images[:N], train_labels=digits.train_labels[:N])


@pytest.fixture
def few_drawings(monkeypatch):
    monkeypatch.setattr(data, "N_DRAWINGS", dict.fromkeys(range(10), 8) | {NO_DIGIT: 20})
    data.draw_bank.cache_clear()
    yield
    data.draw_bank.cache_clear()


@pytest.mark.parametrize(
    "draw",
    [
        lambda digit, rng: drawing.draw_written(drawing.FORMS[digit], rng),
        lambda digit, rng: drawing.draw_printed(str(digit), rng, "test"),
    ],
)
def test_a_network_that_never_saw_a_drawing_reads_most_of_them(draw):
    rng, digits = np.random.default_rng(0), [0, 2, 3, 4, 5, 6, 8, 9] * 10  # 1 and 7 are what MNIST does not teach
    images = np.stack([draw(digit, rng) for digit in digits])
    assert images.shape == (80, 28, 28)
    assert images.min() >= 0
    assert images.max() == 1
    read = pretrained.load("exp_16").read(images).probabilities.argmax(1)
    assert (read == digits).mean() > 0.7


def test_what_is_no_digit_is_light_on_black_and_no_stroke_of_a_1():
    rng = np.random.default_rng(0)
    images = np.stack(drawing.draw_no_digits(rng, 60))
    assert images.shape == (60, 28, 28)
    assert (images.max((1, 2)) == 1).all()
    assert (images[:, 0, 0] < 0.5).all()
    assert len(np.unique(images, axis=0)) == 60
    parts = images[30:]
    assert ((parts.max(1) > 0.1).sum(1) >= drawing.NARROW).all()


def test_an_epoch_has_drawn_digits_after_those_of_mnist_and_then_what_is_none(clean, few_drawings, monkeypatch):
    monkeypatch.setattr(data, "perspective_homographies", lambda n, *_: torch.eye(3).repeat(n, 1, 1))  # upright
    made = data.pictures(clean)
    n_drawn, n_others = (round(N * PICTURES[name]) for name in ("drawn", "no_digits"))
    assert (
        made.train_labels.tolist()
        == [*clean.train_labels.tolist(), *clean.train_labels.tolist()[:n_drawn]] + [NO_DIGIT] * n_others
    )
    made.draw_epoch(1, 1)
    digits, rest = made.train_images[:N], made.train_images[N:]
    assert (digits - clean.train_images).abs().max() < 1e-3
    bank = data.draw_bank(0.1307, 0.3081)
    label = torch.tensor([label for label, drawings in bank.items() for _ in drawings])
    distances = torch.cdist(rest.flatten(1), torch.cat(list(bank.values())).flatten(1))
    assert distances.amin(1).max() < 0.05
    assert label[distances.argmin(1)].equal(made.train_labels[N:])


def test_an_epoch_is_a_function_of_seed_and_number(clean, few_drawings):
    made, first = data.pictures(clean), {}
    for seed, epoch in ((1, 1), (1, 2), (2, 1)):
        made.draw_epoch(seed, epoch)
        first[seed, epoch] = made.train_images.clone()
    again = data.pictures(clean)
    again.draw_epoch(1, 1)
    assert again.train_images.equal(first[1, 1])
    assert not first[1, 1].equal(first[1, 2])
    assert not first[1, 1].equal(first[2, 1])


def test_it_is_tested_on_the_digits_in_perspective_that_others_are_tested_on(clean):
    few = clean._replace(test_images=clean.test_images[:50], test_labels=clean.test_labels[:50])
    assert data.perspective_only(few).test_images.equal(perspective(few).test_images)


def test_what_is_no_digit_is_taught_to_be_anything():
    torch.manual_seed(0)
    network = Net_Unsure(passes=2).eval()
    images, labels = torch.randn(4, 1, 28, 28), torch.tensor([3, NO_DIGIT, 7, NO_DIGIT])
    scores = network(images)
    expected = -(scores[0, 3] + scores[2, 7] + scores[1].mean() + scores[3].mean()) / 4
    assert network.loss(images, labels).item() == pytest.approx(expected.item(), rel=1e-6)


# cards


@pytest.fixture(scope="module")
def scenes(clean):
    few = clean._replace(test_images=clean.test_images[:100], test_labels=clean.test_labels[:100])
    made = cards.cards_or_none(few)
    made.draw_epoch(1, 9)
    return made


def test_the_last_scenes_of_an_epoch_have_no_card(scenes):
    n_none = round(len(scenes.train_labels) * CARDS_OR_NONE["no_cards"])
    assert (scenes.train_labels[:-n_none] < NO_DIGIT).all()
    assert (scenes.train_labels[-n_none:] == NO_DIGIT).all()
    reader = pretrained.load("exp_40").model
    strips = geometry.strips(scenes.train_images.float() / 255, scenes.train_homographies)
    scores = torch.cat([reader.classify(part).detach() for part in (strips[:200], strips[-200:])])
    right = scores[:200].argmax(1) == scenes.train_labels[:200]
    assert right.float().mean() > 0.9
    sureness = scores.amax(1).mean(1).exp()  # the geometric mean over the digits, without a card of what it sees there
    assert sureness[:200].median() > 0.9
    assert sureness[200:].median() < 0.7


def test_epochs_have_other_heaps_and_the_same_seed_the_same(scenes):
    first = scenes.train_images.clone()
    scenes.draw_epoch(1, 10)
    assert not scenes.train_images.equal(first)
    scenes.draw_epoch(1, 9)
    assert scenes.train_images.equal(first)


def test_photographs_to_measure_with_are_not_trained_on():
    names = [name for part in PHOTOGRAPHS.values() for name in part]
    assert sorted(names) == sorted(path.stem for path in (cards.ROOT / "photographs").glob("*.png"))
    for split, n in (("train", 15), ("test", 9)):
        bank = cards.photographs(split)
        assert bank.shape == (n, 256, 256)
        assert np.abs(bank.mean((1, 2)) - 127.5).max() < 6


def test_radii_of_shapes_are_distributed_as_those_of_dead_leaves():
    """Three quarters of the shapes are smaller than twice the smallest one, as ∫ r⁻³ says, but for what is cut off."""
    boxes = []

    class Pencil:
        def rectangle(self, box, _grey):
            boxes.append(box)

        ellipse = rectangle

    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards.ImageDraw, "Draw", lambda _: Pencil())
        for _ in range(25):
            cards.draw_heap(rng)
    left, top, right, bottom = np.array(boxes).T
    largest = np.maximum(right - left, bottom - top) / 2  # at most the radius, and at least 0.3 of it
    assert 0.3 * cards.SMALLEST <= largest.min() <= largest.max() <= cards.LARGEST
    assert np.mean(largest < 2 * cards.SMALLEST) > 0.75


def test_scenes_without_a_card_teach_the_classifier_alone(scenes):
    network = Net_Card_Unsure(passes=2, taught_corners=30.0)
    images, labels, homographies = scenes.batch(torch.tensor([-1, -2]) + len(scenes.train_labels))
    network.loss(images, labels, homographies).backward()
    for name, weight in network.named_parameters():
        touched = weight.grad is not None and weight.grad.abs().max() > 0
        assert touched != name.startswith("loc_"), name


def test_scenes_with_a_card_teach_as_those_of_the_study(scenes):
    torch.manual_seed(0)
    network = Net_Card_Unsure(passes=2, taught_corners=30.0).eval()
    batch = scenes.batch(torch.arange(4))
    theirs = super(Net_Card_Unsure, network).loss(*batch)
    assert network.loss(*batch).item() == pytest.approx(theirs.item(), rel=1e-5)
