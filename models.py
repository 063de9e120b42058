"""The networks of the study: a spatial transformer before a small classifier of 28×28 digits.

`Net` is the network of the PyTorch tutorial (pytorch.org/tutorials/intermediate/spatial_transformer_tutorial.html),
`Net_CoordConv` the same with CoordConv layers where the flags ask for them, and `Net_CoordConv_Homography` the same
with a homography in place of the affine transform. All map (B, 1, 28, 28) to log-probabilities (B, 10), or images of
another size, (B, 1, *image_size).
"""

import torch
import torch.nn.functional as F
from torch import nn

from coordconv import CoordConv2d
from stn import warps


def convolve_and_pool(conv1, conv2, x):
    """Compute two convolutions, each with 2×2 max pooling and ReLU: (B, C, H, W) -> (B, O, h, w)."""
    x = F.relu(F.max_pool2d(conv1(x), 2))
    return F.relu(F.max_pool2d(conv2(x), 2))


def n_pixels(size, kernels):
    """Return height × width of a map of `size` (height, width) after convolutions, each with 2×2 max pooling.

    kernels: their sides. The convolutions have no padding and stride 1. Raise ValueError if nothing is left.
    """
    height, width = size
    smallest = 1
    for kernel in reversed(kernels):
        smallest = 2 * smallest + kernel - 1
    if min(size) < smallest:
        raise ValueError(f"images must be at least {smallest}×{smallest} pixels for this network, not {height}×{width}")
    for kernel in kernels:
        height, width = (height - kernel + 1) // 2, (width - kernel + 1) // 2
    return height * width


def dropout_mask(x):
    """Draw 0 or 2 with equal probability in the shape of x: dropout of one half (F.dropout costs 1 % of a step)."""
    return torch.randint(0, 2, x.shape, dtype=x.dtype, device=x.device).mul_(2)


class Net(nn.Module):
    """Spatial transformer and classifier with ordinary convolutions.

    The keyword arguments are what the experiments vary: the kind of convolution in each part; whether there is a
    transformer at all (without one there is no localisation network either, so no parameter is ever dead); what it
    reads outside of the image (`padding`, see stn/warps.py); and the number of `passes`, in each of which the same
    localisation network looks at the image as warped so far. Each pass adds a transform to the earlier ones, and the
    original image is warped again by the product (inverse compositional STN, arXiv 1612.03897). With `canvas=2` the
    input is (B, 1, 56, 56) with the digit in the middle: the first look sees only the middle, but warps read from all
    of it. `image_size` is that of the image, (height, width) or one number for both; the linear layers are made for it.

    For another transform, override `transform_identity` (the numbers that the localisation network predicts for an
    identity) and `params_to_homography` (which transform that is).
    """

    repeatable = True  # the same operations whatever the values: fast/step.py records a step once and repeats it
    convolve_and_pool = staticmethod(convolve_and_pool)  # in training on a CPU, fast/ substitutes a compiled version
    transform_identity = warps.AFFINE_IDENTITY
    localisation = ((8, 7), (10, 5), 32)  # channels and kernels of its convolutions, then hidden units
    localisation_size = None  # (height, width) of what the localisation network sees, where it is not `image_size`

    def __init__(
        self,
        *,
        localisation_conv=nn.Conv2d,
        classifier_conv=nn.Conv2d,
        bypass_localisation=False,
        padding="zeros",
        passes=1,
        canvas=1,
        image_size=(28, 28),
    ):
        super().__init__()
        warps.check_padding(padding)
        if not isinstance(passes, int) or passes < 1:
            raise ValueError(f"passes must be a whole number, at least 1, not {passes!r}")
        if not isinstance(canvas, int) or canvas < 1:
            raise ValueError(f"canvas must be a whole number, at least 1, not {canvas!r}")
        self.padding = padding
        self.passes = passes
        self.canvas = canvas
        self.image_size = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
        if not bypass_localisation:
            (first, kernel1), (second, kernel2), hidden = self.localisation
            features = second * n_pixels(self.localisation_size or self.image_size, (kernel1, kernel2))
        # The classifier comes first: with the same seed it starts with the same weights with and without a transformer.
        self.conv1 = classifier_conv(1, 10, kernel_size=5)
        self.conv2 = classifier_conv(10, 20, kernel_size=5)
        self.fc1 = nn.Linear(20 * n_pixels(self.image_size, (5, 5)), 50)
        self.fc2 = nn.Linear(50, 10)
        self.bypass_localisation = bypass_localisation
        if not bypass_localisation:
            self.loc_conv1 = localisation_conv(1, first, kernel_size=kernel1)
            self.loc_conv2 = localisation_conv(first, second, kernel_size=kernel2)
            self.loc_fc1 = nn.Linear(features, hidden)
            self.loc_fc2 = nn.Linear(hidden, len(self.transform_identity))
            with torch.no_grad():  # start from the identity transform
                self.loc_fc2.weight.zero_()
                self.loc_fc2.bias.copy_(torch.tensor(self.transform_identity))

    def localise(self, x):
        """Look once at each image: (B, 1, 28, 28) -> (B, P), the numbers that `params_to_homography` takes."""
        x = self.convolve_and_pool(self.loc_conv1, self.loc_conv2, x)  # (B, 10, 3, 3)
        x = F.relu(self.loc_fc1(x.flatten(1)))  # (B, 32)
        return self.loc_fc2(x)

    def params_to_homography(self, params):
        """Make transforms of what the localisation network predicts: (B, P) -> (B, 3, 3), destination to source.

        Here P is 6, of an affine map, or 8. Raise ValueError if there are not as many as in `transform_identity`.
        """
        if not torch.jit.is_tracing() and params.shape[1:] != (len(self.transform_identity),):
            raise ValueError(f"parameters must be (B, {len(self.transform_identity)}), not {tuple(params.shape)}")
        return warps.to_homography(params)

    def homography(self, x):
        """Return the transform of each image, (B, 1, 28, 28) -> (B, 3, 3), destination to source (see stn/warps.py).

        It maps points of the transformed image to the image, `warps.map_points(model.homography(x), points)`, and its
        inverse the other way. An affine one has (0, 0, 1) as its last row; without a transformer it is the identity.
        """
        if self.bypass_localisation:
            dtype = x.dtype if x.is_floating_point() else None
            return torch.eye(3, dtype=dtype, device=x.device).expand(x.shape[0], 3, 3)
        return self.homographies(x)[-1]

    def homographies(self, x):
        """List the transforms after each pass, [(B, 3, 3), ...]; see `homography`."""
        homographies = [self.params_to_homography(self.localise(self.localisation_input(x)))]
        for _ in range(self.passes - 1):
            homographies.append(self.refine(x, homographies[-1]))
        return homographies

    def refine(self, x, homographies):
        """Look at the images as they are warped so far, and return the transforms composed with the answer."""
        step = self.params_to_homography(self.localise(self.warp(x, homographies)))
        return warps.compose(homographies, step)

    def localisation_input(self, x):
        """Return what the localisation network sees before any warp: the middle of a canvas."""
        return warps.crop_centre(x, self.canvas)

    def warp(self, x, homographies):
        """Return the images, warped by homographies (B, 3, 3), as the next pass or the classifier sees them."""
        size = tuple(side // self.canvas for side in x.shape[2:])
        return warps.homography_warp(x, warps.from_canvas(homographies, self.canvas), self.padding, size)

    def transform(self, x):
        """Warp the images as the classifier sees them: (B, 1, 28, 28) -> (B, 1, 28, 28)."""
        if self.bypass_localisation:
            return self.localisation_input(x)
        plain = getattr(self.params_to_homography, "__func__", None) is Net.params_to_homography
        if plain and self.passes == self.canvas == 1 and self.transform_identity == warps.AFFINE_IDENTITY:
            return warps.affine_warp(x, self.localise(x), self.padding)  # the same, in fewer operations
        return self.warp(x, self.homography(x))

    def classify(self, x):
        """Read the images: (B, 1, 28, 28) -> log-probabilities (B, 10)."""
        x = self.convolve_and_pool(self.conv1, self.conv2, x)  # (B, 20, 4, 4)
        if self.training:  # Dropout2d; before the pooling, as in the tutorial, it would give the same numbers
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
        image_size=(28, 28),
    ):
        super().__init__(
            localisation_conv=CoordConv2d if use_coordconf_localisation else nn.Conv2d,
            classifier_conv=CoordConv2d if use_coordconf_classifier else nn.Conv2d,
            bypass_localisation=bypass_localisation,
            padding=padding,
            passes=passes,
            canvas=canvas,
            image_size=image_size,
        )


class Net_CoordConv_Homography(Net_CoordConv):
    """`Net_CoordConv` whose transformer is a homography with eight free numbers (see stn/warps.py)."""

    transform_identity = warps.HOMOGRAPHY_IDENTITY
