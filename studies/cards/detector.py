"""Find a card in a photograph of any size, straighten it in full resolution, and read its number.

A network reads square scenes of 128×128 pixels (see geometry.py), in which the card fills about three quarters of the
width. It first reads the whole photograph and, because the card may be smaller, overlapping squares of it. Then it
reads a square around each of the likeliest cards. Homographies map the straightened scene to the photograph; both span
[-1, 1], as in warps.py.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from digits.image_files import ImageError, open_upright
from lab.settings import RunError
from stn import warps
from studies.cards import geometry
from studies.cards.geometry import CARD_HEIGHT, CARD_WIDTH, SCENE

# Below this confidence the answer is "no card found". It is the smallest threshold, in steps of 0.01, with at most 1 %
# of false alarms on 1,000 scenes without a card and on 1,000 larger photographs without one, both on training
# backgrounds, for the network RULED_BY. The default network was taught that these hold no card, so it cannot choose its
# own. `tests/studies/test_extract_id.py --slow` computes it.
THRESHOLD, RULED_BY = 0.64, "exp_40"
LEAST = 48  # pixels of the shorter side; a number in a smaller photograph is not legible
LONGEST = 1024  # pixels of the longer side of the copy from which scenes are cut
ZOOMS = (1.0, 1.5, 2.25)  # of the squares; at 1 a square holds the whole photograph
STEP = 40  # the largest distance, in pixels of a scene, from one square to the next
CANDIDATES = 3  # cards that get a second look
SHARPEST = 11  # the largest scale of the straightened card: 11 times as large as in a scene is 1012×638 pixels
LARGEST = 1e6  # pixels; a picture of a card with a corner farther away would show nothing
LONGEST_OUTLINE = 1200  # pixels of the longer side of the picture of the outline
ORANGE = "#E69F00"


class Card(NamedTuple):
    """The likeliest card in a photograph, whether there is one or not."""

    number: str  # six digits
    probabilities: np.ndarray  # (6,), of these digits
    sure: float  # the geometric mean of these probabilities
    agreement: float  # of two looks, see `measure_agreement`
    homography: np.ndarray  # (3, 3) float64, from the straightened scene to the photograph
    corners: np.ndarray  # (4, 2), (x, y) in pixels of the photograph, clockwise from the card's upper left

    @property
    def confidence(self):
        """The product of `sure` and `agreement`; below THRESHOLD there is no card."""
        return self.sure * self.agreement

    @property
    def is_drawable(self):
        """Whether all corners are within LARGEST pixels; those of a false alarm may be infinitely far away."""
        return bool((np.abs(self.corners) <= LARGEST).all())  # False for NaN


def read_photograph(source):
    """Open an image file, or take a PIL image; return it in full resolution, upright and in RGB, and what was done.

    Raise ImageError.
    """
    photo, _, steps = open_upright(source)
    if photo.mode == "F":
        photo = Image.fromarray((np.asarray(photo) * 255 + 0.5).astype(np.uint8)).convert("RGB")
    if min(photo.size) < LEAST:
        size = "×".join(map(str, photo.size))
        raise ImageError(f"is too small, {size} pixels: to read a card, {LEAST} are needed in both directions")
    return photo, steps


def alignment(network):
    """Return the homography that aligns the frame of a `Trained` network with the card, (3, 3), see metrics.py.

    For a network that was trained with corner labels it is the identity. For any other it is fitted on training scenes,
    which takes some seconds. Raise RunError if the network has no transformer, or DataError.
    """
    if network.model.bypass_localisation:
        raise RunError(f"{network.name} has no transformer, so it finds no card")
    if network.model.taught_corners:
        return torch.eye(3, dtype=torch.float64)
    from stn import data
    from studies.cards import metrics as card_metrics  # late, since it imports matplotlib

    digits = data.load()
    return card_metrics.alignment_of(network.model, digits._replace(clean=digits))


@torch.inference_mode()
def find_card(photo, model, alignment):
    """Return the likeliest `Card` of a photograph (PIL, RGB), by a network in evaluation mode and its `alignment`."""
    grey = photo.convert("L")
    grey.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX, reducing_gap=None)
    first, _, sureness = read_scenes(*cut_squares(grey), model)
    first = first[sureness.topk(min(CANDIDATES, len(sureness))).indices]
    homographies, probabilities, sureness = read_scenes(*cut_around(grey, first), model)
    first_corners, corners = (
        warps.to_pixels(geometry.card_corners(maps @ alignment), photo.height, photo.width).numpy()
        for maps in (first, homographies)
    )
    agreements = np.array([measure_agreement(*pair) for pair in zip(first_corners, corners, strict=True)])
    best = (sureness.numpy() * agreements).argmax()
    likeliest, digits = probabilities[best].max(0)
    factors = float(sureness[best]), float(agreements[best])
    homography, number = (homographies[best] @ alignment).numpy(), "".join(map(str, digits.tolist()))
    return Card(number, likeliest.numpy(), *factors, homography, corners[best])


def measure_agreement(first, second):
    """Return how well two looks agree on a card's corners, (4, 2) each: 1 if they are the same.

    It falls with the mean distance of the corners and is 0 from half of the card's diagonal on, because without a card
    each look shows a different one. It is also 0 if the second corners are not convex.
    """
    if not is_outline(second):
        return 0.0
    distance, diagonal = (np.linalg.norm(second - other, axis=1).mean() for other in (first, np.roll(second, 2, 0)))
    return max(0.0, 1 - 2 * distance / diagonal)


def side_lengths(corners):
    """Return the lengths of the sides between corners (4, 2): upper, right, lower, left."""
    return np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)


def is_outline(corners):
    """Return whether corners (4, 2) are convex and in clockwise order on the screen."""
    if not np.isfinite(corners).all():
        return False
    (x, y), (next_x, next_y) = (np.roll(corners, 1, 0) - corners).T, (np.roll(corners, -1, 0) - corners).T
    return bool((y * next_x - x * next_y > 0).all())


def read_scenes(scenes, to_photo, model):
    """Read scenes; return homographies (N, 3, 3), probabilities (N, 10, 6) and sureness (N,), all float64.

    scenes: bytes (N, 128, 128). to_photo: (N, 3, 3), the map from each scene to the photograph.
    """
    scenes = torch.from_numpy(np.stack(scenes).astype(np.float32) / 255).unsqueeze(1)
    homographies = model.homography(scenes)
    probabilities = model.classify(geometry.strips(scenes, homographies)).double().exp().nan_to_num(0)
    sureness = probabilities.amax(1).log().mean(1).exp()
    return torch.from_numpy(np.stack(to_photo)) @ homographies.double(), probabilities, sureness


def cut_squares(grey):
    """Cut a photograph (PIL, grey) into scenes; return [(128, 128) bytes, ...] and their maps to it, [(3, 3), ...].

    The first scene is the whole photograph, the others are overlapping squares of it. Bars have its mean grey.
    """
    scenes, to_photo = [], []
    for zoom in ZOOMS:
        longest = round(SCENE * zoom)
        width, height = (max(1, round(side * longest / max(grey.size))) for side in grey.size)
        view = resize(grey, (width, height))
        for top in starts(height):
            for left in starts(width):
                scenes.append(on_bars(view, (-left, -top)))
                to_photo.append(map_to_whole(left, top, SCENE, SCENE, width, height))
    return scenes, to_photo


def on_bars(picture, first):
    """Lay a picture (PIL, grey) on a scene of its mean grey, its upper left at the pixel `first`: (128, 128) bytes."""
    scene = Image.new("L", (SCENE, SCENE), round(np.asarray(picture).mean()))
    scene.paste(picture, first)
    return np.asarray(scene)


def starts(size):
    """Return the first pixels of the squares of 128 pixels that cover `size` pixels; a shorter row is centred."""
    if size <= SCENE:
        return [(size - SCENE) // 2]
    return np.linspace(0, size - SCENE, 1 + -(-(size - SCENE) // STEP)).round().astype(int).tolist()


def cut_around(grey, homographies):
    """Cut out scenes with a card in the middle, in its nominal size; return them and their maps as `cut_squares` does.

    homographies: (N, 3, 3), of the cards in the photograph (PIL, grey).
    """
    whole, scenes, to_photo = np.array(grey.size), [], []
    for corners in geometry.card_corners(homographies):
        corners = (corners.nan_to_num().clamp(-1000, 1000).numpy() + 1) / 2 * whole
        sides = side_lengths(corners)
        scale = max(sides[::2].mean() / CARD_WIDTH, sides[1::2].mean() / CARD_HEIGHT)
        scale = float(np.clip(scale, 1 / 8, 4 * max(whole) / SCENE))  # pixels of the photograph per pixel of the scene
        low = ((corners.min(0) + corners.max(0)) / 2).clip(0, whole) - SCENE / 2 * scale
        first = np.ceil((-low / scale).clip(0)).astype(int)  # whole pixels of the scene that the photograph fills
        last = np.maximum(np.floor(((whole - low) / scale).clip(0, SCENE)).astype(int), first + 1)
        box = np.concatenate([low + first * scale, low + last * scale]).clip(0, np.tile(whole, 2))
        scenes.append(on_bars(resize(grey, tuple(last - first), tuple(box)), tuple(first.tolist())))
        to_photo.append(map_to_whole(*low, *2 * [SCENE * scale], *whole))
    return scenes, to_photo


def map_to_whole(left, top, width, height, whole_width, whole_height):
    """Return the map (3, 3) from a rectangle of an image to the whole image, both normalised."""
    across, down = width / whole_width, height / whole_height
    return np.array(
        [[across, 0, 2 * left / whole_width + across - 1], [0, down, 2 * top / whole_height + down - 1], [0, 0, 1]]
    )


def resize(grey, size, box=None):
    """Resize a PIL image, or a box of it, averaging areas where it shrinks."""
    box = box or (0, 0, *grey.size)
    shrinks = box[2] - box[0] > size[0] or box[3] - box[1] > size[1]
    return grey.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR, box)


def straightened(photo, card):
    """Return a drawable card of a photograph (PIL), upright, as large as it is there and at most 1012×638 pixels."""
    sides = side_lengths(card.corners)
    scale = max(sides[::2].max() / CARD_WIDTH, sides[1::2].max() / CARD_HEIGHT)
    smaller = max(1, int(scale / SHARPEST))  # the photograph is averaged first, where many pixels become one
    width, height = (round(side * np.clip(scale, 1, SHARPEST)) for side in (CARD_WIDTH, CARD_HEIGHT))
    # The map from pixels of the card to those of the photograph, both counted from the outer edge.
    normalised = np.array([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    nominal = np.diag([CARD_WIDTH / SCENE, CARD_HEIGHT / SCENE, 1])
    across, down = (side / 2 / smaller for side in photo.size)
    pixels = np.array([[across, 0, across], [0, down, down], [0, 0, 1]])
    matrix = pixels @ card.homography @ nominal @ normalised
    numbers = (matrix / matrix[2, 2]).ravel()[:8].tolist()
    photo = photo.reduce(smaller) if smaller > 1 else photo
    return photo.transform((width, height), Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)


def outlined(photo, card):
    """Return a photograph (PIL), at most 1200 pixels long, with the outline of its drawable card and the number."""
    factor = min(1, LONGEST_OUTLINE / max(photo.size))
    picture = photo.resize([max(1, round(side * factor)) for side in photo.size], reducing_gap=2)
    corners = ((card.corners + 0.5) * (np.array(picture.size) / photo.size) - 0.5).clip(-9999, 9999)
    wide = max(1, max(picture.size) // 200)
    pen = ImageDraw.Draw(picture)
    pen.line([tuple(corner) for corner in (*corners, *corners[:2])], ORANGE, wide, joint="curve")
    size, margin = max(10, max(picture.size) // 25), max(2, wide)
    font = ImageFont.load_default(size)
    left, top, right, bottom = pen.textbbox((0, 0), card.number, font)
    x, y = corners[:, 0].min(), corners[:, 1].min() - (bottom - top) - 3 * margin
    x = np.clip(x, 0, max(0, picture.width - (right - left) - 2 * margin))
    y = np.clip(y, 0, max(0, picture.height - (bottom - top) - 2 * margin))
    pen.rectangle((x, y, x + right - left + 2 * margin, y + bottom - top + 2 * margin), ORANGE)
    pen.text((x + margin - left, y + margin - top), card.number, "black", font)
    return picture
