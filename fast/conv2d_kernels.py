"""The loops of conv2d.py, compiled by Numba for the processor they run on. (Importing this file imports Numba.)

Every product of a convolution, forward or backward, is a sum of outer products: of a few vectors, each a pixel of V
images, with a few weights or with a few other vectors. `outer` adds one of them to sums that stay in registers. It and
what it needs are written as LLVM's vector operations, since LLVM keeps no sums in registers over nested loops: with the
loops left to it the gradients were at 30 to 55 % of the rate of a large matrix product, now they are at 70 to 95 %.
The rest is plain loops. An index of the places below is left out where it is that of the V images.
"""

import sys
from functools import lru_cache, reduce
from hashlib import sha256

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, event
from numba.core.caching import NullCache
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

PROCESSOR = cpu_target.target_context.codegen().magic_tuple()  # its kind, name and features
WIDE = "+avx512f" in PROCESSOR[2]  # it has 32 registers of 16 numbers; otherwise 16 of 8 are assumed
V = 16 if WIDE else 8
MOST_CHANNELS = 5 if WIDE else 2  # that are computed at a time, of 2 × 2 pixels: 20 or 8 sums
MOST_WEIGHTS = 25 if WIDE else 12  # whose gradient is computed at a time
OPTIONS = {"boundscheck": False, "error_model": "numpy"}  # no fastmath, which may lose a NaN


class Vector(types.Type):
    """V numbers: a pixel of each image of a group."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), V))


def sums_of(array, *counts):
    """The type of the sums s[a, b]: so many vectors, held in registers. (The counts are constants in the code.)"""
    return types.UniTuple(Vector(array.dtype), reduce(lambda n, count: n * count.literal_value, counts, 1))


class Code:
    """Writes LLVM code. An array is a pair (its Numba type, its value)."""

    def __init__(self, context, builder):
        self.context, self.builder = context, builder

    def pointer(self, array, place, *steps):
        """The address of array[place], `number` further along each (axis, number). A place may lack the last index."""
        struct = self.context.make_array(array[0])(self.context, self.builder, array[1])
        strides = cgutils.unpack_tuple(self.builder, struct.strides)
        indices = [*zip(strides, cgutils.unpack_tuple(self.builder, place), strict=False)]
        indices += [(strides[axis], strides[axis].type(number)) for axis, number in steps]
        offset = reduce(self.builder.add, [self.builder.mul(*pair) for pair in indices])
        return cgutils.pointer_add(self.builder, struct.data, offset)

    def vector_pointer(self, array, *place):
        vector = ir.VectorType(self.context.get_value_type(array[0].dtype), V)
        return self.builder.bitcast(self.pointer(array, *place), vector.as_pointer())

    def load(self, array, *place):
        return self.builder.load(self.vector_pointer(array, *place), align=1)

    def filled(self, number):
        """V times the number."""
        vector = ir.VectorType(number.type, V)
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), V), [0] * V))

    def sums(self, kind, vectors):
        result = ir.Constant(self.context.get_value_type(kind), ir.Undefined)
        for k, vector in enumerate(vectors):
            result = self.builder.insert_value(result, vector, k)
        return result


@intrinsic(prefer_literal=True)
def zeros(typing, array, n_a, n_b):
    """s[a, b] = 0, for a < n_a and b < n_b."""
    sums = sums_of(array, n_a, n_b)
    return sums(array, n_a, n_b), lambda context, builder, *_: context.get_constant_null(sums)


@intrinsic(prefer_literal=True)
def spread(typing, array, place, axis_a, n_a, axis_b, n_b):
    """s[a, b] = array[place], a further along axis_a and b along axis_b, the same for all images."""
    sums = sums_of(array, n_a, n_b)
    axes = axis_a.literal_value, axis_b.literal_value

    def write(context, builder, signature, values):
        code = Code(context, builder)
        steps = [zip(axes, divmod(k, n_b.literal_value), strict=True) for k in range(sums.count)]
        pointers = [code.pointer((array, values[0]), values[1], *step) for step in steps]
        return code.sums(sums, [code.filled(builder.load(pointer)) for pointer in pointers])

    return sums(array, place, axis_a, n_a, axis_b, n_b), write


@intrinsic(prefer_literal=True)
def outer(typing, sums, x, x_place, axis_a, n_a, y, y_place, axis_b):
    """s[a, b] + x[x_place] · y[y_place], a further along axis_a of x and b along axis_b of y.

    x[x_place] is a vector; so is y[y_place] if y_place lacks an index, else it is a number.
    """

    def write(context, builder, signature, values):
        code = Code(context, builder)
        old, x_value, x_at, _, _, y_value, y_at, _ = values
        n_b = sums.count // n_a.literal_value
        ys = [((y, y_value), y_at, (axis_b.literal_value, b)) for b in range(n_b)]
        of_numbers = len(y_place) == y.ndim
        ys = [code.filled(builder.load(code.pointer(*at))) if of_numbers else code.load(*at) for at in ys]
        new = []
        for a in range(n_a.literal_value):
            vector = code.load((x, x_value), x_at, (axis_a.literal_value, a))
            for b in range(n_b):
                product = builder.fmul(vector, ys[b], flags=("contract",))  # one operation with the addition
                total = builder.extract_value(old, len(new))
                new.append(builder.fadd(total, product, flags=("contract",)))
        return code.sums(sums, new)

    return sums(sums, x, x_place, axis_a, n_a, y, y_place, axis_b), write


@intrinsic(prefer_literal=True)
def store(typing, sums, array, place, axis_a, axis_b, n_b):
    """array[place] = s[a, b], a further along axis_a and b along axis_b."""

    def write(context, builder, signature, values):
        code = Code(context, builder)
        axes = axis_a.literal_value, axis_b.literal_value
        for k in range(sums.count):
            steps = zip(axes, divmod(k, n_b.literal_value), strict=True)
            pointer = code.vector_pointer((array, values[1]), values[2], *steps)
            builder.store(builder.extract_value(values[0], k), pointer, align=1)
        return context.get_dummy_value()

    return types.void(sums, array, place, axis_a, axis_b, n_b), write


@intrinsic(prefer_literal=True)
def unpooled(typing, grad, places, window):
    """s[y, x] = the gradient of a window where its maximum was at (y, x), else 0."""
    sums = types.UniTuple(Vector(grad.dtype), 4)

    def write(context, builder, signature, values):
        code = Code(context, builder)
        vector, here = code.load((grad, values[0]), values[2]), code.load((places, values[1]), values[2])
        equal = [builder.icmp_signed("==", here, code.filled(ir.IntType(8)(k))) for k in range(4)]
        return code.sums(sums, [builder.select(mask, vector, ir.Constant(vector.type, None)) for mask in equal])

    return sums(grad, places, window), write


@njit(fastmath={"reassoc"}, **OPTIONS)  # in an order in which it can be done with vectors, always the same
def total(pixel):
    """The sum over V images."""
    result = pixel.dtype.type(0)
    for n in range(V):
        result += pixel[n]
    return result


class Told(event.Listener):
    """Says on stderr that the functions below are being compiled, once."""

    def on_start(self, started):
        if started.data["dispatcher"].__module__ == __name__ and not vars(self):
            self.said = True
            print("compiling the convolutions for this processor, once (about 10 s)", file=sys.stderr)

    def on_end(self, ended):
        pass


event.register("numba:compile", Told())


def compiled(function, *constants):
    """`function`, which is compiled at its first call, or loaded: each with its constants from a file of its own.

    (Two processes that write into one index of Numba's at once can mix up its entries.) Where nothing can be written,
    every process compiles, and a damaged file is replaced.
    """
    processor = sha256(repr(PROCESSOR).encode()).hexdigest()[:8]
    function.__qualname__ = "_".join(map(str, (function.__name__, *constants, processor)))
    try:
        kernel = njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder for it
        return njit(**OPTIONS)(function)

    def call(*arguments):
        try:
            return kernel(*arguments)
        except Exception:  # while it was loaded or saved, nothing else raises one: then without
            if not kernel.signatures:
                try:
                    kernel._cache.flush()
                except OSError:
                    kernel._cache = NullCache()
            return kernel(*arguments)

    return call


def tile(channels, most):
    """How many channels are computed at a time: as many as there are registers for, and a divisor."""
    return max(n for n in range(1, most + 1) if channels % n == 0)


@lru_cache
def forward(dtype, n):
    """The function of a layer that computes n channels at a time.

    x (G, C, H, W, V), weight (O, C, K, K), plane (O, 3) -> z = relu(max_pool2d(conv(x) + bias, 2)) and the place of the
    maximum in each window, 4 where z is 0, (G, O, h, w, V). The bias at row i, column j is plane[o] · (1, i, j); it is
    written to bias (O, 2·h, 2·w), and the sums of a row of windows to y (n, 2, 2, w, V).
    """

    def forward(x, weight, plane, z, places, bias, y):
        groups, channels, size = x.shape[0], x.shape[1], weight.shape[3]
        _, n_out, h, w, _ = z.shape
        for o in range(n_out):
            for i in range(2 * h):
                for j in range(2 * w):
                    bias[o, i, j] = plane[o, 0] + i * plane[o, 1] + j * plane[o, 2]
        for g in range(groups):
            for o in range(0, n_out, n):
                for row in range(h):
                    for column in range(w):
                        i, j = 2 * row, 2 * column
                        top = spread(bias, (o, i, j), 2, 2, 0, n)
                        bottom = spread(bias, (o, i + 1, j), 2, 2, 0, n)
                        for c in range(channels):
                            for ky in range(size):
                                for kx in range(size):
                                    at = (o, c, ky, kx)
                                    top = outer(top, x, (g, c, i + ky, j + kx), 3, 2, weight, at, 0)
                                    bottom = outer(bottom, x, (g, c, i + 1 + ky, j + kx), 3, 2, weight, at, 0)
                        store(top, y, (0, 0, 0, column), 2, 0, n)
                        store(bottom, y, (0, 1, 0, column), 2, 0, n)
                    for b in range(n):
                        pool(y[b], z[g, o + b, row].reshape(-1), places[g, o + b, row].reshape(-1))

    return compiled(forward, dtype, n)


@njit(**OPTIONS)
def pool(y, z, places):
    """A row of windows y (2, 2, w, V) -> z and places (w·V,), in one loop: LLVM makes no vectors of many short ones."""
    y = y.reshape(4, -1)
    zero = z.dtype.type(0)
    for i in range(len(z)):
        p, q, r, s = y[0, i], y[1, i], y[2, i], y[3, i]
        m = q if q > p else p
        m = r if r > m else m
        m = s if s > m else m
        place = 0 if p == m else 1 if q == m else 2 if r == m else 3
        places[i] = place if m > 0 else 4
        all_four = p + q + r + s  # NaN if one of them is; a comparison may pass it by
        m = zero if m <= 0 else m
        z[i] = m if all_four == all_four else all_four


@lru_cache
def backward(dtype, size, n, n_x, p):
    """The function of the gradients of a layer with kernels of this size.

    grad (G, O, h, w, V), x, weight, places -> what comes as zeros: grad_x as x if `for_x`, grad_weight (O, C, K, K) and
    grad_plane (O, 3). It computes the gradient of n · K weights at a time, and of n_x channels of 2 × p pixels. The
    gradient before the pooling is put into y, which comes as zeros and has a margin of 1 row and p - 1 columns,
    (O, 2·h + 2, 2·w + 2·p - 2, V); s (K, n, V), t (3, V) and position (3,) are room for sums and a place.
    """
    q = p - 1

    def backward(grad, x, weight, places, for_x, grad_x, grad_weight, grad_plane, y, s, t, position):
        groups, channels = x.shape[:2]
        _, n_out, h, w, _ = grad.shape
        for g in range(groups):
            for o in range(n_out):  # of the pooling and the bias
                sums = zeros(x, 1, 3)
                for row in range(h):
                    for column in range(w):
                        store(unpooled(grad, places, (g, o, row, column)), y, (o, 2 * row + 1, 2 * column + q), 1, 2, 2)
                        for i in range(2 * row, 2 * row + 2):
                            for j in range(2 * column, 2 * column + 2):
                                position[0], position[1], position[2] = 1, i, j
                                sums = outer(sums, y, (o, i + 1, j + q), 0, 1, position, (0,), 0)
                store(sums, t, (0,), 0, 0, 3)
                for b in range(3):
                    grad_plane[o, b] += total(t[b])
            for o in range(0, n_out, n):  # of the weights
                for c in range(channels):
                    for ky in range(size):
                        sums = zeros(x, size, n)
                        for i in range(2 * h):
                            for j in range(2 * w):
                                sums = outer(sums, x, (g, c, i + ky, j), 3, size, y, (o, i + 1, j + q), 0)
                        store(sums, s, (0, 0), 0, 1, n)
                        for kx in range(size):
                            for b in range(n):
                                grad_weight[o + b, c, ky, kx] += total(s[kx, b])
            if for_x:
                n_i, n_j = 2 * h + size - 1, 2 * w + size - 1  # rows and columns that count
                for c in range(0, channels, n_x):
                    for i in range(0, n_i, 2):
                        i = min(i, n_i - 2)  # the last tile may overlap the one before
                        for j in range(0, n_j, p):
                            j = min(j, n_j - p)
                            top, bottom = zeros(x, p, n_x), zeros(x, p, n_x)
                            for o in range(n_out):
                                for ky in range(max(0, i - 2 * h + 1), min(size, i + 2)):  # others meet only zeros
                                    for kx in range(max(0, j - 2 * w + 1), min(size, j + p)):
                                        at = (o, c, ky, kx)
                                        y_at = (o, i - ky + 1, j - kx + q)
                                        top = outer(top, y, y_at, 2, p, weight, at, 1)
                                        y_at = (o, i - ky + 2, j - kx + q)
                                        bottom = outer(bottom, y, y_at, 2, p, weight, at, 1)
                            store(top, grad_x, (g, c, i, j), 3, 1, n_x)
                            store(bottom, grad_x, (g, c, i + 1, j), 3, 1, n_x)

    return compiled(backward, dtype, size, n, n_x, p)
