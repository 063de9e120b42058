"""Draw pictures of digits of many kinds, as people have them, and count how many the reader of predict.py reads.

    python tools/own_pictures.py --before FOLDER --out results/own_pictures.json

compares this code with that of an earlier commit, checked out in FOLDER (`git worktree add --detach FOLDER COMMIT`).
Each kind has its own generator of random numbers, so that the pictures are the same every time. A picture counts as
right if all its rows are, as doubtful if any digit in it is, and as refused if it raises ImageError. Earlier code that
knows no rows is right if all digits are, in order. `--only` and `--number` make a short look possible.
"""

import json
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from pictures import FONTS, STIX, handwritten, photographed, printed
from PIL import Image, ImageDraw, ImageFilter
from scipy.special import expit

from lab import cli
from lab.files import write_json
from lab.folder import provenance
from lab.tables import markdown_table
from stn import mnist

SEED = 29
NUMBER = 25  # pictures of a kind
NETWORKS = (
    "exp_16",
    "exp_302",
)  # the one of MNIST alone, with which earlier code is measured; and the one for pictures
# A picture is told right or wrong, either with a digit in doubt ("?") or without; or it is refused.
OUTCOMES = ("right", "right?", "refused", "wrong?", "wrong")
COMMAND = "python tools/own_pictures.py --before FOLDER --out results/own_pictures.json"
# The strokes of each digit as a person with a pen draws them, corners (x, y) in a box of width 4 and height 6.
STROKES = {
    "0": [[(2, 0), (0.5, 1), (0, 3), (0.5, 5), (2, 6), (3.5, 5), (4, 3), (3.5, 1), (2, 0)]],
    "1": [[(2, 0), (2, 6)]],
    "2": [[(0.2, 1.2), (1, 0.2), (2.2, 0), (3.4, 0.6), (3.6, 1.8), (2.6, 3.2), (0, 6), (4, 6)]],
    "3": [[(0.3, 0.8), (1.6, 0), (3.2, 0.5), (3.3, 1.8), (1.8, 2.8), (3.5, 3.6), (3.7, 5), (2.2, 6), (0.2, 5.3)]],
    "4": [[(2.6, 0), (0, 4), (4, 4)], [(3, 2), (3, 6)]],
    "5": [[(3.6, 0), (0.6, 0), (0.4, 2.6), (2, 2.2), (3.6, 3), (3.8, 4.6), (2.4, 6), (0.2, 5.5)]],
    "6": [[(3.2, 0), (1.2, 1.6), (0.2, 3.8), (0.8, 5.6), (2.2, 6), (3.6, 5.2), (3.4, 3.8), (2, 3.2), (0.4, 4.2)]],
    "7": [[(0, 0), (3.8, 0), (1.4, 6)]],
    "8": [[(2, 3), (0.6, 2), (0.7, 0.7), (2, 0), (3.3, 0.7), (3.4, 2), (2, 3), (0.3, 4.4), (0.8, 5.6), (2, 6),
           (3.2, 5.6), (3.7, 4.4), (2, 3)]],
    "9": [[(3.6, 1.8), (2.6, 2.9), (1, 2.8), (0.3, 1.6), (1.2, 0.3), (2.6, 0.1), (3.6, 1.4), (3.4, 4), (2.4, 6)]],
}  # fmt: skip
# A 1 with a flag, which may be short or long, and perhaps with a foot; and a 7 with a bar.
FLAGGED = [
    [[(0.9, 1.5), (2, 0), (2, 6)]],
    [[(0, 2.6), (2.2, 0), (2.2, 6)]],
    [[(0.8, 1.4), (2, 0), (2, 6)], [(0.8, 6), (3.2, 6)]],
]
BARRED = [[(0, 0), (3.8, 0), (1.4, 6)], [(0.8, 3), (3.6, 3)]]
# The segments of a display, boxes (left, top, right, bottom) in units of half its height, and which are lit.
SEGMENTS = {"a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2), "e": (0, 1, 0, 2),
            "f": (0, 0, 0, 1), "g": (0, 1, 1, 1)}  # fmt: skip
LIT = {"0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
       "8": "abcdefg", "9": "abcdfg"}  # fmt: skip


@cache
def test_digits():
    """Return every second one of MNIST's test images, and its label; the others calibrate networks (tools/doubt.py)."""
    return [part[1::2] for part in mnist.read_mnist()[2:]]


def random_text(rng, least, most):
    """Return a number of `least` to `most` digits as a string."""
    return "".join(map(str, rng.integers(0, 10, rng.integers(least, most + 1))))


def cut(ink):
    """Cut ink (H, W) in [0, 1] at its edges."""
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.1) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resized(ink, height):
    image = Image.fromarray(np.float32(ink))
    return np.asarray(image.resize((max(1, round(ink.shape[1] * height / len(ink))), height), Image.Resampling.BICUBIC))


def draw_digit(digit, rng, height, kind):
    """Draw a digit as ink (about `height`, w) in [0, 1]; kind: "hand" takes a test image of MNIST, or a font."""
    if kind != "hand":
        return printed(digit, kind, height)
    images, labels = test_digits()
    image = handwritten(images[rng.choice(np.flatnonzero(labels == int(digit)))])
    return resized(image[image.max(1) > 0.3], height).clip(0, 1) if height else image


def draw_row(text, rng, height, kind, gap=0.35):
    """Draw a row of digits as ink (H, W). kind: as for `draw_digit`; a row in a font is set as a text."""
    if kind != "hand":
        return printed(text, kind, height)
    digits = [cut(draw_digit(digit, rng, round(height * rng.uniform(0.85, 1.1)), kind)) for digit in text]
    row = np.zeros((round(1.3 * height), sum(d.shape[1] + round(1.2 * gap * height) for d in digits)), np.float32)
    x = 0
    for digit in digits:
        y = (len(row) - len(digit)) // 2
        row[y : y + len(digit), x : x + digit.shape[1]] = digit
        x += digit.shape[1] + round(gap * height * rng.uniform(0.6, 1.2))
    return cut(row)


def stack(rows, gap, left=True):
    """Put rows of ink below each other, with a gap in pixels."""
    page = np.zeros((sum(map(len, rows)) + gap * (len(rows) - 1), max(row.shape[1] for row in rows)), np.float32)
    y = 0
    for row in rows:
        x = 0 if left else (page.shape[1] - row.shape[1]) // 2
        page[y : y + len(row), x : x + row.shape[1]] = row
        y += len(row) + gap
    return page


def framed(ink, rng, least=0.3, most=1.2):
    """Put ink on an empty field, with margins that are shares of its height."""
    margins = (rng.uniform(least, most, 4) * min(len(ink), 300)).astype(int)
    return np.pad(ink, (margins[:2], margins[2:]))


def either(rng):
    """Choose a handwriting or a font."""
    return "hand" if rng.random() < 0.5 else rng.choice(FONTS)


def lit(ink, rng, light=1.0, shades=None, noise=0.015):
    """Photograph ink (H, W) in [0, 1]: paper and pen under a light (H, W), with blur and noise; return a grey image."""
    paper, pen = shades or (rng.uniform(0.75, 0.98), rng.uniform(0.05, 0.35))
    image = Image.fromarray((np.clip(ink, 0, 1) * 255).astype(np.uint8))
    ink = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2))), np.float32) / 255
    seen = (paper + (pen - paper) * ink) * light + rng.normal(0, rng.uniform(0, noise), ink.shape)
    return Image.fromarray((seen.clip(0, 1) * 255).astype(np.uint8))


def field_of(ink, rng):
    """Return coordinates (y, x) from 0 to 1 over ink."""
    return np.meshgrid(np.linspace(0, 1, len(ink)), np.linspace(0, 1, ink.shape[1]), indexing="ij")


def draw_pen(strokes, rng, height, width):
    """Draw strokes, corners in a box of width 4 and height 6, with a pen of a width in pixels, shaken a little: ink."""
    image = Image.new("L", (round(height * 1.1), round(height * 1.3)))
    slant, stretch = rng.normal(0, 0.08), rng.uniform(0.8, 1.1)
    for stroke in strokes:
        points = np.array(stroke) + rng.normal(0, 0.06, (len(stroke), 2))
        points[-1] = points[0] if stroke[0] == stroke[-1] else points[-1]
        places = np.linspace(0, len(points) - 1, 20 * len(points))
        x, y = (np.interp(places, range(len(points)), points[:, axis]) for axis in (0, 1))
        x = (x * stretch - slant * (y - 3)) * height / 6 + height * 0.15
        line = list(zip(x, y * height / 6 + height * 0.15, strict=True))
        ImageDraw.Draw(image).line(line, 255, width, joint="curve")
    return cut(np.asarray(image, np.float32) / 255)


def a_digit(rng, kind=None, least=80, most=260):
    digit = random_text(rng, 1, 1)
    return digit, framed(draw_digit(digit, rng, int(rng.integers(least, most)), kind or either(rng)), rng)


def single_printed(rng):
    digit, ink = a_digit(rng, rng.choice(FONTS))
    return lit(ink, rng), [digit]


def single_handwritten(rng):
    digit, ink = a_digit(rng, "hand")
    return lit(ink, rng), [digit]


def light_on_dark(rng):
    digit, ink = a_digit(rng)
    return lit(ink, rng, shades=(rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95))), [digit]


def coloured_paper(rng):
    digit, ink = a_digit(rng)
    grey = np.asarray(lit(ink, rng, shades=(1.0, 0.0), noise=0.005), np.float32)[..., None] / 255
    paper, pen = rng.uniform(0.55, 1, 3), rng.uniform(0, 0.35, 3)
    return Image.fromarray(((pen + (paper - pen) * grey) * 255).astype(np.uint8)), [digit]


def thin_pen(rng):
    digit = random_text(rng, 1, 1)
    ink = framed(draw_pen(STROKES[digit], rng, int(rng.integers(150, 400)), int(rng.integers(2, 5))), rng)
    return lit(ink, rng), [digit]


def flagged(rng):
    is_one = bool(rng.random() < 0.75)
    strokes = FLAGGED[rng.integers(len(FLAGGED))] if is_one else BARRED
    height = int(rng.integers(80, 300))
    ink = draw_pen(strokes, rng, height, max(2, round(height * rng.uniform(0.02, 0.12))))
    return lit(framed(ink, rng), rng), ["1" if is_one else "7"]


def in_perspective(rng, kind):
    digit = random_text(rng, 1, 1)
    ink = draw_digit(digit, rng, 200, kind)
    side = np.array([280, 280]) - ink.shape
    field = np.pad(ink, [(n // 2, n - n // 2) for n in np.maximum(side, 0)])
    return photographed(field, rng, in_perspective=True), [digit]


def printed_in_perspective(rng):
    return in_perspective(rng, rng.choice(FONTS))


def handwritten_in_perspective(rng):
    return in_perspective(rng, "hand")


def any_digit(rng):
    """Draw a digit printed, handwritten or by a thin pen."""
    if rng.random() < 0.3:
        digit = random_text(rng, 1, 1)
        return digit, framed(draw_pen(STROKES[digit], rng, int(rng.integers(120, 260)), int(rng.integers(2, 6))), rng)
    return a_digit(rng)


def bright_patch(rng):
    digit, ink = any_digit(rng)
    y, x = field_of(ink, rng)
    at = rng.choice([0.0, 0.15, 0.85, 1.0], 2)
    spot = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * rng.uniform(0.1, 0.25) ** 2))
    return lit(ink, rng, 0.7 + 0.3 * spot), [digit]


def dark_corner(rng):
    digit, ink = any_digit(rng)
    y, x = field_of(ink, rng)
    y, x = (1 - side if rng.random() < 0.5 else side for side in (y, x))
    corner = 1 / (1 + np.exp((x + y - rng.uniform(0.4, 0.7)) / rng.uniform(0.01, 0.1)))
    return lit(ink, rng, 1 - 0.3 * corner), [digit]


def vignette(rng):
    digit, ink = any_digit(rng)
    y, x = field_of(ink, rng)
    return lit(ink, rng, 1 - rng.uniform(0.3, 0.6) * 2 * ((y - 0.5) ** 2 + (x - 0.5) ** 2)), [digit]


def shadow_edge(rng):
    digit, ink = any_digit(rng)
    y, x = np.indices(ink.shape)
    centre = np.array([np.mean(np.nonzero(ink.max(axis) > 0.5)) for axis in (1, 0)])
    angle = rng.uniform(0, 2 * np.pi)
    across = (y - centre[0]) * np.sin(angle) + (x - centre[1]) * np.cos(angle) + rng.normal(0, 10)
    depth, softness = rng.uniform(0.2, 0.4), rng.uniform(0.3, 3)
    return lit(ink, rng, 1 - depth * expit(across / softness)), [digit]


def row_printed(rng):
    text = random_text(rng, 2, 8)
    return lit(framed(draw_row(text, rng, int(rng.integers(40, 120)), rng.choice(FONTS)), rng), rng), [text]


def row_handwritten(rng):
    text = random_text(rng, 2, 6)
    return lit(framed(draw_row(text, rng, int(rng.integers(50, 120)), "hand"), rng), rng), [text]


def column(rng):
    kind, height = either(rng), int(rng.integers(50, 110))
    rows = [random_text(rng, 1, 1) for _ in range(rng.integers(2, 6))]
    drawn = [draw_row(row, rng, height, kind) for row in rows]
    return lit(framed(stack(drawn, round(height * rng.uniform(0.25, 0.7))), rng), rng), rows


def several_rows(rng):
    kind, height = either(rng), int(rng.integers(40, 80))
    rows = [random_text(rng, 1, 6) for _ in range(rng.integers(2, 5))]
    drawn = [draw_row(row, rng, height, kind) for row in rows]
    return lit(framed(stack(drawn, round(height * rng.uniform(0.35, 0.9))), rng), rng), rows


def grid_of_mnist(rng):
    images, labels = test_digits()
    shape = rng.integers(2, 7), rng.integers(2, 9)
    chosen = rng.integers(0, len(images), shape)
    scale = int(rng.integers(1, 5))
    page = np.concatenate([np.concatenate(list(row), 1) for row in images[chosen]])
    page = Image.fromarray(page).resize([scale * side for side in page.shape[::-1]], Image.Resampling.BICUBIC)
    page = page if rng.random() < 0.5 else Image.eval(page, lambda value: 255 - value)
    return page, ["".join(map(str, labels[row])) for row in chosen]


def with_lines(ink, draw, width=3, shade=1.0):
    """Draw on top of ink (H, W): draw(ImageDraw, pen width)."""
    image = Image.new("L", ink.shape[::-1])
    draw(ImageDraw.Draw(image), width)
    return np.maximum(ink, np.asarray(image, np.float32) / 255 * shade)


def ringed_digit(rng):
    kind, height = either(rng), int(rng.integers(80, 200))
    digit = random_text(rng, 1, 1)
    ink = cut(draw_digit(digit, rng, height, kind))
    half = round(np.hypot(*ink.shape) / 2 * rng.uniform(1.15, 1.5))
    pads = [(half - n // 2 + 25, half - (n - n // 2) + 25) for n in ink.shape]
    ink = np.pad(ink, pads)
    pen, stretch = int(rng.integers(2, 7)), rng.uniform(0, 12)
    box = (20 - stretch, 20, ink.shape[1] - 20 + stretch, len(ink) - 20)
    return lit(with_lines(ink, lambda draw, width: draw.ellipse(box, outline=255, width=pen)), rng), [digit]


def placed(text, rng, height, kind, cell, ground=None):
    """Draw each digit of a text into a cell (h, w) of its own, side by side, about in its middle or on the ground."""
    page = np.zeros((cell[0], cell[1] * len(text)), np.float32)
    for number, digit in enumerate(text):
        ink = cut(draw_digit(digit, rng, round(height * rng.uniform(0.9, 1.1)), kind))
        ink = ink[: cell[0], : cell[1]]
        y = (cell[0] - len(ink)) * (0.5 + rng.uniform(-0.3, 0.3)) if ground is None else ground - len(ink)
        x = (cell[1] - ink.shape[1]) * (0.5 + rng.uniform(-0.3, 0.3)) + number * cell[1]
        y, x = round(y), round(x)
        page[y : y + len(ink), x : x + ink.shape[1]] = ink
    return page


def form_boxes(rng):
    text, height = random_text(rng, 2, 6), int(rng.integers(50, 120))
    side, gap, pen = round(height * rng.uniform(1.25, 1.6)), round(height * rng.uniform(0.1, 0.3)), rng.integers(2, 5)
    kind, cells = either(rng), []
    for digit in text:
        cell = np.pad(placed(digit, rng, height, kind, (side, side)), gap)
        box = (gap, gap, gap + side - 1, gap + side - 1)
        cells.append(with_lines(cell, lambda draw, width, box=box: draw.rectangle(box, outline=255, width=int(pen))))
    return lit(np.pad(np.concatenate(cells, 1), 20), rng), [text]


def comb_field(rng):
    text, height = random_text(rng, 3, 8), int(rng.integers(50, 110))
    cell = round(height * rng.uniform(1, 1.3))
    ink = placed(text, rng, height, either(rng), (round(1.5 * height), cell), round(rng.uniform(1.3, 1.45) * height))
    tick, pen = round(height * rng.uniform(0.25, 0.6)), int(rng.integers(2, 5))

    def draw(drawing, width):
        drawing.line((0, len(ink) - 3, ink.shape[1], len(ink) - 3), 255, width)
        for x in range(0, ink.shape[1] + 1, cell):
            x = min(max(x, 2), ink.shape[1] - 3)
            drawing.line((x, len(ink) - 3 - tick, x, len(ink) - 3), 255, width)

    return lit(framed(with_lines(ink, draw, pen), rng), rng), [text]


def table(rng):
    height, kind, pen = int(rng.integers(30, 70)), either(rng), int(rng.integers(2, 4))
    rows, columns, most = rng.integers(2, 5), rng.integers(2, 5), 2
    cell = round(height * rng.uniform(1.5, 2)), round(height * (0.6 + 1.1 * most))
    texts = [[random_text(rng, 1, most) for _ in range(columns)] for _ in range(rows)]
    ink = np.zeros((cell[0] * rows + 1, cell[1] * columns + 1), np.float32)
    for row, column in np.ndindex(rows, columns):
        drawn = draw_row(texts[row][column], rng, height, kind, gap=0.2)
        drawn = drawn if drawn.shape[1] < cell[1] - 8 else resized(drawn, len(drawn) * (cell[1] - 8) // drawn.shape[1])
        y, x = (int(n * (i + 0.5) - m / 2) for n, i, m in zip(cell, (row, column), drawn.shape, strict=True))
        ink[y : y + len(drawn), x : x + drawn.shape[1]] = drawn.clip(0, 1)

    def draw(drawing, width):
        for y in range(0, len(ink), cell[0]):
            drawing.line((0, y, ink.shape[1], y), 255, width)
        for x in range(0, ink.shape[1], cell[1]):
            drawing.line((x, 0, x, len(ink)), 255, width)

    return lit(framed(with_lines(ink, draw, pen), rng), rng), ["".join(row) for row in texts]


def on_printed_paper(rng, squared):
    """Write rows of digits on ruled or squared paper, whose lines are fainter than the ink; they may be askew."""
    pitch = int(rng.integers(50, 90))
    kind = "hand" if rng.random() < 0.7 else rng.choice(FONTS)
    height = round(pitch * (rng.uniform(0.6, 1.6) if squared else rng.uniform(0.5, 0.85)))
    rows = [random_text(rng, 1, 5) for _ in range(rng.integers(1, 4))]
    ink = np.zeros((pitch * 9, max(pitch * 9, 8 * height)), np.float32)
    step = max(2 if squared else 1, int(np.ceil(1.5 * height / pitch)))
    for number, row in enumerate(rows):
        drawn = draw_row(row, rng, height, kind)[:, : ink.shape[1] - 20]
        y = (number + 1) * step * pitch + pitch // 2 - len(drawn) + round(rng.uniform(-0.25, 0.05) * pitch)
        if y < 5 or y + len(drawn) > len(ink) - 5:
            rows = rows[:number]
            break
        x = int(rng.integers(5, max(6, ink.shape[1] - drawn.shape[1] - 5)))
        ink[y : y + len(drawn), x : x + drawn.shape[1]] = drawn.clip(0, 1)
    slope = rng.normal(0, 0.004)

    def draw(drawing, width):
        for y in range(pitch // 2, len(ink) + pitch, pitch):
            drawing.line((0, y, ink.shape[1], y + slope * ink.shape[1]), 255, width)
        for x in range(pitch // 2, ink.shape[1] + pitch if squared else 0, pitch):
            drawing.line((x, 0, x - slope * len(ink), len(ink)), 255, width)

    return lit(with_lines(ink, draw, int(rng.integers(1, 4)), rng.uniform(0.3, 1)), rng), rows


def ruled_paper(rng):
    return on_printed_paper(rng, False)


def squared_paper(rng):
    return on_printed_paper(rng, True)


def seven_segment(rng):
    text, unit = random_text(rng, 2, 6), int(rng.integers(30, 70))
    thick = round(unit * rng.uniform(0.18, 0.35))
    apart, step = rng.uniform(0.05, 0.2) * thick + 1, unit + thick * rng.uniform(2, 3)
    image = Image.new("L", (round(step * len(text) + unit), 2 * unit + 4 * thick))
    for number, digit in enumerate(text):
        for segment in LIT[digit]:
            left, top, right, bottom = (unit * value + 2 * thick for value in SEGMENTS[segment])
            half, end = thick / 2, thick / 2 + apart
            dx, dy = (-end, half) if bottom == top else (half, -end)
            x = number * step
            ImageDraw.Draw(image).rectangle((left - dx + x, top - dy, right + dx + x, bottom + dy), 255)
    ink = framed(np.asarray(image, np.float32) / 255, rng)
    shades = (0.1, 0.9) if rng.random() < 0.5 else (0.9, 0.1)
    return lit(ink, rng, shades=shades), [text]


def commas_and_points(rng):
    digits = random_text(rng, 3, 7)
    place = int(rng.integers(1, len(digits)))
    text = digits[:place] + rng.choice([",", ".", "'"]) + digits[place:]
    font = rng.choice(STIX)  # the others have other marks in these places
    return lit(framed(printed(text, font, int(rng.integers(50, 140))), rng), rng), [digits]


def small_in_a_photograph(rng):
    rows = [random_text(rng, 3, 8) for _ in range(rng.integers(1, 4))]
    height = int(rng.integers(30, 61))
    text = stack([draw_row(row, rng, height, either(rng)) for row in rows], round(0.9 * height))
    ink = np.zeros((3000, 4000), np.float32)
    y, x = (int(rng.integers(100, 0.9 * side - 300 - size)) for side, size in zip(ink.shape, text.shape, strict=True))
    ink[y : y + len(text), x : x + text.shape[1]] = text.clip(0, 1)
    y, x = (values.astype(np.float32) for values in field_of(ink, rng))
    return lit(ink, rng, 1 - np.float32(rng.uniform(0, 0.4)) * x * y), rows


def long_strip(rng):
    text, height = random_text(rng, 3, 10), int(rng.integers(40, 80))
    row = draw_row(text, rng, height, either(rng))
    ink = np.zeros((len(row) + 40, int(rng.integers(4000, 9000))), np.float32)
    x = int(rng.integers(50, ink.shape[1] - row.shape[1] - 50))
    ink[20 : 20 + len(row), x : x + row.shape[1]] = row.clip(0, 1)
    return lit(ink, rng), [text]


def cut_off_at_the_edge(rng):
    """A row whose first or last digit is cut off: this one is not to be read."""
    text, height, kind = random_text(rng, 3, 6), int(rng.integers(50, 120)), either(rng)
    digits = [cut(draw_digit(digit, rng, height, kind)) for digit in text]
    digits = [np.pad(digit, ((0, 0), (0, round(0.3 * height)))) for digit in digits]
    at_the_end = bool(rng.random() < 0.5)
    place = -1 if at_the_end else 0
    whole = digits[place]
    half = round(whole.shape[1] * 0.4)
    tops = [len(digit) for digit in digits]
    digits[place] = whole[:, :half] if at_the_end else whole[:, half:]
    row = np.concatenate([np.pad(digit, ((max(tops) - len(digit), 0), (0, 0))) for digit in digits], 1)
    margins = (0, height) if not at_the_end else (height, 0)
    return lit(np.pad(row, ((height // 2, height // 2), margins)), rng), [text[:-1] if at_the_end else text[1:]]


def sheet_on_a_table(rng):
    text = random_text(rng, 1, 4)
    ink = framed(draw_row(text, rng, int(rng.integers(60, 140)), either(rng)), rng, 0.4, 1)
    margins = (rng.uniform(0.1, 0.5, 4) * min(ink.shape)).astype(int)
    sheet = np.pad(np.ones_like(ink), (margins[:2], margins[2:]))
    ink = np.pad(ink, (margins[:2], margins[2:]))
    table = np.kron(rng.normal(0, 0.03, [side // 8 + 1 for side in ink.shape]), np.ones((8, 8)))
    light = np.where(sheet > 0, 1, rng.uniform(0.1, 0.5) + table[: len(ink), : ink.shape[1]])
    image = lit(ink, rng, light, shades=(0.9, 0.15))
    around = round(255 * 0.9 * float(light[0, 0]))
    return image.rotate(rng.normal(0, 1.5), Image.Resampling.BILINEAR, fillcolor=around), [text]


def broken_digit(rng):
    """A digit with a gap through it, as of a worn print."""
    digit = random_text(rng, 1, 1)
    ink = cut(draw_digit(digit, rng, int(rng.integers(100, 220)), either(rng))).copy()
    wide = max(2, round(len(ink) * rng.uniform(0.02, 0.07)))
    y = round(len(ink) * rng.uniform(0.3, 0.7))
    ink[y : y + wide] = 0
    return lit(framed(ink, rng), rng), [digit]


KINDS = {
    "one digit, printed": single_printed,
    "one digit, handwritten": single_handwritten,
    "light on dark": light_on_dark,
    "coloured paper": coloured_paper,
    "thin pen": thin_pen,
    "1 with a flag, 7 with a bar": flagged,
    "printed, in perspective": printed_in_perspective,
    "handwritten, in perspective": handwritten_in_perspective,
    "bright patch": bright_patch,
    "dark corner": dark_corner,
    "vignette": vignette,
    "shadow's edge through the digit": shadow_edge,
    "broken digit": broken_digit,
    "row, printed": row_printed,
    "row, handwritten": row_handwritten,
    "column": column,
    "several rows": several_rows,
    "grid of MNIST's digits": grid_of_mnist,
    "commas and points": commas_and_points,
    "cut off at the edge": cut_off_at_the_edge,
    "ringed digit": ringed_digit,
    "form boxes": form_boxes,
    "comb field": comb_field,
    "table": table,
    "ruled paper": ruled_paper,
    "squared paper": squared_paper,
    "seven-segment display": seven_segment,
    "sheet on a table": sheet_on_a_table,
    "long strip": long_strip,
    "small in a photograph": small_in_a_photograph,
}


def draw_pictures(kind, number=None):
    """Yield (PIL image, its rows of digits) of a kind, the same ones every time."""
    for n in range(number or NUMBER):
        yield KINDS[kind](np.random.default_rng([SEED, zlib.crc32(kind.encode()), n]))


def judge(picture, truth, network):
    """Return the outcome of reading a picture, one of `OUTCOMES`, and the rows that were read, or None."""
    from digits.own_images import ImageError, find_digits

    try:
        found = find_digits(picture)
    except ImageError:
        return "refused", None
    read = network.read(found.images)
    rows = ["".join(map(str, read.probabilities.argmax(1)))]
    if hasattr(found, "split_rows"):
        rows = found.split_rows(rows[0])
    else:  # earlier code, which knew no rows
        truth = ["".join(truth)]
    doubtful = getattr(read, "doubtful", None)
    return ("right" if rows == truth else "wrong") + "?" * (doubtful is not None and bool(doubtful.any())), rows


def count(names, kinds, number=None, report=None):
    """Count the outcomes for networks of weights/: {kind: {network: {outcome: number}}}."""
    import torch

    from digits import pretrained

    torch.set_num_threads(1)
    networks = {name: pretrained.load(name) for name in names}
    counts = {kind: {name: dict.fromkeys(OUTCOMES, 0) for name in names} for kind in kinds}
    for kind in kinds:
        for n, (picture, truth) in enumerate(draw_pictures(kind, number)):
            for name, network in networks.items():
                outcome, rows = judge(picture, truth, network)
                counts[kind][name][outcome] += 1
                if report and outcome != "right":
                    report(name, kind, n, picture, truth, rows)
    return counts


def draw_table(record):
    """Draw the table of a record in Markdown: for each kind what is right, told with doubt, refused and wrong."""
    columns = list(next(iter(record["kinds"].values())))
    rows = []
    for kind, row in record["kinds"].items():
        cells = ([c["right"], c["right?"] + c["wrong?"], c["refused"], c["wrong"]] for c in row.values())
        rows.append([kind, *(", ".join(map(str, cell)) for cell in cells)])
    return markdown_table([f"right, doubtful, refused, wrong of {record['pictures']}", *columns], rows)


def main():
    parser = cli.new_parser(__doc__)
    parser.add_argument("--before", metavar="FOLDER", help="earlier code, to be compared with this one")
    parser.add_argument("--code", metavar="FOLDER", help="measure the code in this folder only")
    parser.add_argument("--weights", nargs="+", default=NETWORKS, metavar="NAME", help="networks of weights/")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="of these kinds")
    parser.add_argument("--number", type=int, default=NUMBER, metavar="N", help="of so many pictures each")
    parser.add_argument("--out", metavar="FILE", help="where the record goes (default: it is printed)")
    options = cli.parse(parser)
    if options.code:
        sys.path.insert(0, options.code)
        print(json.dumps(count(options.weights, options.only, options.number)))
        return
    record = {"command": COMMAND, "seed": SEED, **provenance(), "pictures": options.number}
    if options.before:
        commit = ["git", "-C", options.before, "rev-parse", "HEAD"]
        record["before"] = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
        words = ["--weights", NETWORKS[0], "--only", *options.only, "--number", str(options.number)]
        command = [sys.executable, __file__, "--code", options.before, *words]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    record["kinds"] = count(options.weights, options.only, options.number)
    if options.before:
        for kind, (row,) in zip(
            options.only, map(dict.values, json.loads(other.communicate()[0]).values()), strict=True
        ):
            record["kinds"][kind] = {f"{NETWORKS[0]}, before": row} | record["kinds"][kind]
    write_json(options.out, record) if options.out else print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
