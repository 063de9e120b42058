"""What a transformer does to digits in perspective: as to others, and whether it undoes the distortion."""

import torch

from stn.metrics import (  # noqa: F401 (what draws is part of this module, too)
    PICTURE,
    TransformerMeasures,
    draw_transforms,
    draw_warps,
    frames,
    homographies,
    picture,
)
from stn.metrics import measure_transformer as measure_digits
from studies.perspective.data import TEST_SEED, distort, perspective_homographies

PAIRS = 2000  # test images of which a second distorted copy is made


def measure_transformer(model, data):
    """Measure as `stn.metrics.measure_transformer` does, and two numbers more:

    corner_distance_before, _after: two differently distorted copies of the same digit, as they are and through the
        network: how far apart the digit's corners land in them, in pixels. It is 0 if the network undoes the
        distortions (or shrinks everything to a point: look at the ink, too). Median over the first digits.
    """
    measures = measure_digits(model, data)
    if measures is None:
        return None
    numbers = measures.numbers | corner_distances(model, data, measures.homographies[:PAIRS])
    return TransformerMeasures(numbers, measures.homographies, measures.statistics)


@torch.inference_mode()
def corner_distances(model, data, transforms):
    """Return {"corner_distance_before": …, "corner_distance_after": …}, from `transforms` of the first test images."""
    n, size = len(transforms), data.clean.test_images.shape[2:]
    first, second = (
        perspective_homographies(len(data.test_labels), TEST_SEED, copy, size)[:n].to(transforms) for copy in (0, 1)
    )
    images = torch.empty_like(data.test_images[:n])
    distort(data.clean.test_images[:n], second, images)
    distances = {
        "before": corner_distance(first, second, size),
        "after": corner_distance(first @ transforms, second @ homographies(model, images), size),
    }
    return {f"corner_distance_{when}": float(distance.nanmedian()) for when, distance in distances.items()}


def corner_distance(first, second, size):
    """Return how far apart the same corners land in two images, in pixels: (N, 3, 3), (N, 3, 3) -> (N,), means of four.

    Both homographies map points of such an image (destination) to the undistorted digit, whose corners are meant and
    which has this size, (height, width).
    """
    landed = (frames(torch.linalg.inv_ex(homographies).inverse, size) for homographies in (first, second))
    return torch.sub(*landed).norm(dim=2).mean(1)
