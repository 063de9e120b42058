"""Find the digits in images from users, drawn, printed or photographed, and bring each to 28×28 as MNIST was made.

In MNIST a digit is light ink on black, fits into a box of 20×20 pixels with its proportions kept, and has its centre of
mass in the middle of 28×28 (yann.lecun.com/exdb/mnist).
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from digits.image_files import ImageError, open_upright

LONGEST = 1000  # pixels of the longer side; larger images are shrunk to it
BOX, SIZE = 20, 28  # pixels, of a digit and of its image
# The smallest contrast of ink, as a share of white, and as a multiple of the paper's noise.
LEAST_CONTRAST, LEAST_SIGNAL = 0.1, 6
# As a share of the tallest part's height: a lower part is no digit, and one smaller in both directions is a speck.
LEAST_HEIGHT, LEAST_PART = 0.3, 0.1
MOST_DIGITS = 100
MOST_PARTS = 500  # that are no specks; to join n parts takes up to n² comparisons, minutes for a page of halftone dots
# Strokes thinner than THIN pixels of 28 are thickened to WIDE. (In MNIST 1 % and 25 % are thinner than these.)
THIN, WIDE = 1.5, 2.2
ROUGH = 32  # pixels of the small image in which the brightness of the paper is estimated


class Digits(NamedTuple):
    """The digits in an image."""

    grey: np.ndarray  # (H, W) in [0, 1]: the image, upright, grey, and at most 1000 pixels long
    images: np.ndarray  # (N, 28, 28) in [0, 1], light ink on black, in reading order
    positions: np.ndarray  # (N, 3): pixels of `grey` per pixel of 28×28, and (x, y) of the upper left corner in `grey`
    steps: list  # what was done, in words


def find_digits(source, as_is=False):
    """Return the `Digits` in an image file or a PIL image. Raise ImageError.

    as_is: use an image of 28×28 pixels unchanged, as a digit that MNIST stores.
    """
    grey, steps = read_grey(source)
    if as_is:
        if grey.shape != (SIZE, SIZE):
            raise ImageError(f"is {grey.shape[1]}×{grey.shape[0]}, not 28×28 pixels, so it cannot be taken as it is")
        return Digits(grey, grey[None], np.array([[1.0, 0.0, 0.0]]), ["taken as it is"])
    ink, is_dark = measure_ink(grey)
    labels, boxes = label_parts(ink)
    if (sheet := find_sheet(labels, boxes)) is not None:
        with suppress(ImageError):  # without ink on it, it is no sheet
            ink, is_dark = measure_ink(np.where(sheet, grey, np.median(grey[sheet])))
            labels, boxes = label_parts(ink)
            steps.append("cut out the sheet of paper")
    labels, boxes = join_parts(labels, boxes)
    digits = [
        to_mnist(ink[box] * ndimage.binary_dilation(labels[box] == number), box) for number, box in reading_order(boxes)
    ]
    images, positions, thickened = zip(*digits, strict=True)
    steps.append(f"{'dark ink on light' if is_dark else 'light ink on dark'}, {len(digits)} found")
    if any(thickened):
        steps.append("thin strokes thickened")
    return Digits(grey, np.stack(images), np.array(positions), steps)


def read_grey(source):
    """Return an image as grey values (H, W) in [0, 1], upright and at most 1000 pixels long, and what was done."""
    image, size, steps = open_upright(source, draft=("L", (LONGEST, LONGEST)))
    white = 1 if image.mode == "F" else 255
    image = image if image.mode == "F" else image.convert("L")
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    if max(size) > LONGEST:
        steps.append(f"shrunk from {size[0]}×{size[1]}")
    return np.asarray(image, np.float32) / white, steps


def measure_ink(grey):
    """Return the amount of ink in each pixel, (H, W) in [0, 1], and whether it is dark. Raise ImageError without ink.

    The brightness of the paper is estimated around each point, so that shadows and lamps do not matter.
    """
    if min(grey.shape) < 2 or max(grey.shape) < 8:
        raise ImageError("is too small: a digit needs eight pixels")
    small = Image.fromarray(grey)
    small.thumbnail((ROUGH, ROUGH), Image.Resampling.BOX)
    small = np.asarray(small)
    around = max(small.shape) // 2 + 1
    rim = np.median(np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]))
    wider = np.pad(small, around // 2, constant_values=rim)  # otherwise a bold digit could cover more than the paper
    is_dark = np.sum((wider - ndimage.median_filter(wider, around)) ** 3) <= 0  # ink covers less than the paper
    light, small = (grey, small) if is_dark else (1 - grey, 1 - small)
    paper = ndimage.gaussian_filter(ndimage.percentile_filter(small, 75, around), around / 4)
    paper = np.asarray(Image.fromarray(paper).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    ink = 1 - light / paper.clip(0.05)
    ink = ndimage.gaussian_filter(ink, max(grey.shape) / 1000)
    ink -= np.quantile(ink, 0.25)
    apart = max(1, ink.shape[1] // 25)  # light changes slowly from point to point, ink does not
    rises = np.abs(ink[:, apart:] - ink[:, :-apart])
    noise = 1.05 * np.median(np.abs(np.diff(ink)))  # the standard deviation, if it is Gaussian
    if not rises.size or np.quantile(rises, 0.999) < max(LEAST_CONTRAST, LEAST_SIGNAL * noise):
        raise ImageError("is blank: no ink stands out from the paper")
    return (ink / np.quantile(ink, 0.999)).clip(0, 1), is_dark


def otsu(values):
    """Return the threshold that divides values in [0, 1] into two classes of least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, 128, (0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / total - sums) ** 2 / (below * (total - below))
    return edges[1:][np.nanargmax(between)]


def label_parts(ink):
    """Label the connected parts of the ink that contain a strong pixel: (H, W) integers, and {label: box as slices}."""
    threshold = otsu(ink)
    labels, _ = ndimage.label(ink > threshold / 2, np.ones((3, 3)))
    strong = np.unique(labels[ink > threshold])
    boxes = dict(enumerate(ndimage.find_objects(labels), 1))
    return labels, {number: boxes[number] for number in strong if number}


def find_sheet(labels, boxes):
    """Return the mask (H, W) of a sheet of paper on a table: the tallest part, if it is large and fills its box.

    Return None if there is no sheet.
    """
    number, box = max(boxes.items(), key=lambda item: height(item[1]))
    filled = ndimage.binary_fill_holes(labels == number)
    if filled.mean() < 0.25 or filled[box].mean() < 0.85:
        return None
    return ndimage.binary_erosion(filled, iterations=max(labels.shape) // 100 + 1)  # without its edge


def join_parts(labels, boxes):
    """Give all parts of one digit the same label; drop specks and what touches the edge of the image.

    Raise ImageError if there are too many parts.
    """
    inside = {
        number: box
        for number, box in boxes.items()
        if all(side.start > 0 and side.stop < size for side, size in zip(box, labels.shape, strict=True))
    }
    tallest = max(map(height, inside.values()), default=0)
    boxes = inside if tallest > len(labels) / 20 else boxes  # otherwise the digit itself touches the edge
    tallest = max(map(height, boxes.values()))
    boxes = {n: box for n, box in boxes.items() if max(height(box), width(box)) > LEAST_PART * tallest}
    if len(boxes) > MOST_PARTS:
        raise ImageError(f"falls into {len(boxes):,} parts; more than {MOST_PARTS} are probably a text or a texture")
    joined, label_of = {}, np.arange(labels.max() + 1)
    for number, box in sorted(boxes.items(), key=lambda item: -height(item[1])):
        first = next((other for other, its_box in joined.items() if belong_together(box, its_box)), number)
        label_of[number] = first
        sides = zip(box, joined.get(first, box), strict=True)
        joined[first] = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in sides)
    return label_of[labels], {number: box for number, box in joined.items() if height(box) >= LEAST_HEIGHT * tallest}


def reading_order(boxes):
    """Sort digits from left to right, lines from top to bottom: [(label, box), ...]. Raise ImageError."""
    if len(boxes) > MOST_DIGITS:
        raise ImageError(f"seems to hold {len(boxes)} digits; more than {MOST_DIGITS} are probably a text or a texture")
    lines = []
    for number, box in sorted(boxes.items(), key=lambda item: item[1][0].start):
        if not lines or sum((box[0].start, box[0].stop)) / 2 > max(other[0].stop for _, other in lines[-1]):
            lines.append([])
        lines[-1].append((number, box))
    return [digit for line in lines for digit in sorted(line, key=lambda digit: digit[1][1].start)]


def height(box):
    return box[0].stop - box[0].start


def width(box):
    return box[1].stop - box[1].start


def belong_together(box, other):
    """Return whether two boxes belong to one digit: they overlap by half of the narrower width, with a small gap."""
    overlap = min(box[1].stop, other[1].stop) - max(box[1].start, other[1].start)
    gap = max(box[0].start, other[0].start) - min(box[0].stop, other[0].stop)
    return overlap >= min(width(box), width(other)) / 2 and gap <= max(height(box), height(other)) / 4


def to_mnist(ink, box):
    """Return ink (h, w) as (28, 28) in [0, 1], its row of `Digits.positions`, and whether strokes were thickened.

    box: where the ink lies in its image.
    """
    shrunk = max(1.0, max(ink.shape) / (8 * BOX))
    ink = resize(ink, 1 / shrunk)
    scale = max(ink.shape) / BOX
    distance = ndimage.distance_transform_edt(np.pad(ink, 1) > ink.max() / 2)
    stroke = 4 * distance[distance > 0].mean() / scale  # the mean distance to a stroke's edge is a quarter of its width
    thickened = stroke < THIN
    margin = max(1, round((WIDE - stroke) / 2 * scale)) if thickened else 0
    if thickened:
        y, x = np.ogrid[-margin : margin + 1, -margin : margin + 1]
        ink = ndimage.grey_dilation(np.pad(ink, margin), footprint=x**2 + y**2 <= margin**2)
        scale = max(ink.shape) / BOX
    small = resize(ink, 1 / scale)
    small = (small / small.max()).clip(0, 1)
    middle = ndimage.center_of_mass(small)
    y, x = (min(max(round(SIZE / 2 - m - 0.5), 0), SIZE - n) for m, n in zip(middle, small.shape, strict=True))
    image = np.zeros((SIZE, SIZE), np.float32)
    image[y : y + small.shape[0], x : x + small.shape[1]] = small
    scale *= shrunk
    position = scale, box[1].start - margin * shrunk - x * scale, box[0].start - margin * shrunk - y * scale
    return image, position, thickened


def resize(values, factor):
    """Resize (H, W) by a factor; Pillow averages where it shrinks."""
    size = [max(1, round(n * factor)) for n in values.shape]
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
