"""The fast convolutions against the ordinary layers: the same function, the same gradients, whatever is cached."""

import copy
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coordconv import CoordConv2d, coordinates
from fast import conv2d, conv2d_kernels
from models import Net, Net_CoordConv, convolve_and_pool

PARTS = {"localisation": (1, 8, 7, 10, 5), "classifier": (1, 10, 5, 20, 5)}
V = conv2d_kernels.V


def convolutions(channels, c1, k1, c2, k2, coordconv=False, dtype=torch.float64):
    torch.manual_seed(3)
    layer = CoordConv2d if coordconv else nn.Conv2d
    return nn.ModuleList([layer(channels, c1, k1), layer(c1, c2, k2)]).to(dtype)


def values_and_gradients(form, layers, images, of_images=True):
    x = images.clone().requires_grad_(of_images)
    y = form(*layers, x)
    torch.manual_seed(4)
    wanted = [x] * of_images + [*layers.parameters()]
    return [y.detach(), *torch.autograd.grad(y, wanted, torch.randn(y.shape, dtype=y.dtype))]


def assert_the_same(layers, images, of_images=True, tolerance=1e-10):
    ours = values_and_gradients(conv2d.convolve_and_pool, layers, images, of_images)
    plain = values_and_gradients(convolve_and_pool, layers, images, of_images)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.equal(conv2d.convolve_and_pool(*layers, images), ours[0])


@pytest.mark.parametrize("coordconv", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_values_and_gradients_equal_the_plain_form(part, coordconv, digits):
    """On real digits with a little noise, so that no two values in a pooling window are equal by chance."""
    images = digits.test_images[:20].double() + 0.01 * torch.randn(20, 1, 28, 28, dtype=torch.float64)
    for of_images in (False, True):
        assert_the_same(convolutions(*PARTS[part], coordconv), images, of_images)


@pytest.mark.parametrize("part", PARTS)
def test_float32_agrees_to_rounding(part, digits):
    """Gradients are compared with those in float64: in float32 both forms round, each in its own order."""
    layers = convolutions(*PARTS[part], True, torch.float32)
    images = digits.test_images[:64] + 0.01 * torch.randn(64, 1, 28, 28)
    ours = values_and_gradients(conv2d.convolve_and_pool, layers, images)
    plain = values_and_gradients(convolve_and_pool, layers, images)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("batch", [1, 2, 63, 64, 65, 127, 500])
def test_any_batch_size(batch, digits):
    images = digits.test_images[:batch].double()
    images += 0.01 * torch.randn(images.shape, dtype=torch.float64)
    assert_the_same(convolutions(*PARTS["classifier"]), images)


@pytest.mark.parametrize(
    ("c1", "c2"), [(5, 9), (16, 11), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, 1), (3, 7)))]
)
def test_any_number_of_channels(c1, c2):
    assert_the_same(convolutions(3, c1, 5, c2, 3), torch.randn(5, 3, 20, 20, dtype=torch.float64))


# Each size is compiled by itself, which takes seconds; those of PARTS, 5 and 7, are compiled anyway.
KERNELS = [(k1, k2) for k1 in (1, 2, 3, 5, 7) for k2 in (1, 2, 3, 5)]


@pytest.mark.parametrize(
    ("k1", "k2"),
    [pair if pair in ((1, 3), (2, 1)) else pytest.param(*pair, marks=pytest.mark.slow) for pair in KERNELS],
)
def test_any_kernel(k1, k2):
    assert_the_same(convolutions(3, 5, k1, 9, k2), torch.randn(3, 3, 19, 19, dtype=torch.float64))


@pytest.mark.parametrize("coordconv", [False, True])
@pytest.mark.parametrize("size", [(14, 14), (15, 22), (23, 16), (27, 29)])
def test_any_size_of_images(size, coordconv):
    """Where pooling leaves rows and columns out, their gradient is 0."""
    assert_the_same(convolutions(3, 5, 5, 9, 3, coordconv), torch.randn(3, 3, *size, dtype=torch.float64))


def test_too_small_images_are_refused_in_torchs_own_words():
    layers, images = convolutions(1, 4, 5, 3, 3), torch.randn(2, 1, 5, 9, dtype=torch.float64)
    for form in (conv2d.convolve_and_pool, convolve_and_pool):
        with pytest.raises(RuntimeError, match="Output size is too small"):
            form(*layers, images)


def test_images_that_are_not_contiguous(digits):
    layers = convolutions(*PARTS["classifier"], dtype=torch.float32)
    images = digits.test_images[:9].transpose(2, 3)
    ours = conv2d.convolve_and_pool(*layers, images)
    assert torch.equal(ours, conv2d.convolve_and_pool(*layers, images.contiguous()))


@pytest.mark.parametrize("value", [0.5, -0.5])
def test_tied_values_pass_their_gradient_to_the_same_pixel_as_in_the_plain_form(value):
    """On a constant image all values of a window are equal, as on the background of a digit: the first one gets it.

    The weights have few bits, so that no sum is rounded: torch rounds the same sum otherwise at another place.
    """
    layers = convolutions(*PARTS["classifier"])
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.mul_(64).round_().div_(64)
    x = torch.full((2, 1, 28, 28), value, dtype=torch.float64)
    ours, plain = (values_and_gradients(form, layers, x) for form in (conv2d.convolve_and_pool, convolve_and_pool))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("size", "k", "channels", "n_out"),
    [(8, 3, 2, 3), *(pytest.param(*layer, marks=pytest.mark.slow) for layer in ((9, 2, 1, 4), (7, 1, 3, 2)))],
)
def test_gradcheck_of_one_layer(size, k, channels, n_out):
    torch.manual_seed(0)
    shapes = (1, channels, size, size, V), (n_out, channels, k, k), (n_out, 3)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(conv2d.ConvPool.apply, tensors, fast_mode=True)


def test_the_gradient_can_be_taken_twice_and_is_the_same():
    layers = convolutions(*PARTS["classifier"], dtype=torch.float32)
    x = torch.randn(70, 1, 28, 28, requires_grad=True)
    y = conv2d.convolve_and_pool(*layers, x).square().sum()
    first, second = (torch.autograd.grad(y, [x, *layers.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("pixel", [(0, 0), (0, 1), (1, 0), (1, 1), (27, 27)])
@pytest.mark.parametrize("k", [1, 5])
def test_a_nan_passes_through(k, pixel):
    """As in the plain form, from any one pixel of a window, and only into its own image."""
    layers = convolutions(1, 8, k, 10, 5, dtype=torch.float32)
    x = torch.randn(3, 1, 28, 28)
    x[1, 0, pixel[0], pixel[1]] = torch.nan
    for form in (conv2d.convolve_and_pool, convolve_and_pool):
        finite = form(*layers, x).isfinite().flatten(1).all(1)
        assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_seen_in_the_result(value):
    layers = convolutions(*PARTS["localisation"], dtype=torch.float32)
    with torch.no_grad():
        layers[0].weight[3, 0, 2, 2] = value
    assert not conv2d.convolve_and_pool(*layers, torch.randn(3, 1, 28, 28)).isfinite().all()


def test_coordinates_of_a_large_image_take_little_memory():
    """Three numbers for each weight are read off a corner, not off all places of the kernel."""
    planes = {n: conv2d.coordinate_planes((n, n + 3), 7, torch.float64, None) for n in (8, 2000)}
    unfolded = F.unfold(coordinates((40, 50), dtype=torch.float64), 7)[0]
    first, right, below = unfolded[:, 0], unfolded[:, 1], unfolded[:, 50 - 7 + 1]
    expected = torch.stack([first, below - first, right - first], 1)
    torch.testing.assert_close(conv2d.coordinate_planes((40, 50), 7, torch.float64, None), expected)
    assert planes[8].shape == planes[2000].shape == (2 * 49, 3)


def test_a_first_use_in_inference_mode_does_not_spoil_training(digits):
    model = Net_CoordConv(True, True)
    with conv2d.accelerated(model):
        with torch.inference_mode():
            model.eval()(digits.test_images[:4])
        model.train()(digits.test_images[:4]).sum().backward()


@pytest.mark.parametrize(
    "layer",
    [
        partial(nn.Conv2d, dilation=1, padding_mode="circular", padding=0),
        partial(nn.Conv2d, bias=False),
        partial(nn.Conv2d, dtype=torch.bfloat16),
        partial(CoordConv2d, with_r=True),
        type("Doubled", (nn.Conv2d,), {"forward": lambda self, x: 2 * nn.Conv2d.forward(self, x)}),
    ],
)
def test_a_layer_of_another_kind_is_called_as_it_is(layer, digits):
    torch.manual_seed(0)
    model = Net(classifier_conv=layer).eval()
    x = digits.test_images[:4].to(model.conv1.weight.dtype if hasattr(model.conv1, "weight") else torch.float32)
    assert not conv2d.can_compute(model.conv1, model.conv2, x)
    with conv2d.accelerated(model):
        assert torch.equal(
            model.convolve_and_pool(model.conv1, model.conv2, x), convolve_and_pool(model.conv1, model.conv2, x)
        )
    assert conv2d.can_compute(model.loc_conv1, model.loc_conv2, digits.test_images[:4])


def test_a_network_is_accelerated_for_a_while_only(digits):
    """Meanwhile it gives the same up to rounding, and can be copied; afterwards it is as it was."""
    torch.manual_seed(0)
    model, images = Net().eval(), digits.test_images[:20]
    outputs = model(images)
    with conv2d.accelerated(model):
        fast, copied = model(images), copy.deepcopy(model)
    torch.testing.assert_close(fast, outputs, rtol=1e-4, atol=1e-5)
    assert not torch.equal(fast, outputs)
    assert torch.equal(copied(images), fast)
    assert torch.equal(model(images), outputs)
    with conv2d.accelerated(model, wanted=False):
        assert torch.equal(model(images), outputs)
    other = nn.Linear(2, 2)
    with conv2d.accelerated(other):
        assert "convolve_and_pool" not in vars(other)


# What compiled code is given: it checks nothing, so that a wrong size would be read and written beyond the memory


class Guarded:
    """Compiled functions whose arrays lie between guards: nothing may write them, and a float read there is NaN."""

    SIZE = 4096  # bytes on either side

    def __init__(self, module):
        self.module, self.calls = module, 0

    def __getattr__(self, name):
        return getattr(self.module, name)

    def forward(self, *constants):
        return self.guard(self.module.forward(*constants))

    def backward(self, *constants):
        return self.guard(self.module.backward(*constants))

    def guard(self, function):
        def call(*arguments):
            self.calls += 1
            whole = [self.surrounded(a) if isinstance(a, np.ndarray) else (a, None) for a in arguments]
            function(*(inner for inner, _ in whole))
            for (inner, memory), outer in zip(whole, arguments, strict=True):
                if memory is not None:
                    assert (memory[: self.SIZE] == 0xFF).all()
                    assert (memory[self.SIZE + inner.nbytes :] == 0xFF).all()
                    outer[...] = inner

        return call

    def surrounded(self, array):
        memory = np.full(array.nbytes + 2 * self.SIZE, 0xFF, np.uint8)  # as a float: NaN
        inner = memory[self.SIZE : self.SIZE + array.nbytes].view(array.dtype).reshape(array.shape)
        inner[...] = array
        return inner, memory


@pytest.fixture(scope="module")
def guarded():
    with pytest.MonkeyPatch.context() as patch:
        module = Guarded(conv2d_kernels)
        patch.setattr(conv2d, "kernels", lambda: module)
        yield module


def outcome(form, layers, x):
    """The result and its gradients, or the kind of the error and what torch says."""
    try:
        y = form(*layers, x)
        wanted = [tensor for tensor in (x, *layers.parameters()) if tensor.requires_grad]
        return [y, *torch.autograd.grad(y.square().sum(), wanted, materialize_grads=True)]
    except Exception as error:
        return type(error), str(error)


def mostly(usual, odd):
    """Nine times of ten one of the usual values, otherwise an odd one."""
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from([*(usual if n else odd)]))


ODD_LAYERS = [
    partial(CoordConv2d, with_r=True),
    partial(nn.Conv2d, padding=1),
    partial(nn.Conv2d, bias=False),
    partial(nn.Conv2d, stride=2),
    partial(CoordConv2d, padding=1, padding_mode="circular"),
]


@given(
    layers=st.tuples(*[mostly([nn.Conv2d, CoordConv2d], ODD_LAYERS)] * 2),
    pair=st.sampled_from([*PARTS.values(), (3, 5, 5, 9, 3)]),
    shape=st.tuples(mostly([1, 2, 16, 17, 33], [0]), mostly([None], range(6)), *[mostly(range(18, 25), range(18))] * 2),
    rank=mostly([4], [3, 5]),
    dtypes=mostly(
        [(torch.float32, torch.float32)],
        [
            (torch.float64, torch.float64),
            *((torch.float64, torch.float32), (torch.float32, torch.float64)),
            *((torch.uint8, torch.float32), (torch.bfloat16, torch.bfloat16)),
        ],
    ),
    layout=st.sampled_from(["as it is", "transposed", "channels last", "every other"]),
    of_images=st.booleans(),
)
@settings(max_examples=200)
def whatever_is_given_the_result_or_the_error_is_that_of_the_plain_form(
    guarded, layers, pair, shape, rank, dtypes, layout, of_images
):
    torch.manual_seed(0)
    batch, n_channels, height, width = shape
    n_channels = pair[0] if n_channels is None else n_channels
    made = nn.ModuleList([layers[0](*pair[:3]), layers[1](pair[1], *pair[3:])]).to(dtypes[1])
    x = 3 * torch.rand((batch, n_channels, height, width, 2)[:rank])
    if layout == "transposed" and rank > 3:
        x = x.transpose(2, 3)
    elif layout == "channels last" and rank == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "every other":
        x = x.repeat_interleave(2, -1)[..., ::2]
    x = x.to(dtypes[0])
    if x.is_floating_point():
        x.requires_grad_(of_images)
    ours, plain = (outcome(form, made, x) for form in (conv2d.convolve_and_pool, convolve_and_pool))
    if isinstance(plain, tuple):
        assert ours == plain
    else:
        assert not isinstance(ours, tuple), ours
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(b.detach().abs().max() if b.numel() else 0))
            )


def test_whatever_is_given_the_result_or_the_error_is_that_of_the_plain_form(guarded):
    before = guarded.calls
    whatever_is_given_the_result_or_the_error_is_that_of_the_plain_form(guarded)
    assert guarded.calls - before > 200  # two of each layer, forward and back: a good part of the examples is computed


def test_the_guards_see_a_write_beyond_an_array(guarded):
    def wrong(array):
        np.lib.stride_tricks.as_strided(array, (len(array) + 1,))[-1] = 0

    with pytest.raises(AssertionError):
        guarded.guard(wrong)(np.zeros(3, np.float32))


def test_a_huge_batch(guarded, digits):
    layers = convolutions(1, 5, 3, 9, 3, dtype=torch.float32)
    images = digits.train_images[:640].repeat(8, 1, 1, 1)[:5003, :, 8:20, 8:20]
    before = guarded.calls
    with torch.no_grad():
        torch.testing.assert_close(
            conv2d.convolve_and_pool(*layers, images), convolve_and_pool(*layers, images), rtol=1e-4, atol=1e-5
        )
    assert guarded.calls == before + 2


def groups(*shape, dtype=torch.float32):
    return torch.rand(*shape, V).to(dtype)


RIGHT = {"x": groups(2, 3, 9, 8), "weight": torch.rand(4, 3, 3, 3), "plane": torch.rand(4, 3)}
RIGHT |= {"grad": groups(2, 4, 3, 3), "places": groups(2, 4, 3, 3, dtype=torch.int8)}
WRONG = {
    "another number of images": {"x": torch.rand(2, 3, 9, 8, V + 1)},
    "no groups": {"x": torch.rand(3, 9, 8, V)},
    "too few channels": {"x": groups(2, 2, 9, 8)},
    "too small": {"x": groups(2, 3, 3, 8)},
    "whole numbers": {"x": groups(2, 3, 9, 8, dtype=torch.int32)},
    "half": {name: tensor.half() for name, tensor in RIGHT.items()},
    "an oblong kernel": {"weight": torch.rand(4, 3, 3, 2)},
    "a weight of another dtype": {"weight": torch.rand(4, 3, 3, 3).double()},
    "no weight": {"weight": torch.rand(4, 3, 0, 0)},
    "a short plane": {"plane": torch.rand(3, 3)},
    "a narrow plane": {"plane": torch.rand(4, 2)},
    "a small gradient": {"grad": groups(2, 4, 3, 2)},
    "a gradient of another dtype": {"grad": groups(2, 4, 3, 3).double()},
    "few places": {"places": groups(1, 4, 3, 3, dtype=torch.int8)},
    "places of another dtype": {"places": groups(2, 4, 3, 3, dtype=torch.int64)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_operations_themselves_refuse_what_does_not_fit(wrong, guarded):
    given, before = RIGHT | WRONG[wrong], guarded.calls
    forward = (given["x"], given["weight"], given["plane"])
    backward = (given["grad"], given["x"], given["weight"], given["places"], True)
    if not {"grad", "places"} >= WRONG[wrong].keys():
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.ops.stn.conv_pool(*forward)
    if "plane" not in WRONG[wrong]:
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.ops.stn.conv_pool_grad(*backward)
    assert guarded.calls == before


def test_the_operations_keep_torchs_rules():
    """Their fake forms have the shapes, strides and dtypes of the real ones, and nothing given is changed."""
    x, weight, plane, grad, places = RIGHT.values()
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.stn.conv_pool.default, (x, weight, plane), test_utils=tests)
    for for_x in (False, True):
        torch.library.opcheck(torch.ops.stn.conv_pool_grad.default, (grad, x, weight, places, for_x), test_utils=tests)


# Compiling and what is kept of it

FIRST_STEP = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
from fast import conv2d
from torch import nn
if "numba" in sys.modules or "fast.conv2d_kernels" in sys.modules:
    raise SystemExit("Numba is imported before it is needed")
layers = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)
x = torch.randn(8, 1, 14, 14)
if not conv2d.can_compute(*layers, x):
    raise SystemExit("ordinary layers")
y = conv2d.convolve_and_pool(*layers, x)
print(y.double().sum().item().hex())
"""
# The compiled loops alone: a start that costs less, for tests of what happens to their files.
LOOPS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from fast import conv2d_kernels
v, f = conv2d_kernels.V, np.float32
x = np.arange(14 * 14 * v, dtype=f).reshape(1, 1, 14, 14, v) % 17
weight, plane = np.arange(18, dtype=f).reshape(2, 1, 3, 3), np.ones((2, 3), f)
z, places = np.empty((1, 2, 6, 6, v), f), np.empty((1, 2, 6, 6, v), np.int8)
bias, y = np.empty((2, 12, 12), f), np.empty((2, 2, 2, 6, v), f)
conv2d_kernels.forward("float32", 2)(x, weight, plane, z, places, bias, y)
print(float(z.astype(float).sum()).hex())
"""
TOLD = "compiling the convolutions for this processor, once"


def copy_sources(folder):
    (folder / "fast").mkdir(parents=True)
    (folder / "stn").mkdir()
    fast = ("fast/__init__.py", "fast/conv2d.py", "fast/conv2d_kernels.py")
    for name in (*fast, "coordconv.py", "models.py", "stn/__init__.py", "stn/warps.py"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def checkout(tmp_path):
    """The files of the convolutions in a folder of their own, without a cache."""
    return copy_sources(tmp_path / "checkout")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(A checkout with a cache, what the program printed and said when that was made.)"""
    folder = copy_sources(tmp_path_factory.mktemp("compiled") / "checkout")
    return folder, *end(begin(folder))


@pytest.fixture
def cached(compiled, tmp_path):
    """A copy of that checkout."""
    return shutil.copytree(compiled[0], tmp_path / "checkout")


def begin(checkout, program=LOOPS, **changes):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")} | changes
    command = [sys.executable, "-W", "error", "-c", program, str(checkout)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": checkout.parent}
    return subprocess.Popen(command, env=environment, **options)


def end(process):
    """(standard output, standard error) of a process that must succeed."""
    output, errors = process.communicate(timeout=170)
    assert process.returncode == 0, errors
    return output, errors


def test_the_first_step_compiles_and_says_so(checkout):
    """A second one does not, as the tests below show of the loops alone."""
    output, errors = end(begin(checkout, FIRST_STEP))
    assert output
    assert errors.startswith(TOLD)
    assert errors.count("\n") == 1


def test_two_processes_at_once(compiled, checkout):
    outputs = [output for output, _ in map(end, [begin(checkout) for _ in range(2)])]
    assert outputs == [compiled[1]] * 2
    assert end(begin(checkout)) == (compiled[1], "")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [None, b"", b"damaged"])
def test_a_damaged_cache_is_made_anew(compiled, cached, damage):
    """Indices and code that are cut in half as by a full disk, empty, or other bytes."""
    for path in cached.glob("fast/__pycache__/*.nb?"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    output, errors = end(begin(cached))
    assert output == compiled[1]
    assert errors.startswith(TOLD)
    assert end(begin(cached)) == (output, "")


def test_damaged_code_is_made_anew(compiled, cached):
    """With an index that names it."""
    for path in cached.glob("fast/__pycache__/*.nbc"):
        path.write_bytes(path.read_bytes()[:-1000])
    output, errors = end(begin(cached))
    assert output == compiled[1]
    assert errors.startswith(TOLD)
    assert end(begin(cached)) == (output, "")


def test_an_interrupted_compilation_leaves_nothing_that_is_used(checkout):
    process = begin(checkout)
    process.stderr.readline()  # it is compiling
    process.kill()
    process.communicate()
    assert end(begin(checkout))[1].startswith(TOLD)


def test_another_processor_does_not_get_this_ones_code(compiled, cached):
    """One that has less: with its own number of images side by side, and its own files beside the others."""
    n = len([*cached.glob("fast/__pycache__/*.nbc")])
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert end(begin(cached, **other))[1].startswith(TOLD)
    assert end(begin(cached)) == (compiled[1], "")
    assert len([*cached.glob("fast/__pycache__/*.nbc")]) == 2 * n


def test_a_checkout_that_cannot_be_written_and_no_home(checkout):
    """Then each process compiles. (A file in place of the folder stops root, too.)"""
    (checkout / "fast" / "__pycache__").write_text("")
    output, errors = end(begin(checkout, HOME="/dev/null"))
    assert output
    assert errors.startswith(TOLD)
    assert errors.count("\n") == 1
    assert not [*checkout.rglob("*.nb?")]  # so that the next one compiles, too


@pytest.mark.slow
def test_a_checkout_that_cannot_be_written_and_a_home(checkout):
    """The cache is then the user's."""
    (checkout / "fast" / "__pycache__").write_text("")
    first, second = (end(begin(checkout, HOME=str(checkout.parent))) for _ in range(2))
    assert first[1].startswith(TOLD)
    assert second == (first[0], "")


def test_a_damaged_cache_that_cannot_be_replaced(compiled, cached):
    """As when a file system became full or read-only after the folder was tried."""
    program = LOOPS.replace(
        "v, f =",
        "from numba.core.caching import IndexDataCacheFile as File\n"
        "def full(*_):\n    raise OSError(28, 'No space left on device')\n"
        "File._save_index = File._save_data = full\nv, f =",
        1,
    )
    for path in cached.glob("fast/__pycache__/*.nbi"):
        path.write_bytes(b"damaged")
    output, errors = end(begin(cached, program))
    assert output == compiled[1]
    assert errors.startswith(TOLD)


def test_without_numba_one_line_says_that_the_ordinary_layers_are_used(checkout):
    program = 'import sys\nsys.modules["numba"] = None\n' + FIRST_STEP.replace(
        'if "numba" in sys.modules or "fast.conv2d_kernels" in sys.modules:', "if False:"
    ).replace('raise SystemExit("ordinary layers")', "print(conv2d.can_compute(*layers, x))\n    sys.exit()")
    output, errors = end(begin(checkout, program))
    assert output == "False\n"
    assert errors.startswith("Numba cannot be imported")
    assert errors.count("\n") == 1
