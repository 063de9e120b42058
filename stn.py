"""Affine and homography warps of images as pure functions.

Convention of every warp here: `theta` maps a point of the output (destination) to the point of the input (source)
from which it is read. Points are (x, y), x to the right and y down, both normalised so that the image spans
[-1, 1] between its outer edges (`align_corners=False`). Sampling is bilinear; outside the input it reads 0.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from kornia.geometry.transform import homography_warp

AFFINE_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HOMOGRAPHY_IDENTITY = (*AFFINE_IDENTITY, 0.0, 0.0)


def affine_warp(images, theta):
    """Warp (B, C, H, W) by affine maps (B, 6), the rows of 2×3 matrices, destination to source."""
    height, width = images.shape[2:]
    grid = (theta @ affine_grids(height, width, theta.dtype, theta.device)).view(-1, height, width, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@lru_cache
@torch.inference_mode(False)
def affine_grids(height, width, dtype, device):
    """The sampling grid of each of the six parameters alone, (6, H·W·2): affine_grid(theta) is theta @ this.

    F.affine_grid multiplies 784 × 3 by 3 × 2 for every image; as one product for the batch it takes a sixth of that.
    """
    units = torch.eye(6, dtype=dtype, device=device).view(6, 2, 3)
    return F.affine_grid(units, (6, 1, height, width), align_corners=False).flatten(1)


def homography_matrix(theta):
    """(B, 8) -> (B, 3, 3): the first eight entries row by row; the ninth is 1, which fixes the scale."""
    return torch.cat([theta, torch.ones_like(theta[:, :1])], dim=1).view(-1, 3, 3)


def homography_warp_8(images, theta):
    """Warp (B, C, H, W) by homographies (B, 8), destination to source; with theta[:, 6:] = 0 it is affine."""
    height, width = images.shape[2:]
    return homography_warp(images, homography_matrix(theta), (height, width), padding_mode="zeros", align_corners=False)
