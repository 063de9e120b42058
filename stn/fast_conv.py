"""`models.convolve_and_pool` in a form in which a training step takes about half the time on a CPU core.

A convolution with 1 to 20 channels fills a vector unit badly, and so does pooling its output. Here a map is kept in
*blocks*: each rectangle of a × b pixels becomes one pixel with a·b·C channels, (B, a·b·C, H/a, W/b) in channels_last
memory. On blocks a convolution is again a convolution (dense, stride 1), whose weight is the ordinary weight copied
to the a·b shifted places, and a 2×2 pooling window is four neighbours in memory. Parameters keep their ordinary
shapes: the larger weight is gathered from them in each step.

Images come in blocks of 4 × 2 (4 × 1 where no gradient is needed), the map pooled after the first convolution has
blocks of 2 × 1, and the one after the second is an ordinary map; these sizes were the fastest of those tried. A step of
`Net` takes 6.4 ms instead of 12.0, with CoordConv in both parts 6.4 instead of 12.5, without a transformer 3.4 instead
of 5.6 (one thread of a busy AMD EPYC with AVX-512, torch 2.14.1, both forms recorded, in turn in one process, medians
of 96 steps).
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from coordconv import CoordConv2d, coordinates

CHUNK = 125  # images that the layers see at a time where no gradient is needed: their maps fit the caches of a core
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
    arguments = x, conv1.weight, conv1.bias, conv2.weight, conv2.bias
    return ConvolveAndPool.apply(*arguments) if torch.is_grad_enabled() else both_layers(*arguments)[0]


def both_layers(x, weight1, bias1, weight2, bias2, for_gradient=False):
    """Images (B, 1, H, H), weights (O, C, k, k), biases (O,) -> (B, O2, h, h), and two lists for `conv_pool_grad`."""
    size, k1, k2 = x.shape[2], weight1.shape[2], weight2.shape[2]
    pooled_size = (size - k1 + 1) // 2
    columns = 4 * ((pooled_size - k2 + 1) // 2) + 2 * (k2 - 1) + k1 - 1  # those that reach the result
    b = 2 if for_gradient else 1
    first = layer_on_blocks(weight1, bias1, 1, 4, b, size, size // 4, columns // b)
    second = layer_on_blocks(weight2, bias2, len(weight1), 2, 1, pooled_size, first.height, first.width * b // 2)
    results = []
    for images in (x,) if for_gradient else x.split(CHUNK):
        y, *saved1 = conv_pool(to_blocks(images[..., :columns], 4, b), first, for_gradient)
        y, *saved2 = conv_pool(y, second, for_gradient)
        results.append(y)
    return torch.cat(results) if len(results) > 1 else y, saved1, saved2


class ConvolveAndPool(torch.autograd.Function):
    """`both_layers` with its gradient.

    It is written by hand because that keeps every step in channels_last (autograd hands the last pooling
    its gradient in NCHW, on which the kernel is slow), and takes the bias gradient from the pooled map, a quarter
    of the size, instead of from the convolution's output. Both layers are one function because a step of so small a
    network is to a third the overhead of its many calls.
    """

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2):
        y, saved1, saved2 = both_layers(x, weight1, bias1, weight2, bias2, for_gradient=True)
        ctx.save_for_backward(*saved1, *saved2)
        ctx.shapes = x.shape, weight1.shape, weight2.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x_shape, shape1, shape2 = ctx.shapes
        saved = ctx.saved_tensors
        grad, grad_weight2, grad_bias2 = conv_pool_grad(grad, saved[6:], shape2, 2, 1, True)
        grad, grad_weight1, grad_bias1 = conv_pool_grad(grad, saved[:6], shape1, 4, 2, ctx.needs_input_grad[0])
        if grad is not None:
            grad = F.pad(from_blocks(grad, 4, 2), (0, x_shape[3] - 2 * grad.shape[3]))  # columns that did not count
        return grad, grad_weight1, grad_bias1, grad_weight2, grad_bias2


class Layer(NamedTuple):
    """A convolution as it is computed on blocks of a × b pixels, made once per batch by `layer_on_blocks`."""

    weight: torch.Tensor  # (a·b·O, a·b·C, Ky, Kx)
    bias: torch.Tensor  # (a·b·O,)
    patches: torch.Tensor | None  # those of the coordinates, if it is a CoordConv layer, see `coord_patches`
    offsets: torch.Tensor | None  # (height, width, a·b·O), what the coordinates add to the output
    a: int
    b: int
    height: int  # of the output, in blocks
    width: int


def layer_on_blocks(weight, bias, channels, a, b, size, height, width):
    """From an ordinary weight (O, C, k, k) and bias (O,) the `Layer` for a map (B, channels, size, size), of which
    height × width blocks are given.

    A weight for two channels more is a CoordConv layer's. The coordinates do not depend on the image: their part of the
    convolution is computed once per batch and added as a map.
    """
    block_w = block_weight(weight[:, :channels], a, b)
    height, width = height - block_w.shape[2] + 1, width - block_w.shape[3] + 1
    patches = offsets = None
    if weight.shape[1] > channels:
        patches = coord_patches(size, weight.shape[2], a, b, height * a, width * b, weight.dtype, weight.device)
        offsets = (patches @ weight[:, channels:].flatten(1).t()).view(height, width, -1)
    return Layer(block_w, bias.repeat(a * b), patches, offsets, a, b, height, width)


def conv_pool(x, layer, for_gradient):
    """relu(max_pool2d(conv(map), 2)) for x, a map in the blocks of a `Layer`, or as much of it as counts.

    x (B, a·b·C, H/a, W/b) -> (B, a/2·O, H', W'), the result in blocks of a/2 × 1; after it, if asked for, what
    `conv_pool_grad` needs.
    """
    y = F.conv2d(x, layer.weight, layer.bias).permute(TO_NHWC).contiguous()
    batch, height, width, channels = y.shape
    a, b = layer.a, layer.b
    n_out = channels // (a * b)
    if layer.offsets is not None:
        y += layer.offsets
    if not for_gradient:  # a maximum is found faster without its place
        for n in (a * n_out, a // 2 * n_out):  # of all four pixels of a window, and of two
            y = torch.maximum(*y.view(batch, -1, 2, n).unbind(2))
        return (y.relu_().view(batch, height, width * b // 2, -1).permute(TO_NCHW),)
    windows = y.view(batch, height * width * b // 2, 4, a // 2 * n_out).permute(TO_NCHW)
    pooled, places = aten.max_pool2d_with_indices.default(windows, (1, 4))
    pooled.relu_()
    result = pooled.permute(TO_NHWC).view(batch, height, width * b // 2, -1).permute(TO_NCHW)
    return result, x, layer.weight, windows, places, pooled, layer.patches


def conv_pool_grad(grad, saved, weight_shape, a, b, needs_grad_x):
    """The gradients of `conv_pool` to x (or None), weight and bias, from that to its result."""
    x, block_w, windows, places, pooled, patches = saved
    n_out, _, k, _ = weight_shape
    height, width = (x.shape[dim] - block_w.shape[dim] + 1 for dim in (2, 3))
    grad = grad.permute(TO_NHWC).reshape(pooled.permute(TO_NHWC).shape).contiguous().permute(TO_NCHW)
    grad = aten.threshold_backward.default(grad, pooled, 0)  # of the ReLU
    grad_bias = grad.sum((0, 2, 3)).view(-1, n_out).sum(0)
    pooling = (1, 4), (), (0, 0), (1, 1), False, places
    # Its result is written over `windows`, whose values nobody needs any more: less memory to fetch. (`.data`: autograd
    # need not know; were the gradient taken a second time, it would be the same.)
    grad = aten.max_pool2d_with_indices_backward.grad_input(grad, windows, *pooling, grad_input=windows.data)
    grad = grad.permute(TO_NHWC).reshape(len(x), height, width, -1)
    grad_block_w = convolution_grad(grad.permute(TO_NCHW), x, block_w, 1)
    grad_x = grad_of_blocks(grad.permute(TO_NCHW), x, block_w) if needs_grad_x else None
    grad_weight = grad_of_block_weight(grad_block_w, n_out, k, a, b)
    if patches is not None:
        grad_coords = grad.sum(0).view(-1, n_out).t() @ patches
        grad_weight = torch.cat([grad_weight, grad_coords.view(n_out, 2, k, k)], dim=1)
    return grad_x, grad_weight, grad_bias


def convolution_grad(grad, x, weight, argument):
    """The gradient of F.conv2d(x, weight) to x (argument 0) or to weight (1), from that to its result."""
    mask = (argument == 0, argument == 1, False)
    conv = None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1  # an ordinary one: no bias, stride 1, no padding
    return aten.convolution_backward.default(grad, x, weight, *conv, mask)[argument]


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
        result[:, row : row + n].add_(parts[:, :, :, row])  # `+=` would also copy, in a recorded step
    return result.permute(TO_NCHW)


def to_blocks(x, a, b):
    """Images (B, 1, H, W) -> (B, a·b, H/a, W/b), channels in the order [row][column] of the block."""
    batch, _, height, width = x.shape
    order, _ = block_order(height, width, a, b, x.device)
    x = x.reshape(batch, height * width).index_select(1, order)
    return x.view(batch, height // a, width // b, a * b).permute(TO_NCHW)


def from_blocks(x, a, b):
    """The inverse of `to_blocks`."""
    batch, _, height, width = x.shape
    _, order = block_order(height * a, width * b, a, b, x.device)
    return x.permute(TO_NHWC).reshape(batch, -1).index_select(1, order).view(batch, 1, height * a, width * b)


@lru_cache
@torch.inference_mode(False)
def block_order(height, width, a, b, device):
    """The numbers of an image's pixels in the order of its blocks, and the inverse of that permutation."""
    pixels = torch.arange(height * width, device=device).view(height // a, a, width // b, b)
    order = pixels.transpose(1, 2).flatten()
    return order, order.argsort()


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
    order of the convolution's output in `conv_pool`."""
    patches = F.unfold(coordinates((size, size), dtype=dtype, device=device), k)[0].t()
    patches = patches.reshape(size - k + 1, size - k + 1, -1)[:height, :width]
    patches = patches.reshape(height // a, a, width // b, b, -1).movedim((1, 3), (0, 1))
    return output_order(patches, a, b).movedim(0, 2).reshape(height * width, -1)


def output_order(t, a, b):
    """Merge dims 0 and 1 of t, row and column in a block: the pixels of one pooling window are a/2 · O apart."""
    return t.unflatten(0, (a // 2, 2)).movedim((2, 1, 0), (0, 1, 2)).flatten(0, 2)
