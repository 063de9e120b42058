"""Affine and homography warps of images as pure functions.

Convention of every transform here: it maps a point of the output (destination) to the point of the input (source)
from which it is read. Points are (x, y), x to the right and y down, both normalised so that the image spans
[-1, 1] between its outer edges (`align_corners=False`). A homography is a 3×3 matrix, acting on (x, y, 1).
Sampling is bilinear; outside the input it reads 0, or with `padding="background"` the image's smallest value. (On a
normalised image 0 is grey, and a network learns to zoom out: pytorch/tutorials#1117.) The output is as large as the
input, or of a `size` (height, width) of its own: both span [-1, 1], whatever their sizes.

An image may lie in the middle of a *canvas*, a whole number of times as large in both directions; [-1, 1] still spans
the image, the canvas goes on around it.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F

AFFINE_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HOMOGRAPHY_IDENTITY = (*AFFINE_IDENTITY, 0.0, 0.0)
PADDINGS = ("zeros", "background")
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))  # of the image, clockwise from the upper left
# The third homogeneous coordinate of a source point is bounded from below: where it is 0 the point is infinitely far
# away, and where it is negative, behind the observer. At 0.1 it is ten times as far away as the numerators say.
SMALLEST_DENOMINATOR = 0.1


def affine_warp(images, theta, padding="zeros", size=None):
    """Warp (B, C, H, W) by affine maps (B, 6), the rows of 2×3 matrices, destination to source: (B, C, *size)."""
    size = size or tuple(images.shape[2:])
    return sample(images, theta @ affine_grids(*size, theta.dtype, theta.device), padding, size)


def homography_warp(images, matrices, padding="zeros", size=None):
    """Warp (B, C, H, W) by homographies (B, 3, 3), destination to source: (B, C, *size).

    With a last row (0, 0, 1) they are affine. Their scale is that of products of matrices whose last entry is 1; the
    bound of the denominator depends on it.
    """
    size = size or tuple(images.shape[2:])
    numerators, denominators = sources(matrices, *size)
    return sample(images, numerators / denominators.clamp(min=SMALLEST_DENOMINATOR), padding, size)


def from_canvas(matrices, canvas):
    """Let homographies (B, 3, 3) that read an image read from a canvas around it, so many times as large."""
    return torch.cat([matrices[:, :2] / canvas, matrices[:, 2:]], 1) if canvas > 1 else matrices


def to_canvas(matrices, canvas):
    """Let homographies (B, 3, 3) that fill an image fill a canvas around it, so many times as large."""
    return torch.cat([matrices[:, :, :2] * canvas, matrices[:, :, 2:]], 2) if canvas > 1 else matrices


def middle(canvases, canvas):
    """Cut the images out of canvases so many times as large: (..., H, W) -> (..., H / canvas, W / canvas)."""
    height, width = (side // canvas for side in canvases.shape[-2:])
    top, left = height * (canvas - 1) // 2, width * (canvas - 1) // 2
    return canvases[..., top : top + height, left : left + width] if canvas > 1 else canvases


def around(images, canvas):
    """Lay images (B, C, H, W) in the middle of canvases so many times as large, as dark as their darkest pixels."""
    if canvas == 1:
        return images
    height, width = images.shape[2:]
    top, left = height * (canvas - 1) // 2, width * (canvas - 1) // 2
    background = images.amin((2, 3), keepdim=True)
    margins = (left, width * (canvas - 1) - left, top, height * (canvas - 1) - top)
    return F.pad(images - background, margins) + background


def sources(matrices, height, width):
    """Map every pixel to its homogeneous source: (B, 3, 3) -> x and y, (B, H·W, 2), and the third, (B, H·W, 1)."""
    grids = affine_grids(height, width, matrices.dtype, matrices.device)
    numerators = (matrices[:, :2].flatten(1) @ grids).view(len(matrices), -1, 2)
    denominators = matrices[:, 2] @ grids[:3, ::2]  # these three rows are x, y and 1 of every pixel
    return numerators, denominators.unsqueeze(2)


def bounded(matrices, height, width):
    """Tell which homographies have a denominator that `homography_warp` bounds: (B, 3, 3) -> (B,)."""
    return (sources(matrices, height, width)[1] < SMALLEST_DENOMINATOR).any(1).squeeze(1)


def sample(images, grid, padding, size):
    """Read images (B, C, H, W) at a source point for each pixel of (B, C, *size); the grid has B·h·w·2 numbers."""
    grid = grid.view(len(images), *size, 2)
    read = partial(F.grid_sample, grid=grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if padding == "zeros":
        return read(images)
    background = images.amin((2, 3), keepdim=True)
    return read(images - background) + background


@lru_cache
@torch.inference_mode(False)
def affine_grids(height, width, dtype, device):
    """Return the sampling grid of each of the six parameters alone, (6, H·W·2): affine_grid(theta) is theta @ this.

    F.affine_grid multiplies 784 × 3 by 3 × 2 for every image; as one product for the batch it takes a sixth of that.
    """
    units = torch.eye(6, dtype=dtype, device=device).view(6, 2, 3)
    return F.affine_grid(units, (6, 1, height, width), align_corners=False).flatten(1)


def matrix(theta):
    """Fill matrices row by row, (B, 6) or (B, 8) -> (B, 3, 3); entries that are not given are 0, and the last one 1."""
    return F.pad(F.pad(theta, (0, 8 - theta.shape[1])), (0, 1), value=1.0).view(-1, 3, 3)


def map_points(matrices, points):
    """Map points of the output to the input: homographies (B, 3, 3), points (B, N, 2) -> (B, N, 2).

    With `torch.linalg.inv(matrices)` it maps points of the input to the output. A point on the line that a
    homography sends to infinity becomes infinite or NaN.
    """
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ matrices.transpose(1, 2)
    return mapped[..., :2] / mapped[..., 2:]


def factors(matrices):
    """Take homographies (B, 3, 3) apart into simple maps: {name of a parameter: its values (B,)}.

    A homography, scaled so that its last entry is 1, is

        | 1 0 tx |   | cos a  -sin a  0 |   | sx 0  0 |   | 1 k 0 |   | 1  0  0 |
        | 0 1 ty | · | sin a   cos a  0 | · | 0  sy 0 | · | 0 1 0 | · | 0  1  0 |
        | 0 0 1  |   | 0       0      1 |   | 0  0  1 |   | 0 0 1 |   | px py 1 |

    with exactly one choice of these eight numbers, a in radians, for sx > 0 (a mirror image has sy < 0): translation,
    rotation, scale and shear are those of the affine map that it is near the centre, by a QR decomposition. All
    describe the map from destination to source: with scales below 1 a digit becomes larger.
    """
    matrices = matrices / matrices[:, 2:, 2:]
    translation, perspective = matrices[:, :2, 2], matrices[:, 2, :2]
    affine = matrices[:, :2, :2] - translation.unsqueeze(2) * perspective.unsqueeze(1)
    (a, b), (c, d) = affine.permute(1, 2, 0)
    scale_x = torch.hypot(a, c)
    return {
        "translation x": translation[:, 0],
        "translation y": translation[:, 1],
        "rotation": torch.atan2(c, a),
        "scale x": scale_x,
        "scale y": (a * d - b * c) / scale_x,
        "shear": (a * b + c * d) / scale_x.square(),
        "perspective x": perspective[:, 0],
        "perspective y": perspective[:, 1],
    }


def shares(factors):
    """Return the share of each part in the transforms, {name of a part: (B,)}: they sum to 1, or are 0 for an identity.

    A part weighs as much as it moves the points of the image by itself: the root mean square of their way, over the
    square from -1 to 1 (perspective: to first order). `factors` may lack perspective; then so do the shares.
    """
    square = {name: values.square() for name, values in factors.items()}
    moved = {  # the mean of x² over the square is 1/3, that of (x² + y²)·x² is 1/5 + 1/9
        "translation": square["translation x"] + square["translation y"],
        "rotation": (2 * torch.sin(factors["rotation"] / 2)).square() * 2 / 3,
        "scale": ((factors["scale x"] - 1).square() + (factors["scale y"] - 1).square()) / 3,
        "shear": square["shear"] / 3,
    }
    if "perspective x" in factors:
        moved["perspective"] = (square["perspective x"] + square["perspective y"]) * 14 / 45
    moved = {name: values.sqrt() for name, values in moved.items()}
    total = sum(moved.values())
    return {name: torch.where(total == 0, values, values / total) for name, values in moved.items()}


def to_normalised(pixels, height, width):
    """Convert points (..., 2) from pixels, (x, y) from the centre of the first pixel, to the coordinates used here."""
    return (pixels + 0.5) * 2 / pixels.new_tensor((width, height)) - 1


def to_pixels(points, height, width):
    """Convert points (..., 2) from the coordinates used here to pixels, the inverse of `to_normalised`."""
    return (points + 1) * points.new_tensor((width, height)) / 2 - 0.5


def map_pixels(matrices, points, size, source_size):
    """Map pixels (B, N, 2) of the output, which has a `size` (height, width), to pixels of the input, (B, N, 2).

    With `torch.linalg.inv(matrices)` and the sizes exchanged it maps pixels of the input to the output.
    """
    return to_pixels(map_points(matrices, to_normalised(points, *size)), *source_size)
