"""Convolutions that see their own coordinates (CoordConv, arXiv 1807.03247), for 1, 2 and 3 dimensions.

The classes and their arguments follow github.com/walsvid/CoordConv (MIT licence); the code is new, and three bugs of
the original are fixed: the layer owns one convolution instead of two, coordinates are made once per size instead of at
every call, and the radius is measured from the centre, where the coordinates are 0.

This file needs nothing but PyTorch, 2.10 or newer: copy it into your own project unchanged.
"""

import math

import torch
from torch import nn

CACHED_SIZE, CACHE_LENGTH = 64 * 64, 32  # positions of the largest size that is cached, and the number of cached ones
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # attributes of a module
_cache = {}


def coordinates(size, with_r=False, dtype=torch.float32, device=None):
    """Return coordinate channels (1, C, *size): one per axis, in the order of the axes, from -1 to 1.

    For an image of `size` (H, W) the first channel is the row and the second the column. An axis of length 1 has
    the coordinate 0. `with_r` adds the Euclidean distance from the centre as a last channel. Raise TypeError for a
    dtype of whole numbers.
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"coordinates are fractions, so the input must be floating-point, not {dtype}")
    axes = [_axis(n, dtype, device) for n in size]
    channels = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if with_r:
        channels = torch.cat([channels, channels.norm(dim=0, keepdim=True)])
    return channels.unsqueeze(0)


def _axis(n, dtype, device):
    if type(n) is int:
        return (
            torch.linspace(-1, 1, n, dtype=dtype, device=device)
            if n > 1
            else torch.zeros(n, dtype=dtype, device=device)
        )
    indices = torch.arange(n, device=device)  # the size is not known yet, while a network is exported or traced
    last = indices[-1:]
    return ((2 * indices - last).to(torch.promote_types(dtype, torch.float32)) / last.clamp(min=1)).to(dtype)


def cached(make, size, *rest, like):
    """Call `make` with the size, the rest, `like`'s dtype and device, and cache the result for a few small sizes.

    Nothing is cached while compiling, tracing or exporting, where sizes are not known yet, nor under a dispatch mode or
    torch.func, nor in the memory of a CUDA graph. The cache is never emptied, because a CUDA graph may have recorded
    the address of a tensor in it.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(like) not in (torch.Tensor, nn.Parameter):
        return make(size, *rest, like.dtype, like.device)
    key = make, tuple(size), *rest, like.dtype, like.device
    if key not in _cache:
        watched = torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None
        watched = watched or (like.is_cuda and torch.cuda.is_current_stream_capturing())
        if math.prod(size) > CACHED_SIZE or len(_cache) >= CACHE_LENGTH or watched:
            return make(*key[1:])
        with torch.inference_mode(False):  # a tensor made in that mode could not be used in training later
            _cache[key] = make(*key[1:])
    return _cache[key]


def is_unchanged(layer, kind):
    """Return whether a layer is exactly a `kind`, with ordinary parameters and nothing that observes or replaces it.

    Only then may its result be computed from its parameters instead of by calling it. Hooks, parametrizations, pruning,
    weight_norm, spectral_norm, a compiled form, another `forward` and parameters of another class all make it False.
    Methods that were replaced in PyTorch's own classes are not noticed.
    """
    return (
        type(layer) is kind
        and not any(getattr(layer, kind_of_hooks) for kind_of_hooks in HOOKS)
        and not nn.modules.module._has_any_global_hook()
        and layer._compiled_call_impl is None
        and not {"forward", "_conv_forward", "weight", "bias"} & vars(layer).keys()
        and all(p is None or type(p) is nn.Parameter for p in layer._parameters.values())
    )


class AddCoords(nn.Module):
    """Appends coordinate channels: (B, C, *size) -> (B, C + rank [+ 1 with `with_r`], *size).

    `rank` is the number of spatial dimensions, 1 to 3; see `coordinates` for the channels. A single image without a
    batch, (C, *size), gets them in the same way. Raise ValueError for any other number of dimensions. `use_cuda` has no
    effect and is there because walsvid's layer has it: the coordinates are made on the device of the input.
    """

    def __init__(self, rank, with_r=False, use_cuda=None):
        super().__init__()
        if rank not in (1, 2, 3):
            raise ValueError(f"rank must be 1, 2 or 3, not {rank!r}")
        self.rank = rank
        self.with_r = with_r
        self.extra_channels = rank + int(with_r)

    def channels(self, x):
        """Return the channels for x, (1, rank [+ 1], *size). They may be shared: do not write into them."""
        if x.dim() not in (self.rank + 1, self.rank + 2):
            raise ValueError(f"expected {self.rank} spatial dimensions, with or without a batch, not {tuple(x.shape)}")
        return cached(coordinates, x.shape[-self.rank :], self.with_r, like=x)

    def forward(self, x):
        channels = self.channels(x)
        if x.dim() == self.rank + 1:
            return torch.cat([x, channels[0]])
        return torch.cat([x, channels.expand(x.shape[0], *channels.shape[1:])], dim=1)

    def extra_repr(self):
        return f"rank={self.rank}, with_r={self.with_r}"


class _CoordConv(nn.Module):
    """A convolution over the input and its coordinates; subclasses define the number of dimensions.

    `use_cuda` has no effect; see `AddCoords`.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
        with_r=False, use_cuda=None, *, padding_mode="zeros", device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.addcoords = AddCoords(self.rank, with_r)
        sizes = in_channels + self.addcoords.extra_channels, out_channels, kernel_size, stride, padding, dilation
        self.conv = self.convolution(*sizes, groups, bias, padding_mode, device, dtype)

    def forward(self, x):
        """Return `conv(addcoords(x))`; where both are unchanged, the coordinates' part is computed once per batch."""
        if not self._can_share(x):
            return self.conv(self.addcoords(x))
        conv, channels = self.conv, self.addcoords.channels(x)
        on_x, on_coordinates = conv.weight.split([x.shape[1], channels.shape[1]], dim=1)
        return conv._conv_forward(x, on_x, None) + conv._conv_forward(channels, on_coordinates, conv.bias)

    def _can_share(self, x):
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        conv, addcoords = self.conv, self.addcoords
        return (
            is_unchanged(conv, self.convolution)
            and is_unchanged(addcoords, AddCoords)
            and conv.groups == 1
            and x.dim() == self.rank + 2
            and x.dtype == conv.weight.dtype
            and 0 < x.shape[1] == conv.weight.shape[1] - addcoords.extra_channels
        )


class CoordConv1d(_CoordConv):
    """`nn.Conv1d` over (B, in_channels, L) and its coordinate; same arguments, and `with_r` for the radius."""

    rank, convolution = 1, nn.Conv1d


class CoordConv2d(_CoordConv):
    """`nn.Conv2d` over (B, in_channels, H, W) and its coordinates; same arguments, and `with_r` for the radius."""

    rank, convolution = 2, nn.Conv2d


class CoordConv3d(_CoordConv):
    """`nn.Conv3d` over (B, in_channels, D, H, W) and its coordinates; same arguments, and `with_r` for the radius."""

    rank, convolution = 3, nn.Conv3d
