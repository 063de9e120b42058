"""Measure what a transformer does to distorted digits: as for MNIST as it is, and in which pose it leaves them."""

import torch

from stn import metrics as digits
from stn import warps
from stn.metrics import PICTURE, draw_transforms, draw_warps, picture  # noqa: F401 (used by name)


def measure_transformer(model, data):
    """Measure what `stn.metrics.measure_transformer` measures and, where digits are turned, what Finnveden et al. do:

    angle_spread: the standard deviation of the angle, in degrees, in which digits of one class lie after the
        transformer, averaged over the classes. It is 0 if all digits of a class are turned to the same angle, upright
        or not.
    """
    measures = digits.measure_transformer(model, data)
    if measures and data.description["distorted"] in ("R", "RTS"):
        angles = angle_of(data.test_homographies.to(measures.homographies)) + angle_of(measures.homographies)
        spreads = [spread(angles[data.test_labels == label]) for label in data.test_labels.unique()]
        measures.numbers["angle_spread"] = float(torch.stack(spreads).rad2deg().mean())
    return measures


def angle_of(matrices):
    """Return the angle of the rotation that is nearest to affine maps (N, 3, 3), in radians (N,)."""
    return torch.atan2(matrices[:, 1, 0] - matrices[:, 0, 1], matrices[:, 0, 0] + matrices[:, 1, 1])


def spread(angles):
    """Return the standard deviation of angles (N,), in radians, about their mean direction."""
    middle = torch.atan2(angles.sin().mean(), angles.cos().mean())
    away = angles - middle
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
