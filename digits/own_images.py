"""Find the digits in images from users, drawn, printed or photographed, and bring each to 28×28 as MNIST was made.

In MNIST a digit is light ink on black, fits into a box of 20×20 pixels with its proportions kept, and has its centre of
mass in the middle of 28×28 (yann.lecun.com/exdb/mnist).
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from digits import layout
from digits.image_files import ImageError, open_upright
from digits.ink import mark_ink, measure_ink

# Pixels of an image in which writing is looked for, and of one, and of the part of it, in which small writing is read.
MOST_PIXELS, MOST_LARGE, MOST_CLOSE = 1_000_000, 12_000_000, 5_000_000  # more would take longer than two seconds
LEAST_SHEET = 0.15  # of an image, that a sheet of paper covers at least
SMALL = 48  # pixels: writing of a shrunk image that is lower is read in a larger one
BOX, SIZE = 20, 28  # pixels, of a digit and of its image
# Strokes thinner than THIN pixels of 28 are thickened to WIDE. (In MNIST 1 % and 25 % are thinner than these.)
THIN, WIDE = 1.5, 2.2


class Digits(NamedTuple):
    """The digits in an image."""

    grey: np.ndarray  # (H, W) in [0, 1]: the image, upright, grey, and of at most a million pixels
    images: np.ndarray  # (N, 28, 28) in [0, 1], light ink on black, in reading order
    positions: np.ndarray  # (N, 3): pixels of `grey` per pixel of 28×28, and (x, y) of the upper left corner in `grey`
    lengths: list  # how many digits each row of them has, from top to bottom
    left_out: dict  # {what: how many of them} was seen and not read, such as {"marks": 1, "at the edge": 2}
    steps: list  # what was done, in words

    def split_rows(self, texts):
        """Join N strings, one for each digit, to one for each row."""
        ends = np.cumsum(self.lengths)
        return ["".join(texts[end - length : end]) for end, length in zip(ends, self.lengths, strict=True)]


def find_digits(source, as_is=False):
    """Return the `Digits` in an image file or a PIL image. Raise ImageError.

    as_is: use an image of 28×28 pixels unchanged, as a digit that MNIST stores.
    """
    image, steps = open_grey(source)
    grey = to_array(shrink(image, MOST_PIXELS))
    if as_is:
        if grey.shape != (SIZE, SIZE):
            raise ImageError(f"is {grey.shape[1]}×{grey.shape[0]}, not 28×28 pixels, so it cannot be taken as it is")
        return Digits(grey, grey[None], np.array([[1.0, 0.0, 0.0]]), [1], {}, ["taken as it is"])
    ink, mask, sheet = find_ink(grey)
    if sheet is not None:
        steps.append("cut out the sheet of paper")
    close = look_closer(image, grey, ink, mask, sheet)
    scale, origin = 1.0, np.zeros(2)
    if close is not None:
        ink, mask, scale, origin = close
        steps.append("read the small writing in the image's own size")
    mask, lines = layout.take_off_lines(mask)
    if mask.any() and layout.is_display(mask):
        raise ImageError("seems to show a seven-segment display, whose digits are not read")
    labels, boxes = layout.split_parts(*layout.label_parts(mask), ink.amount)
    rows, left_out = layout.find_rows(labels, boxes)
    if not rows:
        raise ImageError("; ".join(["holds nothing that looks like a single digit", *tell(left_out)]))
    digits = [cut_out(parts, ink.amount, labels, boxes) for row in rows for parts in row]
    images, positions, thickened = zip(*digits, strict=True)
    positions = np.array(positions)
    positions[:, 1:] += origin[::-1]
    steps.append(f"{'dark ink on light' if ink.is_dark else 'light ink on dark'}, {len(digits)} found")
    if not ink.is_sure:
        steps.insert(-1, "ink and paper may be the other way round")
    if lines:
        steps.insert(-1, f"took off frames and lines ({lines})")
    if any(thickened):
        steps.append("thin strokes thickened")
    if wide := sum(is_wide(image) for image in images):
        steps.append(f"wider than most digits ({wide}), perhaps several that touch")
    steps += tell(left_out)
    lengths = [len(row) for row in rows]
    return Digits(grey, np.stack(images), positions * scale, lengths, left_out, steps)


def is_wide(image):
    """Return whether a digit (28, 28) is so wide that it may be two."""
    return layout.SPLIT * np.count_nonzero(image.max(1) > 0.1) < BOX


def tell(left_out):
    """Say in words, [one sentence] or none, what was left out."""
    return ["left out: " + ", ".join(f"{what} ({number})" for what, number in left_out.items())] if left_out else []


def open_grey(source):
    """Return an image as a grey PIL image, upright, of at most MOST_LARGE pixels, and what was done."""
    side = round(MOST_LARGE**0.5)
    image, size, steps = open_upright(source, draft=("L", (side, side)))
    image = shrink(image if image.mode == "F" else image.convert("L"), MOST_LARGE)
    if size[0] * size[1] > MOST_PIXELS:
        steps.append(f"shrunk from {size[0]}×{size[1]}")
    return image, steps


def read_grey(source):
    """Return an image as grey values (H, W) in [0, 1], upright and of at most a million pixels, and what was done."""
    image, steps = open_grey(source)
    return to_array(shrink(image, MOST_PIXELS)), steps


def shrink(image, most):
    """Return a PIL image with at most so many pixels, and its proportions kept."""
    factor = (most / (image.width * image.height)) ** 0.5
    if factor >= 1:
        return image
    return image.resize([max(1, int(side * factor)) for side in image.size], Image.Resampling.BOX)


def to_array(image):
    """Return a grey PIL image as (H, W) in [0, 1]."""
    return np.asarray(image, np.float32) / (1 if image.mode == "F" else 255)


def find_ink(grey):
    """Return the `Ink` in an image (H, W), where it is, and the sheet of paper that was cut out, a mask or None.

    Raise ImageError.
    """
    ink = measure_ink(grey)
    mask = mark_ink(ink)
    if (sheet := find_sheet(mask)) is not None:
        with suppress(ImageError):  # without ink on it, it is no sheet
            ink = measure_ink(np.where(sheet, grey, np.median(grey[sheet])))
            return ink, mark_ink(ink), sheet
    return ink, mask, None


def find_sheet(mask):
    """Return the mask (H, W) of a sheet of paper on a table: the tallest part, if it is large and fills its box.

    Return None if there is no sheet.
    """
    labels, boxes = layout.label_parts(mask)
    number = layout.heights(boxes).argmax()
    box = layout.slices(boxes[number])
    part = labels[box] == number + 1
    filled = ndimage.binary_fill_holes(part)
    if filled.sum() < LEAST_SHEET * mask.size or filled.mean() < 0.85 or part.sum() < 0.5 * filled.sum():
        return None
    sheet = np.zeros_like(mask)
    sheet[box] = filled
    return ndimage.binary_erosion(sheet, iterations=max(mask.shape) // 100 + 1)  # without its edge


def look_closer(image, grey, ink, mask, sheet):
    """Find small writing in a larger image (PIL) than in `grey`, the same but shrunk.

    Return its `Ink`, where it is, the pixels of `grey` per pixel of the larger one, and the place (y, x) there of the
    part that was looked at; or None if the writing is large enough in `grey`.
    """
    if image.size == grey.shape[::-1]:
        return None
    _, boxes = layout.label_parts(mask)
    layout.check_number(boxes, mask.shape)
    if np.median(layout.heights(boxes)) >= SMALL:
        return None
    factor = image.height / grey.shape[0], image.width / grey.shape[1]
    first, last = np.maximum(0, boxes[:, :2].min(0) - SMALL), np.minimum(grey.shape, boxes[:, 2:].max(0) + SMALL)
    top, left, bottom, right = (int(n * f) for n, f in zip((*first, *last), factor * 2, strict=True))
    close = to_array(shrink(image.crop((left, top, right, bottom)), MOST_CLOSE))
    shrunk = (bottom - top) / len(close)
    factor = factor[0] / shrunk
    if sheet is not None:
        inside = Image.fromarray(sheet[first[0] : last[0], first[1] : last[1]]).resize(close.shape[::-1])
        close = np.where(inside, close, np.median(close[np.asarray(inside)]))
    try:
        ink = measure_ink(close, ink._replace(stroke=ink.stroke * factor))
    except ImageError:
        return None
    return ink, mark_ink(ink), 1 / factor, np.array([top, left]) / shrunk


def cut_out(parts, amount, labels, boxes):
    """Return a digit as `to_mnist` does, from the labels of its parts and the amount of ink (H, W)."""
    its_boxes = boxes[np.array(parts) - 1]
    box = layout.slices((*its_boxes[:, :2].min(0), *its_boxes[:, 2:].max(0)))
    return to_mnist(amount[box] * ndimage.binary_dilation(np.isin(labels[box], parts)), box)


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
