"""Thin-plate splines through a regular grid of control points, as maps from the transformed image to the image.

A spline maps the fixed `CONTROL_POINTS` of the transformed image (destination) to any 16 points of the image (source),
bending as little as possible between them (Bookstein 1989). It is linear in these points, so a matrix that depends on
the size of the image alone makes the source of every pixel of them. There is no formula for the inverse; a spline may
fold, and then has none.
"""

import torch

from stn import warps

SIDE = 4  # control points in a row
N_POINTS = SIDE**2
_places = [2 * k / (SIDE - 1) - 1 for k in range(SIDE)]  # from -1 to 1, the outer edges of the image
CONTROL_POINTS = [(x, y) for y in _places for x in _places]  # row by row


def kernel(points, others):
    """Return U = r² log r² of the distances between points (N, 2) and others (M, 2): (N, M); it is 0 where r is."""
    square = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.special.xlogy(square, square)


def weights_at(points):
    """Return how much each control point's source counts in the source of points (N, 2): (N, 16); rows sum to 1.

    The coefficients of the spline solve the linear system of Bookstein's section 1. All is computed in float64.
    """
    points = points.double()
    controls = torch.tensor(CONTROL_POINTS, dtype=torch.float64, device=points.device)
    affine = torch.cat([torch.ones_like(controls[:, :1]), controls], 1)
    zeros = controls.new_zeros(3, 3)
    system = torch.cat([torch.cat([kernel(controls, controls), affine], 1), torch.cat([affine.T, zeros], 1)])
    at_points = torch.cat([kernel(points, controls), torch.ones_like(points[:, :1]), points], 1)
    return torch.linalg.solve(system, at_points.T)[:N_POINTS].T  # the system is symmetric


def map_points(sources, points):
    """Map points (N, 2) of the transformed image to the image, (B, N, 2); sources (B, 16, 2): see `warp`."""
    return weights_at(points).to(sources) @ sources


def pixel_weights(height, width, dtype, device):
    """Return `weights_at` all pixels, transposed: (16, H·W)."""
    like = torch.empty(0, dtype=torch.float64, device=device)
    y, x = torch.meshgrid(warps.pixel_centres(height, like), warps.pixel_centres(width, like), indexing="ij")
    return weights_at(torch.stack([x.flatten(), y.flatten()], 1)).T.to(dtype).contiguous()


def warp(images, sources, padding="zeros", size=None):
    """Warp images (B, C, H, W) by splines, given by the sources of the control points (B, 16, 2): (B, C, *size).

    padding: see stn/warps.py. size: (height, width) of the result, by default that of the images.
    """
    size = size or tuple(images.shape[2:])
    weights = warps.cached(pixel_weights, *size, like=sources)
    x, y = (sources[:, :, axis] @ weights for axis in range(2))
    return warps.sample(images, torch.stack([x, y], 2).view(-1, *size, 2), padding)


def nearest_affine(sources):
    """Return the affine maps that come nearest to splines at the control points: (B, 16, 2) -> (B, 3, 3).

    They are least-squares fits, and describe what a spline does as a whole: how it turns, moves and scales the image.
    """
    controls = torch.tensor(CONTROL_POINTS, dtype=torch.float64)
    solver = torch.linalg.pinv(torch.cat([controls, torch.ones_like(controls[:, :1])], 1)).to(sources)  # (3, 16)
    return warps.to_homography((solver @ sources).transpose(1, 2).flatten(1))
