"""`models.convolve_and_pool` in a form that one CPU core computes about twice as fast.

A convolution with 1 to 20 channels fills a vector unit badly, and so does pooling its output. Here a map is kept in
*blocks*: each rectangle of a × b pixels becomes one pixel with a·b·C channels, (B, a·b·C, H/a, W/b) in channels_last
memory. On blocks a convolution is again a convolution (dense, stride 1), whose weight is the ordinary weight copied
to the a·b shifted places, and a 2×2 pooling window is four neighbours in memory. Parameters keep their ordinary
shapes: the larger weight is built in each step by one small product, which autograd differentiates like the rest.

Images come in blocks of 4 × 2, the map pooled after the first convolution has blocks of 2 × 1, and the one after the
second is an ordinary map; these sizes were the fastest of those tried. The README's section on speed has the gain.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F

from coordconv import CoordConv2d, coordinates

TO_NCHW = (0, 3, 1, 2)  # (B, H, W, C) in memory, seen as (B, C, H, W)


def convolve_and_pool(conv1, conv2, x):
    """The same function as `models.convolve_and_pool`, up to rounding: (B, 1, 28, 28) -> (B, C, h, h).

    Where values in a pooling window are exactly equal, its gradient goes to the first one column by column instead
    of row by row.
    """
    size = x.shape[2]
    k1, k2 = kernel_size(conv1), kernel_size(conv2)
    pooled = (size - k1 + 1) // 2
    result = (pooled - k2 + 1) // 2
    x = x[..., : 4 * result + 2 * (k2 - 1) + k1 - 1]  # the columns that reach the result
    x = conv_pool(conv1, to_blocks(x, 4, 2), 4, 2, size)
    return conv_pool(conv2, x, 2, 1, pooled)


def kernel_size(conv):
    return (conv.conv if isinstance(conv, CoordConv2d) else conv).kernel_size[0]


def conv_pool(conv, x, a, b, size):
    """relu(max_pool2d(conv(map), 2)) for x, a map of `size` × `size` in blocks of a × b, or as much of it as counts.

    (B, a·b·C, H/a, W/b) -> (B, a/2·O, H', W'), the result in blocks of a/2 × 1. A CoordConv layer's coordinates do
    not depend on the image: their part of the convolution is computed once per batch and added as a map.
    """
    with_coords = isinstance(conv, CoordConv2d)
    weight, bias = (conv.conv if with_coords else conv).parameters()
    channels = x.shape[1] // (a * b)
    n_out = len(weight)
    y = F.conv2d(x, block_weight(weight[:, :channels], a, b), bias.expand(a * b, n_out).flatten())
    batch, _, height, width = y.shape
    if with_coords:
        patches = coord_patches(size, weight.shape[2], a, b, height * a, width * b, weight.dtype, weight.device)
        y += (patches @ weight[:, channels:].flatten(1).t()).view(height, width, a * b * n_out).permute(2, 0, 1)
    windows = y.permute(0, 2, 3, 1).reshape(batch, height * width * b // 2, 4, a // 2 * n_out).permute(TO_NCHW)
    y = F.relu(F.max_pool2d(windows, (1, 4)))
    return y.permute(0, 2, 3, 1).reshape(batch, height, width * b // 2, -1).permute(TO_NCHW)


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
    n_out, n_in, k, _ = weight.shape
    ky, kx = blocks_below(k, a), blocks_below(k, b)
    w = weight.reshape(n_out * n_in, k * k) @ shifts(k, a, b, weight.dtype, weight.device)
    w = w.view(n_out, n_in, a * b, ky, kx, a * b).permute(2, 0, 3, 4, 5, 1)
    return w.reshape(a * b * n_out, ky, kx, a * b * n_in).permute(TO_NCHW)


def blocks_below(k, block):
    """How many blocks the kernels of all pixels of one block cover together."""
    return -(-(block + k - 1) // block)


@lru_cache
@torch.inference_mode(False)
def shifts(k, a, b, dtype, device):
    """0/1 matrix (k·k, a·b · Ky·Kx · a·b): the place of each tap of a k × k kernel in the input blocks below it, for
    each output pixel of a block."""
    places = torch.zeros(a, b, k, k, blocks_below(k, a), blocks_below(k, b), a, b)
    for y, x, i, j in torch.cartesian_prod(*map(torch.arange, (a, b, k, k))).tolist():
        places[y, x, i, j, (y + i) // a, (x + j) // b, (y + i) % a, (x + j) % b] = 1
    return output_order(places, a, b).movedim(0, 2).reshape(k * k, -1).to(device, dtype)


@lru_cache
@torch.inference_mode(False)
def coord_patches(size, k, a, b, height, width, dtype, device):
    """The k × k patches of the coordinates under the first height × width outputs, (height·width, 2·k·k), in the
    order of `conv_pool`'s output."""
    patches = F.unfold(coordinates((size, size), dtype=dtype, device=device), k)[0].t()
    patches = patches.reshape(size - k + 1, size - k + 1, -1)[:height, :width]
    patches = patches.reshape(height // a, a, width // b, b, -1).movedim((1, 3), (0, 1))
    return output_order(patches, a, b).movedim(0, 2).reshape(height * width, -1)


def output_order(t, a, b):
    """Merge dims 0 and 1 of t, row and column in a block: the pixels of one pooling window are a/2 · O apart."""
    return t.unflatten(0, (a // 2, 2)).movedim((2, 1, 0), (0, 1, 2)).flatten(0, 2)
