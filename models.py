"""The networks of the study: a spatial transformer before a small classifier of 28×28 digits.

`Net` is the network of the PyTorch tutorial (pytorch.org/tutorials/intermediate/spatial_transformer_tutorial.html),
`Net_CoordConv` the same with CoordConv layers where the flags ask for them, and `Net_CoordConv_Homography` the same
with a homography in place of the affine transform. All map (B, 1, 28, 28) to log-probabilities (B, 10). `Net_Card` and
`Net_Card_Homography` find a card in a photograph in the same way, and read the number on it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from coordconv import CoordConv2d
from stn import cards, warps


def convolve_and_pool(conv1, conv2, x):
    """Compute two convolutions, each with 2×2 max pooling and ReLU: (B, C, H, W) -> (B, O, h, w)."""
    x = F.relu(F.max_pool2d(conv1(x), 2))
    return F.relu(F.max_pool2d(conv2(x), 2))


def dropout_mask(x):
    """Draw 0 or 2 with equal probability in the shape of x: dropout of one half (F.dropout costs 1 % of a step)."""
    return torch.randint(0, 2, x.shape, dtype=x.dtype, device=x.device).mul_(2)


class Net(nn.Module):
    """Spatial transformer and classifier with ordinary convolutions.

    The keyword arguments are what the experiments vary: the kind of convolution in each part; whether there is a
    transformer at all (without one there is no localisation network either, so no parameter is ever dead); what it
    reads outside of the image (`padding`, see stn/warps.py); and how often it looks. With several `passes` the same
    localisation network sees the image as it is warped so far, its answer is composed with those before, and the
    original image is warped again (inverse compositional STN, arXiv 1612.03897). With a `canvas` of 2 it is given
    (B, 1, 56, 56), in whose middle the image lies: it sees only that, but warps read from the canvas.
    """

    repeatable = True  # the same operations whatever the values: stn/step.py records a step once and repeats it
    convolve_and_pool = staticmethod(convolve_and_pool)  # in training on a CPU, stn/fast_conv.py puts its own in place
    transform_identity = warps.AFFINE_IDENTITY
    localisation = ((8, 7), (10, 5), 90, 32)  # channels and kernels of its convolutions, then features and hidden units

    def __init__(
        self,
        *,
        localisation_conv=nn.Conv2d,
        classifier_conv=nn.Conv2d,
        bypass_localisation=False,
        padding="zeros",
        passes=1,
        canvas=1,
    ):
        super().__init__()
        warps.check_padding(padding)
        if passes < 1:
            raise ValueError(f"at least one pass is needed, not {passes!r}")
        if canvas < 1:
            raise ValueError(f"a canvas is at least 1 time as large as the image, not {canvas!r}")
        self.padding = padding
        self.passes = passes
        self.canvas = canvas
        # The classifier comes first: with the same seed it starts with the same weights with and without a transformer.
        self.conv1 = classifier_conv(1, 10, kernel_size=5)
        self.conv2 = classifier_conv(10, 20, kernel_size=5)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)
        self.bypass_localisation = bypass_localisation
        if not bypass_localisation:
            (first, kernel1), (second, kernel2), features, hidden = self.localisation
            self.loc_conv1 = localisation_conv(1, first, kernel_size=kernel1)
            self.loc_conv2 = localisation_conv(first, second, kernel_size=kernel2)
            self.loc_fc1 = nn.Linear(features, hidden)
            self.loc_fc2 = nn.Linear(hidden, len(self.transform_identity))
            with torch.no_grad():  # start from the identity transform
                self.loc_fc2.weight.zero_()
                self.loc_fc2.bias.copy_(torch.tensor(self.transform_identity))

    def localise(self, x):
        """Look once at each image: (B, 1, 28, 28) -> parameters (B, 6) of an affine map, or (B, 8) of a homography."""
        x = self.convolve_and_pool(self.loc_conv1, self.loc_conv2, x)  # (B, 10, 3, 3)
        x = F.relu(self.loc_fc1(x.flatten(1)))  # (B, 32)
        return self.loc_fc2(x)

    def homography(self, x):
        """Return the transform of each image, (B, 1, 28, 28) -> (B, 3, 3), destination to source (see stn/warps.py).

        It maps points of the transformed image to the image, `warps.map_points(model.homography(x), points)`, and its
        inverse the other way. An affine one has (0, 0, 1) as its last row; without a transformer it is the identity.
        """
        if self.bypass_localisation:
            return torch.eye(3, dtype=self.fc1.weight.dtype, device=x.device).expand(x.shape[0], 3, 3)
        return self.homographies(x)[-1]

    def homographies(self, x):
        """List the transforms after each pass, [(B, 3, 3), ...]; see `homography`."""
        found = [warps.matrix(self.localise(self.look(x)))]
        for _ in range(self.passes - 1):
            found.append(self.refine(x, found[-1]))
        return found

    def refine(self, x, homographies):
        """Look at the images as they are warped so far, and return the transforms composed with the answer."""
        return homographies @ warps.matrix(self.localise(self.view(x, homographies)))

    def look(self, x):
        """Return what the localisation network sees before any warp: the middle of a canvas."""
        return warps.middle(x, self.canvas)

    def view(self, x, homographies):
        """Return the images, warped by homographies (B, 3, 3), as the next pass or the classifier sees them."""
        size = tuple(side // self.canvas for side in x.shape[2:])
        return warps.homography_warp(x, warps.from_canvas(homographies, self.canvas), self.padding, size)

    def transform(self, x):
        """Warp the images as the classifier sees them: (B, 1, 28, 28) -> (B, 1, 28, 28)."""
        if self.bypass_localisation:
            return self.look(x)
        if self.passes == self.canvas == 1 and self.transform_identity == warps.AFFINE_IDENTITY:
            return warps.affine_warp(x, self.localise(x), self.padding)  # the same, in fewer operations
        return self.view(x, self.homography(x))

    def classify(self, x):
        """Read the images: (B, 1, 28, 28) -> log-probabilities (B, 10)."""
        x = self.convolve_and_pool(self.conv1, self.conv2, x)  # (B, 20, 4, 4)
        if self.training:  # whole maps (Dropout2d); the recipe's place before the pooling gives the same numbers
            x = x * dropout_mask(x[:, :, :1, :1])
        x = F.relu(self.fc1(x.flatten(1)))  # (B, 50)
        if self.training:
            x = x * dropout_mask(x)
        return F.log_softmax(self.fc2(x), dim=1)

    def forward(self, x):
        return self.classify(self.transform(x))


class Net_CoordConv(Net):
    """`Net` with both convolutions of the localisation network, of the classifier, or of both as CoordConv.

    `bypass_localisation` feeds the image straight to the classifier. With all flags off it is `Net`: the same seed
    gives the same weights and outputs. ("coordconf" is the original's spelling, kept as a public name.)
    """

    def __init__(
        self,
        use_coordconf_localisation=False,
        use_coordconf_classifier=False,
        bypass_localisation=False,
        padding="zeros",
        passes=1,
        canvas=1,
    ):
        super().__init__(
            localisation_conv=CoordConv2d if use_coordconf_localisation else nn.Conv2d,
            classifier_conv=CoordConv2d if use_coordconf_classifier else nn.Conv2d,
            bypass_localisation=bypass_localisation,
            padding=padding,
            passes=passes,
            canvas=canvas,
        )


class Net_CoordConv_Homography(Net_CoordConv):
    """`Net_CoordConv` whose transformer is a homography with eight free numbers (see stn/warps.py)."""

    transform_identity = warps.HOMOGRAPHY_IDENTITY


class Net_Card(Net_CoordConv):
    """Finds a card in a scene (see stn/cards.py) and reads its number: (B, 1, 128, 128) bytes -> (B, 10, 6).

    The transform, affine here, maps points of the straightened scene, where the card lies in the middle, to the scene.
    The localisation network looks at the scene at a quarter of its size, then, with more passes, from nearer at what is
    straightened so far. The classifier of the study reads each of the six cells of a strip of the straightened scene.
    Strips that are straight already, (B, 1, 28, 133), are only read.

    taught_corners: the weight of a second loss, on where the corners of the card are found, after every pass.
    """

    localisation = ((16, 5), (32, 5), 800, 64)

    def __init__(self, use_coordconf_localisation=False, bypass_localisation=False, passes=1, taught_corners=0.0):
        super().__init__(use_coordconf_localisation, False, bypass_localisation, passes=passes)
        self.taught_corners = taught_corners

    def homographies(self, x):
        return super().homographies(F.avg_pool2d(as_floats(x), 2))  # half as large is large enough to look at

    def look(self, x):
        """Shrink scenes of half their size to what the localisation network sees, (B, 1, 32, 32)."""
        return standardised(F.avg_pool2d(x, 2))

    def refine(self, x, homographies):
        """Look from nearer at scenes of half their size, as they are straightened so far, at (B, 1, 32, 32)."""
        near, far = cards.constants(cards.closer, x)
        seen = standardised(warps.homography_warp(x, homographies @ near, size=(32, 32)))
        return homographies @ near @ warps.matrix(self.localise(seen)) @ far

    def transform(self, x):
        """Cut the straightened number out of scenes: bytes (B, 1, 128, 128) -> (B, 1, 28, 133)."""
        return x if x.shape[2:] == cards.STRIP else cards.strips(as_floats(x), self.homography(x))

    def classify(self, x):
        """Read strips: (B, 1, 28, 133) -> log-probabilities (B, 10, 6)."""
        cells = -standardised(as_floats(x)).unfold(3, 28, cards.STRIDE).permute(0, 3, 1, 2, 4)  # (B, 6, 1, 28, 28)
        return super().classify(cells.flatten(0, 1)).unflatten(0, (x.shape[0], cards.N_DIGITS)).transpose(1, 2)

    def loss(self, images, labels, homographies):
        """Return the mean loss of scenes; homographies (B, 3, 3) are the true ones."""
        if not self.taught_corners:
            return F.nll_loss(self(images), labels)
        scenes, corners = as_floats(images), cards.card_corners(homographies)
        found = self.homographies(scenes)
        read = F.nll_loss(self.classify(cards.strips(scenes, found[-1])), labels)
        misses = [F.smooth_l1_loss(cards.card_corners(after), corners, beta=0.1) for after in found]
        return read + self.taught_corners * sum(misses)


class Net_Card_Homography(Net_Card):
    """`Net_Card` whose transform is a homography."""

    transform_identity = warps.HOMOGRAPHY_IDENTITY


def as_floats(x):
    """Return bytes as numbers from 0 to 1, and those as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def standardised(x):
    """Give each image (B, 1, H, W) the mean 0 and, unless it is nearly even, the standard deviation 1."""
    return F.layer_norm(x, x.shape[1:], eps=1e-4)
