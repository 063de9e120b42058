"""The networks: sizes, the identity at the start, and that flags do what they say and nothing else."""

import re

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import models
from coordconv import CoordConv2d
from fast import conv2d
from fast.step import FastTraining
from lab import catalogue
from lab.settings import TUTORIAL
from models import Net, Net_CoordConv, Net_CoordConv_Homography, dropout_mask
from run_experiments import ALL
from stn import metrics, warps

FLAGS = ("use_coordconf_localisation", "use_coordconf_classifier", "bypass_localisation")
TRAINABLE_PARAMETERS = dict(
    zip((f"exp_0{i}" for i in range(1, 8)), (27360, 27360, 21840, 23340, 28860, 28644, 30144), strict=True)
)
COMBINATIONS = [{flag: bool(bits >> i & 1) for i, flag in enumerate(FLAGS)} for bits in range(8)]


def build(model, seed=123, **arguments):
    torch.manual_seed(seed)
    return model(**arguments)


def perturb(model):
    """Away from the identity transform, as after some training."""
    torch.manual_seed(5)
    if not model.bypass_localisation:
        nn.init.normal_(model.loc_fc2.weight, std=0.05)
    return model.eval()


OF_DIGITS = [row for row in ALL.values() if "cards" not in row.data and hasattr(models, row.model)]


@pytest.mark.parametrize("experiment", OF_DIGITS, ids=lambda e: e.id)
def test_trainable_parameters_are_the_reference_counts_and_all_get_a_gradient(experiment, digits):
    model = perturb(build(catalogue.find_network(experiment.model), **experiment.arguments)).train()
    n_parameters = sum(p.numel() for p in model.parameters())
    assert n_parameters == TRAINABLE_PARAMETERS.get(experiment.id, n_parameters) < 39_000
    images = warps.pad_to_canvas(digits.train_images[:64], experiment.arguments.get("canvas", 1))
    F.nll_loss(model(images), digits.train_labels[:64]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_all_flags_off_is_net(digits):
    net, coordconv = build(Net), build(Net_CoordConv)
    assert [(n, p.tolist()) for n, p in net.named_parameters()] == [
        (n, p.tolist()) for n, p in coordconv.named_parameters()
    ]
    assert torch.equal(net.eval()(digits.test_images), coordconv.eval()(digits.test_images))


class Tutorial(nn.Module):
    """The network as the reference describes it, written out once more and plainly, with its own layers."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        n = self.net
        h = F.relu(F.max_pool2d(n.loc_conv1(x), 2))
        h = F.relu(F.max_pool2d(n.loc_conv2(h), 2)).reshape(-1, 90)
        theta = F.linear(F.relu(F.linear(h, n.loc_fc1.weight, n.loc_fc1.bias)), n.loc_fc2.weight, n.loc_fc2.bias)
        grid = F.affine_grid(theta.view(-1, 2, 3), x.size(), align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        h = F.relu(F.max_pool2d(n.conv1(x), 2))
        h = F.relu(F.max_pool2d(n.conv2(h), 2)).reshape(-1, 320)
        return F.log_softmax(n.fc2(F.relu(n.fc1(h))), dim=1)


@pytest.mark.parametrize("arguments", [c for c in COMBINATIONS if not c["bypass_localisation"]], ids=str)
def test_outputs_and_gradients_equal_the_plain_formulation(arguments, digits):
    model = perturb(build(Net_CoordConv, **arguments)).double()
    plain = perturb(build(Net_CoordConv, **arguments)).double()
    images, labels = digits.test_images[:32].double(), digits.test_labels[:32]
    output, expected = model(images), Tutorial(plain)(images)
    torch.testing.assert_close(output, expected)
    F.nll_loss(output, labels).backward()
    F.nll_loss(expected, labels).backward()
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)


def test_dropout_is_that_of_the_recipe(digits):
    """In training mode whole maps of conv2 and single units of fc1 vanish, each with probability one half."""
    model = build(Net_CoordConv, bypass_localisation=True).train()
    nn.init.ones_(model.conv2.bias)
    nn.init.zeros_(model.conv2.weight)  # each pooled map is 0 or 2 everywhere
    seen = []
    model.fc1.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].view(-1, 20, 4, 4)))
    torch.manual_seed(0)
    model(digits.train_images[:500])
    maps = seen[0].flatten(2)
    assert set(maps.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(maps.amin(2), maps.amax(2))
    assert abs(maps.mean() - 1) < 0.03


@pytest.mark.parametrize("model", [Net, Net_CoordConv, Net_CoordConv_Homography])
@pytest.mark.parametrize("options", [{}, {"padding": "background"}, {"padding": "background", "passes": 4}], ids=str)
def test_a_new_network_transforms_nothing(model, options, digits):
    """Also when identities are composed."""
    network = build(model, **options).double().eval()
    images = digits.test_images[:16].double()
    assert (network.transform(images) - images).abs().max() < 1e-6
    assert torch.equal(network.homography(images), torch.eye(3, dtype=torch.float64).expand(16, 3, 3))


@pytest.mark.parametrize("model", [Net_CoordConv, Net_CoordConv_Homography])
def test_each_pass_sees_the_image_as_it_is_warped_so_far(model, digits):
    """The answers are composed in the order of the passes, and it is the original image that is warped again."""
    network = perturb(build(model, padding="background", passes=3)).double()
    images = digits.test_images[:8].double()
    seen, answers = [], []
    original = network.localise

    def localise(x):
        seen.append(x)
        answers.append(warps.to_homography(original(x)))
        return original(x)

    network.localise = localise
    total = network.homography(images)
    first, second, third = answers
    assert torch.equal(seen[0], images)
    torch.testing.assert_close(seen[1], warps.homography_warp(images, first, "background"))
    torch.testing.assert_close(seen[2], warps.homography_warp(images, first @ second, "background"))
    torch.testing.assert_close(total, first @ second @ third)
    torch.testing.assert_close(network.transform(images), warps.homography_warp(images, total, "background"))
    assert not torch.allclose(first @ second, second @ first, atol=1e-3)


WRONG = {"padding": "grey"}, {"passes": 0}, {"passes": 1.5}, {"canvas": 0}, {"canvas": 1.5}


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_a_transformer_cannot_be_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, not {value!r}"):
        Net_CoordConv_Homography(**wrong)


@pytest.mark.parametrize("change", [nn.Sequential, lambda layer: nn.LazyLinear(50)])
def test_without_a_transformer_no_parameter_is_read_for_the_identity(change, digits):
    network = Net_CoordConv(bypass_localisation=True)
    network.fc1 = change(network.fc1)
    assert torch.equal(network.homography(digits.test_images[:2].double())[1], torch.eye(3, dtype=torch.float64))
    assert network.homography(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).dtype == torch.float32


ON_CANVAS = [{}, {"passes": 3}, {"bypass_localisation": True}]


@pytest.mark.parametrize("model", [Net_CoordConv, Net_CoordConv_Homography])
@pytest.mark.parametrize("arguments", ON_CANVAS, ids=str)
def test_on_an_empty_canvas_a_network_does_what_it_does_without(model, arguments, digits):
    """What a warp reads beside the image is the same background, on the canvas or outside of the image."""
    options = {"padding": "background", **arguments}
    without, on_canvas = (perturb(build(model, **options, canvas=canvas)).double() for canvas in (1, 2))
    images = digits.test_images[:16].double()
    canvases = warps.pad_to_canvas(images, 2)
    assert canvases.shape == (16, 1, 56, 56)
    for method in ("homography", "transform", "forward"):
        torch.testing.assert_close(getattr(on_canvas, method)(canvases), getattr(without, method)(images))
    assert torch.equal(on_canvas.localisation_input(canvases), images)


def test_a_new_network_sees_the_middle_of_a_canvas_twice(digits):
    """Before any warp, and warped by the identity; what lies around it is in sight of other warps alone."""
    network = build(Net_CoordConv_Homography, padding="background", canvas=2).double()
    canvases = torch.rand(4, 1, 56, 56, dtype=torch.float64)
    torch.testing.assert_close(network.localisation_input(canvases), canvases[:, :, 14:42, 14:42])
    torch.testing.assert_close(network.transform(canvases), network.localisation_input(canvases))
    from_the_left = warps.to_homography(torch.tensor([[1.0, 0, -1, 0, 1, 0]], dtype=torch.float64)).expand(4, 3, 3)
    torch.testing.assert_close(network.warp(canvases, from_the_left), canvases[:, :, 14:42, :28])


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (Net_CoordConv, {}),
        (Net_CoordConv_Homography, {"passes": 2}),
        pytest.param(Net_CoordConv, {"bypass_localisation": True}, marks=pytest.mark.slow),
        pytest.param(Net_CoordConv, {"passes": 2}, marks=pytest.mark.slow),
        pytest.param(Net_CoordConv_Homography, {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_without_a_canvas_the_operations_are_those_of_a_network_that_knows_none(model, arguments, digits):
    class Before(model):
        def localisation_input(self, x):
            return x

        def warp(self, x, homographies):
            return warps.homography_warp(x, homographies, self.padding)

        def transform(self, x):
            if self.bypass_localisation:
                return x
            if self.passes == 1 and self.transform_identity == warps.AFFINE_IDENTITY:
                return warps.affine_warp(x, self.localise(x), self.padding)
            return self.warp(x, self.homography(x))

    def code(kind):
        training = FastTraining(build(kind, **arguments), digits, TUTORIAL)
        return make_fx(lambda batch: training.unrecorded_step(batch))(torch.arange(64)).code

    assert code(model) == code(Before)


def test_without_a_transformer_the_homography_is_the_identity(digits):
    model = build(Net_CoordConv, bypass_localisation=True)
    assert torch.equal(model.homography(digits.test_images[:2]), torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize("model", [Net_CoordConv, Net_CoordConv_Homography])
@pytest.mark.parametrize("arguments", COMBINATIONS, ids=str)
def test_flags(model, arguments, digits):
    network = perturb(build(model, **arguments))
    kinds = {name: type(layer) for name, layer in network.named_children() if "conv" in name}
    for name, kind in kinds.items():
        flag = "use_coordconf_localisation" if name.startswith("loc") else "use_coordconf_classifier"
        assert kind is (CoordConv2d if arguments[flag] else nn.Conv2d)
    assert any(name.startswith("loc") for name in kinds) != arguments["bypass_localisation"]
    scores = network(digits.test_images[:20])
    assert scores.shape == (20, 10)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(20))
    if arguments["bypass_localisation"]:
        assert torch.equal(network.transform(digits.test_images), digits.test_images)


@pytest.mark.parametrize("model", [Net_CoordConv, Net_CoordConv_Homography])
@pytest.mark.parametrize("arguments", [*COMBINATIONS, {"padding": "background", "passes": 3}], ids=str)
def test_a_sample_does_not_depend_on_its_batch(model, arguments, digits):
    network = perturb(build(model, **arguments)).double()
    images = digits.test_images[:12].double()
    together = network(images)
    torch.testing.assert_close(network(images[:1]), together[:1])
    torch.testing.assert_close(network(images.flip(0)), together.flip(0))


def test_the_classifier_starts_the_same_with_and_without_a_transformer():
    with_transformer, without = build(Net_CoordConv), build(Net_CoordConv, bypass_localisation=True)
    for name, parameter in without.named_parameters():
        assert torch.equal(parameter, dict(with_transformer.named_parameters())[name])


def test_homography_has_eight_free_numbers_and_reduces_to_affine(digits):
    homography = perturb(build(Net_CoordConv_Homography))
    assert homography.localise(digits.test_images).shape == (500, 8)
    affine = perturb(build(Net_CoordConv))
    with torch.no_grad():
        for name, parameter in affine.named_parameters():
            parameter.copy_(dict(homography.named_parameters())[name][: len(parameter)])
        homography.loc_fc2.weight[6:] = 0
    images = digits.test_images[:50]
    torch.testing.assert_close(homography(images), affine(images), atol=1e-4, rtol=1e-4)


def test_dropout_masks_are_zero_or_two_with_equal_probability():
    torch.manual_seed(0)
    mask = dropout_mask(torch.empty(1000, 50))
    assert mask.unique().tolist() == [0, 2]
    assert mask.mean() == pytest.approx(1, abs=0.02)  # four standard deviations
    assert (mask.mean(0) - 1).abs().max() < 0.15  # and so in every column


# Images of another size


def test_weights_start_in_the_order_of_the_layers_whatever_says_that_images_have_28_pixels():
    """Written out: the classifier first, and 320 and 90 features."""
    torch.manual_seed(123)
    layers = [nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5), nn.Linear(320, 50), nn.Linear(50, 10)]
    layers += [nn.Conv2d(1, 8, 7), nn.Conv2d(8, 10, 5), nn.Linear(90, 32)]
    expected = [parameter for layer in layers for parameter in layer.parameters()]
    for arguments in ({}, {"image_size": 28}, {"image_size": (28, 28)}, {"image_size": [28, 28]}):
        network = build(Net, **arguments)
        assert network.image_size == (28, 28)
        assert all(torch.equal(*pair) for pair in zip(network.parameters(), expected, strict=False))
        assert str(network) == str(build(Net))


FEATURES = {42: (20 * 7 * 7, 10 * 7 * 7), 60: (20 * 12 * 12, 10 * 11 * 11), (36, 50): (20 * 6 * 9, 10 * 5 * 9)}
OF_SIZES = [{}, {"use_coordconf_localisation": True, "use_coordconf_classifier": True, "passes": 2}]


@pytest.mark.parametrize("arguments", OF_SIZES, ids=["1 pass", "CoordConv"])
@pytest.mark.parametrize("model", [Net_CoordConv, Net_CoordConv_Homography])
@pytest.mark.parametrize("size", [42, (36, 50), pytest.param(60, marks=pytest.mark.slow)], ids=str)
def test_a_network_for_images_of_another_size(size, model, arguments, digits):
    """Features are counted by hand; plain and fast layers train alike, and on an empty canvas it does the same."""
    network, on_canvas = (
        perturb(build(model, image_size=size, canvas=canvas, padding="background", **arguments)).double()
        for canvas in (1, 2)
    )
    assert (network.fc1.in_features, network.loc_fc1.in_features) == FEATURES[size]
    images, labels = F.interpolate(digits.train_images[:16].double(), size, mode="bilinear"), digits.train_labels[:16]
    transforms = network.homography(images)
    assert transforms.shape == (16, 3, 3)
    expected = warps.homography_warp(images, transforms, "background")
    torch.testing.assert_close(network.transform(images), expected)
    assert network(images).shape == (16, 10)
    canvases = warps.pad_to_canvas(images, 2)
    for method in ("homography", "transform", "forward"):
        torch.testing.assert_close(getattr(on_canvas, method)(canvases), getattr(network, method)(images))
    gradients = []
    for trained, batch, fast in ((network, images, False), (network, images, True), (on_canvas, canvases, False)):
        with conv2d.accelerated(trained.train(), fast):
            torch.manual_seed(0)  # the same dropout
            loss = F.nll_loss(trained(batch), labels)
            gradients.append(torch.autograd.grad(loss, [*trained.parameters()]))
    assert all(gradient.any() for gradient in gradients[0])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


TOO_SMALL = [((17, 28), False, 18), (17, False, 18), ((28, 15), True, 16), (1, True, 16), ((28, 0), False, 18)]


@pytest.mark.parametrize(("size", "bypass", "least"), TOO_SMALL, ids=str)
def test_images_of_which_nothing_would_be_left_are_refused_in_one_line(size, bypass, least):
    height, width = size if isinstance(size, tuple) else (size, size)
    wrong = rf"^images must be at least {least}×{least} pixels for this network, not {height}×{width}$"
    with pytest.raises(ValueError, match=wrong):
        Net_CoordConv_Homography(bypass_localisation=bypass, image_size=size)
    smallest = Net_CoordConv_Homography(bypass_localisation=bypass, image_size=least)
    assert smallest(torch.rand(2, 1, least, least)).shape == (2, 10)


# Another transform


class Turning(Net):
    """Predicts an angle in radians."""

    transform_identity = (0.0,)

    def params_to_homography(self, params):
        turns = torch.zeros(len(params), 3, 3, dtype=params.dtype)
        turns[:, 0, 0] = turns[:, 1, 1] = params[:, 0].cos()
        turns[:, 1, 0], turns[:, 0, 1] = params[:, 0].sin(), -params[:, 0].sin()
        turns[:, 2, 2] = 1
        return turns


def of_the_page():
    """The network of docs/own_experiments.md that only turns."""
    names, page = {"__name__": "own"}, (ROOT / "docs" / "own_experiments.md").read_text()
    exec(next(p for p in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Net_Rotation" in p), names)
    return names["Net_Rotation"]


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("kind", ["here", "of the page"])
def test_a_transform_of_ones_own_is_an_identity_and_what_its_numbers_mean(kind, passes, digits):
    model = Turning if kind == "here" else of_the_page()
    images = digits.test_images[:16].double()
    network = build(model, passes=passes, padding="background").double().eval()
    torch.testing.assert_close(network.transform(images), images)
    with torch.no_grad():
        network.loc_fc2.bias.fill_(torch.pi / 2)  # in each pass
    torch.testing.assert_close(network.transform(images), images.rot90(passes, (2, 3)))

    perturb(network)
    angles, localise = [], network.localise
    network.localise = lambda x: angles.append(localise(x)) or angles[-1]
    found = network.homography(images)
    assert len(angles) == passes
    assert angles[0].shape == (16, 1)
    assert angles[0].std() > 0.01
    identity = torch.eye(3, dtype=torch.float64).expand(16, 3, 3)
    torch.testing.assert_close(found @ found.transpose(1, 2), identity)
    torch.testing.assert_close(found[:, 2], identity[:, 2])
    total = sum(angles)[:, 0]
    torch.testing.assert_close(found[:, :2, 0], torch.stack([total.cos(), total.sin()], 1))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(network.transform(images), warps.homography_warp(images, found, "background"))

    F.nll_loss(network.train()(images), digits.test_labels[:16]).backward()
    assert all(parameter.grad.any() for parameter in network.parameters())
    measured = metrics.measure_transformer(build(model, passes=passes), digits)
    assert measured.numbers["ink_area"] == pytest.approx(1)


def test_a_transform_that_is_put_into_a_network_is_the_one_that_warps(digits):
    """Also where numbers and start are those of an affine map, which has a short cut."""
    turn, images = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]]), digits.test_images[:4]

    class Quarter(Net):
        def params_to_homography(self, params):
            return turn @ super().params_to_homography(params)

    network = build(Net)
    network.params_to_homography = lambda params: turn @ warps.to_homography(params)
    for each in (network, build(Quarter)):
        torch.testing.assert_close(each.transform(images), images.rot90(1, (2, 3)), rtol=0, atol=1e-4)


def test_numbers_that_are_no_transform_of_a_network_are_refused():
    for model, n, others in ((Net, 6, (1, 5, 7, 8)), (Net_CoordConv_Homography, 8, (0, 6, 9))):
        network = build(model)
        assert network.params_to_homography(torch.rand(2, n)).shape == (2, 3, 3)
        for shape in (*((2, other) for other in others), (n,), (2, 1, n)):
            with pytest.raises(ValueError, match=rf"parameters must be \(B, {n}\), not \("):
                network.params_to_homography(torch.rand(shape))

    class Unfinished(Net):
        transform_identity = (0.0,)

    with pytest.raises(ValueError, match=r"6 or 8 numbers.* not \(2, 1\)"):
        build(Unfinished)(torch.rand(2, 1, 28, 28))
