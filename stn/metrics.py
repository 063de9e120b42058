"""What a transformer does to the digits: numbers for results.json, and the statistics that lab/figures.py draws."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from lab import figures
from stn import warps

# Images per test batch: larger batches keep a GPU busy.
TEST_BATCH_SIZE = {"cpu": 500, "cuda": 2500}
N_SHOWN = 64  # test images whose transforms are drawn, and kept for every epoch
N_SEEN = 500  # test images of which the classifier's share is measured after every epoch
N_DIGITS, PICTURE = 32, "Test digits, and the same transformed"  # TensorBoard's picture: its digits and title


class TransformerMeasures(NamedTuple):
    """What a network's transformer does to the test images."""

    numbers: dict  # by name, see `measure_transformer`
    homographies: torch.Tensor  # (N, 3, 3)
    statistics: list | None  # [before it, after it], each the means and the variances of `class_statistics`


def batches(tensor):
    """Split as networks are evaluated: (N, ...) -> a tuple of (B, ...)."""
    return tensor.split(TEST_BATCH_SIZE[tensor.device.type])


def has_transformer(model):
    """Tell whether `model` has a method `homography`, as those in models.py, and uses it."""
    return hasattr(model, "homography") and not getattr(model, "bypass_localisation", False)


def confusion(labels, predictions, n_classes=10):
    """Count how often digits of each class, by row, were taken for each class, by column, as lists.

    labels, predictions: two tensors of one shape.
    """
    counts = torch.bincount((labels * n_classes + predictions).flatten(), minlength=n_classes**2)
    return counts.view(n_classes, n_classes).tolist()


def class_statistics(pairs, n_classes=10):
    """Return mean and variance of each pixel in each class, two of (n_classes, H, W) on the CPU.

    pairs: images in batches with their labels, ((B, 1, H, W), (B,)), ... A class without images has zeros.
    """
    counts = sums = squares = 0
    for images, labels in pairs:
        members = F.one_hot(labels, n_classes).T.to(images.dtype)  # (n_classes, B)
        pixels = images.flatten(1)
        counts = counts + members.sum(1, keepdim=True)
        sums, squares = sums + members @ pixels, squares + members @ pixels.square()
    means = sums / counts.clamp(min=1)
    variances = (squares / counts.clamp(min=1) - means.square()).clamp(min=0)
    return tuple(statistic.view(n_classes, *images.shape[2:]).cpu() for statistic in (means, variances))


def mean_over_images(statistic, labels):
    """Average one of the `class_statistics` over pixels and images, to a scalar tensor.

    Of the variance: how far a pixel is from the mean of its class.
    """
    shares = torch.bincount(labels, minlength=len(statistic)).cpu() / len(labels)
    return (statistic.mean((1, 2)) * shares).sum()


def ink_kept(pairs):
    """Return the share of the sum of all pixels that lies inside the transformed images.

    pairs: images in batches with their homographies, ((B, 1, H, W), (B, 3, 3)), ...
    """
    kept = ink = 0
    for images, homographies in pairs:
        numerators, denominators = warps.source_points(torch.linalg.inv_ex(homographies).inverse, *images.shape[2:])
        inside = ((numerators / denominators).abs() <= 1).all(2)  # infinity and NaN are not
        kept, ink = kept + (images.flatten(1) * inside).sum(), ink + images.sum()
    return float(kept / ink)


def share_seen(data, homographies):
    """Return the share, 0 to 1, of the ink of the first test images that the classifier sees.

    homographies: those of as many images (N, 3, 3).
    """
    images = data.pixels(data.test_images[: len(homographies)])
    return ink_kept([(images, warps.from_canvas(homographies, data.canvas))])


def frames(homographies, size):
    """Map the corners of the transformed image into the image: (N, 3, 3) -> (N, 4, 2), (x, y) in pixels.

    size: height and width of the image.
    """
    corners = torch.tensor(warps.CORNERS).to(homographies).expand(len(homographies), 4, 2)
    return warps.to_pixels(warps.map_points(homographies, corners), *size)


@torch.inference_mode()
def homographies(model, images):
    """Return `model.homography` of all images, computed in batches: (N, 3, 3)."""
    return torch.cat([model.homography(batch) for batch in batches(images)])


@torch.inference_mode()
def measure_transformer(model, data):
    """Measure the transformer of a network on the test images of `data`: `TransformerMeasures`, or None if it has none.

    The numbers:

    within_class_variance_before, _after: how far a pixel is from the mean of its class. Outside the image these
        measures always read background, even if the network pads with grey. On a canvas, the variance before the
        transformer is taken in the middle, the ink on the whole canvas.
    ink_kept: see `ink_kept`.
    ink_area: the sum of all pixels after the transform divided by that before: below 1 digits shrink.
    bounded: the share of images in which the denominator of a pixel is bounded (see warps.SMALLEST_DENOMINATOR).
    """
    if not has_transformer(model):
        return None
    model.eval()
    transforms = homographies(model, data.test_images)
    labels = data.test_labels

    def pairs(others):
        return zip(map(data.pixels, batches(data.test_images)), batches(others), strict=True)

    reads, size = warps.from_canvas(transforms, data.canvas), data.middle(data.test_images).shape[2:]
    after = (warps.homography_warp(*pair, padding="background", size=size) for pair in pairs(reads))
    before, after = class_statistics(pairs(labels)), class_statistics(zip(after, batches(labels), strict=True))
    ink_before, ink_after = mean_over_images(before[0], labels) * data.canvas**2, mean_over_images(after[0], labels)
    statistics = [tuple(map(data.middle, before)), after]
    variances = [float(mean_over_images(variance, labels)) for _, variance in statistics]
    bounded = torch.cat([warps.has_bounded_denominator(batch, *size) for batch in batches(transforms)])
    numbers = {
        "within_class_variance_before": variances[0],
        "within_class_variance_after": variances[1],
        "ink_kept": ink_kept(pairs(reads)),
        "ink_area": float(ink_after / ink_before),
        "bounded": float(bounded.float().mean()),
    }
    return TransformerMeasures(numbers, transforms, statistics)


@torch.inference_mode()
def draw_transforms(model, data, title):
    """Draw the first test images before and after the transformer, and the frames that it reads, if it has any."""
    model.eval()
    images = data.test_images[:N_SHOWN]
    shown = (data.pixels(both)[:, 0].cpu() for both in (data.middle(images), model.transform(images)))
    size = data.middle(images).shape[2:]
    reads = frames(homographies(model, images), size).cpu() if has_transformer(model) else None
    return figures.transformed_digits(*shown, title, reads)


def draw_warps(data, transforms, title, padding):
    """Draw the first test images, what homographies (N, 3, 3) make of them, and the frames that these read."""
    images = data.test_images[: len(transforms)]
    before = data.middle(images)
    after = warps.homography_warp(images, warps.from_canvas(transforms, data.canvas), padding, before.shape[2:])
    reads = frames(transforms, before.shape[2:])
    return figures.transformed_digits(*(data.pixels(both)[:, 0] for both in (before, after)), title, reads)


@torch.inference_mode()
def picture(model, data):
    """Return the first test digits, and beside them what the transformer makes of them, as one picture (H, W)."""
    model.eval()
    images = data.test_images[:N_DIGITS]
    pair = data.middle(images), model.transform(images)
    return np.concatenate([figures.grid_of(data.pixels(shown)[:, 0].cpu()) for shown in pair], 1)
