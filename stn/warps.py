"""Affine and homography warps of images as pure functions.

Convention of every transform here: it maps a point of the output (destination) to the point of the input (source)
from which it is read. Points are (x, y), x to the right and y down, both normalised so that the image spans
[-1, 1] between its outer edges (`align_corners=False`). A homography is a 3×3 matrix, acting on (x, y, 1).

Sampling is bilinear. Points outside the input are filled by the `padding`: "zeros", "background" (the smallest value of
the image and channel), "border" (the nearest pixel of the edge) or "reflection" (the image mirrored at its edges). On a
normalised image 0 is grey, and with "zeros" a network learns to zoom out: pytorch/tutorials#1117. The output has the
size of the input, or `size`: (height, width), or one number for both. Input and output span [-1, 1] whatever their
sizes.

An image may lie in the middle of a *canvas* that is `canvas` times as high and as wide, a whole number. [-1, 1] still
spans the image; the canvas extends beyond.

This file needs nothing but PyTorch, 2.10 or newer: copy it into your own project unchanged.
"""

import math
import operator
from functools import reduce, wraps

import torch
import torch.nn.functional as F

AFFINE_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HOMOGRAPHY_IDENTITY = (*AFFINE_IDENTITY, 0.0, 0.0)
PADDINGS = ("zeros", "background", "border", "reflection")
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))  # corners of the image, clockwise from the upper left
# The lower bound of a source point's third homogeneous coordinate. Where that is 0, the point is infinitely far away;
# where it is negative, the point is behind the observer. At 0.1 the point's coordinates are ten times its numerators.
SMALLEST_DENOMINATOR = 0.1
AUTOCAST = ("cpu", "cuda", "xpu", "mps")  # devices that support autocast
CACHED_SIZE, CACHE_LENGTH = 64 * 64, 32  # pixels of the largest output whose grid is cached, and the number of grids
_cache = {}


def _in_full_precision(function):
    """Decorate a function of tensors so that autocast does not lower its precision; half precision becomes float32.

    Under autocast a coordinate would have 8 bits, too few for any image.
    """

    @wraps(function)
    def computed(*arguments, **named):
        tensors = [value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor)]
        device = tensors[0].device.type if tensors else None
        if device not in AUTOCAST or not torch.is_autocast_enabled(device):
            return function(*arguments, **named)
        with torch.autocast(device, enabled=False):
            return function(*map(_raised, arguments), **{name: _raised(value) for name, value in named.items()})

    return computed


def _raised(value):
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in (torch.half, torch.bfloat16) else value


def _checked(images, transforms, shape, padding, size):
    """Check a warp's arguments, transforms being (B, *shape). Return both for one batch size, and the output's size."""
    for name, value in (("images", images), ("transforms", transforms)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, not a {type(value).__name__}")
    if images.dim() != 4:
        raise ValueError(f"images must be (B, C, H, W), not {tuple(images.shape)}")
    size = tuple(images.shape[2:]) if size is None else _as_size(size)
    if torch.jit.is_tracing():  # sizes are tensors then, which a program must not compare
        transforms = transforms + transforms.new_zeros(images.shape[0], *(1 for _ in shape))
        return images.expand(transforms.shape[0], -1, -1, -1), transforms, size
    if tuple(transforms.shape[1:]) != shape:
        raise ValueError(f"transforms must be ({', '.join(map(str, ('B', *shape)))}), not {tuple(transforms.shape)}")
    n_images, n_transforms = images.shape[0], transforms.shape[0]
    if n_images == n_transforms:
        return images, transforms, size
    if 1 not in (n_images, n_transforms):
        raise ValueError(f"{n_images} images need {n_images} transforms or one, not {n_transforms}")
    n = n_images * n_transforms
    return images.expand(n, -1, -1, -1), transforms.expand(n, *shape), size


def _as_size(size):
    """Return (height, width) of a size, which may be one number. Raise ValueError if it cannot be the output's."""
    tracing = torch.jit.is_tracing()  # a side is a tensor then
    try:
        height, width = (
            side if isinstance(side, int | torch.SymInt) or tracing else operator.index(side)
            for side in (size if isinstance(size, tuple | list) else (size, size))
        )
    except (TypeError, ValueError):
        raise ValueError(f"size must be a whole number or two, (height, width), not {size!r}") from None
    if not tracing and min(height, width) < 1:
        raise ValueError(f"the output must have at least one pixel, not {height} × {width}")
    return height, width


def check_padding(padding):
    """Raise ValueError if there is no such padding."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, not {padding!r}")


@_in_full_precision
def affine_warp(images, theta, padding="zeros", size=None):
    """Warp (B, C, H, W) by affine maps (B, 6), the rows of 2×3 matrices, destination to source: (B, C, *size).

    One image may be warped by many maps, and many images by one. Raise ValueError for other shapes or paddings.
    """
    images, theta, size = _checked(images, theta, (6,), padding, size)
    if is_small(*size, like=theta):
        grid = theta @ cached(affine_grids, *size, like=theta)
    else:
        grid = torch.stack(at_pixels(theta.view(theta.shape[0], 2, 3), *size), 2)
    return sample(images, grid.view(theta.shape[0], *size, 2), padding)


@_in_full_precision
def homography_warp(images, matrices, padding="zeros", size=None):
    """Warp (B, C, H, W) by homographies (B, 3, 3), destination to source: (B, C, *size).

    Matrices should be products of matrices whose last entry is 1, because the bound of the denominator depends on their
    scale. One image may be warped by many homographies, and many images by one. Raise ValueError for other shapes or
    paddings.
    """
    images, matrices, size = _checked(images, matrices, (3, 3), padding, size)
    return sample(images, sampling_points(matrices, *size).view(matrices.shape[0], *size, 2), padding)


def sampling_points(matrices, height, width):
    """Map every pixel to its source, with a denominator bounded from below: (B, 3, 3) -> (B, H·W, 2)."""
    if not is_small(height, width, matrices):  # use few tensors of this size, also for the gradient
        x, y, third = at_pixels(matrices, height, width)
        inverse = third.clamp(min=SMALLEST_DENOMINATOR).reciprocal()
        return torch.stack([x * inverse, y * inverse], 2)
    numerators, denominators = source_points(matrices, height, width)
    return numerators / denominators.clamp(min=SMALLEST_DENOMINATOR)


def from_canvas(matrices, canvas):
    """Convert homographies (B, 3, 3) that read from an image to read the same points from a canvas around it."""
    return torch.cat([matrices[:, :2] / canvas, matrices[:, 2:]], 1) if canvas > 1 else matrices


def to_canvas(matrices, canvas):
    """Convert homographies (B, 3, 3) that fill an image to fill a canvas around it, too."""
    return torch.cat([matrices[:, :, :2] * canvas, matrices[:, :, 2:]], 2) if canvas > 1 else matrices


def crop_centre(canvases, canvas):
    """Cut the images out of the middle of canvases: (..., H, W) -> (..., H / canvas, W / canvas)."""
    height, width = (side // canvas for side in canvases.shape[-2:])
    top, left = height * (canvas - 1) // 2, width * (canvas - 1) // 2
    return canvases[..., top : top + height, left : left + width] if canvas > 1 else canvases


def pad_to_canvas(images, canvas):
    """Lay images (B, C, H, W) in the middle of canvases of the smallest value of each image and channel."""
    if canvas == 1:
        return images
    height, width = (side * (canvas - 1) for side in images.shape[2:])  # height and width of both margins together
    background = images.amin((2, 3), keepdim=True)
    margins = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(images - background, margins) + background


@_in_full_precision
def compose(*homographies):
    """Multiply homographies, each (B, 3, 3): the product applies the last one first."""
    return reduce(torch.matmul, homographies)


@_in_full_precision
def source_points(matrices, height, width):
    """Map every pixel to its homogeneous source: (B, 3, 3) -> x and y, (B, H·W, 2), and the third, (B, H·W, 1)."""
    if is_small(height, width, matrices):
        grids = cached(affine_grids, height, width, like=matrices)
        numerators = (matrices[:, :2].flatten(1) @ grids).view(matrices.shape[0], height * width, 2)
        denominators = matrices[:, 2] @ grids[:3, ::2]  # these three rows are x, y and 1 of every pixel
        return numerators, denominators.unsqueeze(2)
    x, y, third = at_pixels(matrices, height, width)
    return torch.stack([x, y], 2), third.unsqueeze(2)


def at_pixels(rows, height, width):
    """Evaluate a·x + b·y + c at every pixel, for rows (B, R, 3) of (a, b, c): R tensors (B, H·W)."""
    a, b, c = (rows[:, :, k, None, None] for k in range(3))
    x, y = pixel_centres(width, rows), pixel_centres(height, rows).unsqueeze(1)
    return [(a[:, k] * x + (b[:, k] * y + c[:, k])).flatten(1) for k in range(rows.shape[1])]


def has_bounded_denominator(matrices, height, width):
    """Return whether `homography_warp` bounds a denominator of each homography: (B, 3, 3) -> (B,)."""
    return (source_points(matrices, height, width)[1] < SMALLEST_DENOMINATOR).any(1).squeeze(1)


def sample(images, grid, padding):
    """Read images (B, C, H, W) at source points (B, h, w, 2): (B, C, h, w). Raise ValueError for another padding."""
    check_padding(padding)
    if padding != "background":
        return F.grid_sample(images, grid, "bilinear", padding, align_corners=False)
    background = images.amin((2, 3), keepdim=True)
    return F.grid_sample(images - background, grid, "bilinear", "zeros", align_corners=False).add_(background)


def affine_grids(height, width, dtype, device):
    """Return the sampling grid of each of the six parameters alone, (6, H·W·2): the grid of theta is theta @ this.

    F.affine_grid multiplies 784 × 3 by 3 × 2 for every image; one product for the batch takes a sixth of the time.
    """
    units = torch.eye(6, dtype=dtype, device=device).view(6, 2, 3)
    return F.affine_grid(units, (6, 1, height, width), align_corners=False).flatten(1)


def pixel_centres(n, like):
    """Return the coordinates of the centres of n pixels in a row, (n,)."""
    indices = torch.arange(n, device=like.device).to(torch.promote_types(like.dtype, torch.float32))
    return ((2 * indices + 1) / n - 1).to(like.dtype)


def is_small(height, width, like):
    """Return whether an output is small enough for `affine_grids`; False while its size is not known yet."""
    return is_ordinary(like) and height * width <= CACHED_SIZE


def is_ordinary(tensor):
    """Return whether a tensor has a known size and values: no fake tensor, and no compiling, tracing or exporting."""
    eager = not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    return eager and type(tensor) in (torch.Tensor, torch.nn.Parameter)


def cached(make, *size, like):
    """Call `make` with `size` and the dtype and device of `like`, and cache the result for a few small sizes.

    Nothing is cached while compiling, tracing or exporting, nor under a dispatch mode or torch.func, nor in the memory
    of a CUDA graph. The cache is never emptied, because a CUDA graph may have recorded the address of a tensor in it.
    """
    key = make, *size, like.dtype, like.device
    if not is_ordinary(like):
        return make(*key[1:])
    if key not in _cache:
        watched = torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None
        watched = watched or (like.is_cuda and torch.cuda.is_current_stream_capturing())
        if math.prod(size) > CACHED_SIZE or len(_cache) >= CACHE_LENGTH or watched:
            return make(*key[1:])
        with torch.inference_mode(False):  # a tensor made in that mode could not be used in training later
            _cache[key] = make(*key[1:])
    return _cache[key]


@_in_full_precision
def to_homography(theta):
    """Fill matrices row by row, (B, 6) or (B, 8) -> (B, 3, 3): affine maps, or homographies whose last entry is 1.

    Raise ValueError for other shapes.
    """
    if not torch.jit.is_tracing() and (theta.dim() != 2 or theta.shape[1] not in (6, 8)):
        raise ValueError(f"a matrix is filled from 6 or 8 numbers, (B, 6) or (B, 8), not {tuple(theta.shape)}")
    return F.pad(F.pad(theta, (0, 8 - theta.shape[1])), (0, 1), value=1.0).view(theta.shape[0], 3, 3)


@_in_full_precision
def map_points(matrices, points):
    """Map points of the output to the input: homographies (B, 3, 3), points (B, N, 2) -> (B, N, 2).

    With `torch.linalg.inv(matrices)` it maps points of the input to the output. A point on the line that a
    homography sends to infinity becomes infinite or NaN.
    """
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ matrices.transpose(1, 2)
    return mapped[..., :2] / mapped[..., 2:]


def decompose(matrices):
    """Decompose homographies (B, 3, 3) into simple maps: {name of a parameter: its values (B,)}.

    A homography, scaled so that its last entry is 1, is

        | 1 0 tx |   | cos a  -sin a  0 |   | sx 0  0 |   | 1 k 0 |   | 1  0  0 |
        | 0 1 ty | · | sin a   cos a  0 | · | 0  sy 0 | · | 0 1 0 | · | 0  1  0 |
        | 0 0 1  |   | 0       0      1 |   | 0  0  1 |   | 0 0 1 |   | px py 1 |

    with exactly one choice of these eight numbers, a in radians, for sx > 0 (a mirror image has sy < 0). Translation,
    rotation, scale and shear are those of the affine map that approximates it at the centre, by a QR decomposition. All
    describe the map from destination to source: scales below 1 enlarge a digit.
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


def component_shares(factors):
    """Return the share of each part in the transforms, {name of a part: (B,)}. They sum to 1 (the identity's are 0).

    A part's distance is the RMS movement of the image's points if only that part is applied (perspective to first
    order). Its share is its distance divided by the sum of all. `factors`: see `decompose`; perspective may be missing.
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
    """Convert points (..., 2) from the coordinates used here to pixels: the inverse of `to_normalised`."""
    return (points + 1) * points.new_tensor((width, height)) / 2 - 0.5


def map_pixels(matrices, points, size, source_size):
    """Map pixels (B, N, 2) of the output to pixels of the input, (B, N, 2). size, source_size: their (height, width).

    With `torch.linalg.inv(matrices)` and the sizes exchanged it maps pixels of the input to the output.
    """
    return to_pixels(map_points(matrices, to_normalised(points, *size)), *source_size)


@_in_full_precision
def pixel_homography(matrices, size, source_size):
    """Convert homographies (B, 3, 3) to those from pixels of the output to pixels of the input, (B, 3, 3).

    size, source_size: (height, width) of the output and of the input. Pixels are (x, y) from the centre of the first
    one. This is the map of `map_pixels` as a matrix, which OpenCV takes for a single image:

        cv2.warpPerspective(image, M, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    It reads as `homography_warp` does with "zeros", except that it bounds no denominator.
    """
    (h, w), (source_h, source_w) = size, source_size
    normalise = ((2 / w, 0, 1 / w - 1), (0, 2 / h, 1 / h - 1), (0, 0, 1))
    to_source = ((source_w / 2, 0, (source_w - 1) / 2), (0, source_h / 2, (source_h - 1) / 2), (0, 0, 1))
    return matrices.new_tensor(to_source) @ matrices @ matrices.new_tensor(normalise)
