"""Measure what a transformer does to distorted digits: as for MNIST as it is, and in which pose it leaves them."""

import torch

from stn import metrics as digits
from stn import warps
from stn.metrics import PICTURE, draw_transforms, draw_warps, picture  # noqa: F401 (used by name)


@torch.inference_mode()
def measure_transformer(model, data):
    """Measure what `stn.metrics.measure_transformer` measures, and for rotated and scattered digits the angle spread.

    angle_spread: the standard deviation, in degrees, of the angle in which digits lie after the transformer about the
        mean angle of their class, pooled over all classes, as in Finnveden et al. (arXiv 2004.11678), except that
        deviations are wrapped to ±180 degrees. It is 0 if all digits of a class are turned to the same angle, upright
        or not.

    Of splines, the class variances and the ink area are those of the images that the spline makes; the ink that is
    kept is not measured, and the homographies are the nearest affine maps.
    """
    measures = measure_spline(model, data) if hasattr(model, "sources") else digits.measure_transformer(model, data)
    if measures and data.description["distorted"] in ("R", "RTS"):
        angles = angle_of(data.test_homographies.to(measures.homographies)) + angle_of(measures.homographies)
        measures.numbers["angle_spread"] = float(spread(angles, data.test_labels).rad2deg())
    return measures


def measure_spline(model, data):
    """Return the `TransformerMeasures` of a network whose transform is no homography."""
    model.eval()
    labels = digits.batches(data.test_labels)
    before, after = (
        digits.class_statistics((data.pixels(shown(batch)), some) for batch, some in zip(images, labels, strict=True))
        for shown in (torch.clone, model.transform)
        for images in [digits.batches(data.test_images)]
    )
    variances, ink = (
        [float(digits.mean_over_images(statistics[part], data.test_labels)) for statistics in (before, after)]
        for part in (1, 0)
    )
    numbers = {
        "within_class_variance_before": variances[0],
        "within_class_variance_after": variances[1],
        "ink_area": ink[1] / ink[0],
    }
    homographies = digits.homographies(model, data.test_images)
    return digits.TransformerMeasures(numbers, homographies, [before, after])


def angle_of(matrices):
    """Return the angle of the rotation that is nearest to homographies (N, 3, 3) at the centre, in radians (N,)."""
    matrices = matrices / matrices[:, 2:, 2:]
    affine = matrices[:, :2, :2] - matrices[:, :2, 2:] * matrices[:, 2:, :2]
    return torch.atan2(affine[:, 1, 0] - affine[:, 0, 1], affine[:, 0, 0] + affine[:, 1, 1])


def spread(angles, labels):
    """Return the standard deviation of angles (N,) about the mean direction of their class; labels (N,). In radians."""
    classes = labels.max() + 1
    sines, cosines = (angles.new_zeros(classes).index_add(0, labels, part) for part in (angles.sin(), angles.cos()))
    away = angles - torch.atan2(sines, cosines)[labels]
    return torch.atan2(away.sin(), away.cos()).square().mean().sqrt()


def share_seen(data, homographies):
    """Return the share, 0 to 1, of the ink of the first test digits that the classifier sees, clutter left out.

    homographies: those of as many images (N, 3, 3).
    """
    if data.description["distorted"] != "TC":
        return digits.share_seen(data, homographies)
    n, size = len(homographies), data.test_images.shape[2:]
    alone = warps.homography_warp(data.clean.test_images[:n], data.test_homographies[:n], "background", size)
    return digits.ink_kept([(data.pixels(alone), homographies)])
