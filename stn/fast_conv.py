"""`models.convolve_and_pool` near the peak of any CPU core, by loops that Numba compiles (fast_conv_kernels.py).

A convolution of 1 to 20 channels fills a vector unit badly, images side by side fill it well: with V images to a group,
V being the numbers in a vector register, a pixel of all of them is loaded at once, and multiplied by one weight.

    batch  (B, C, H, W)               groups  (G, C, H, W, V), here with V = 4; a letter is an image, a digit a pixel

    image a    a0 a1 a2 a3 ...                   pixel 0        pixel 1        pixel 2
    image b    b0 b1 b2 b3 ...        group 0    a0 b0 c0 d0    a1 b1 c1 d1    a2 b2 c2 d2    ...
    image c    c0 c1 c2 c3 ...        group 1    e0 f0 g0 h0    e1 f1 g1 h1    e2 f2 g2 h2    ...
    ...                                          one register

Both layers compute in groups, and only images, their gradient and the small result are rearranged; zeros fill up the
last group. A layer is one operation of torch, `stn::conv_pool`, and its gradient another: a recorded step (stn/step.py)
has them. A group passes through a layer alone, so its maps stay in the caches. The sums of 2 × 2 pixels are pooled
while they are in the first cache, and only maxima and their places are kept; the gradient is spread to these again.

How fast that is, beside the ordinary layers and the peak of a core: docs/results.md, "On one core".
"""

import sys
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from coordconv import CoordConv2d, coordinates

TO_GROUPS = (0, 2, 3, 4, 1)  # (G, V, C, H, W) -> (G, C, H, W, V)
TO_BATCH = (0, 4, 1, 2, 3)  # and back


@lru_cache
def kernels():
    """The module with the compiled functions, or None, which is said once. (Late, since importing Numba takes time.)"""
    try:
        from stn import fast_conv_kernels
    except ImportError as error:
        print(f"Numba cannot be imported, so the convolutions are slower ({error})", file=sys.stderr)
        return None
    return fast_conv_kernels


def can_compute(conv):
    """Whether `conv` is a layer that `convolve_and_pool` knows: with a bias, and nothing else but a square kernel."""
    if type(conv) is CoordConv2d and not conv.addcoords.with_r:
        conv = conv.conv
    return (
        type(conv) is nn.Conv2d
        and (conv.stride, conv.padding, conv.dilation) == ((1, 1), (0, 0), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and conv.bias is not None
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.weight.dtype in (torch.float32, torch.float64)
        and kernels() is not None
    )


def convolve_and_pool(conv1, conv2, x):
    """The same function as `models.convolve_and_pool`, up to rounding: (B, C, H, W) -> (B, O, h, w).

    Where values in a pooling window are equal its gradient goes to the first one, as in the plain form.
    """
    groups = layer(conv2, layer(conv1, in_groups(x)))
    result = groups.permute(TO_BATCH).flatten(0, 1)
    return result[: len(x)] if len(x) < len(result) else result


def in_groups(x):
    """(B, C, H, W) -> (G, C, H, W, V), filled up with zeros."""
    v = kernels().V
    missing = -len(x) % v
    groups = F.pad(x, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else x
    return groups.unflatten(0, (-1, v)).permute(TO_GROUPS).contiguous()


def layer(conv, x):
    """relu(max_pool2d(conv(x), 2)) in groups: (G, C, H, W, V) -> (G, O, h, w, V).

    The coordinates of a CoordConv layer are the same for every image and grow evenly: their part is a bias that is a
    plane, three numbers for each output channel, once for the batch. For an ordinary layer the last two are 0.
    """
    channels, height, width = x.shape[1:4]
    if isinstance(conv, CoordConv2d):
        conv = conv.conv
    weight, bias = conv.weight, conv.bias
    k = weight.shape[2]
    if min(height, width) <= k:
        raise ValueError(f"images of {height} × {width} pixels are too small for a kernel of {k} × {k} and pooling")
    plane = F.pad(bias[:, None], (0, 2))
    if weight.shape[1] > channels:
        weight, on_coordinates = weight.split([channels, 2], dim=1)
        plane = torch.addmm(plane, on_coordinates.flatten(1), coordinate_planes(height, width, k, x.dtype))
    if torch.is_grad_enabled():
        return ConvPool.apply(x, weight, plane)
    return torch.ops.stn.conv_pool(x, weight, plane)[0]


@lru_cache
@torch.inference_mode(False)
def coordinate_planes(height, width, k, dtype):
    """The coordinates under the kernel at the first place, and how they grow to the next row and column, (2·K·K, 3)."""
    seen = F.unfold(coordinates((height, width), dtype=torch.float64), k)[0]
    first, right, below = seen[:, 0], seen[:, 1], seen[:, width - k + 1]
    return torch.stack([first, below - first, right - first], dim=1).to(dtype)


class ConvPool(torch.autograd.Function):
    """The operations below as one with a gradient; nothing else is kept for it than x, the weight and the places."""

    @staticmethod
    def forward(ctx, x, weight, plane):
        z, places = torch.ops.stn.conv_pool(x, weight, plane)
        ctx.save_for_backward(x, weight, places)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return torch.ops.stn.conv_pool_grad(grad, *ctx.saved_tensors, ctx.needs_input_grad[0])


def arrays(*tensors):
    """The same memory for Numba."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def conv_pool(x, weight, plane):
    """x (G, C, H, W, V), weight (O, C, K, K), plane (O, 3) -> the pooled map and the places of its maxima.

    All memory comes from torch, which aligns it to the caches' lines (as Numba does not).
    """
    code = kernels()
    groups, _, height, width, v = x.shape
    n_out, _, k, _ = weight.shape
    h, w = (height - k + 1) // 2, (width - k + 1) // 2
    n = code.tile(n_out, code.MOST_CHANNELS)
    z, places = x.new_empty(groups, n_out, h, w, v), x.new_empty(groups, n_out, h, w, v, dtype=torch.int8)
    bias, y = x.new_empty(n_out, 2 * h, 2 * w), x.new_empty(n, 2, 2, w, v)
    code.forward(x.dtype, n)(*arrays(x, weight, plane, z, places, bias, y))
    return z, places


def conv_pool_grad(grad, x, weight, places, for_x):
    """The gradients to x (None if it is not asked for), weight and plane, from that to the pooled map."""
    code = kernels()
    _, n_out, h, w, v = grad.shape
    channels, k = weight.shape[1:3]
    n, n_x = code.tile(n_out, max(1, code.MOST_WEIGHTS // k)), code.tile(channels, code.MOST_CHANNELS)
    p = 4 if n_x == 1 and 2 * w + k > 4 else 2  # more sums at a time, where the image is wide enough for it
    grad_x, grad_weight = x.new_zeros(x.shape if for_x else (0,) * 5), x.new_zeros(weight.shape)
    grad_plane = x.new_zeros(n_out, 3)
    y, s = x.new_zeros(n_out, 2 * h + 2, 2 * w + 2 * p - 2, v), x.new_empty(k, n, v)
    t, position = x.new_empty(3, v), x.new_empty(3)
    given, made = arrays(grad, x, weight, places), arrays(grad_x, grad_weight, grad_plane, y, s, t, position)
    code.backward(x.dtype, k, n, n_x, p)(*given, for_x, *made)
    return grad_x if for_x else None, grad_weight, grad_plane


library = torch.library.Library("stn", "FRAGMENT")  # (a custom_op does the same, and takes longer to call)
library.define("conv_pool(Tensor x, Tensor weight, Tensor plane) -> (Tensor, Tensor)")
library.define(
    "conv_pool_grad(Tensor grad, Tensor x, Tensor weight, Tensor places, bool for_x) -> (Tensor?, Tensor, Tensor)"
)
library.impl("conv_pool", conv_pool, "CPU")
library.impl("conv_pool_grad", conv_pool_grad, "CPU")
