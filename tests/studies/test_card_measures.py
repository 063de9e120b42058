"""The measures of cards, on networks whose answers are known, and overlaps beside counted points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lab import figures
from lab.catalogue import datasets, spec_of
from studies.cards import geometry
from studies.cards import metrics as card_metrics
from studies.cards.networks import Net_Card, Net_Card_Homography

IDENTITY = torch.eye(3, dtype=torch.float64)
NOMINAL = np.array([(-92.0, -58), (92, -58), (92, 58), (-92, 58)]) / 128
DIAGONAL = math.hypot(2 * 92 / 128, 2 * 58 / 128)
SIDE = 300  # points along the side of the square in which overlaps are counted


def moved(x, y=0.0, factor=1.0):
    """Reads so far to the right and down, and so many times as large an outline."""
    return torch.tensor([[factor, 0, x], [0, factor, y], [0, 0, 1]], dtype=torch.float64)


def counted(outline):
    """Count the points of a grid that lie in the card, in the outline, or in both: their intersection over union."""
    line = (np.arange(SIDE) + 0.5) / SIDE * 3 - 1.5
    x, y = np.meshgrid(line, line)
    points = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    from_card = np.linalg.inv(outline) @ points
    from_card = from_card[:2] / from_card[2]
    (in_card, in_outline) = ((np.abs(p[:2]) <= np.array([[92], [58]]) / 128).all(0) for p in (points, from_card))
    return (in_card & in_outline).sum() / (in_card | in_outline).sum()


offsets = st.lists(st.floats(-0.35, 0.35), min_size=8, max_size=8)


@given(offsets)
def test_the_overlap_of_any_convex_outline_is_what_points_say(offsets):
    corners = NOMINAL + np.reshape(offsets, (4, 2))
    sides = np.roll(corners, -1, 0) - corners
    before = np.roll(sides, 1, 0)
    turns = before[:, 0] * sides[:, 1] - before[:, 1] * sides[:, 0]
    if (turns > 0.05).all():
        outline = geometry.homographies_to(corners[None])
        assert card_metrics.iou(torch.from_numpy(outline))[0] == pytest.approx(counted(outline[0]), abs=0.02)


def test_overlaps_by_hand():
    """The card itself, half of it and as much beside it, twice and half as large, apart, and upside down."""
    outlines = [IDENTITY, moved(92 / 128), moved(0, factor=2.0), moved(0, factor=0.5), moved(1.5), moved(0, 5)]
    outlines, expected = torch.stack(outlines), [1, 1 / 3, 1 / 4, 1 / 4, 0, 0]
    assert card_metrics.iou(outlines).tolist() == pytest.approx(expected)
    upside_down = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))
    assert card_metrics.iou(upside_down[None]).tolist() == pytest.approx([1])
    assert card_metrics.iou(outlines[:0]).tolist() == []


@pytest.mark.parametrize("horizon", [(3.0, 0.0), (0.0, -2.5), (1.4, 1.4)])
def test_an_outline_across_the_horizon_has_no_overlap(horizon):
    outline = torch.eye(3, dtype=torch.float64)
    outline[2, :2] = torch.tensor(horizon)
    assert card_metrics.iou(outline[None]).tolist() == [0]
    behind = torch.diag(torch.tensor([1.0, 1, -1], dtype=torch.float64))
    assert card_metrics.iou(behind[None]).tolist() == [0]


class Knowing(nn.Module):
    """Knows the truth of each scene, and has the card in another place of its straightened scene: at `constant`.

    It reads what it is told to.
    """

    def __init__(self, constant, known, read):
        super().__init__()
        self.constant, self.known, self.read = constant, known, read

    def homography(self, images):
        truth = torch.stack([self.known[image.numpy().tobytes()][1] for image in images])
        return truth.double() @ self.constant

    def forward(self, images):
        labels = torch.stack([self.known[image.numpy().tobytes()][0] for image in images])
        return nn.functional.one_hot(self.read(labels), 10).transpose(1, 2).float()


@pytest.fixture
def known(monkeypatch):
    """{the bytes of a scene: (its number, its true homography)} of all scenes that are drawn to be measured."""
    found, drawn = {}, card_metrics.scenes

    def scenes(*arguments):
        made = drawn(*arguments)
        remember(found, *made)
        return made

    monkeypatch.setattr(card_metrics, "scenes", scenes)
    return found


def remember(known, images, labels, homographies):
    known |= {image.numpy().tobytes(): pair for image, *pair in zip(images, labels, homographies, strict=True)}


def last_digit_wrong(labels):
    """Of each number that ends in 5 or more the last digit."""
    read = labels.clone()
    read[:, 5] = torch.where(labels[:, 5] >= 5, labels[:, 5] - 1, labels[:, 5])
    return read


CONSTANT = torch.tensor([[1.3, 0.2, 0.1], [-0.1, 0.9, -0.2], [0.1, 0.05, 1.0]], dtype=torch.float64)


def test_the_alignment_is_the_constant_by_which_a_network_differs_from_the_truth(few_cards, known):
    model = Knowing(CONSTANT, known, lambda labels: labels)
    found = card_metrics.alignment_of(model, few_cards())
    expected = CONSTANT.inverse()
    torch.testing.assert_close(found, expected / expected[2, 2], rtol=1e-4, atol=1e-5)


def test_a_network_that_finds_every_card_in_its_own_frame_is_without_error(few_cards, known):
    """With the alignment; without it, its outlines are far from the cards."""
    data = few_cards()
    remember(known, data.test_images, data.test_labels, data.test_homographies)
    model = Knowing(CONSTANT, known, last_digit_wrong)
    numbers, transforms, statistics = card_metrics.measure_transformer(model, data)
    wrong = int((data.test_labels[:, 5] >= 5).sum())
    assert numbers["digits_read"] == pytest.approx(100 * (1 - wrong / 360))
    assert (numbers["iou"], numbers["iou_95"]) == (pytest.approx(1, abs=1e-3), 1)
    assert numbers["corner_error_p95"] < 0.01
    assert "numbers_read" not in numbers  # it is the accuracy
    torch.testing.assert_close(transforms, model.homography(data.test_images))
    assert statistics is None
    curve = numbers["by_strength"]
    assert set(curve) == {"strength", "numbers_read", "digits_read", "iou", "corner_error"}
    assert {len(values) for values in curve.values()} == {len(card_metrics.STRENGTHS)}
    assert curve["strength"] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert curve["iou"] == pytest.approx([1] * 7, abs=1e-3)
    assert len(set(curve["numbers_read"])) == 1  # the same cards at every strength
    unaligned = card_metrics.measure(model, *data[2:4], data.test_homographies, IDENTITY)
    assert unaligned["iou"] < 0.8
    assert unaligned["corner_error"] > 5
    assert unaligned["numbers_read"] == pytest.approx(100 * float((data.test_labels[:, 5] < 5).double().mean()))


def test_errors_and_shares_by_hand():
    """Three scenes with the card in the middle: found exactly, 0.1 to the right, and 0.3 downwards."""
    known, images = {}, torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    labels = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 9], [7, 7, 7, 7, 7, 1]])
    remember(known, images, labels, torch.stack([IDENTITY, moved(0.1), moved(0, 0.3)]))
    truth = IDENTITY.expand(3, 3, 3)
    found = card_metrics.measure(Knowing(IDENTITY, known, last_digit_wrong), images, labels, truth, IDENTITY)
    assert found["numbers_read"] == pytest.approx(100 / 3)
    assert found["digits_read"] == pytest.approx(100 * 16 / 18)
    shares = [1, (184 - 12.8) / (184 + 12.8), (116 - 38.4) / (116 + 38.4)]  # of translated rectangles, in pixels
    assert found["iou"] == pytest.approx(sum(shares) / 3)
    assert found["iou_95"] == pytest.approx(1 / 3)
    assert found["corner_error"] == pytest.approx(100 * 0.1 / DIAGONAL)
    assert found["corner_error_p95"] == pytest.approx(100 * (0.1 + 0.9 * 0.2) / DIAGONAL)


def test_errors_are_told_in_diagonals_of_the_card_as_it_lies_in_the_scene(few_cards):
    """A card half as large, found as far away as the other, has twice the error."""
    images, labels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, 6, dtype=torch.int64)
    errors = []
    for size in (1.0, 0.5):
        truth, known = moved(0, factor=size), {}
        remember(known, images, labels, (moved(0.1) @ truth)[None])
        model = Knowing(IDENTITY, known, last_digit_wrong)
        errors.append(card_metrics.measure(model, images, labels, truth[None], IDENTITY)["corner_error"])
    assert errors == pytest.approx([100 * 0.1 / DIAGONAL, 200 * 0.1 / DIAGONAL])


def test_of_straight_strips_only_what_is_read_is_told(few_cards):
    torch.manual_seed(0)
    numbers, transforms, statistics = card_metrics.measure_transformer(
        Net_Card(bypass_localisation=True), few_cards(straight=True)
    )
    assert set(numbers) == {"digits_read", "by_strength"}
    assert set(numbers["by_strength"]) == {"strength", "numbers_read", "digits_read"}
    assert transforms is statistics is None


def test_with_held_out_cards_no_test_background_is_seen(few_cards, monkeypatch):
    asked = []
    original = card_metrics.sources_of
    monkeypatch.setattr(card_metrics, "sources_of", lambda *what: asked.append(what[2]) or original(*what))
    torch.manual_seed(0)
    for held_out in (True, False):
        data = few_cards(held_out=held_out)
        assert spec_of(data.description).held_out == held_out
        card_metrics.measure_transformer(Net_Card(bypass_localisation=True), data)
    assert asked == ["train", "train", "train", "test"]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("straight", [False, True])
def test_each_kind_of_cards_is_a_data_set_by_its_name(few_cards, straight, held_out):
    """A row may ask for it; its description leads back to it."""
    name = f"{'held-out ' if held_out else ''}{'straight ' if straight else ''}cards"
    made, spec = few_cards(straight, held_out), datasets()[name]
    built = spec.built(made.clean if not held_out else few_cards().clean)
    assert torch.equal(built.test_images, made.test_images)
    assert built.description == made.description == spec.describe(few_cards().clean.description)
    assert spec_of(made.description) is spec
    assert spec.image_size == built.test_images.shape[2:]
    assert (spec.held_out, spec.n_digits) == (held_out, built.test_labels.shape[1])


def test_a_window_that_never_moves_is_measured_as_any_other(few_cards):
    torch.manual_seed(0)
    numbers = card_metrics.measure_transformer(Net_Card(bypass_localisation=True), few_cards()).numbers
    curve = numbers["by_strength"]
    assert curve["corner_error"] == sorted(curve["corner_error"])
    assert curve["iou"] == sorted(curve["iou"], reverse=True)
    assert curve["iou"][0] > 0.9
    assert 5 < numbers["corner_error"] < 40


@pytest.mark.parametrize("straight", [False, True])
def test_the_figure_shows_scenes_with_outlines_and_what_is_read_of_the_strips(few_cards, monkeypatch, straight):
    n = card_metrics.N_SHOWN
    shown = []
    monkeypatch.setattr(figures, "cards_read", lambda *what: shown.append(what))
    data = few_cards(straight=straight)
    torch.manual_seed(0)
    model = Net_Card_Homography(bypass_localisation=straight).eval()
    if not straight:
        nn.init.normal_(model.loc_fc2.weight, std=0.02)
    card_metrics.draw_transforms(model, data, "a title")
    ((scenes, outlines, strips, texts, title),) = shown
    with torch.no_grad():
        expected = model.transform(data.test_images[:n])[:, 0]
        read = model(data.test_images[:n]).argmax(1).tolist()
    assert np.array_equal(scenes, data.test_images[:n, 0])
    assert strips == pytest.approx((expected / 255 if straight else expected).numpy())
    labels = data.test_labels[:n].tolist()
    assert texts == [("".join(map(str, ours)), ours == label) for ours, label in zip(read, labels, strict=True)]
    assert title == "a title"
    if straight:
        assert outlines is None
    else:
        with torch.no_grad():
            points = torch.tensor([(x, y, 1) for x, y in NOMINAL]).float() @ model.homography(data.test_images[:n]).mT
        assert outlines == pytest.approx((points[..., :2] / points[..., 2:] * 64 + 63.5).numpy(), abs=1e-3)


@pytest.mark.parametrize("alone", [False, True])
def test_each_scene_stands_above_its_strip_and_wrong_numbers_have_another_colour(alone):
    numbers = np.arange(5)[:, None, None]
    scenes, strips = numbers * np.ones((5, 8, 8)), numbers * np.ones((5, 2, 6)) / 5
    outlines = None if alone else numbers + np.array([(0.0, 0), (2, 0), (2, 1), (0, 1)])
    texts = [(str(number) * 6, number != 3) for number in range(5)]
    figure = figures.cards_read(scenes, outlines, strips, texts, "a title")
    drawn = [axes for axes in figure.axes if axes.images]
    read = {axes.get_title(): axes for axes in drawn if axes.get_title()}
    assert list(read) == [text for text, _ in texts]
    colours = [axes.title.get_color() for axes in read.values()]
    assert colours[3] != colours[0] == colours[1] == colours[2] == colours[4]
    for number, axes in enumerate(read.values()):
        assert (axes.images[0].get_array() == number / 5).all()
    others = [axes for axes in drawn if not axes.get_title()]
    assert len(others) == (0 if alone else 5)
    for axes in others:
        number = int(axes.images[0].get_array()[0, 0])
        (outline,) = axes.patches
        assert np.array_equal(outline.get_xy()[:4], outlines[number])
        above = read[str(number) * 6]
        assert axes.get_position().y0 > above.get_position().y0
        assert axes.get_subplotspec().colspan == above.get_subplotspec().colspan
    picture = figures.as_picture(figure)
    assert (picture.ndim, picture.shape[2], picture.dtype) == (3, 3, np.uint8)
