"""Draw scenes in memory, from a seed: photographs of a card with a number of six MNIST digits (see geometry.py)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from stn.mnist import ROOT, DataError
from studies.cards.geometry import (
    CARD_HEIGHT,
    CARD_WIDTH,
    CELL,
    N_DIGITS,
    NUMBER_X,
    NUMBER_Y,
    SCENE,
    homographies_to,
    nominal_corners,
)

ROTATION, SCALE, CORNER, SHIFT = 25.0, 0.15, 3.3, 11.0  # degrees, share, pixels (sigma), pixels: at strength 1
MARGIN = 2  # pixels from the card to the edge of the photograph
NARROWEST = 0.72  # the smallest ratio of the shorter to the longer side of a photograph
PHOTOS = {"train": ("brick", "coffee", "chelsea"), "test": ("grass", "gravel", "retina")}
TEXTURE = 256  # pixels, the side of a background
NOISE = 256  # pixels, the side of the stored noise; 32 is one sigma
N_LINES = 4  # of print
LARGEST = 1e9  # bound for the coefficients of maps and lines, so that their products are finite in float32
LOOK = np.dtype(  # a scene's appearance: grey is 0 to 255, light a factor, lines are a·x + b·y + c in pixels
    [(name, np.int32) for name in ("texture", "texture_x", "texture_y", "flipped", "top", "bottom", "left", "right")]
    + [(name, np.int32) for name in ("noise_x", "noise_y", "blur_x", "blur_y")]
    + [(name, np.float32) for name in ("brightness", "contrast", "paper", "ink", "border", "box", "head", "print")]
    + [(name, np.float32) for name in ("head_x", "head_y", "head_radius", "shoulders", "blur", "noise")]
    + [(name, np.float32, 3) for name in ("light", "shadow")]
    + [(name, np.float32) for name in ("depth", "finger_x", "finger_y", "finger_dx", "finger_dy", "finger_radius")]
    + [("finger", np.float32), ("bits", np.uint32, N_LINES)]
)


class Scenes(NamedTuple):
    """Scenes (N, 1, 128, 128) uint8, their numbers (N, 6) int64, and true homographies (N, 3, 3) float32."""

    images: torch.Tensor
    labels: torch.Tensor
    homographies: torch.Tensor


def draw(digits, labels, bank, n, seed, strength=1.0, with_card=True):
    """Draw n `Scenes` with digits (M, 16, 16) uint8 of labels (M,), on textures (K, 256, 256) uint8 of `bank`.

    The result depends on the arguments only. The first scenes do not depend on n, and a seed gives the same cards on
    the same backgrounds at every strength. At strength 0 the card lies at its nominal position, undistorted.
    Raise DataError without Numba.
    """
    homographies, seen = places(n, seed, strength)
    chosen = choices(n, seed, len(digits))
    images = render(digits, chosen, bank, homographies, looks(n, seed, strength, len(bank), seen), with_card)
    labels = torch.from_numpy(np.asarray(labels)[chosen].astype(np.int64))
    return Scenes(torch.from_numpy(images).unsqueeze(1), labels, torch.from_numpy(homographies))


def choices(n, seed, n_digits):
    """Sample the digits of n numbers, as indices below n_digits: (n, 6) int64."""
    uniform = np.random.default_rng((seed, 0)).random((n, N_DIGITS))
    return (uniform * n_digits).astype(np.int64)


def places(n, seed, strength):
    """Sample homographies (n, 3, 3) float32, and the visible box of each scene: top, bottom, left, right, (n, 4).

    The box is in pixels; bottom and right are exclusive. Outside it are the bars of photographs that are not square.
    """
    uniform = np.random.default_rng((seed, 1)).random((n, 7))
    noise = np.random.default_rng((seed, 2)).standard_normal((n, 4, 2))
    seen = np.tile(np.array([0, SCENE]), (n, 2))
    size = np.rint(SCENE * (NARROWEST + (1 - NARROWEST) * uniform[:, 0])).astype(np.int64)
    for axis in (0, 1):  # one in three is not square: bars above and below, or left and right
        narrow = (uniform[:, 1] * 6).astype(np.int64) == axis
        narrow &= strength > 0
        start = (SCENE - size[narrow]) // 2
        seen[narrow, 2 * axis], seen[narrow, 2 * axis + 1] = start, start + size[narrow]

    angle = np.radians(ROTATION * strength * (2 * uniform[:, 2] - 1))
    scale = 1 + SCALE * strength * (2 * uniform[:, 3] - 1)
    cos, sin = exact(np.cos(angle)) * scale, exact(np.sin(angle)) * scale
    x, y = nominal_corners().T
    upright = np.stack([cos[:, None] * x - sin[:, None] * y, sin[:, None] * x + cos[:, None] * y], 2)
    moved = exact(noise.clip(-2.5, 2.5)) * CORNER * strength
    while (folded := ~convex(upright + moved)).any():
        moved[folded] /= 2
    corners = upright + moved

    low, high = seen[:, [2, 0]] + MARGIN, seen[:, [3, 1]] - MARGIN
    extent = np.ptp(corners, 1)
    corners *= np.minimum(1, ((high - low) / extent).min(1))[:, None, None]
    shift = SCENE / 2 + SHIFT * strength * (2 * uniform[:, 4:6] - 1)
    shift = np.minimum(np.maximum(shift, low - corners.min(1)), high - corners.max(1))
    return homographies_to((corners + shift[:, None]) / (SCENE / 2) - 1).astype(np.float32), seen


def exact(values):
    """Round to a multiple of 2**-30, which removes the last digits, in which machines differ."""
    return np.rint(values * 2**30) / 2**30


def convex(corners):
    """Return which quadrilaterals (n, 4, 2) are clearly convex, (n,): at each corner at least 0.3 of a card's area."""
    sides = np.roll(corners, -1, 1) - corners
    before = np.roll(sides, 1, 1)
    area = before[..., 0] * sides[..., 1] - before[..., 1] * sides[..., 0]
    return (area > 0.3 * CARD_WIDTH * CARD_HEIGHT).all(1)


def looks(n, seed, strength, n_textures, seen):
    """Sample the appearance (texture, light, blur, finger …) of n scenes: records (n,) of LOOK."""
    look = np.zeros(n, LOOK)
    columns = iter(np.random.default_rng((seed, 3)).random((n, 40)).T)

    def uniform(low=0.0, high=1.0):
        return low + (high - low) * next(columns)

    def chance(probability):
        return next(columns) < probability

    def direction():
        angle = uniform(0, 2 * np.pi)
        return exact(np.cos(angle)), exact(np.sin(angle))

    look["top"], look["bottom"], look["left"], look["right"] = seen.T
    look["texture"] = uniform(0, n_textures)
    look["texture_x"], look["texture_y"] = uniform(0, TEXTURE - SCENE), uniform(0, TEXTURE - SCENE)
    look["flipped"] = chance(0.5)
    brightness, contrast = 255 * uniform(0.2, 0.8), uniform(0.4, 1.3)
    look["brightness"], look["contrast"] = brightness - 127.5 * contrast, contrast
    paper = uniform(0.6, 1)
    look["paper"], look["ink"], look["border"] = 255 * paper, 255 * uniform(0, 0.35), 255 * paper * uniform(0.3, 0.7)
    look["print"] = 255 * paper * uniform(0.25, 0.6)
    box = paper * uniform(0.6, 0.85)
    look["box"], look["head"] = 255 * box, 255 * box * uniform(0.2, 0.65)
    look["head_x"], look["head_y"], look["head_radius"] = uniform(14, 18), uniform(14, 17), uniform(4, 5.5)
    look["shoulders"] = uniform(7, 9.5)

    (x, y), amount = direction(), strength * uniform(0, 0.25)
    x, y = amount * x / (SCENE / 2), amount * y / (SCENE / 2)
    look["light"] = np.stack([x, y, 1 - (x + y) * (SCENE - 1) / 2], 1)
    look["depth"] = np.where(chance(0.5), min(0.45 * strength, 0.6) * uniform(0.3), 0)
    (x, y), wide = direction(), uniform(3, 20)
    look["shadow"] = np.stack([x / wide, y / wide, uniform(-40, 40) / wide - (x + y) / wide * (SCENE - 1) / 2], 1)
    way, far = (4 * uniform()).astype(np.int64), 1 + (chance(0.5) & (strength > 1))
    look["blur_x"], look["blur_y"] = np.array([1, 1, 0, -1])[way] * far, np.array([0, 1, 1, 1])[way] * far
    look["blur"] = uniform() * np.where(far == 1, min(strength, 1) / 3, 1 / 4)
    look["noise"] = 255 * 0.04 / 32 * strength * uniform()
    look["noise_x"], look["noise_y"] = uniform(0, NOISE - SCENE), uniform(0, NOISE - SCENE)

    radius = np.where(chance(0.3) & (strength > 0), uniform(6, 9), 0)
    side, along, slant = (4 * uniform()).astype(np.int64), uniform(), uniform(-0.5, 0.5)
    reach = 12 * strength * uniform(0.2)
    look["finger"], look["finger_radius"] = 255 * uniform(0.35, 0.7), radius
    x, y, dx, dy = finger(side, along, slant, reach, radius)
    look["finger_x"], look["finger_y"], look["finger_dx"], look["finger_dy"] = x, y, dx, dy

    bits = np.random.default_rng((seed, 4)).integers(0, 2**32, (n, 2 * N_LINES), np.uint32)
    look["bits"] = bits[:, :N_LINES] | bits[:, N_LINES:]
    return look


def finger(side, along, slant, reach, radius):
    """Return the centre of a finger's round tip, in pixels of the card, and its direction outwards: x, y, dx, dy, (n,).

    side: where it comes in: top, right, bottom or left (0 to 3). along: the position on that side, from 0 to 1.
    reach: how many pixels it reaches into the card. It is shortened where it would touch the field of the number.
    """
    across = (side == 0) | (side == 2)
    length = np.where(across, CARD_WIDTH, CARD_HEIGHT)
    place = 10 + along * (length - 20)
    free = ~across & (place + radius + 0.6 * reach < NUMBER_Y - 1)  # beside the portrait or the print
    gap = np.where(side == 2, CARD_HEIGHT - NUMBER_Y - CELL, np.where(across, NUMBER_Y, NUMBER_X))
    depth = np.where(free, reach, np.minimum(reach, gap - 1)) - radius  # of the centre
    norm = np.sqrt(1 + slant * slant)
    x = np.where(across, place, np.where(side == 1, CARD_WIDTH - depth, depth))
    y = np.where(across, np.where(side == 0, depth, CARD_HEIGHT - depth), place)
    out = np.where((side == 0) | (side == 3), -1, 1) / norm
    return x - 0.5, y - 0.5, np.where(across, slant / norm, out), np.where(across, out, slant / norm)


def render(digits, chosen, bank, homographies, look, with_card=True):
    """Draw scenes, (n, 128, 128) uint8, from their digits, textures, homographies and appearance.

    Raise DataError without Numba, and ValueError for arguments out of range, which the compiled loops do not check.
    """
    check_drawable(digits, chosen, bank, homographies, look)
    matrices, half = homographies.astype(np.float64), SCENE / 2
    # From pixels of the scene to those of the card, both from the centre of the first pixel.
    normalised = np.array([[1 / half, 0, 0.5 / half - 1], [0, 1 / half, 0.5 / half - 1], [0, 0, 1]])
    pixels = np.array([[half, 0, CARD_WIDTH / 2 - 0.5], [0, half, CARD_HEIGHT / 2 - 0.5], [0, 0, 1]])
    maps = product(product(pixels, inverses(matrices)), normalised)
    images = np.empty((len(look), SCENE, SCENE), np.uint8)
    lines = [array.astype(np.float32) for array in (maps, card_lines(matrices), finger_lines(maps, look))]
    if not all((np.abs(array) < LARGEST).all() for array in lines):
        raise ValueError("scenes cannot be drawn: a homography has no inverse, or one that is out of range")
    digits, bank = np.ascontiguousarray(digits), np.ascontiguousarray(bank)
    compiled_render()(images, digits, chosen, bank, stored_noise(), *lines, look, with_card)
    return images


def compiled_render():
    """Import the compiled loops, late because importing Numba takes time. Raise DataError without Numba."""
    try:
        from studies.cards.kernels import render
    except ImportError as error:
        raise DataError(f"drawing cards needs Numba ({error}): python -m pip install numba") from None
    return render


def card_lines(matrices):
    """Return the distances from the card's sides in the scene, as a·x + b·y + c: (n, 4, 3), positive inside."""
    nominal = np.concatenate([nominal_corners().T / (SCENE / 2), np.ones((1, 4))])
    points = product(matrices, nominal)
    corners = ((points[:, :2] / points[:, 2:] + 1) * (SCENE / 2) - 0.5).transpose(0, 2, 1)
    sides = np.roll(corners, -1, 1) - corners
    normals = np.stack([-sides[..., 1], sides[..., 0]], 2) / np.sqrt((sides * sides).sum(2, keepdims=True))
    return np.concatenate([normals, -(normals * corners).sum(2, keepdims=True)], 2)


def finger_lines(maps, look):
    """Return three lines a·x + b·y + c in the scene, (n, 3, 3), all positive where the finger is."""
    x, y, dx, dy = (look[f"finger_{name}"][:, None].astype(np.float64) for name in ("x", "y", "dx", "dy"))
    right, down = maps[:, 0] - x * maps[:, 2], maps[:, 1] - y * maps[:, 2]  # of the tip, times the denominator
    along, across = dx * right + dy * down, dx * down - dy * right
    wide = (look["finger_radius"][:, None] + 1) * maps[:, 2]
    return np.stack([wide - across, wide + across, wide + along], 1)


def check_drawable(digits, chosen, bank, homographies, look):
    """Raise ValueError unless every element that `render` reads or writes is inside these arrays."""
    n = len(look)
    for name, array, dtype, shape in (
        ("digits", digits, np.uint8, (max(1, len(digits)), CELL, CELL)),
        ("chosen digits", chosen, np.int64, (n, N_DIGITS)),
        ("textures", bank, np.uint8, (max(1, len(bank)), TEXTURE, TEXTURE)),
        ("homographies", homographies, np.float32, (n, 3, 3)),
        ("looks", look, LOOK, (n,)),
    ):
        if array.dtype != dtype or array.shape != shape:
            kind = getattr(dtype, "__name__", "LOOK")
            raise ValueError(f"{name} must be {shape} of {kind}, not {array.shape} of {array.dtype}")
    limits = [("top", 0, SCENE), ("bottom", 0, SCENE), ("left", 0, SCENE), ("right", 0, SCENE)]
    limits += [("texture", 0, len(bank) - 1), ("texture_x", 0, TEXTURE - SCENE), ("texture_y", 0, TEXTURE - SCENE)]
    limits += [("noise_x", 0, NOISE - SCENE), ("noise_y", 0, NOISE - SCENE), ("blur_x", -2, 2), ("blur_y", -2, 2)]
    outside = [name for name, low, high in limits if n and not low <= look[name].min() <= look[name].max() <= high]
    if n and not 0 <= chosen.min() <= chosen.max() < len(digits):
        outside.append("chosen digits")
    if (look["top"] >= look["bottom"]).any() or (look["left"] >= look["right"]).any():
        outside.append("what is seen")
    if outside:
        raise ValueError(f"scenes cannot be drawn: out of range are {', '.join(outside)}")


def product(a, b):
    """Multiply (…, m, 3) and (…, 3, n) matrices, summing in a fixed order, which a BLAS does not promise."""
    return sum(a[..., :, k, None] * b[..., None, k, :] for k in range(3))


def inverses(matrices):
    """Return the inverses of homographies (n, 3, 3): their adjugates, scaled so that the last entry is 1."""
    a, b, c = np.moveaxis(matrices, 1, 0)

    def cross(u, v):
        (ux, uy, uz), (vx, vy, vz) = u.T, v.T
        return np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], 1)

    adjugate = np.stack([cross(b, c), cross(c, a), cross(a, b)], 2)
    return adjugate / adjugate[:, 2:, 2:]


def small_digits(pixels):
    """Shrink images (N, 28, 28) uint8 to (N, 16, 16) uint8 by area averaging, exactly."""
    small = np.empty((len(pixels), CELL, CELL), np.uint8)
    for start in range(0, len(pixels), 1000):
        part = quarters(pixels[start : start + 1000].astype(np.uint16))
        part = quarters(part.transpose(0, 2, 1)).transpose(0, 2, 1)
        small[start : start + 1000] = (part + 24) // 49
    return small


def quarters(values):
    """Shrink the last axis from 28 to 16: weighted sums of 7/4 numbers each, in units of a quarter."""
    a, b, c, d, e, f, g = np.moveaxis(values.reshape(*values.shape[:2], 4, 7), 3, 0)
    sums = np.stack([4 * a + 3 * b, b + 4 * c + 2 * d, 2 * d + 4 * e + f, 3 * f + 4 * g], 3)
    return sums.reshape(*values.shape[:2], 16)


@lru_cache
def stored_noise():
    """Return Gaussian noise, (256, 256) int8; 32 is one sigma."""
    noise = np.random.default_rng(0).standard_normal((NOISE, NOISE))
    return np.rint(32 * noise).clip(-127, 127).astype(np.int8)


@lru_cache
def textures(split):
    """Return the backgrounds of "train" or "test", (K, 256, 256) uint8; the two have no kind of texture in common."""
    grey = [view for name in PHOTOS[split] for view in views(Image.open(ROOT / "backgrounds" / f"{name}.png"))]
    rng = np.random.default_rng(("train", "test").index(split))
    kinds = {"train": (clouds, grain), "test": (blotches, checks)}[split]
    return standardise(grey + [kind(rng) for kind in kinds for _ in range(4)])


def views(photo):
    """Return a photograph (PIL, grey, 256×256) as it is, from afar and from nearby: three arrays (256, 256)."""
    half = np.asarray(photo.resize((TEXTURE // 2, TEXTURE // 2), Image.Resampling.BOX))
    far = np.pad(half, TEXTURE // 4, mode="symmetric")
    near = photo.crop((64, 64, 192, 192)).resize((TEXTURE, TEXTURE), Image.Resampling.BICUBIC)
    return [np.asarray(photo), far, np.asarray(near)]


def standardise(grey):
    """Stack textures (256, 256): (K, 256, 256) uint8, each with mean 127.5 and deviation 51 before clipping."""
    bank = np.stack(grey).astype(np.int64)
    n = TEXTURE**2  # sums of integers are exact
    mean = bank.sum((1, 2), keepdims=True) / n
    deviation = np.sqrt((bank * bank).sum((1, 2), keepdims=True) / n - mean * mean)
    return np.rint(127.5 + 51 * (bank - mean) / deviation).clip(0, 255).astype(np.uint8)


def smooth(rng, cells):
    """Return smooth noise (256, 256) from 0 to 255 with `cells` random values along each side."""
    values = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
    return np.asarray(values.resize((TEXTURE, TEXTURE), Image.Resampling.BICUBIC)).astype(np.int64)


def wave(phase):
    """From 0 to 1 and back while the phase, an integer, grows by 1024."""
    return np.abs(phase % 1024 - 512) / 512


def clouds(rng):
    return sum(smooth(rng, 4 * 2**k) >> k for k in range(5)) // 2


def grain(rng):
    """Stripes as of wood: wavy, of varied width."""
    y, x = np.mgrid[:TEXTURE, :TEXTURE]
    a, b = rng.integers(10, 60), rng.integers(-15, 16)
    line = wave(a * y + b * x + smooth(rng, 5) * rng.integers(2, 8)) + 0.5 * wave(3 * a * y + 2 * b * x)
    return (100 * line).astype(np.int64) + smooth(rng, 64) // 8


def blotches(rng):
    cells = int(rng.integers(6, 30))
    return ((smooth(rng, cells) - 118) * 8).clip(0, 160) + ((smooth(rng, 3 * cells) - 140) * 6).clip(0, 80)


def checks(rng):
    """A slanted chessboard, worn."""
    y, x = np.mgrid[:TEXTURE, :TEXTURE]
    a, b = rng.integers(8, 40), rng.integers(-12, 13)
    first, second = (((wave(phase) - 0.5) * 6).clip(-1, 1) for phase in (a * y + b * x, a * x - b * y))
    return (100 + 80 * first * second).astype(np.int64) + smooth(rng, 32) // 4
