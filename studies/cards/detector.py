"""Find a card in a photograph of any size, straighten it in full resolution, and read its number.

A network sees square scenes of 128×128 pixels (see geometry.py), in which the card fills about three quarters of the
width. It sees the photograph as a whole and, because the card may be smaller, in overlapping squares from nearer; then
it looks once more where the card is. Homographies are those of warps.py, from the straightened scene to the photograph;
both span [-1, 1].
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from digits.image_files import ImageError, upright
from stn import warps
from studies.cards import geometry
from studies.cards.geometry import CARD_HEIGHT, CARD_WIDTH, SCENE

# Below this confidence the answer is "no card found". It is the smallest threshold, in steps of 0.01, with at most 1 %
# of false alarms on 1,000 scenes without a card and on 1,000 larger photographs without one, both on training
# backgrounds. `chosen_threshold` computes it, here for the default network.
THRESHOLD = 0.73
FALSE_ALARMS = 0.01  # the largest share
LEAST = 48  # pixels of the shorter side; on fewer a number is not legible
LONGEST = 1024  # pixels of the longer side of the copy that the network sees
ZOOMS = (1.0, 1.5, 2.25)  # of the squares; at 1 a square holds the whole photograph
STEP = 40  # pixels of a scene from one square to the next, at most; a card need not be in the middle of one
CANDIDATES = 3  # places that get a second look
SHARPEST = 11  # pixels of the straightened card for one of the scene's, at most: 1012×638
LARGEST = 1e6  # pixels of the longest side of a card that is straightened: of a larger one no picture shows anything
LONGEST_OUTLINE = 1200  # pixels of the picture of the outline
ORANGE = "#E69F00"


class Card(NamedTuple):
    """The likeliest card in a photograph, whether there is one or not."""

    number: str  # six digits
    probabilities: np.ndarray  # (6,), of these digits
    sure: float  # the geometric mean of these probabilities
    agreement: float  # of two looks, see `agreement`
    homography: np.ndarray  # (3, 3) float64, from the straightened scene to the photograph
    corners: np.ndarray  # (4, 2), (x, y) in pixels of the photograph, clockwise from the card's upper left

    @property
    def confidence(self):
        """The product of `sure` and `agreement`; below THRESHOLD there is no card."""
        return self.sure * self.agreement


def read_photograph(source):
    """Open an image file, or take a PIL image, in full resolution, upright and in RGB. Raise ImageError."""
    photo, _ = upright(source, lambda image, _: in_colours(image))
    if min(photo.size) < LEAST:
        size = "×".join(map(str, photo.size))
        raise ImageError(f"is too small, {size} pixels: to read a card, {LEAST} are needed in both directions")
    return photo


def in_colours(image):
    """Convert a PIL image, of mode F in [0, 1] or of another mode, to RGB."""
    if image.mode == "F":
        image = Image.fromarray((np.asarray(image) * 255 + 0.5).astype(np.uint8))
    return image.convert("RGB")


def alignment(network):
    """Return the homography that aligns the frame of a `Trained` network with the card, (3, 3), see metrics.py.

    For a network that was trained with corner labels it is the identity. For any other it is fitted on training scenes,
    which takes some seconds. Raise RunError if the network has no transformer, or DataError.
    """
    from lab.settings import RunError

    if network.model.bypass_localisation:
        raise RunError(f"{network.name} has no transformer, so it finds no card")
    if network.model.taught_corners:
        return torch.eye(3, dtype=torch.float64)
    from stn import data
    from studies.cards import metrics as card_metrics  # late: most networks need neither

    digits = data.load()
    return card_metrics.alignment_of(network.model, digits._replace(clean=digits))


@torch.inference_mode()
def find_card(photo, model, alignment):
    """Return the likeliest `Card` of a photograph (PIL, RGB), by a network in evaluation mode and its `alignment`."""
    grey = photo.convert("L")
    grey.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX, reducing_gap=None)
    homographies, probabilities, confidences = read(*look_around(grey), model)
    before = homographies[confidences.topk(min(CANDIDATES, len(confidences))).indices]
    homographies, probabilities, confidences = read(*look_at(grey, before), model)
    earlier, corners = (
        warps.to_pixels(geometry.card_corners(found @ alignment), photo.height, photo.width).numpy()
        for found in (before, homographies)
    )
    sure = confidences.numpy()
    agreements = np.array([agreement(*pair) for pair in zip(earlier, corners, strict=True)])
    best = (sure * agreements).argmax()
    likeliest, number = probabilities[best].max(0)
    homography, number = (homographies[best] @ alignment).numpy(), "".join(map(str, number.tolist()))
    doubts = float(sure[best]), float(agreements[best])
    return Card(number, likeliest.numpy(), *doubts, homography, corners[best])


def agreement(earlier, corners):
    """Return how well two looks at a card agree on its corners, (4, 2) each: 1 if they are the same.

    It falls with the mean distance of the corners and is 0 from half of the card's diagonal on, because without a card
    the network sees a different one each time. It is also 0 if the later corners are not convex.
    """
    if not is_outline(corners):
        return 0.0
    distance, diagonal = (np.linalg.norm(corners - other, axis=1).mean() for other in (earlier, np.roll(corners, 2, 0)))
    return max(0.0, 1 - 2 * distance / diagonal)


def is_outline(corners):
    """Return whether corners (4, 2) are convex and in clockwise order on the screen."""
    if not np.isfinite(corners).all():
        return False
    (x, y), (next_x, next_y) = (np.roll(corners, 1, 0) - corners).T, (np.roll(corners, -1, 0) - corners).T
    return bool((y * next_x - x * next_y > 0).all())


def read(scenes, places, model):
    """Read scenes (N, 1, 128, 128); return homographies (N, 3, 3), probabilities (N, 10, 6), confidences (N,), float64.

    places: (N, 3, 3), the map from each scene to the photograph.
    """
    found = model.homography(scenes)
    probabilities = model.classify(geometry.strips(scenes, found)).double().exp()
    sure = probabilities.amax(1).log().mean(1).exp().nan_to_num(0)  # digits without a probability are not sure at all
    return places @ found.double(), probabilities, sure


def look_around(grey):
    """Cut a photograph (PIL, grey) into scenes (N, 1, 128, 128); return them and their maps to it, (N, 3, 3).

    The first scene holds the whole photograph, the others are squares from nearer. Bars have its mean grey.
    """
    scenes, places = [], []
    for zoom in ZOOMS:
        longest = round(SCENE * zoom)
        width, height = (max(1, round(side * longest / max(grey.size))) for side in grey.size)
        view = np.asarray(resized(grey, (width, height)))
        tops, lefts = starts(height), starts(width)
        below, beyond = max(0, SCENE - height - tops[0]), max(0, SCENE - width - lefts[0])
        above, before = max(0, -tops[0]), max(0, -lefts[0])
        view = np.pad(view, ((above, below), (before, beyond)), constant_values=round(view.mean()))
        for top in tops:
            for left in lefts:
                scenes.append(view[top + above :, left + before :][:SCENE, :SCENE])
                places.append(place_of(left, top, SCENE, SCENE, width, height))
    return in_floats(np.stack(scenes)), torch.tensor(np.stack(places))


def starts(size):
    """Return the first pixels of the squares of 128 pixels that cover `size` pixels; a shorter row is centred."""
    if size <= SCENE:
        return [(size - SCENE) // 2]
    return np.linspace(0, size - SCENE, 1 + -(-(size - SCENE) // STEP)).round().astype(int).tolist()


def look_at(grey, homographies):
    """Cut out scenes (N, 1, 128, 128) with a card in the middle, in its nominal size; return them and their maps.

    homographies: (N, 3, 3), of the cards in the photograph (PIL, grey). The maps (N, 3, 3) are to the photograph.
    """
    whole = np.array(grey.size)
    scenes, places = np.empty((len(homographies), SCENE, SCENE), np.uint8), []
    for scene, corners in zip(scenes, geometry.card_corners(homographies), strict=True):
        corners = (corners.nan_to_num().clamp(-1000, 1000).numpy() + 1) / 2 * whole
        sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
        scale = max(sides[::2].mean() / CARD_WIDTH, sides[1::2].mean() / CARD_HEIGHT)
        scale = float(np.clip(scale, 1 / 8, 4 * max(whole) / SCENE))  # of the photograph for one of the scene
        low = ((corners.min(0) + corners.max(0)) / 2).clip(0, whole) - SCENE / 2 * scale
        first = np.ceil((-low / scale).clip(0)).astype(int)  # whole pixels of the scene that the photograph fills
        last = np.maximum(np.floor(((whole - low) / scale).clip(0, SCENE)).astype(int), first + 1)
        box = np.concatenate([low + first * scale, low + last * scale]).clip(0, np.tile(whole, 2))
        part = np.asarray(resized(grey, tuple(last - first), tuple(box)))
        scene[:] = round(part.mean())
        scene[first[1] : last[1], first[0] : last[0]] = part
        places.append(place_of(*low, *2 * [SCENE * scale], *whole))
    return in_floats(scenes), torch.tensor(np.stack(places))


def place_of(left, top, width, height, whole_width, whole_height):
    """Return the map from a part of an image, a rectangle, to the whole image, (3, 3), both normalised."""
    across, down = width / whole_width, height / whole_height
    return np.array(
        [[across, 0, 2 * left / whole_width + across - 1], [0, down, 2 * top / whole_height + down - 1], [0, 0, 1]]
    )


def resized(grey, size, box=None):
    """Resize a PIL image, or a box of it; average areas where it becomes smaller."""
    left, top, right, bottom = box or (0, 0, *grey.size)
    smaller = right - left > size[0] or bottom - top > size[1]
    return grey.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR, (left, top, right, bottom))


def in_floats(scenes):
    """Bytes (N, H, W) -> (N, 1, H, W) in [0, 1]."""
    return torch.from_numpy(scenes.astype(np.float32) / 255).unsqueeze(1)


def straightened(photo, card):
    """Return the card of a photograph (PIL), upright, as large as it lies there and at most 1012×638 pixels.

    None if it is longer than LARGEST, or a corner is not finite: that can be so where there is no card.
    """
    if not np.isfinite(card.corners).all():
        return None
    sides = np.linalg.norm(card.corners - np.roll(card.corners, -1, 0), axis=1)
    if sides.max() > LARGEST:
        return None
    scale = max(sides[::2].max() / CARD_WIDTH, sides[1::2].max() / CARD_HEIGHT)
    smaller = max(1, int(scale / SHARPEST))  # averaged before, where many pixels become one
    width, height = (round(side * np.clip(scale, 1, SHARPEST)) for side in (CARD_WIDTH, CARD_HEIGHT))
    # From pixels of the card to those of the photograph, both from the outer edge.
    normalised = np.array([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    nominal = np.diag([CARD_WIDTH / SCENE, CARD_HEIGHT / SCENE, 1])
    across, down = (side / 2 / smaller for side in photo.size)
    pixels = np.array([[across, 0, across], [0, down, down], [0, 0, 1]])
    matrix = pixels @ card.homography @ nominal @ normalised
    numbers = (matrix / matrix[2, 2]).ravel()[:8].tolist()
    photo = photo.reduce(smaller) if smaller > 1 else photo
    return photo.transform((width, height), Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)


def outlined(photo, card):
    """Return a photograph (PIL), at most 1200 pixels long, with the outline of its card and the number.

    None if a corner of the card is not finite.
    """
    if not np.isfinite(card.corners).all():
        return None
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


def chosen_threshold(*kinds):
    """Return the smallest threshold, in steps of 0.01, with at most 1 % of false alarms in each of `kinds`.

    kinds: arrays of confidences, each of one kind of images without a card.
    """
    hundredths = np.arange(101) / 100
    rare = (all(np.mean(confidences >= least) <= FALSE_ALARMS for confidences in kinds) for least in hundredths)
    return next((float(least) for least, enough in zip(hundredths, rare, strict=True) if enough), 1.0)
