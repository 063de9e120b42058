"""Networks, layers and warps taken elsewhere: exported, compiled, traced, transformed, watched, changed and copied."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import cache, partial

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

import coordconv
import models
from coordconv import AddCoords, CoordConv1d, CoordConv2d, CoordConv3d
from digits import pretrained
from fast import conv2d
from lab.catalogue import spec_of
from models import Net, Net_CoordConv, Net_CoordConv_Homography
from stn import warps
from studies.cards.networks import Net_Card, Net_Card_Homography

DYNAMIC = torch.export.Dim.DYNAMIC
NETWORKS = {
    "Net": (Net, (1, 28, 28)),
    "CoordConv": (partial(Net_CoordConv, True, True), (1, 28, 28)),
    "no transformer": (partial(Net_CoordConv, False, True, True), (1, 28, 28)),
    "homography": (partial(Net_CoordConv_Homography, padding="background", passes=2), (1, 28, 28)),
    "canvas": (partial(Net_CoordConv_Homography, padding="border", canvas=2), (1, 56, 56)),
    "card": (partial(Net_Card_Homography, True, passes=2), (1, 128, 128)),
}
LAYERS = {1: CoordConv1d, 2: CoordConv2d, 3: CoordConv3d}
close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)
# What PyTorch says of itself: that tracing is old, and that it has no batched form of one gradient.
quiet = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning", "ignore:There is a performance drop"
)


def new(name):
    """A network that does something, in evaluation, and two batches for it, of two and of five images."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    if not network.bypass_localisation:
        nn.init.normal_(network.loc_fc2.weight, std=0.05)
    return network, torch.rand(2, *shape), torch.rand(5, *shape)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name == "canvas" else name for name in NETWORKS])
def network(request):
    """As `new`; whatever was done with the network, at the end it computes what it did before."""
    network, images, more = new(request.param)
    expected = network(more)
    yield network, images, more
    assert torch.equal(network(more), expected)
    numbers = type(network)(**network_arguments(request.param)).eval()(more)  # a new one of that size, too
    assert type(numbers) is torch.Tensor
    assert numbers.isfinite().all()


def network_arguments(name):
    make, _ = NETWORKS[name]
    if not isinstance(make, partial):
        return {}
    flags = ("use_coordconf_localisation", "use_coordconf_classifier", "bypass_localisation")
    return dict(zip(flags, make.args, strict=False)) | make.keywords


def run_onnx(exported, images):
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


# Exported, compiled, traced


def test_a_network_is_exported_for_batches_of_any_size(network):
    network, images, more = network
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: DYNAMIC},)).module()
    close(exported(more), network(more))
    names = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "stn" in str(name)]  # nothing that only this repository has


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_becomes_onnx(name):
    """Without --slow, the program of docs/elsewhere.md (see test_documents.py) is."""
    network, images, more = new(name)
    exported = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=({0: DYNAMIC},), verbose=False)
    close(run_onnx(exported, more), network(more).detach())


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained.names())
def test_a_network_of_weights_is_exported_and_becomes_onnx(name, digits):
    """On test images of its own kind: from noise, several passes would end wherever a rounding takes them."""
    trained = pretrained.load(name)
    network, images = trained.model, spec_of(trained.results["data"]).built(digits).test_images[:7].clone()
    images, more = images[:2], images[2:]
    dynamic = {"dynamic_shapes": ({0: DYNAMIC},)}
    close(torch.export.export(network, (images,), **dynamic).module()(more), network(more))
    close(run_onnx(torch.onnx.export(network, (images,), dynamo=True, verbose=False, **dynamic), more), network(more))


@quiet
def test_a_network_is_traced_for_batches_of_any_size(network):
    network, images, more = network
    scenes = isinstance(network, Net_Card)  # their size decides what is done with them, which tracing warns of
    with pytest.warns(torch.jit.TracerWarning) if scenes else nullcontext():
        traced = torch.jit.trace(network, images)
    close(traced(more), network(more))


@pytest.mark.parametrize(
    "name",
    [
        *("no transformer", "card"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("Net", "CoordConv", "homography", "canvas")),
    ],
)
def test_a_network_is_compiled_whole(name):
    """And trained: by what torch.compile sees, without a compiler of C++."""
    torch._dynamo.reset()
    network, images, more = (part.double() for part in new(name))
    compiled = torch.compile(
        network, fullgraph=True, backend="eager" if name in ("card", "homography") else "aot_eager"
    )
    close(compiled(images), network(images))
    wanted = [*network.parameters()]
    ours, expected = (torch.autograd.grad(form(more).square().sum(), wanted) for form in (compiled, network))
    torch.testing.assert_close(ours, expected)
    compiled.train()(images).sum().backward()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler of C++")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_compiled_to_machine_code(name):
    torch._dynamo.reset()
    network, images, more = new(name)
    compiled = torch.compile(network, fullgraph=True)
    close(compiled(images), network(images))
    close(compiled(more), network(more))


@pytest.mark.parametrize(
    ("rank", "with_r"), [(1, True), (2, False), pytest.param(2, True, marks=pytest.mark.slow), (3, False)]
)
@quiet
def test_a_layer_goes_elsewhere_for_images_of_any_size(rank, with_r):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = LAYERS[rank](3, 4, 3, with_r=with_r).eval()
    images, more = torch.rand(2, 3, *(9, 7, 6)[:rank]), torch.rand(5, 3, *(12, 11, 10)[:rank])
    dynamic = {"dynamic_shapes": (dict.fromkeys((0, *range(2, rank + 2)), DYNAMIC),)}
    forms = [
        torch.export.export(layer, (images,), **dynamic).module(),
        torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True),
        torch.jit.trace(layer, images),
    ]
    for form in forms:
        close(form(more), layer(more))
        close(form(images), layer(images))
    if rank == 2 and with_r:
        close(
            run_onnx(torch.onnx.export(layer, (images,), dynamo=True, verbose=False, **dynamic), more),
            layer(more).detach(),
        )


def test_a_warp_is_exported_for_images_of_any_size():
    class Warp(nn.Module):
        def forward(self, images, matrices):
            return warps.homography_warp(images, matrices, "background")

    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    sizes = {0: batch, 2: DYNAMIC, 3: DYNAMIC}, {0: batch}
    matrices = torch.eye(3) + 0.1 * torch.randn(4, 3, 3)
    exported = torch.export.export(Warp(), (torch.rand(3, 1, 20, 24), matrices[:3]), dynamic_shapes=sizes).module()
    images = torch.rand(4, 1, 40, 34)
    close(exported(images, matrices), warps.homography_warp(images, matrices, "background"))


@quiet
@pytest.mark.parametrize("name", ["affine_warp", "homography_warp"])
def test_a_traced_warp_serves_one_image_or_one_transform_too(name):
    images, matrices = torch.rand(3, 2, 9, 8), torch.eye(3) + 0.1 * torch.rand(3, 3, 3)
    transforms = matrices[:, :2].flatten(1) if name == "affine_warp" else matrices
    warp = getattr(warps, name)
    for example in ((images, transforms[:1]), (images[:1], transforms), (images, transforms)):
        close(torch.jit.trace(warp, example)(*example), warp(*example))
        more = [torch.cat([part, part]) if len(part) > 1 else part for part in example]
        close(torch.jit.trace(warp, example)(*more), warp(*more))


# Differentiated and watched


@pytest.mark.parametrize("fast", [False, True])
@quiet
def test_gradients_of_single_samples_and_jacobians(network, fast):
    network, images, _ = network
    parameters = dict(network.named_parameters())
    with conv2d.accelerated(network, fast):
        by_sample = vmap(grad(lambda p, one: functional_call(network, p, (one[None],)).square().sum()), (None, 0))
        together = by_sample(parameters, images)
        jacobian = jacrev(network)(images[:1])
    for number, image in enumerate(images.split(1)):
        alone = torch.autograd.grad(network(image).square().sum(), [*parameters.values()])
        for ours, expected in zip(together.values(), alone, strict=True):
            torch.testing.assert_close(
                ours[number], expected, rtol=0.02, atol=1e-3 * float(expected.abs().max()) + 1e-6
            )
    image = images[:1].clone().requires_grad_()
    score = network(image).flatten()[3]
    expected = torch.autograd.grad(score, image)[0].flatten()
    close(jacobian.flatten(0, -5)[3].flatten(), expected)
    with conv2d.accelerated(network, fast):
        vectorised = torch.autograd.functional.jacobian(network, images[:1], vectorize=True)
    close(vectorised.flatten(0, -5)[3].flatten(), expected)


@quiet
def test_only_the_gradient_is_transformed():
    """The result was computed as usual, by compiled loops, before its gradient is batched or differentiated."""
    network, images, _ = new("CoordConv")
    network, images = network.double(), images.double()
    weight, tangents = network.conv1.conv.weight, []
    with conv2d.accelerated(network):
        for form in (network.convolve_and_pool, models.convolve_and_pool):
            y = form(network.conv1, network.conv2, images)
            backward = partial(torch.autograd.grad, y, weight, retain_graph=True)
            batched = vmap(lambda v, backward=backward: backward(v)[0])(torch.stack([y.detach(), 2 * y.detach()]))
            torch.testing.assert_close(batched[1], 2 * backward(y.detach())[0])
            with forward_ad.dual_level():
                dual = backward(forward_ad.make_dual(torch.ones_like(y), y.detach()))[0]
                tangents.append(forward_ad.unpack_dual(dual).tangent)
    torch.testing.assert_close(*tangents)


def test_a_gradient_is_differentiated_once_more(network):
    """A gradient penalty, against the plain form: of the images and of the parameters."""
    network, images, _ = network
    network, images = copy.deepcopy(network).double(), images.double().requires_grad_()
    found = []
    for accelerated in (True, False):
        with conv2d.accelerated(network, accelerated):
            wanted = [images, *network.parameters()]
            first = torch.autograd.grad(network(images).square().sum(), wanted, create_graph=True)
            penalty = sum(gradient.square().sum() for gradient in first)
            found.append([*first, *torch.autograd.grad(penalty, wanted, materialize_grads=True)])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)
    assert found[0][0].abs().max() > 0


@pytest.mark.parametrize("coordconv", [False, True])
def test_gradgradcheck_of_a_layer_in_groups(coordconv):
    torch.manual_seed(0)
    v = conv2d.kernels().V
    x, weight = torch.randn(1, 2, 7, 6, v, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    plane = torch.randn(3, 3, dtype=torch.float64) * (1 if coordconv else torch.tensor([1, 0, 0]))
    for wanted in ((x, weight, plane), (weight, plane), (x,)):
        inputs = [tensor.clone().requires_grad_(any(tensor is w for w in wanted)) for tensor in (x, weight, plane)]
        assert torch.autograd.gradgradcheck(conv2d.ConvPool.apply, inputs, fast_mode=True)


@pytest.mark.parametrize("fast", [False, True])
def test_autocast_gives_the_same_to_the_precision_of_its_numbers(network, fast):
    network, images, _ = network
    with conv2d.accelerated(network, fast), torch.autocast("cpu", torch.bfloat16):
        ours = network(images)
        assert ours.dtype == torch.bfloat16 or ours.dtype == torch.float32
    assert not torch.equal(ours.float(), network(images))
    torch.testing.assert_close(ours.float(), network(images), rtol=0.1, atol=0.15)


def test_autocast_leaves_the_places_of_a_warp_alone():
    """With 8 bits for a place an image of 500 pixels would be read up to a pixel away."""
    columns = torch.arange(500.0).expand(1, 1, 500, 500)
    theta = torch.tensor([[1.0, 0, 0.001, 0, 1, 0]])
    expected = warps.affine_warp(columns, theta)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warps.affine_warp(columns, theta), expected)
        torch.testing.assert_close(warps.homography_warp(columns, warps.to_homography(theta)), expected)


@pytest.mark.parametrize("first", ["has_bounded_denominator", "affine_warp", "homography_warp", "source_points"])
def test_what_a_warp_keeps_is_exact_also_if_autocast_uses_it_first(first):
    """The grid of a size is made once: in bfloat16 it would break every warp of that size that follows."""
    warps._cache.clear()
    images, matrices = torch.rand(2, 1, 9, 9), torch.eye(3).expand(2, 3, 3) + 0.01
    arguments = {
        "has_bounded_denominator": (matrices, 9, 9),
        "source_points": (matrices, 9, 9),
        "affine_warp": (images, matrices[:, :2].flatten(1)),
        "homography_warp": (images, matrices),
    }[first]
    expected = getattr(warps, first)(*arguments)
    warps._cache.clear()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = getattr(warps, first)(*arguments)
    torch.testing.assert_close(under_autocast, expected, rtol=0, atol=0)
    assert {kept.dtype for kept in warps._cache.values()} == {torch.float32}
    torch.testing.assert_close(getattr(warps, first)(*arguments), expected, rtol=0, atol=0)


def test_autocast_changes_no_dtype_but_of_half_precision():
    images, matrices = torch.rand(2, 1, 9, 9), torch.eye(3).expand(2, 3, 3) + 0.01
    doubles, points = (images.double(), matrices.double()), torch.rand(2, 5, 2)
    exact, mapped = warps.homography_warp(*doubles), warps.map_points(matrices, points)
    in_pixels = warps.pixel_homography(matrices, (30, 40), (50, 60))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warps.homography_warp(*doubles), exact)
        assert torch.equal(warps.map_points(matrices, points), mapped)
        assert torch.equal(warps.pixel_homography(matrices, (30, 40), (50, 60)), in_pixels)
        assert warps.homography_warp(images.bfloat16(), matrices).dtype == torch.float32
        with pytest.raises(RuntimeError):
            warps.homography_warp(images.byte(), matrices)


@pytest.mark.parametrize("name", ["homography", "card"])
def test_autocast_leaves_passes_exact(name, monkeypatch):
    """Transforms are composed and applied in float32: only what the layers predict has the precision of bfloat16."""
    network, images, _ = new(name)
    products, product = [], torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda a, b: products.append(product(a, b)) or products[-1])
    with torch.autocast("cpu", torch.bfloat16):
        network(images)
        homographies = network.homographies(images)
    assert products
    assert {product.dtype for product in (*products, *homographies)} == {torch.float32}


@pytest.mark.parametrize("fast", [False, True])
def test_operations_are_counted(fast):
    """Multiplications and additions of both parts, by hand."""
    network, images, _ = new("Net")
    network(images)  # what is made once is not counted
    convolutions = 22**2 * 8 * 49 + 7**2 * 10 * 8 * 25 + 24**2 * 10 * 25 + 8**2 * 20 * 10 * 25
    linear = 90 * 32 + 32 * 6 + 6 * 2 * 28**2 + 320 * 50 + 50 * 10  # the transform, then a grid from its six numbers
    with conv2d.accelerated(network, fast), FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() == 2 * len(images) * (convolutions + linear)


def test_a_network_computes_shapes_on_the_meta_device_and_with_fake_tensors(network):
    network, images, more = network
    shape = network(more).shape
    assert copy.deepcopy(network).to("meta")(more.to("meta")).shape == shape
    coordconv._cache.clear()
    warps._cache.clear()
    for fast in (False, True):
        with conv2d.accelerated(network, fast), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert network(mode.from_tensor(more)).shape == shape
            assert network(more).shape == shape  # real images, too, while fake tensors are made
    assert all(type(kept) is torch.Tensor for kept in coordconv._cache.values())
    with torch.inference_mode():
        network(images)
    network(images).sum().backward()


@pytest.mark.parametrize("fast", [False, True])
def test_a_network_is_copied_and_pickled(network, fast):
    network, images, _ = network
    with conv2d.accelerated(network, fast):
        expected = network(images)
        for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(copied(images), expected)


def test_nothing_is_kept_that_transforms_and_tracers_have_made():
    """Not the wrapped tensors of torch.func, nor those of a functional form: the next call has its own."""
    for transform in (
        lambda f: torch.func.functionalize(f),
        lambda f: lambda x: vmap(f)(x[:, None])[:, 0],
        lambda f: lambda x: grad(lambda y: f(y).sum())(x),
    ):
        coordconv._cache.clear()
        warps._cache.clear()
        network, images, _ = new("CoordConv")
        transform(network)(images)
        for kept in (*coordconv._cache.values(), *warps._cache.values()):
            assert type(kept) is torch.Tensor
            assert not torch._C._functorch.is_functorch_wrapped_tensor(kept)
            assert not torch._is_functional_tensor(kept)
        network(images).sum().backward()


# Changed by others


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)


def replaced(layer):
    layer.forward = lambda x: 2 * type(layer).forward(layer, x)


CHANGES = {
    "pruning": pruned,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm, by a hook": pytest.param(
        nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
    ),
    "spectral_norm, by a hook": nn.utils.spectral_norm,
    "another forward": replaced,
}
CHANGES = [
    pytest.param(*change.values, id=name, marks=change.marks)
    if hasattr(change, "marks")
    else pytest.param(change, id=name)
    for name, change in CHANGES.items()
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_of_a_coordconv_is_called(change):
    """Two steps of training, whose gradients reach what the change has added, and the same as by calling it."""
    torch.manual_seed(0)
    layer, images = CoordConv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
    change(layer.conv)
    for _ in range(2):
        layer(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(3)
    layer.eval()
    assert torch.equal(layer(images), layer.conv(layer.addcoords(images)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_with_changed_layers_is_trained_as_it_is(change):
    """Accelerated or not: the gradients and the state after three steps are the same."""
    found = []
    for fast in (True, False):
        network, images, _ = new("Net")
        for layer in (network.conv2, network.loc_conv1):
            change(layer)
        torch.manual_seed(1)
        with conv2d.accelerated(network.train(), fast):
            for _ in range(3):
                network.zero_grad()
                network(images).square().sum().backward()
        found.append([*(p.grad for p in network.parameters()), *network.buffers()])
    assert all(gradient is not None for gradient in found[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [False, True])
def test_hooks_of_every_layer_are_called(fast):
    """As for Grad-CAM or a summary of layers."""
    network, images, _ = new("CoordConv")
    called = []
    for name, layer in network.named_modules():
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    with conv2d.accelerated(network, fast):
        network(images)
    assert sorted(called) == sorted(name for name, _ in network.named_modules())


def test_a_method_of_ones_own_is_the_one_that_computes():
    """An override of `convolve_and_pool`, in a class or in one network, is neither replaced nor lost."""

    def twice(conv1, conv2, x):
        return 2 * models.convolve_and_pool(conv1, conv2, x)

    class Twice(Net):
        convolve_and_pool = staticmethod(twice)

    class WithMethod(Net):
        def convolve_and_pool(self, conv1, conv2, x):
            return twice(conv1, conv2, x)

    torch.manual_seed(0)
    images, put_in = torch.rand(4, 1, 28, 28), Net()
    put_in.convolve_and_pool = twice
    for network in (Twice(), WithMethod(), put_in):
        network.eval()
        expected = network(images)
        with conv2d.accelerated(network):
            assert torch.equal(network(images), expected)
        assert torch.equal(network(images), expected)
        assert conv2d.accelerate(network) is network
        assert torch.equal(network(images), expected)


def test_a_network_within_another_is_accelerated_and_an_inner_use_leaves_an_outer_one_on():
    network, _, _ = new("Net")
    with conv2d.accelerated(nn.Sequential(nn.Identity(), network)):
        for wanted in (False, True):
            assert network.convolve_and_pool is conv2d.convolve_and_pool
            with conv2d.accelerated(network, wanted):
                pass
        assert network.convolve_and_pool is conv2d.convolve_and_pool
    assert network.convolve_and_pool is models.convolve_and_pool
    assert "convolve_and_pool" not in vars(network)


@pytest.mark.parametrize("fast", [False, True])
def test_a_layer_that_is_replaced_is_the_one_that_computes(fast):
    """One with another padding mode, as LoRA or quantisation would put in its place."""
    network, images, _ = new("CoordConv")
    other = nn.Conv2d(12, 20, 5, padding=2, padding_mode="circular")
    network.conv2.conv = other
    with conv2d.accelerated(network, fast):
        ours = network.convolve_and_pool(network.conv1, network.conv2, images)
    before = F.relu(F.max_pool2d(network.conv1(images), 2))
    close(ours, F.relu(F.max_pool2d(other(network.conv2.addcoords(before)), 2)))


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_a_coordconv_has_the_padding_modes_of_torch(mode):
    layer = CoordConv2d(3, 4, 3, padding=1, padding_mode=mode, dtype=torch.float64)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    extended = torch.cat([images, coordconv.coordinates((8, 8), dtype=torch.float64).expand(2, -1, -1, -1)], 1)
    padded = F.pad(extended, (1, 1, 1, 1), mode=mode)
    torch.testing.assert_close(layer(images), F.conv2d(padded, layer.conv.weight, layer.conv.bias))
    assert CoordConv2d(3, 4, 3, device="meta").conv.weight.device.type == "meta"


# Arguments and files


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_images_in_colour_are_refused_in_torchs_own_words(name, fast):
    network, images, _ = new(name)
    with (
        conv2d.accelerated(network, fast),
        pytest.raises(RuntimeError, match=r"expected input\[.* to have \d channels, but got"),
    ):
        network(images.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_batch_gives_an_empty_result(name, fast):
    network, images, _ = new(name)
    with conv2d.accelerated(network, fast):
        assert network(images[:0]).shape == (0, *network(images).shape[1:])
        assert network.homography(images[:0]).shape == (0, 3, 3)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_images_of_another_dtype_are_refused(dtype, fast):
    network, images, _ = new("Net")
    with conv2d.accelerated(network, fast), pytest.raises(RuntimeError, match="should be the same"):
        network(images.to(dtype))


def test_coordinates_take_no_whole_numbers():
    with pytest.raises(TypeError, match=r"must be floating-point, not torch\.uint8"):
        CoordConv2d(3, 4, 3)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("rank", LAYERS)
def test_a_single_image_without_a_batch_is_taken_as_torchs_layers_take_it(rank):
    layer, images = LAYERS[rank](3, 4, 3, with_r=True), torch.rand(2, 3, *(7, 6, 5)[:rank])
    close(layer(images[1]), layer(images)[1])


def test_files_are_taken_into_another_project_alone(tmp_path):
    for name in ("coordconv.py", "stn/warps.py"):
        shutil.copy(ROOT / name, tmp_path)
    program = "import sys, coordconv, warps; sys.exit(any(name in sys.modules for name in ('models', 'stn', 'lab')))"
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path).returncode == 0


def test_few_small_tensors_are_kept():
    """However many sizes are used, and of large ones none."""
    coordconv._cache.clear()
    warps._cache.clear()
    layer = CoordConv2d(1, 1, 3)
    for n in (*range(3, 43), 200):
        images = torch.rand(1, 1, n, n)
        layer(images)
        warps.homography_warp(images, torch.eye(3)[None])
    for module in (coordconv, warps):
        assert 0 < len(module._cache) <= module.CACHE_LENGTH == 32
        assert sum(kept.nbytes for kept in module._cache.values()) < 8_000_000
        module._cache.clear()


@pytest.mark.parametrize("rank", LAYERS)
def test_use_cuda_is_taken_as_in_walsvids_layers_and_means_nothing(rank):
    images = torch.rand(2, 3, *(7, 6, 5)[:rank])
    for value in (True, False):
        torch.manual_seed(0)
        ours = LAYERS[rank](3, 4, 3, with_r=True, use_cuda=value)
        torch.manual_seed(0)
        assert torch.equal(ours(images), LAYERS[rank](3, 4, 3, with_r=True)(images))
        assert torch.equal(AddCoords(rank, False, value)(images), AddCoords(rank)(images))


def test_coordinates_of_a_size_that_is_not_known_yet_have_the_precision_of_their_dtype():
    program = torch.export.export(
        AddCoords(2).double(), (torch.rand(1, 1, 9, 8).double(),), dynamic_shapes=({2: DYNAMIC, 3: DYNAMIC},)
    )
    images = torch.rand(1, 1, 50, 37).double()
    torch.testing.assert_close(program.module()(images), AddCoords(2)(images), rtol=0, atol=1e-15)


MEMORY = """
import json, multiprocessing, sys, torch
import torch.nn.functional as F
from stn import warps

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def run(images, form, padding, gradient):
    theta = torch.tensor([[1, 0.1, 0, 0.1, 1, 0]], requires_grad=gradient)
    images.requires_grad_(gradient)
    if form == "torch":
        grid = F.affine_grid(theta.view(1, 2, 3), images.shape, align_corners=False)
        warped = F.grid_sample(images, grid, align_corners=False)
    else:
        warped = getattr(warps, form)(images, theta if form == "affine_warp" else warps.to_homography(theta), padding)
    if gradient:
        warped.backward(warped.detach())

def measure(answers, channels, *case):
    images = torch.rand(1, channels, 1000, 1500)
    run(images[:, :, :70, :70].clone(), *case)
    before = peak()
    run(images, *case)
    answers.put(peak() - before)

torch.set_num_threads(1)
fork = multiprocessing.get_context("fork")
for line in sys.stdin:
    answers = fork.SimpleQueue()
    process = fork.Process(target=measure, args=(answers, *json.loads(line)))
    process.start()
    print(answers.get(), flush=True)
    process.join()
"""


@pytest.fixture(scope="module")
def peak():
    """peak(channels, form, padding, gradient): kilobytes that a large warp adds to the peak of a new process."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", MEMORY], cwd=ROOT, **pipes) as process:

        @cache
        def measured(*case):
            print(json.dumps(case), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield measured
        process.stdin.close()


@pytest.mark.parametrize(("padding", "gradient"), [("zeros", False), ("background", True)])
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("warp", ["affine_warp", "homography_warp"])
def test_a_warp_of_a_large_image_takes_no_more_than_twice_the_memory_of_torchs_own(
    warp, padding, channels, gradient, peak
):
    ours, torchs = peak(channels, warp, padding, gradient), peak(channels, "torch", "zeros", gradient)
    assert 4 * channels * 1000 * 1500 / 1024 < ours <= 2 * torchs
