"""The distorted digits of two papers: rotated, scattered, in perspective, elastic, among clutter.

The distributions are those of Spatial Transformer Networks (arXiv 1506.02025), and of Finnveden et al. (arXiv
2004.11678) for clutter, as far as they are known; docs/papers.md says what is our own choice. Every training image is
distorted anew in every epoch, as a function of seed, epoch and its index. The test set is ten distortions of every test
image, the same in all runs, the first distortions of all images before the second ones. After every epoch but the last,
only the first ones are evaluated.

All distortions map destination to source, in the coordinates of stn/warps.py. Everything outside a digit's image is
background.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from stn import warps
from stn.data import Dataset, epoch_seed
from studies.paper import splines
from studies.paper.protocol import HELD_OUT, N_DRAWS, N_PATCHES, SIDES

TEST_SEED = 0  # of the test set; runs have other seeds
BATCH = 1000  # test images that are distorted at a time
DIGIT, PATCH = 28, 6  # pixels, the sides of a digit's image and of a patch of clutter


class Distortion(NamedTuple):
    """A random distortion of digits."""

    draw: Callable  # draw(rng, n, side, digits) returns the parameters of n distortions, a tensor (n, ...)
    # apply(images, params, side, black, white) distorts images (B, 1, 28, 28) to (B, 1, side, side)
    apply: Callable
    transforms: Callable | None = None  # transforms(params, side) returns them as homographies (n, 3, 3), if they are


def uniform(rng, low, high, *size):
    return torch.from_numpy(rng.uniform(low, high, size).astype(np.float32))


def normal(rng, sigma, *size):
    return torch.from_numpy(rng.normal(0, sigma, size).astype(np.float32))


def similarities(angles, scales, shifts, side):
    """Return affine maps (n, 6) that draw digits turned, enlarged, and shifted by (n, 2) pixels, in images of `side`².

    angles: in radians; a digit is turned about its centre. scales: above 1 digits are drawn larger.
    """
    shrink = side / DIGIT / scales  # half an image is `side` / 28 halves of the digit's image
    cos, sin = shrink * angles.cos(), shrink * angles.sin()
    x, y = shifts.T * 2 / side
    return torch.stack([cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y], 1)


def draw_rotations(rng, n, side, **_):
    """Angles uniform from -90 to 90 degrees."""
    return similarities(uniform(rng, -np.pi / 2, np.pi / 2, n), torch.ones(n), torch.zeros(n, 2), side)


def draw_scattered(rng, n, side, **_):
    """Angles uniform to ±45 degrees, scales from 0.7 to 1.2, and the digit's image anywhere in the larger one."""
    margin = (side - DIGIT) / 2
    angles, scales = uniform(rng, -np.pi / 4, np.pi / 4, n), uniform(rng, 0.7, 1.2, n)
    return similarities(angles, scales, uniform(rng, -margin, margin, n, 2), side)


def draw_perspectives(rng, n, side, **_):
    """Scales uniform from 0.75 to 1, then each corner's source moved by normal noise of 5 pixels in each direction."""
    from kornia.geometry.transform import get_perspective_transform  # late: not needed for other sets

    scales = uniform(rng, 0.75, 1, n, 1, 1)
    corners = torch.tensor(warps.CORNERS).expand(n, 4, 2)
    return get_perspective_transform(corners, corners / scales + normal(rng, 5 * 2 / side, n, 4, 2))


def draw_splines(rng, n, side, **_):
    """Scales uniform from 0.75 to 1, then the sources of 16 control points moved by normal noise of 1.5 pixels."""
    scales = uniform(rng, 0.75, 1, n, 1, 1)
    return torch.tensor(splines.CONTROL_POINTS) / scales + normal(rng, 1.5 * 2 / side, n, splines.N_POINTS, 2)


def draw_clutter(rng, n, side, digits):
    """Return where digits and patches lie, and the patches: (n, 2 + patches · (2 + 36)).

    Row and column of the digit's image, anywhere; then, of each patch, row and column, and the pixels of a square
    anywhere in any of the `digits` (N, 1, 28, 28). All are uniform.
    """
    places = rng.integers(0, side - DIGIT + 1, (n, 2))
    corners = rng.integers(0, side - PATCH + 1, (n, N_PATCHES, 2))
    limits = [len(digits), DIGIT - PATCH + 1, DIGIT - PATCH + 1]
    number, row, column = torch.from_numpy(rng.integers(0, limits, (n, N_PATCHES, 3))).unsqueeze(3).unbind(2)
    patches = digits.flatten()[(number * DIGIT + row) * DIGIT + column + pixels_of(PATCH, DIGIT)]
    clutter = torch.cat([torch.from_numpy(corners), patches], 2)
    return torch.cat([torch.from_numpy(places), clutter.flatten(1)], 1).float()


def pixels_of(part, side, device=None):
    """Return the indices of a square part's pixels, in the corner of an image of `side`² pixels: (part²,)."""
    rows = torch.arange(part, device=device)
    return (rows[:, None] * side + rows).flatten()


def paste(images, params, side, black, white):
    """Paste images (B, 1, 28, 28), and patches, on black, (B, 1, side, side); params: see `draw_clutter`.

    Overlapping pixels are summed and clipped at white, as in Finnveden et al.
    """
    patches = params[:, 2:].unflatten(1, (-1, 2 + PATCH**2)).unbind(1)
    parts = [(images.flatten(1), params[:, :2], DIGIT), *((patch[:, 2:], patch[:, :2], PATCH) for patch in patches)]
    canvas = images.new_zeros(len(images), side * side)
    for pixels, corners, part in parts:  # one after the other, so that no pixel is added to twice at a time
        first = (corners[:, :1] * side + corners[:, 1:]).long()
        canvas = canvas.scatter_add(1, first + pixels_of(part, side, images.device), pixels - black)
    return (canvas.clamp(max=white - black) + black).view(-1, 1, side, side)


def by_affine(images, params, side, **_):
    return warps.affine_warp(images, params, "background", (side, side))


def by_homography(images, params, side, **_):
    return warps.homography_warp(images, params, "background", (side, side))


def by_spline(images, params, side, **_):
    return splines.warp(images, params, "background", (side, side))


def affine_homographies(params, side):
    return warps.to_homography(params)


def shifts_of(params, side):
    """Return the shifts of digits among clutter as homographies."""
    corners = params[:, :2].flip(1)  # x and y
    angles = params.new_zeros(len(params))
    return warps.to_homography(similarities(angles, angles + 1, corners - (side - DIGIT) / 2, side))


DISTORTIONS = {
    "R": Distortion(draw_rotations, by_affine, affine_homographies),
    "RTS": Distortion(draw_scattered, by_affine, affine_homographies),
    "P": Distortion(draw_perspectives, by_homography, lambda params, side: params),
    "E": Distortion(draw_splines, by_spline),
    "TC": Distortion(draw_clutter, paste, shifts_of),
}


def distorted(name, clean, held_out=False):
    """Return the Dataset `clean`, distorted. held_out: test on the last training digits, and train on the others.

    Its training images are the undistorted ones, and each batch is distorted as it is taken, since a distorted epoch
    may not fit in memory.
    """
    distortion, side = DISTORTIONS[name], SIDES[name]
    description = clean.description | {"distorted": name} | ({"held_out": True} if held_out else {})
    if held_out:
        n_kept = len(clean.train_images) - len(clean.train_images) // HELD_OUT
        clean = clean._replace(
            test_images=clean.train_images[n_kept:],
            test_labels=clean.train_labels[n_kept:],
            train_images=clean.train_images[:n_kept],
            train_labels=clean.train_labels[:n_kept],
        )
    n, n_draws = len(clean.test_images), 1 if held_out else N_DRAWS
    draw = partial(distortion.draw, side=side, digits=clean.train_images)
    black, white = ((limit - description["mean"]) / description["std"] for limit in (0, 1))
    apply = partial(distortion.apply, side=side, black=black, white=white)
    params = [draw(generator(TEST_SEED, number), n) for number in range(1, n_draws + 1)]
    test_images = clean.test_images.new_empty(n_draws, n, 1, side, side)
    for params_of_draw, images in zip(params, test_images, strict=True):
        parts = (tensor.split(BATCH) for tensor in (clean.test_images, params_of_draw, images))
        for originals, params_of_images, target in zip(*parts, strict=True):
            target.copy_(apply(originals, params_of_images))
    return Dataset(
        *(clean.train_images, clean.train_labels, test_images.flatten(0, 1), clean.test_labels.repeat(n_draws)),
        description,
        clean,
        partial(draw_epoch, draw=draw),
        apply,
        draw(generator(TEST_SEED, 0), len(clean.train_images)),
        test_homographies=distortion.transforms(torch.cat(params), side) if distortion.transforms else None,
        n_test_each_epoch=n,
    )


def draw_epoch(data, seed, epoch, draw):
    """Replace `data.distortions` by those of the epoch."""
    data.distortions.copy_(draw(generator(seed, epoch), len(data.distortions)))


def generator(seed, epoch):
    """Return NumPy's generator for the distortions of one epoch, or of one of the ten draws of the test set."""
    return np.random.default_rng(epoch_seed(seed, epoch, stream=3))


r, rts, p, e, tc = (partial(distorted, name) for name in DISTORTIONS)
r_held_out, tc_held_out = (partial(distorted, name, held_out=True) for name in ("R", "TC"))
