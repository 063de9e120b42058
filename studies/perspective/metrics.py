"""Measure what a transformer does to digits in perspective, and whether it undoes the distortion."""

import torch

from stn.metrics import PICTURE, draw_transforms, draw_warps, frames, homographies, picture, share_seen  # noqa: F401 (used by name)
from stn.metrics import measure_transformer as measure_digits
from studies.perspective.data import TEST_SEED, distort, perspective_homographies

PAIRS = 2000  # test images of which a second distorted copy is made


def measure_transformer(model, data):
    """Measure what `stn.metrics.measure_transformer` measures, and two numbers more:

    corner_distance_before, _after: the mean distance, in pixels, between the positions of the same corners of a digit
        in two differently distorted copies of it, before and after the network. It is 0 if the network undoes the
        distortions, but also if it shrinks everything to a point, so compare the ink. Median over the first digits.
    """
    if measures := measure_digits(model, data):
        measures.numbers.update(corner_distances(model, data, measures.homographies[:PAIRS]))
    return measures


@torch.inference_mode()
def corner_distances(model, data, transforms):
    """Return both corner distances by name, for the first test images, whose predicted `transforms` are given."""
    n, size = len(transforms), data.clean.test_images.shape[2:]
    first, second = (
        perspective_homographies(len(data.test_labels), TEST_SEED, copy, size)[:n].to(transforms) for copy in (0, 1)
    )
    images = torch.empty_like(data.test_images[:n])
    distort(data.clean.test_images[:n], second, images)
    after = corner_distance(first @ transforms, second @ homographies(model, images), size)
    distances = {"corner_distance_before": corner_distance(first, second, size), "corner_distance_after": after}
    return {name: float(distance.nanmedian()) for name, distance in distances.items()}


def corner_distance(first, second, size):
    """Return the mean distance, in pixels, between where two distorted copies map the digit's corners, (N,).

    first, second: homographies (N, 3, 3) from each copy (destination) to the undistorted digit. size: height and width
    of the digit's image.
    """
    corners = (frames(torch.linalg.inv_ex(maps).inverse, size) for maps in (first, second))
    return torch.sub(*corners).norm(dim=2).mean(1)
