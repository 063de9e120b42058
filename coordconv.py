"""Convolutions that see their own coordinates (CoordConv, arXiv 1807.03247), for 1, 2 and 3 dimensions.

The classes and their arguments follow github.com/walsvid/CoordConv (MIT licence); the code is new, and three
faults of the original are mended: the layer owns one convolution instead of two, coordinates are made once per
size instead of at every call, and the radius is measured from the centre, where the coordinates are 0.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import nn


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def coordinates(size, with_r=False, dtype=torch.float32, device=None):
    """Coordinate channels (1, C, *size): one per axis, in the order of the axes, from -1 to 1.

    For an image of `size` (H, W) the first channel is the row and the second the column. An axis of length 1 has
    the coordinate 0. `with_r` adds the Euclidean distance from the centre as a last channel. The tensor is shared
    between calls: do not write into it. (Made outside inference mode, whose tensors could not be trained with later.)
    """
    axes = [
        torch.linspace(-1, 1, n, dtype=dtype, device=device) if n > 1 else torch.zeros(n, dtype=dtype, device=device)
        for n in size
    ]
    channels = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if with_r:
        channels = torch.cat([channels, channels.norm(dim=0, keepdim=True)])
    return channels.unsqueeze(0)


class AddCoords(nn.Module):
    """Appends coordinate channels: (B, C, *size) -> (B, C + rank [+ 1 with `with_r`], *size).

    `rank` is the number of spatial dimensions, 1 to 3; see `coordinates` for the channels.
    """

    def __init__(self, rank, with_r=False):
        super().__init__()
        if rank not in (1, 2, 3):
            raise ValueError(f"rank must be 1, 2 or 3, not {rank!r}")
        self.rank = rank
        self.with_r = with_r
        self.extra_channels = rank + int(with_r)

    def channels(self, x):
        """The channels that belong to x, (1, rank [+ 1], *size)."""
        if x.dim() != self.rank + 2:
            raise ValueError(f"expected a batch with {self.rank} spatial dimensions, got shape {tuple(x.shape)}")
        return coordinates(tuple(x.shape[2:]), self.with_r, x.dtype, x.device)

    def forward(self, x):
        channels = self.channels(x)
        return torch.cat([x, channels.expand(x.shape[0], *channels.shape[1:])], dim=1)

    def extra_repr(self):
        return f"rank={self.rank}, with_r={self.with_r}"


class _CoordConv(nn.Module):
    """A convolution over the input and its coordinates; the subclasses say in how many dimensions."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        with_r=False,
    ):
        super().__init__()
        self.addcoords = AddCoords(self.rank, with_r)
        self.conv = self.convolution(
            in_channels + self.addcoords.extra_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )

    def forward(self, x):
        """`conv(addcoords(x))`, with the coordinates' part computed once instead of for every image of the batch."""
        conv = self.conv
        if conv.groups > 1:
            return conv(self.addcoords(x))
        channels = self.addcoords.channels(x)
        on_x, on_coordinates = conv.weight.split([x.shape[1], channels.shape[1]], dim=1)
        convolve = partial(self.functional, stride=conv.stride, padding=conv.padding, dilation=conv.dilation)
        return convolve(x, on_x) + convolve(channels, on_coordinates, conv.bias)


class CoordConv1d(_CoordConv):
    """`nn.Conv1d` over (B, in_channels, L) and its coordinate; same arguments, and `with_r` for the radius."""

    rank, convolution, functional = 1, nn.Conv1d, staticmethod(F.conv1d)


class CoordConv2d(_CoordConv):
    """`nn.Conv2d` over (B, in_channels, H, W) and its coordinates; same arguments, and `with_r` for the radius."""

    rank, convolution, functional = 2, nn.Conv2d, staticmethod(F.conv2d)


class CoordConv3d(_CoordConv):
    """`nn.Conv3d` over (B, in_channels, D, H, W) and its coordinates; same arguments, and `with_r` for the radius."""

    rank, convolution, functional = 3, nn.Conv3d, staticmethod(F.conv3d)
