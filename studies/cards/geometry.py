"""The geometry of scenes: where a card lies in a scene, and where the number lies on the card.

A scene is a square grey photograph. In the straightened scene the card lies upright in the middle. Homographies follow
the convention of warps.py: they map points of the straightened scene to points of the scene; both span [-1, 1].
"""

import numpy as np
import torch

from stn import warps
from studies.cards import N_DIGITS

SCENE = 128  # pixels, the side of a scene
CARD_WIDTH, CARD_HEIGHT = 92, 58  # pixels of the straightened scene: the shape of an ID-1 card
CELL, PITCH = 16, 12  # pixels: each digit in a square cell, the next one starts PITCH pixels later
NUMBER_X, NUMBER_Y = 8, 36  # upper left of the number's field, in pixels of the card
NUMBER_WIDTH = CELL + (N_DIGITS - 1) * PITCH
STRIDE = 28 * PITCH // CELL  # from one cell of 28×28 to the next in a strip, the straightened number
STRIP = (28, 28 + (N_DIGITS - 1) * STRIDE)
NEAR_X, NEAR_Y = 0.8, 0.55  # the share of a straightened scene that later passes see: the card fills nine tenths


def nominal_corners():
    """Return the card's corners in pixels from the middle, (4, 2), clockwise from the upper left."""
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (CARD_WIDTH / 2, CARD_HEIGHT / 2)


CORNERS = (nominal_corners() / (SCENE / 2))[None].tolist()  # normalised
FIELD = (  # its centre is counted from the card's
    np.array(
        [
            [NUMBER_WIDTH, 0, 2 * NUMBER_X + NUMBER_WIDTH - CARD_WIDTH],
            [0, CELL, 2 * NUMBER_Y + CELL - CARD_HEIGHT],
            [0, 0, SCENE],
        ]
    )
    / SCENE
).tolist()


def homographies_to(corners):
    """Return the homographies (n, 3, 3) that map the card's nominal corners to these (n, 4, 2), both normalised.

    For the unit square there is a closed form (Heckbert 1989). The last digits of a solver depend on the machine.
    """
    p, q, r, s = np.moveaxis(corners, 1, 0)
    (ax, ay), (bx, by), (cx, cy) = (q - r).T, (s - r).T, (p - q + r - s).T
    det = ax * by - ay * bx
    g, h = (cx * by - cy * bx) / det, (ax * cy - ay * cx) / det
    g, h = g[:, None], h[:, None]
    unit = np.ones((len(corners), 3, 3))
    unit[:, :2, 0], unit[:, :2, 1], unit[:, :2, 2] = q - p + g * q, s - p + h * s, p
    unit[:, 2:, 0], unit[:, 2:, 1] = g, h
    width, height = CARD_WIDTH / SCENE, CARD_HEIGHT / SCENE
    unit[:, :, 2] += unit[:, :, 0] / 2 + unit[:, :, 1] / 2  # the middle of the card is 0
    unit[:, :, 0] /= 2 * width
    unit[:, :, 1] /= 2 * height
    return unit / unit[:, 2:, 2:]


def places_in_the_middle(dtype, device):
    """Return the card's nominal corners, (1, 4, 2), and the map from a strip to the straightened scene, (3, 3)."""
    return torch.tensor(CORNERS, dtype=dtype, device=device), torch.tensor(FIELD, dtype=dtype, device=device)


def closer(dtype, device):
    """Return two maps: from the close-up (card plus margin) to the straightened scene, and back."""
    near = torch.tensor([NEAR_X, NEAR_Y, 1], dtype=dtype, device=device)
    return near.diag(), near.reciprocal().diag()


def constants(make, like):
    """Return the constants that make(dtype, device) returns, as for the tensor `like`."""
    return warps.cached(make, like=like)


def card_corners(homographies):
    """Return the card's corners (N, 4, 2) in scenes, normalised; homographies (N, 3, 3) are destination to source.

    Clockwise from the card's upper left.
    """
    corners, _ = constants(places_in_the_middle, homographies)
    return warps.map_points(homographies, corners.expand(homographies.shape[0], 4, 2))


def strips(images, homographies):
    """Cut out the straightened numbers: scenes (N, 1, H, W), homographies (N, 3, 3) -> strips (N, 1, 28, 133)."""
    _, field = constants(places_in_the_middle, homographies)
    return warps.homography_warp(images, warps.compose(homographies, field), size=STRIP)
