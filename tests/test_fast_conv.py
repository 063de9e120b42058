"""The fast forms against the plain ones: the same function, the same gradients."""

from functools import partial

import pytest
import torch
from torch import nn

from coordconv import CoordConv2d
from models import Net, Net_CoordConv, convolve_and_pool
from stn import fast_conv

PARTS = {"localisation": (8, 7, 10, 5), "classifier": (10, 5, 20, 5)}


def convolutions(part, coordconv, dtype=torch.float64):
    torch.manual_seed(3)
    c1, k1, c2, k2 = PARTS[part]
    layer = CoordConv2d if coordconv else nn.Conv2d
    return nn.ModuleList([layer(1, c1, k1), layer(c1, c2, k2)]).to(dtype)


@pytest.mark.parametrize("coordconv", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_values_and_gradients_equal_the_plain_form(part, coordconv, digits):
    """On real digits with a little noise, so that no two values in a pooling window are equal by chance."""
    images = digits.test_images[:16].double() + 0.01 * torch.randn(16, 1, 28, 28, dtype=torch.float64)
    outcomes = []
    for form in (fast_conv.convolve_and_pool, convolve_and_pool):
        layers, x = convolutions(part, coordconv), images.clone().requires_grad_()
        y = form(*layers, x)
        torch.manual_seed(4)
        y.backward(torch.randn(y.shape, dtype=y.dtype))
        outcomes.append([y, x.grad, *(parameter.grad for parameter in layers.parameters())])
    for ours, plain in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("part", PARTS)
def test_float32_agrees_to_rounding(part, digits):
    layers = convolutions(part, True, torch.float32)
    images = digits.test_images[:64]
    torch.testing.assert_close(
        fast_conv.convolve_and_pool(*layers, images), convolve_and_pool(*layers, images), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("coordconv", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_without_a_gradient_the_values_are_the_same(part, coordconv, digits):
    layers = convolutions(part, coordconv, torch.float64)
    images = digits.test_images[: fast_conv.CHUNK + 7].double()
    with torch.no_grad():
        alone = fast_conv.convolve_and_pool(*layers, images)
    torch.testing.assert_close(alone, fast_conv.convolve_and_pool(*layers, images), rtol=1e-12, atol=1e-12)


def test_tied_values_pass_their_gradient_to_one_pixel_of_the_window():
    """On a constant image all values of a window are equal, as on the background of a digit."""
    sums = []
    for form in (fast_conv.convolve_and_pool, convolve_and_pool):
        layers = convolutions("classifier", False)
        x = torch.full((2, 1, 28, 28), 0.5, dtype=torch.float64, requires_grad=True)
        form(*layers, x).sum().backward()
        sums.append([x.grad.sum(), *(parameter.grad for parameter in layers.parameters())])
    for ours, plain in zip(*sums, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("n_coordinates", [0, 2])
def test_gradcheck_of_the_gradient_written_by_hand(n_coordinates):
    torch.manual_seed(0)
    shapes = (2, 1, 16, 16), (4, 1 + n_coordinates, 3, 3), (4,), (3, 4 + n_coordinates, 3, 3), (3,)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(fast_conv.ConvolveAndPool.apply, tensors, fast_mode=True)


def test_the_gradient_can_be_taken_twice():
    """Its first computation overwrites a tensor that was kept for it."""
    layers = convolutions("classifier", False)
    x = torch.randn(4, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    y = fast_conv.convolve_and_pool(*layers, x).square().sum()
    first, second = (torch.autograd.grad(y, [x, *layers.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_first_use_in_inference_mode_does_not_spoil_training(digits):
    for cached in (fast_conv.weight_places, fast_conv.block_order, fast_conv.coord_patches):
        cached.cache_clear()
    model = Net_CoordConv(True, True)
    with torch.inference_mode():
        model.eval()(digits.test_images[:4])
    model.train()(digits.test_images[:4]).sum().backward()


@pytest.mark.parametrize(
    "layer",
    [
        partial(nn.Conv2d, dilation=1, padding_mode="circular", padding=0),
        partial(nn.Conv2d, bias=False),
        partial(CoordConv2d, with_r=True),
        type("Doubled", (nn.Conv2d,), {"forward": lambda self, x: 2 * nn.Conv2d.forward(self, x)}),
    ],
)
def test_a_layer_of_another_kind_is_called_as_it_is(layer, digits):
    torch.manual_seed(0)
    model = Net(classifier_conv=layer).eval()
    x = digits.test_images[:4]
    expected = model.transform(x)
    expected = convolve_and_pool(model.conv1, model.conv2, expected).flatten(1)
    expected = torch.log_softmax(model.fc2(torch.relu(model.fc1(expected))), 1)
    assert torch.equal(model(x), expected)


def test_the_plain_form_stays_reachable(digits):
    torch.manual_seed(0)
    model = Net().eval()
    outputs = model(digits.test_images[:20])
    model.plain = True
    torch.testing.assert_close(model(digits.test_images[:20]), outputs, rtol=1e-4, atol=1e-5)
