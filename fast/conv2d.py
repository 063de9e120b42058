"""`models.convolve_and_pool` near the peak of any CPU core, by loops that Numba compiles (conv2d_kernels.py).

A convolution of 1 to 20 channels fills a vector unit badly, images side by side fill it well: with V images to a group,
V being the numbers in a vector register, a pixel of all of them is loaded at once, and multiplied by one weight.

    batch  (B, C, H, W)               groups  (G, C, H, W, V), here with V = 4; a letter is an image, a digit a pixel

    image a    a0 a1 a2 a3 ...                   pixel 0        pixel 1        pixel 2
    image b    b0 b1 b2 b3 ...        group 0    a0 b0 c0 d0    a1 b1 c1 d1    a2 b2 c2 d2    ...
    image c    c0 c1 c2 c3 ...        group 1    e0 f0 g0 h0    e1 f1 g1 h1    e2 f2 g2 h2    ...
    ...                                          one register

Both layers compute in groups, and only images, their gradient and the small result are rearranged; zeros fill up the
last group. A layer is one operation of torch, `stn::conv_pool`, and its gradient another: a recorded step (step.py)
has them. A group passes through a layer alone, so its maps stay in the caches. The sums of 2 × 2 pixels are pooled
while they are in the first cache, and only maxima and their places are kept; the gradient is spread to these again.

How fast that is, beside the ordinary layers and the peak of a core: docs/results.md, "On one core".
"""

import sys
from contextlib import contextmanager
from functools import lru_cache
from itertools import compress

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

import models
from coordconv import AddCoords, CoordConv2d, cached, coordinates, is_unchanged

TO_GROUPS = (0, 2, 3, 4, 1)  # (G, V, C, H, W) -> (G, C, H, W, V)
TO_BATCH = (0, 4, 1, 2, 3)  # and back


@lru_cache
def kernels():
    """The module with the compiled functions, or None, which is said once. (Late, since importing Numba takes time.)"""
    try:
        from fast import conv2d_kernels
    except ImportError as error:
        print(f"Numba cannot be imported, so the convolutions are slower ({error})", file=sys.stderr)
        return None
    return conv2d_kernels


def accelerate(model):
    """Let a network and those within it compute their pairs of convolutions by `convolve_and_pool` below.

    It is for networks that compute them by `models.convolve_and_pool`, as those of models.py do. Others, and networks
    with a `convolve_and_pool` of their own, stay as they are. Return the model.
    """
    for module in plain_networks(model):
        module.convolve_and_pool = convolve_and_pool
    return model


def plain_networks(model):
    """List the networks in `model` that have the plain `convolve_and_pool` of models.py."""
    plain = models.convolve_and_pool
    return [module for module in model.modules() if getattr(module, "convolve_and_pool", None) is plain]


@contextmanager
def accelerated(model, wanted=True):
    """Accelerate `model` for a while, if that is wanted; afterwards it consists of ordinary layers again.

    A copy of it that is made meanwhile stays accelerated.
    """
    chosen = plain_networks(model) if wanted else []
    try:
        yield accelerate(model) if wanted else model
    finally:
        for module in chosen:
            vars(module).pop("convolve_and_pool", None)


def convolve_and_pool(conv1, conv2, x):
    """The same function as `models.convolve_and_pool`, up to rounding: (B, C, H, W) -> (B, O, h, w).

    The compiled loops compute it where they know both layers and the images, otherwise the layers are called as they
    are: other layers, other dtypes and devices, layers with hooks, and under autocast, tracing and torch.func. Where
    values in a pooling window are equal the gradient goes to the first one, as in the plain form.
    """
    if not can_compute(conv1, conv2, x):
        return models.convolve_and_pool(conv1, conv2, x)
    groups = layer(conv2, layer(conv1, in_groups(x)))
    result = groups.permute(TO_BATCH).flatten(0, 1)
    return result[: len(x)] if len(x) < len(result) else result


def can_compute(conv1, conv2, x):
    """Tell whether the compiled loops compute what these layers, one after the other, make of the images x."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in (torch.Tensor, nn.Parameter):
        return False
    if x.device.type != "cpu" or x.layout != torch.strided or x.dim() != 4 or not len(x):
        return False
    if torch.is_autocast_enabled("cpu") or is_transformed(x) or x.is_neg():
        return False
    channels, *size = x.shape[1:]
    for conv in (conv1, conv2):
        if not is_known(conv, channels, x.dtype):
            return False
        channels, _, k, _ = weight_of(conv).shape
        size = [(side - k + 1) // 2 for side in size]
        if min(size) < 1:
            return False
    return kernels() is not None


def is_transformed(x):
    """Tell whether torch.func, forward-mode derivatives or `is_grads_batched` follow what is computed of x."""
    func = torch._C._functorch
    return (
        func.peek_interpreter_stack() is not None or func.is_legacy_batchedtensor(x) or forward_ad._current_level >= 0
    )


def is_known(conv, channels, dtype):
    """Tell whether `conv` is exactly a layer that `layer` computes: with a bias, and a square kernel without extras."""
    coordinates = 0
    if type(conv) is CoordConv2d:
        if not (is_unchanged(conv, CoordConv2d) and is_unchanged(conv.addcoords, AddCoords)) or conv.addcoords.with_r:
            return False
        conv, coordinates = conv.conv, 2
    return (
        is_unchanged(conv, nn.Conv2d)
        and (conv.stride, conv.padding, conv.dilation) == ((1, 1), (0, 0), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and conv.bias is not None
        and dtype in (torch.float32, torch.float64)
        and all(p.dtype == dtype and p.device.type == "cpu" and p.layout == torch.strided for p in conv.parameters())
        and conv.weight.dim() == 4
        and conv.weight.shape[1] == channels + coordinates
        and conv.weight.shape[2] == conv.weight.shape[3]
        and conv.bias.shape == conv.weight.shape[:1]
        and channels > 0
        and conv.weight.numel() > 0
    )


def weight_of(conv):
    return (conv.conv if isinstance(conv, CoordConv2d) else conv).weight


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
    plane = F.pad(bias[:, None], (0, 2))
    if weight.shape[1] > channels:
        weight, on_coordinates = weight.split([channels, 2], dim=1)
        plane = torch.addmm(plane, on_coordinates.flatten(1), cached(coordinate_planes, (height, width), k, like=x))
    if torch.is_grad_enabled():
        return ConvPool.apply(x, weight, plane)
    return torch.ops.stn.conv_pool(x, weight, plane)[0]


def coordinate_planes(size, k, dtype, device):
    """The coordinates under the kernel at the first place, and how they grow to the next row and column, (2·K·K, 3)."""
    corner = coordinates(size, dtype=torch.float64, device=device)[:, :, : k + 1, : k + 1]
    first, right, below, _ = F.unfold(corner, k)[0].unbind(1)
    return torch.stack([first, below - first, right - first], dim=1).to(dtype)


class ConvPool(torch.autograd.Function):
    """The operations below as one with a gradient; what is kept for it is the input and the places of the maxima."""

    @staticmethod
    def forward(ctx, x, weight, plane):
        z, places = torch.ops.stn.conv_pool(x, weight, plane)
        ctx.save_for_backward(x, weight, plane, places)
        return z

    @staticmethod
    def backward(ctx, grad):
        x, weight, plane, places = ctx.saved_tensors
        again = torch.is_grad_enabled()  # this gradient is to be differentiated once more (create_graph)
        if not again and not is_transformed(grad):
            return torch.ops.stn.conv_pool_grad(grad, x, weight, places, ctx.needs_input_grad[0])
        with torch.enable_grad():  # by torch's own operations, which can do both
            # Views, since x may depend on the same weight in an earlier pass, which is not to be counted here.
            inputs = [given.view_as(given) for given in (x, weight, plane)]
            y = plain_layer(*inputs)
        chosen = compress(inputs, ctx.needs_input_grad)
        grads = iter(torch.autograd.grad(y, [*chosen], grad, create_graph=again))
        return tuple(next(grads) if wanted else None for wanted in ctx.needs_input_grad)


def plain_layer(x, weight, plane):
    """Compute a layer in groups by torch's own operations, to differentiate it twice; see `layer` and `conv_pool`."""
    y = F.conv2d(x.permute(TO_BATCH).flatten(0, 1), weight)
    rows, columns = (torch.arange(n, dtype=x.dtype) for n in y.shape[2:])
    first, down, right = plane[:, :, None, None].unbind(1)
    z = F.relu(F.max_pool2d(y + (first + down * rows[:, None] + right * columns), 2))
    return z.unflatten(0, (x.shape[0], x.shape[4])).permute(TO_GROUPS)


def arrays(*tensors):
    """The same memory for Numba."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def new_arrays(*tensors):
    """The same for tensors that are new: nothing has a gradient or gaps."""
    return [tensor.numpy() for tensor in tensors]


def pooled_shape(x, weight):
    """Return the shape (G, O, h, w, V) of what the operations below make of x. Raise RuntimeError if they cannot."""
    shape, (n_out, channels, k, k2) = x.shape, weight.shape if weight.dim() == 4 else (0, 0, 0, 0)
    if len(shape) != 5 or n_out * channels * k == 0 or channels != shape[1] or not k == k2 < min(shape[2:4]):
        raise RuntimeError(f"a weight {tuple(weight.shape)} does not fit images in groups {tuple(shape)}")
    return shape[0], n_out, (shape[2] - k + 1) // 2, (shape[3] - k + 1) // 2, shape[4]


def check(x, *others):
    """Raise RuntimeError unless x has V images to a group, and the others, (tensor, shape, dtype), are as they say."""
    if x.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"images are of torch.float32 or torch.float64 here, not of {x.dtype}")
    if x.shape[4] != kernels().V:
        raise RuntimeError(f"a group has {kernels().V} images here, not {x.shape[4]}")
    for tensor, shape, dtype in others:
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
            raise RuntimeError(f"{tuple(shape)} of {dtype} is needed, not {tuple(tensor.shape)} of {tensor.dtype}")


def conv_pool(x, weight, plane):
    """x (G, C, H, W, V), weight (O, C, K, K), plane (O, 3) -> the pooled map and the places of its maxima.

    All memory comes from torch, which aligns it to the caches' lines (as Numba does not).
    """
    code, pooled = kernels(), pooled_shape(x, weight)
    _, n_out, h, w, v = pooled
    check(x, (weight, weight.shape, x.dtype), (plane, (n_out, 3), x.dtype))
    n = code.tile(n_out, code.MOST_CHANNELS)
    z, places = x.new_empty(pooled), x.new_empty(pooled, dtype=torch.int8)
    bias, y = x.new_empty(n_out, 2 * h, 2 * w), x.new_empty(n, 2, 2, w, v)
    code.forward(x.dtype, n)(*arrays(x, weight, plane), *new_arrays(z, places, bias, y))
    return z, places


def conv_pool_grad(grad, x, weight, places, for_x):
    """The gradients to x (None if it is not asked for), weight and plane, from that to the pooled map."""
    code, pooled = kernels(), pooled_shape(x, weight)
    _, n_out, h, w, v = pooled
    _, channels, k, _ = weight.shape
    check(x, (weight, weight.shape, x.dtype), (grad, pooled, x.dtype), (places, pooled, torch.int8))
    n, n_x = code.tile(n_out, max(1, code.MOST_WEIGHTS // k)), code.tile(channels, code.MOST_CHANNELS)
    p = 4 if n_x == 1 and 2 * w + k > 4 else 2  # more sums at a time, where the image is wide enough for it
    grad_x, grad_weight = x.new_zeros(x.shape if for_x else (0,) * 5), x.new_zeros(weight.shape)
    grad_plane = x.new_zeros(n_out, 3)
    y, s = x.new_zeros(n_out, 2 * h + 2, 2 * w + 2 * p - 2, v), x.new_empty(k, n, v)
    t, position = x.new_empty(3, v), x.new_empty(3)
    given, made = arrays(grad, x, weight, places), new_arrays(grad_x, grad_weight, grad_plane, y, s, t, position)
    code.backward(x.dtype, k, n, n_x, p)(*given, for_x, *made)
    return grad_x if for_x else None, grad_weight, grad_plane


library = torch.library.Library("stn", "FRAGMENT")  # (a custom_op does the same, and takes longer to call)
library.define("conv_pool(Tensor x, Tensor weight, Tensor plane) -> (Tensor, Tensor)")
library.define(
    "conv_pool_grad(Tensor grad, Tensor x, Tensor weight, Tensor places, bool for_x) -> (Tensor?, Tensor, Tensor)"
)
library.impl("conv_pool", conv_pool, "CPU")
library.impl("conv_pool_grad", conv_pool_grad, "CPU")


def fake_conv_pool(x, weight, plane):
    """Return tensors as those of `conv_pool`, without their values, for what only looks at shapes."""
    pooled = pooled_shape(x, weight)
    return x.new_empty(pooled), x.new_empty(pooled, dtype=torch.int8)


def fake_conv_pool_grad(grad, x, weight, places, for_x):
    """Return tensors as those of `conv_pool_grad`, without their values."""
    return x.new_empty(x.shape) if for_x else None, weight.new_empty(weight.shape), x.new_empty(weight.shape[0], 3)


torch.library.register_fake("stn::conv_pool", fake_conv_pool, lib=library)
torch.library.register_fake("stn::conv_pool_grad", fake_conv_pool_grad, lib=library)
