"""Tell ink from paper in a grey image, by the contrast around each point.

Paper is what a morphological closing makes of the image: it fills strokes that are narrower than its window, and keeps
everything wider as it is, such as the edge of a shadow, a bright patch or the table that a sheet lies on. So the only
scale that has to be known is the width of the strokes.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from digits.image_files import ImageError

# The smallest contrast of ink, as a share of white, and as a multiple of the paper's noise.
LEAST_CONTRAST, LEAST_SIGNAL = 0.1, 6
WINDOW = 5  # pixels of the smallest window in which contrast is measured; the others are twice as wide, each time
NEAR = 0.3  # a balance of light and dark below which ink and paper are not told apart well
RIM = 0.1  # how much the rim of an image counts for being paper, in that balance


class Ink(NamedTuple):
    """The ink in an image."""

    amount: np.ndarray  # (H, W) in [0, 1]
    is_dark: bool  # dark on light, or light on dark
    is_sure: bool  # whether the other reading is much less likely
    stroke: float  # the width of wide strokes, pixels


def measure_ink(grey, known=None):
    """Return the `Ink` in an image (H, W) in [0, 1]. Raise ImageError without ink.

    known: the `Ink` of the same image at another size, with `stroke` in pixels of this one: only its amount is new.
    """
    if min(grey.shape) < 2 or max(grey.shape) < 8:
        raise ImageError("is too small: a digit needs eight pixels")
    blur = min(1.0, max(grey.shape) / 1000)
    grey = ndimage.gaussian_filter(grey, blur)
    is_dark, is_sure, stroke = known[1:] if known else find_polarity(grey)
    light = grey if is_dark else 1 - grey
    window = 2 * round(stroke) + 3
    paper = ndimage.grey_closing(np.pad(light, window, mode="edge"), (window, window))[window:-window, window:-window]
    amount = 1 - light / paper.clip(0.05)
    every = max(1, min(grey.shape) // 300)  # pixel is enough for quantiles
    amount -= np.quantile(amount[::every, ::every], 0.25)
    full = largest(amount)
    apart = max(1, round(4 * blur))  # farther than the blur reaches
    rises = np.abs(amount[:, apart:] - amount[:, :-apart])
    noise = 2.22 * np.quantile(rises[::every], 0.25) if rises.size else 1  # deviation, if Gaussian
    if full < max(LEAST_CONTRAST, LEAST_SIGNAL * noise):
        raise ImageError("is blank: no ink stands out from the paper")
    return Ink((amount / full).clip(0, 1), is_dark, is_sure, stroke)


def largest(values):
    """Return the value that only the few pixels of the smallest writing exceed."""
    few = min(values.size, max(8, values.size // 5000))
    return np.partition(values, -few, None)[-few]


def find_polarity(grey):
    """Return whether ink is darker than paper, whether this is sure, and how wide strokes are, in pixels.

    Each pixel near an edge is light or dark: above or below the middle between the extremes of a window (Bernsen 1986).
    Within a window, strokes are dark as a whole, and the paper around them is as wide as the window; across the edge of
    a shadow both sides are as wide. So ink is what there is less of, in the window where the two differ most.
    """
    margin = max(4, min(max(grey.shape) // 8, min(grey.shape)))
    grey = padded = np.pad(grey, margin, mode="edge")
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    rim = RIM * np.sign(np.median(rim) - (grey.min() + grey.max()) / 2)
    high = low = grey
    scales, step = [], 1
    while step == 1 or min(grey.shape) >= 2 * WINDOW:
        top, bottom = ndimage.maximum_filter(high, WINDOW), ndimage.minimum_filter(low, WINDOW)
        contrast, middle = top - bottom, (top + bottom) / 2
        is_edge = contrast >= max(0.02, 0.4 * largest(contrast))
        light = np.count_nonzero(is_edge & (grey >= middle))
        dark = np.count_nonzero(is_edge) - light
        scales.append(((light - dark) / max(1, light + dark) + rim, is_edge, middle, step))
        height, width = (side // 2 * 2 for side in grey.shape)
        high, low = (halve(values[:height, :width], choose) for values, choose in ((high, np.max), (low, np.min)))
        grey, step = grey[:height:2, :width:2], 2 * step
    best = max((scale[0] for scale in scales), key=abs)
    is_dark = bool(best >= 0)
    sign = 1 if is_dark else -1  # the largest window that is nearly as clear holds whole strokes
    _, is_edge, middle, step = [scale for scale in scales if sign * scale[0] >= 0.7 * abs(best)][-1]
    is_edge, middle = (np.repeat(np.repeat(values, step, 0), step, 1) for values in (is_edge, middle))
    padded = padded[: len(middle), : middle.shape[1]]
    ink = is_edge & ((padded < middle) if is_dark else (padded > middle))
    distance = ndimage.distance_transform_cdt(ink, "chessboard")  # half the width of the largest square in the ink
    inside = distance[distance > 0]
    return is_dark, abs(best) >= NEAR, 4.0 * np.quantile(inside, 0.99) if inside.size else 8.0


def halve(values, choose):
    """Return the largest or smallest of each 2×2 values of (H, W), both even."""
    height, width = values.shape
    return choose(values.reshape(height // 2, 2, width // 2, 2), axis=(1, 3))


def otsu(values):
    """Return the threshold that divides values in [0, 1] into two classes of least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, 128, (0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / total - sums) ** 2 / (below * (total - below))
    return edges[1:][np.nanargmax(between)]


def mark_ink(ink):
    """Return where there is ink, (H, W) bool, of an `Ink`: connected parts that contain a strong pixel.

    The threshold is that of Otsu (1979), where ink is near.
    """
    reach = 2 * round(ink.stroke / 2) + 1
    near = ndimage.maximum_filter(ink.amount > 0.5, reach)
    threshold = otsu(ink.amount[near])
    labels, number = ndimage.label(ink.amount > threshold / 2, np.ones((3, 3)))
    is_strong = np.zeros(number + 1, bool)
    is_strong[labels[ink.amount > threshold]] = True
    is_strong[0] = False
    return is_strong[labels]
