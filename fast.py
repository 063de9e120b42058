"""`models.convolve_and_pool` in a form in which a training step takes about half the time on a CPU core.

A convolution with 1 to 20 channels fills a vector unit badly, and so does pooling its output. Here a map is kept in
*blocks*: each rectangle of a × b pixels becomes one pixel with a·b·C channels, (B, a·b·C, H/a, W/b) in channels_last
memory. On blocks a convolution is again a convolution (dense, stride 1), whose weight is the ordinary weight copied
to the a·b shifted places, and a 2×2 pooling window is four neighbours in memory. Parameters keep their ordinary
shapes: the larger weight is gathered from them in each step.

Images come in blocks of 4 × 2, the map pooled after the first convolution has blocks of 2 × 1, and the one after the
second is an ordinary map; these sizes were the fastest of those tried. A step of `Net` takes 5.1 ms instead
of 10.0, with CoordConv in both parts 5.4 instead of 10.6, without a transformer 2.7 instead of 4.6 (one thread of an
AMD EPYC with AVX-512, torch 2.14.1, both forms in turn in one process, medians of 96 steps).
"""

import itertools
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from coordconv import CoordConv2d, coordinates

TO_NCHW = (0, 3, 1, 2)  # (B, H, W, C) in memory, seen as (B, C, H, W)
TO_NHWC = (0, 2, 3, 1)
aten = torch.ops.aten


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
    )


def convolve_and_pool(conv1, conv2, x):
    """The same function as `models.convolve_and_pool`, up to rounding: (B, 1, 28, 28) -> (B, C, h, h).

    Where values in a pooling window are exactly equal, its gradient goes to the first one column by column instead
    of row by row.
    """
    conv1, conv2 = (conv.conv if isinstance(conv, CoordConv2d) else conv for conv in (conv1, conv2))
    size = x.shape[2]
    k1, k2 = conv1.kernel_size[0], conv2.kernel_size[0]
    pooled = (size - k1 + 1) // 2
    result = (pooled - k2 + 1) // 2
    x = x[..., : 4 * result + 2 * (k2 - 1) + k1 - 1]  # the columns that reach the result
    x = ConvPool.apply(to_blocks(x, 4, 2), conv1.weight, conv1.bias, 4, 2, size)
    return ConvPool.apply(x, conv2.weight, conv2.bias, 2, 1, pooled)


class ConvPool(torch.autograd.Function):
    """relu(max_pool2d(conv(map), 2)) for x, a map of `size` × `size` in blocks of a × b, or as much of it as counts.

    x (B, a·b·C, H/a, W/b), weight (O, C, k, k), bias (O,) -> (B, a/2·O, H', W'), the result in blocks of a/2 × 1.
    A weight for C + 2 channels is a CoordConv layer's. The coordinates do not depend on the image: their part of the
    convolution is computed once per batch and added as a map.

    The gradient is written by hand because that keeps every step in channels_last (autograd hands the last pooling
    its gradient in NCHW, on which the kernel is slow), and takes the bias gradient from the pooled map, a quarter
    of the size, instead of from the convolution's output.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, size):
        n_out, _, k, _ = weight.shape
        channels = x.shape[1] // (a * b)
        block_w = block_weight(weight[:, :channels], a, b)
        y = F.conv2d(x, block_w, bias.repeat(a * b)).permute(TO_NHWC).contiguous()
        batch, height, width, _ = y.shape
        ctx.patches = None
        if weight.shape[1] > channels:
            ctx.patches = coord_patches(size, k, a, b, height * a, width * b, weight.dtype, weight.device)
            y += (ctx.patches @ weight[:, channels:].flatten(1).t()).view(height, width, -1)
        windows = y.view(batch, height * width * b // 2, 4, a // 2 * n_out).permute(TO_NCHW)
        pooled, places = aten.max_pool2d_with_indices(windows, (1, 4))
        pooled.relu_()
        ctx.save_for_backward(x, block_w, windows, places, pooled)
        ctx.output_shape, ctx.weight_shape, ctx.blocks = y.shape, weight.shape, (a, b)
        return pooled.permute(TO_NHWC).view(batch, height, width * b // 2, -1).permute(TO_NCHW)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, block_w, windows, places, pooled = ctx.saved_tensors
        n_out, _, k, _ = ctx.weight_shape
        grad = grad.permute(TO_NHWC).reshape(pooled.permute(TO_NHWC).shape).contiguous().permute(TO_NCHW)
        grad = aten.threshold_backward(grad, pooled, 0)  # of the ReLU
        grad_bias = grad.sum((0, 2, 3)).view(-1, n_out).sum(0)
        grad = aten.max_pool2d_with_indices_backward(grad, windows, (1, 4), (), (0, 0), (1, 1), False, places)
        grad = grad.permute(TO_NHWC).reshape(ctx.output_shape)
        grad_block_w = convolution_grad(grad.permute(TO_NCHW), x, block_w, 1)
        grad_x = grad_of_blocks(grad.permute(TO_NCHW), x, block_w) if ctx.needs_input_grad[0] else None
        grad_weight = grad_of_block_weight(grad_block_w, n_out, k, *ctx.blocks)
        if ctx.patches is not None:
            grad_coords = grad.sum(0).view(-1, n_out).t() @ ctx.patches
            grad_weight = torch.cat([grad_weight, grad_coords.view(n_out, 2, k, k)], dim=1)
        return grad_x, grad_weight, grad_bias, None, None, None


def convolution_grad(grad, x, weight, argument):
    """The gradient of F.conv2d(x, weight) to x (argument 0) or to weight (1), from that to its result."""
    mask = (argument == 0, argument == 1, False)
    grads = aten.convolution_backward(grad, x, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, mask)
    return grads[argument]


def grad_of_blocks(grad, x, weight):
    """convolution_grad(grad, x, weight, 0), row by row of the kernel: then all Ky · C channels fill the vectors."""
    batch, channels, height, width = x.shape
    n_out, _, ky, kx = weight.shape
    if channels % 16 == 0:
        return convolution_grad(grad, x, weight, 0)
    n = height - ky + 1
    parts = x.new_empty(batch, n, width, ky * channels).permute(TO_NCHW)  # only its shape is used
    parts = convolution_grad(grad, parts, weight.transpose(1, 2).reshape(n_out, ky * channels, 1, kx), 0)
    parts = parts.permute(TO_NHWC).reshape(batch, n, width, ky, channels)
    result = x.new_zeros(batch, height, width, channels)
    for row in range(ky):
        result[:, row : row + n] += parts[:, :, :, row]
    return result.permute(TO_NCHW)


def to_blocks(x, a, b):
    """Images (B, 1, H, W) -> (B, a·b, H/a, W/b), channels in the order [row][column] of the block."""
    batch, _, height, width = x.shape
    x = x.reshape(batch, height * width).index_select(1, block_order(height, width, a, b, x.device))
    return x.view(batch, height // a, width // b, a * b).permute(TO_NCHW)


@lru_cache
@torch.inference_mode(False)
def block_order(height, width, a, b, device):
    pixels = torch.arange(height * width, device=device).view(height // a, a, width // b, b)
    return pixels.transpose(1, 2).flatten()


def block_weight(weight, a, b):
    """(O, C, k, k) -> (a·b·O, a·b·C, Ky, Kx), the same convolution on blocks."""
    numbers, _ = weight_places(*weight.shape[:3], a, b, weight.device)
    return F.pad(weight.flatten(), (0, 1)).index_select(0, numbers.flatten()).view(numbers.shape).permute(TO_NCHW)


def grad_of_block_weight(grad, n_out, k, a, b):
    """The gradient to `block_weight`'s argument from that to its result: the sum over the a·b copies."""
    n_in = grad.shape[1] // (a * b)
    _, copies = weight_places(n_out, n_in, k, a, b, grad.device)
    copies = grad.permute(TO_NHWC).flatten().index_select(0, copies.flatten()).view(copies.shape)
    return copies.sum(0).view(n_out, n_in, k, k)


@lru_cache
@torch.inference_mode(False)
def weight_places(n_out, n_in, k, a, b, device):
    """Which element of an ordinary weight stands where in the block weight, both flattened in memory order.

    Returns for each place of a block weight, (a·b·O, Ky, Kx, a·b·C), the number of its element, O·C·k·k where there
    is a 0; and for each element its places, (a·b, O·C·k·k).
    """
    ky, kx = -(-(a + k - 1) // a), -(-(b + k - 1) // b)  # how many blocks the kernels of a block's pixels cover
    n = n_out * n_in * k * k
    numbers = torch.full((a, b, n_out, n_in, ky * a, kx * b), n)
    for y, x in itertools.product(range(a), range(b)):
        numbers[y, x, :, :, y : y + k, x : x + k] = torch.arange(n).view(n_out, n_in, k, k)
    numbers = output_order(numbers, a, b).view(a * b, n_out, n_in, ky, a, kx, b).permute(0, 1, 3, 5, 4, 6, 2)
    numbers = numbers.reshape(a * b * n_out, ky, kx, a * b * n_in)
    copies = numbers.flatten().argsort(stable=True)[: a * b * n].view(n, a * b).t().contiguous()
    return numbers.to(device), copies.to(device)


@lru_cache
@torch.inference_mode(False)
def coord_patches(size, k, a, b, height, width, dtype, device):
    """The k × k patches of the coordinates under the first height × width outputs, (height·width, 2·k·k), in the
    order of the convolution's output in `ConvPool`."""
    patches = F.unfold(coordinates((size, size), dtype=dtype, device=device), k)[0].t()
    patches = patches.reshape(size - k + 1, size - k + 1, -1)[:height, :width]
    patches = patches.reshape(height // a, a, width // b, b, -1).movedim((1, 3), (0, 1))
    return output_order(patches, a, b).movedim(0, 2).reshape(height * width, -1)


def output_order(t, a, b):
    """Merge dims 0 and 1 of t, row and column in a block: the pixels of one pooling window are a/2 · O apart."""
    return t.unflatten(0, (a // 2, 2)).movedim((2, 1, 0), (0, 1, 2)).flatten(0, 2)
