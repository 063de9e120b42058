"""Affine and homography warps of images as pure functions.

Convention of every transform here: it maps a point of the output (destination) to the point of the input (source)
from which it is read. Points are (x, y), x to the right and y down, both normalised so that the image spans
[-1, 1] between its outer edges (`align_corners=False`). A homography is a 3×3 matrix, acting on (x, y, 1).
Sampling is bilinear; outside the input it reads 0, or with `padding="background"` the image's smallest value. (On a
normalised image 0 is grey, and a network learns to zoom out: pytorch/tutorials#1117.)
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F

AFFINE_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HOMOGRAPHY_IDENTITY = (*AFFINE_IDENTITY, 0.0, 0.0)
PADDINGS = ("zeros", "background")
# The third homogeneous coordinate of a source point is bounded from below: where it is 0 the point is infinitely far
# away, and where it is negative, behind the observer. At 0.1 it is ten times as far away as the numerators say.
SMALLEST_DENOMINATOR = 0.1


def affine_warp(images, theta, padding="zeros"):
    """Warp (B, C, H, W) by affine maps (B, 6), the rows of 2×3 matrices, destination to source."""
    height, width = images.shape[2:]
    return sample(images, theta @ affine_grids(height, width, theta.dtype, theta.device), padding)


def homography_warp(images, matrices, padding="zeros"):
    """Warp (B, C, H, W) by homographies (B, 3, 3), destination to source; with a last row (0, 0, 1) it is affine.

    Their scale is that of products of matrices whose last entry is 1; the bound of the denominator depends on it.
    """
    height, width = images.shape[2:]
    numerators = matrices[:, :2].flatten(1) @ affine_grids(height, width, matrices.dtype, matrices.device)
    denominators = denominators_of(matrices, height, width).clamp(min=SMALLEST_DENOMINATOR).unsqueeze(2)
    return sample(images, numerators.view(len(matrices), -1, 2) / denominators, padding)


def denominators_of(matrices, height, width):
    """The third coordinate of the source of every pixel: (B, 3, 3) -> (B, H·W)."""
    grids = affine_grids(height, width, matrices.dtype, matrices.device)
    return matrices[:, 2] @ grids[:3, ::2]  # these three rows are x, y and 1 of every pixel


def bounded(matrices, height, width):
    """Which homographies have a denominator that `homography_warp` bounds: (B, 3, 3) -> (B,)."""
    return (denominators_of(matrices, height, width) < SMALLEST_DENOMINATOR).any(1)


def sample(images, grid, padding):
    """Read images (B, C, H, W) at a source point for each destination pixel; the grid has B·H·W·2 numbers."""
    batch, _, height, width = images.shape
    grid = grid.view(batch, height, width, 2)
    read = partial(F.grid_sample, grid=grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if padding == "zeros":
        return read(images)
    background = images.amin((2, 3), keepdim=True)
    return read(images - background) + background


@lru_cache
@torch.inference_mode(False)
def affine_grids(height, width, dtype, device):
    """The sampling grid of each of the six parameters alone, (6, H·W·2): affine_grid(theta) is theta @ this.

    F.affine_grid multiplies 784 × 3 by 3 × 2 for every image; as one product for the batch it takes a sixth of that.
    """
    units = torch.eye(6, dtype=dtype, device=device).view(6, 2, 3)
    return F.affine_grid(units, (6, 1, height, width), align_corners=False).flatten(1)


def matrix(theta):
    """(B, 6) or (B, 8) -> (B, 3, 3): the entries row by row; those that are not given are 0, and the last one 1."""
    return F.pad(F.pad(theta, (0, 8 - theta.shape[1])), (0, 1), value=1.0).view(-1, 3, 3)


def map_points(matrices, points):
    """Where points of the output lie in the input: homographies (B, 3, 3), points (B, N, 2) -> (B, N, 2).

    With `torch.linalg.inv(matrices)` it maps points of the input to the output. A point on the line that a
    homography sends to infinity becomes infinite or NaN.
    """
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ matrices.transpose(1, 2)
    return mapped[..., :2] / mapped[..., 2:]


def to_normalised(pixels, height, width):
    """Points (..., 2) in pixels, (x, y) from the centre of the first pixel -> the normalised coordinates used here."""
    return (pixels + 0.5) * 2 / pixels.new_tensor((width, height)) - 1


def to_pixels(points, height, width):
    """The inverse of `to_normalised`."""
    return (points + 1) * points.new_tensor((width, height)) / 2 - 0.5
