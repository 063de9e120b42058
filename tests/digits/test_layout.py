"""Ink under every light, rows of digits, frames and marks: pictures drawn here, whose text is known."""

import json
import time

import numpy as np
import own_pictures
import pytest
from conftest import ROOT
from helpers import picture
from pictures import printed
from PIL import Image, ImageDraw

from digits import pretrained
from digits.image_files import ImageError
from digits.ink import find_polarity
from digits.own_images import find_digits
from stn import mnist

Y, X = np.mgrid[0:1:300j, 0:1:300j]
LIGHTS = {
    "a bright patch": 0.7 + 0.3 * np.exp(-((X - 0.05) ** 2 + (Y - 0.1) ** 2) / 0.03),
    "a dark corner": 1 - 0.3 * (X + Y < 0.5),
    "a vignette": 1 - 1.2 * ((X - 0.5) ** 2 + (Y - 0.5) ** 2),
    "the edge of a shadow": 1 - 0.3 * (X < 0.5),
    "an oblique edge": 1 - 0.4 * (X + 0.7 * Y < 0.85),
}


def on_page(texts, size=60, gap=30, margin=40):
    """Draw lines of text below each other: ink (H, W)."""
    return np.pad(own_pictures.stack([printed(text, size=size) for text in texts], gap), margin)


def drawn(ink, draw):
    """Draw on top of ink: draw(ImageDraw)."""
    image = Image.fromarray((ink * 255).astype(np.uint8))
    draw(ImageDraw.Draw(image))
    return np.asarray(image, np.float32) / 255


@pytest.fixture(scope="module")
def read():
    """Return a function that reads the rows of digits in an image."""
    network = pretrained.load("exp_16")

    def read_rows(image):
        found = find_digits(image)
        digits = network.read(found.images).probabilities.argmax(1)
        return found.split_rows("".join(map(str, digits)))

    return read_rows


@pytest.mark.parametrize("is_thin", [False, True], ids=["bold", "thin"])
@pytest.mark.parametrize("light", LIGHTS)
def test_no_light_turns_ink_into_paper_or_cuts_out_a_sheet(read, light, is_thin):
    rng = np.random.default_rng(0)
    for digit in "2358":
        ink = (
            own_pictures.draw_pen(own_pictures.STROKES[digit], rng, 160, 4)
            if is_thin
            else printed(digit, "DejaVuSans-Bold", 130)
        )
        top, left = 150 - len(ink) // 2, 150 - ink.shape[1] // 2
        field = np.zeros((300, 300))
        field[top : top + len(ink), left : left + ink.shape[1]] = ink
        for seen in (picture(field, LIGHTS[light]), picture(field, LIGHTS[light], 0.2, 0.95)):
            found = find_digits(seen)
            assert len(found.images) == 1, digit
            assert "sheet" not in str(found.steps)
        assert found.steps[0].startswith("light ink on dark")
        assert read(picture(field, LIGHTS[light])) == [digit]


def test_what_ink_and_paper_are_is_told_where_both_are_likely():
    """As many and as wide stripes of each are neither."""
    stripes = np.tile(np.arange(200) // 10 % 2, (200, 1)).astype(np.float32)
    assert not find_polarity(stripes)[1]
    assert find_polarity(1 - np.pad(printed("8", "DejaVuSans-Bold"), 100))[:2] == (True, True)
    assert find_polarity(np.pad(printed("8", "DejaVuSans-Bold"), 100))[:2] == (False, True)
    cropped = find_digits(picture(printed("5", "DejaVuSans-Bold")))  # more ink than paper
    assert "ink and paper may be the other way round" in cropped.steps


@pytest.mark.parametrize("gap", [15, 25, 60])
@pytest.mark.parametrize("texts", [["5", "6"], ["1", "2", "3", "4"], ["12", "7", "345"], ["1", "1"], ["7", "7", "7"]])
def test_rows_are_found_before_digits(read, texts, gap):
    assert read(picture(on_page(texts, gap=gap))) == texts


def test_a_grid_of_digits_is_read_row_by_row(read):
    images, labels = mnist.read_mnist()[2:]
    page = np.concatenate([np.concatenate(list(images[row : row + 6]), 1) for row in (0, 10, 20)])
    expected = ["".join(map(str, labels[row : row + 6])) for row in (0, 10, 20)]
    for image in (page, 255 - page):
        rows = read(Image.fromarray(image).resize((6 * 56, 3 * 56)))
        assert [len(row) for row in rows] == [6, 6, 6]
        assert sum(a != b for a, b in zip("".join(rows), "".join(expected), strict=True)) <= 1


@pytest.mark.parametrize("around", ["", "27"])
@pytest.mark.parametrize(("digit", "cut"), [("5", 0.2), ("8", 0.5), ("7", 0.3), ("9", 0.6), ("3", 0.5), ("1", 0.5)])
def test_the_parts_of_a_broken_digit_are_one(digit, cut, around):
    ink = printed(digit, size=120).copy()
    ink[round(cut * 120) :][:6] = 0
    drawings = [ink, *(printed(other, size=120) for other in around)]
    row = np.concatenate([np.pad(one, ((0, 130 - len(one)), (20, 20))) for one in drawings], 1)
    assert find_digits(picture(np.pad(row, 50))).lengths == [1 + len(around)]


def test_the_loose_bar_of_a_five_belongs_to_it():
    ink = on_page(["5"], size=120)
    bar = np.flatnonzero(ink.max(1))[0]
    top = ink[bar : bar + 16].copy()
    ink[bar : bar + 24] = 0
    ink[bar : bar + 16, 6:] = top[:, :-6]  # and a little to the right
    assert find_digits(picture(ink)).lengths == [1]


def boxes_around(draw):
    for n in range(3):
        draw.rectangle((20 + 140 * n, 20, 140 + 140 * n, 140), outline=255, width=3)


def table_around(draw):
    for n in range(4):
        draw.line((10 + 140 * n, 10, 10 + 140 * n, 150), 255, 3)
    for y in (10, 150):
        draw.line((10, y, 430, y), 255, 3)


def comb_below(draw):
    draw.line((10, 125, 430, 125), 255, 3)
    for n in range(4):
        draw.line((10 + 140 * n, 95, 10 + 140 * n, 125), 255, 3)


def rules_across(draw):
    for y in (20, 70, 120, 170):
        draw.line((0, y, 440, y + 2), 255, 3)


def squares_across(draw):
    rules_across(draw)
    for x in range(30, 440, 50):
        draw.line((x, 0, x, 180), 255, 2)


FRAMES = [boxes_around, table_around, comb_below, rules_across, squares_across]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_frames_and_lines_are_taken_off(read, frame):
    """The digits stand free of them or touch the lower ones."""
    for foot in (110, 121):
        ink = np.zeros((180, 440), np.float32)
        for n, digit in enumerate("352"):
            drawing = printed(digit, size=80)
            ink[foot - len(drawing) : foot, 50 + 140 * n :][:, : drawing.shape[1]] = drawing
        image = picture(drawn(ink, frame))
        assert read(image) == ["352"]
        assert "took off frames and lines" in str(find_digits(image).steps)


@pytest.mark.parametrize("width", [2, 6])
def test_a_ring_is_no_zero(read, width):
    ink = on_page(["7"], size=100, margin=60)
    image = picture(drawn(ink, lambda draw: draw.ellipse((5, 5, ink.shape[1] - 6, 214), outline=255, width=width)))
    assert read(image) == ["7"]


def test_a_large_thin_digit_is_no_frame(read):
    """Nor are its straight strokes lines."""
    rng = np.random.default_rng(1)
    for digit in "01457":
        assert read(picture(np.pad(own_pictures.draw_pen(own_pictures.STROKES[digit], rng, 300, 3), 60))) == [digit]


def test_seven_segment_digits_are_refused_in_words():
    for image, _ in own_pictures.draw_pictures("seven-segment display", 6):
        with pytest.raises(ImageError, match=r"^seems to show a seven-segment display, whose digits are not read$"):
            find_digits(image)


@pytest.mark.parametrize("text", ["1,234", "3.14", "12'345", "1,234,567.89"])
@pytest.mark.parametrize("font", ["DejaVuSans", "DejaVuSerif-Bold"])
def test_commas_and_points_are_no_digits_and_are_told(text, font):
    found = find_digits(picture(np.pad(printed(text, font, 80), 40)))
    digits = sum(letter.isdigit() for letter in text)
    assert found.lengths == [digits]
    assert found.left_out == {"marks": len(text) - digits}
    assert f"left out: marks ({len(text) - digits})" in found.steps


def test_what_touches_the_edge_is_left_out_and_told(read):
    image = picture(np.pad(printed("4182", size=80), ((40, 40), (40, 0)))[:, :-20])
    assert read(image) == ["418"]
    assert find_digits(image).left_out == {"at the edge": 1}


def test_digits_that_touch_are_parted_or_told():
    text = np.pad(printed("300 5 8", size=80), 40)
    first, second = (np.flatnonzero(~text[:, 60:190].any(0))[[0, -1]] + 60).tolist()  # gaps between the digits
    joined = drawn(text, lambda draw: [draw.line((x - 15, 75, x + 15, 75), 255, 8) for x in (first, second)])
    found = find_digits(picture(joined))
    assert (found.lengths, found.left_out) == ([2], {"joined": 1})
    assert "left out: joined (1)" in found.steps
    faint = np.pad(printed("28", size=80), 40)
    middle = 40 + printed("2", size=80).shape[1]
    faint[100:110, middle - 8 : middle + 12] = np.maximum(faint[100:110, middle - 8 : middle + 12], 0.45)
    assert find_digits(picture(faint)).lengths == [2]


def test_writing_too_small_beside_other_writing_is_told():
    large, small = on_page(["42"], size=200), on_page(["1234"], size=40, margin=0)
    ink = np.pad(large, ((0, 80), (0, 0)))
    ink[-60 : -60 + len(small), 50 : 50 + small.shape[1]] = small
    found = find_digits(picture(ink))
    assert (found.lengths, found.left_out) == ([2], {"too small": 4})


@pytest.mark.parametrize(("shape", "size"), [((3000, 4000), 45), ((100, 8000), 60), ((2000, 6000), 30)])
def test_small_digits_are_read_in_the_photographs_own_size(read, shape, size):
    """Within two seconds, and their places lead back to the shrunk image."""
    text = printed("31415926", size=size)
    ink = np.zeros(shape, np.float32)
    top, left = shape[0] // 2 - size // 2, shape[1] // 3
    ink[top : top + len(text), left : left + text.shape[1]] = text
    image = picture(ink)
    started = time.thread_time()
    assert read(image) == ["31415926"]
    assert time.thread_time() - started < 2
    found = find_digits(image)
    scale = found.grey.shape[0] / shape[0]
    first = found.positions[0, 1:] + 14 * found.positions[0, 0]
    expected = np.array([left + 0.5 * printed("3", size=size).shape[1], top + size / 2]) * scale
    assert np.abs(first - expected).max() < 0.15 * size * scale


@pytest.mark.parametrize("kind", [kind for kind in own_pictures.KINDS if "display" not in kind])
def test_every_kind_of_picture_falls_into_its_rows(kind):
    """Whatever digits are read: in four of five pictures, each row has as many as were written."""
    pictures = own_pictures.draw_pictures(kind, 5)
    right = [find_digits(image).lengths == [len(row) for row in rows] for image, rows in pictures]
    assert sum(right) >= 4


def test_the_page_shows_the_record():
    """docs/own_images.md has the table of results/own_pictures.json, and all kinds are in it."""
    record = json.loads((ROOT / "results" / "own_pictures.json").read_text(encoding="utf-8"))
    assert list(record["kinds"]) == list(own_pictures.KINDS)
    assert own_pictures.draw_table(record) in (ROOT / "docs" / "own_images.md").read_text(encoding="utf-8")
    for row in record["kinds"].values():
        assert all(sum(outcomes.values()) == record["pictures"] for outcomes in row.values())
