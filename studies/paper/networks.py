"""Other transforms at the extension point of models.py, and the networks of the papers.

A transform is a function from what a localisation network predicts to homographies, from the transformed image to the
image, beside the numbers of its identity.
"""

from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models import Net_CoordConv, convolve_and_pool
from stn import warps
from studies.paper import splines


def rotation(params):
    """Turn by an angle in radians: (B, 1) -> (B, 3, 3)."""
    cos, sin, zero = params.cos(), params.sin(), torch.zeros_like(params)
    return warps.to_homography(torch.cat([cos, -sin, zero, sin, cos, zero], 1))


def similarity(params):
    """Turn, scale and move: (B, 4), of (s·cos a, s·sin a, x, y) -> (B, 3, 3)."""
    cos, sin, x, y = params.split(1, 1)
    return warps.to_homography(torch.cat([cos, -sin, x, sin, cos, y], 1))


def attention(params):
    """Scale and move: (B, 3), of (s, x, y) -> (B, 3, 3)."""
    scale, x, y = params.split(1, 1)
    zero = torch.zeros_like(scale)
    return warps.to_homography(torch.cat([scale, zero, x, zero, scale, y], 1))


TRANSFORMS = {  # the numbers of the identity, and the function
    "rotation": ((0.0,), rotation),
    "similarity": ((1.0, 0.0, 0.0, 0.0), similarity),
    "attention": ((1.0, 0.0, 0.0), attention),
}


class Net_Restricted(Net_CoordConv):
    """`Net_CoordConv` whose transform is one of `TRANSFORMS`: less than an affine map."""

    def __init__(self, kind, padding="zeros", passes=1, image_size=(28, 28)):
        self.transform_identity, self.transform_function = TRANSFORMS[kind]
        super().__init__(padding=padding, passes=passes, image_size=image_size)

    def params_to_homography(self, params):
        return self.transform_function(params)


class Net_Spline(Net_CoordConv):
    """`Net_CoordConv` whose transform is a thin-plate spline, given by the sources of 16 control points: 32 numbers.

    `homography` is only the affine map that comes nearest to the spline. By the spline itself,
    `splines.map_points(model.sources(x), points)` maps points of the transformed image to the image; there is no way
    back.
    """

    transform_identity = tuple(value for point in splines.CONTROL_POINTS for value in point)

    def __init__(self, padding="zeros", image_size=(28, 28)):
        super().__init__(padding=padding, image_size=image_size)

    def params_to_homography(self, params):
        return splines.nearest_affine(self.params_to_sources(params))

    def sources(self, x):
        """Return where the control points are read from, normalised: (B, 1, H, W) -> (B, 16, 2)."""
        return self.params_to_sources(self.localise(x))

    @staticmethod
    def params_to_sources(params):
        return params.unflatten(1, (splines.N_POINTS, 2))

    def transform(self, x):
        return splines.warp(x, self.sources(x), self.padding)


class Net_Large_Kernels(nn.Module):
    """The networks of two papers for rotated digits: (B, 1, 28, 28) -> log-probabilities (B, 10).

    The classifier has a 9×9 and a 7×7 convolution, each with 2×2 max pooling and ReLU, and one linear layer. There is
    no dropout. The transformer, if there is one, is affine.

    channels: of the two convolutions.
    hidden: units of the hidden layers of the localisation network, None without a transformer.
    localiser: what comes before these layers. "linear": nothing, they see the image (STN-C0 of Finnveden et al.).
        "shared": the classifier's own first convolution (their STN-SL1). "convolutions": two 5×5 convolutions of 20
        channels, as in Spatial Transformer Networks.
    padding: what is read outside of the image, see stn/warps.py.
    """

    repeatable = True
    convolve_and_pool = staticmethod(convolve_and_pool)

    def __init__(self, channels=(32, 32), hidden=None, localiser="linear", padding="border"):
        super().__init__()
        warps.check_padding(padding)
        self.padding = padding
        self.conv1, self.conv2 = nn.Conv2d(1, channels[0], 9), nn.Conv2d(channels[0], channels[1], 7)
        self.fc = nn.Linear(channels[1] * 2 * 2, 10)
        self.bypass_localisation, self.localiser = hidden is None, localiser
        if hidden:
            if localiser == "convolutions":
                self.loc_conv1, self.loc_conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 20, 5)
            seen = {"linear": 28 * 28, "shared": channels[0] * 10 * 10, "convolutions": 20 * 4 * 4}[localiser]
            sizes = [seen, *hidden]
            layers = ((nn.Linear(*pair), nn.ReLU()) for pair in pairwise(sizes))
            self.loc_hidden = nn.Sequential(*chain.from_iterable(layers))
            self.loc_last = nn.Linear(sizes[-1], 6)
            with torch.no_grad():  # start from the identity transform
                self.loc_last.weight.zero_()
                self.loc_last.bias.copy_(torch.tensor(warps.AFFINE_IDENTITY))

    def localise(self, x):
        """Look at each image: (B, 1, 28, 28) -> affine maps (B, 6)."""
        if self.localiser == "convolutions":
            x = self.convolve_and_pool(self.loc_conv1, self.loc_conv2, x)
        elif self.localiser == "shared":
            x = F.relu(F.max_pool2d(self.conv1(x), 2))
        return self.loc_last(self.loc_hidden(x.flatten(1)))

    def homography(self, x):
        """Return the transform of each image, destination to source: (B, 1, 28, 28) -> (B, 3, 3)."""
        return warps.to_homography(self.localise(x))

    def transform(self, x):
        """Warp the images as the classifier sees them: (B, 1, 28, 28) -> (B, 1, 28, 28)."""
        return x if self.bypass_localisation else warps.affine_warp(x, self.localise(x), self.padding)

    def forward(self, x):
        x = self.convolve_and_pool(self.conv1, self.conv2, self.transform(x))
        return F.log_softmax(self.fc(x.flatten(1)), dim=1)


class Net_IC_STN_Classifier(nn.Sequential):
    """The classifier that the IC-STN paper sets beside its transformers: Table 2, "CNN (a)", 39,079 parameters."""

    repeatable = True

    def __init__(self):
        layers = []
        for inputs, outputs in ((1, 3), (3, 6), (6, 9), (9, 12)):
            layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU()]
            if outputs == 6:
                layers.append(nn.MaxPool2d(2))
        linear = nn.Flatten(), nn.Linear(12 * 8 * 8, 48), nn.ReLU(), nn.Linear(48, 10), nn.LogSoftmax(dim=1)
        super().__init__(*layers, *linear)
