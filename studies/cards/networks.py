"""Networks that find a card in a scene, as those of models.py find a digit, and read the number on it."""

import torch
import torch.nn.functional as F

from models import Net_CoordConv
from stn import warps
from studies.cards import geometry


class Net_Card(Net_CoordConv):
    """Find a card in a scene (see geometry.py) and read its number: bytes (B, 1, 128, 128) -> log-probs (B, 10, 6).

    The transform, here affine, maps points of the straightened scene, with the card in its middle, to the scene. The
    localisation network looks at the scene at a quarter of its size; further passes look, from nearer, at what is
    straightened so far. The classifier of the study reads the six cells of a strip of the straightened scene. Strips,
    (B, 1, 28, 133), are read without a transform.

    taught_corners: the weight of a second loss, on the positions of the card's corners after every pass.
    """

    localisation = ((16, 5), (32, 5), 64)
    localisation_size = (32, 32)

    def __init__(self, use_coordconf_localisation=False, bypass_localisation=False, passes=1, taught_corners=0.0):
        super().__init__(use_coordconf_localisation, False, bypass_localisation, passes=passes)
        self.taught_corners = taught_corners

    def homographies(self, x):
        return super().homographies(F.avg_pool2d(as_floats(x), 2))  # half the size is enough for localisation

    def localisation_input(self, x):
        """Shrink scenes of half their size to what the localisation network sees, (B, 1, 32, 32)."""
        return standardised(F.avg_pool2d(x, 2))

    def refine(self, x, homographies):
        """Look from nearer at scenes of half their size, as they are straightened so far, at (B, 1, 32, 32)."""
        near, far = geometry.constants(geometry.closer, x)
        seen = standardised(warps.homography_warp(x, warps.compose(homographies, near), size=self.localisation_size))
        return warps.compose(homographies, near, self.params_to_homography(self.localise(seen)), far)

    def transform(self, x):
        """Cut the straightened number out of scenes: bytes (B, 1, 128, 128) -> (B, 1, 28, 133)."""
        return x if x.shape[2:] == geometry.STRIP else geometry.strips(as_floats(x), self.homography(x))

    def classify(self, x):
        """Read strips: (B, 1, 28, 133) -> log-probabilities (B, 10, 6)."""
        cells = -standardised(as_floats(x)).unfold(3, 28, geometry.STRIDE).permute(0, 3, 1, 2, 4)  # (B, 6, 1, 28, 28)
        return super().classify(cells.flatten(0, 1)).unflatten(0, (x.shape[0], geometry.N_DIGITS)).transpose(1, 2)

    def loss(self, images, labels, homographies):
        """Return the mean loss of scenes; homographies (B, 3, 3) are the true ones."""
        if not self.taught_corners:
            return F.nll_loss(self(images), labels)
        scenes, corners = as_floats(images), geometry.card_corners(homographies)
        found = self.homographies(scenes)
        read = F.nll_loss(self.classify(geometry.strips(scenes, found[-1])), labels)
        misses = [F.smooth_l1_loss(geometry.card_corners(after), corners, beta=0.1) for after in found]
        return read + self.taught_corners * sum(misses)


class Net_Card_Homography(Net_Card):
    """`Net_Card` whose transform is a homography."""

    transform_identity = warps.HOMOGRAPHY_IDENTITY


def as_floats(x):
    """Convert bytes to numbers from 0 to 1; return other tensors unchanged."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def standardised(x):
    """Give each image (B, 1, H, W) a mean of 0 and, unless it is nearly uniform, a standard deviation of 1."""
    return F.layer_norm(x, x.shape[1:], eps=1e-4)
