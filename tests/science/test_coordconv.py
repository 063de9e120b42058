"""CoordConv against sums written out by hand and against ordinary convolutions."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import coordconv
from coordconv import AddCoords, CoordConv1d, CoordConv2d, CoordConv3d, coordinates

LAYERS = {1: CoordConv1d, 2: CoordConv2d, 3: CoordConv3d}
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("with_r", [False, True])
@pytest.mark.parametrize("size", [(5,), (4, 7), (3, 2, 5), (1, 6), (28, 28)])
def test_channels_follow_the_input_and_hold_its_coordinates(size, with_r):
    rank = len(size)
    x = torch.rand(2, 3, *size)
    y = AddCoords(rank, with_r)(x)
    assert y.shape == (2, 3 + rank + with_r, *size)
    assert torch.equal(y[:, :3], x)
    for position in itertools.product(*map(range, size)):
        point = [2 * i / (n - 1) - 1 if n > 1 else 0 for i, n in zip(position, size, strict=True)]
        expected = point + [math.sqrt(sum(c * c for c in point))] * with_r
        for sample in y[(slice(None), slice(3, None), *position)]:
            assert sample.tolist() == pytest.approx(expected, abs=1e-6)


def test_convolution_equals_a_sum_written_by_hand():
    torch.manual_seed(0)
    layer = CoordConv2d(1, 2, 2, with_r=True)
    x = torch.rand(2, 1, 3, 4)
    y = layer(x)
    w, b = layer.conv.weight, layer.conv.bias
    for n, o, r, c in itertools.product(range(2), range(2), range(2), range(3)):
        total = b[o].item()
        for i, j in itertools.product(range(2), range(2)):
            row, column = (r + i) - 1, (c + j) * 2 / 3 - 1
            channels = (x[n, 0, r + i, c + j].item(), row, column, math.hypot(row, column))
            total += sum(w[o, k, i, j].item() * value for k, value in enumerate(channels))
        assert y[n, o, r, c].item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("with_r", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "bias": False}, {"padding": "same"}],
    ids=["plain", "stride-padding", "dilation-no-bias", "same"],
)
def test_forward_and_gradients_equal_a_convolution_over_the_concatenation(rank, with_r, options):
    torch.manual_seed(1)
    layer = LAYERS[rank](3, 4, 3, with_r=with_r, **options).double()
    x = torch.rand(2, 3, *(7, 6, 5)[:rank], dtype=torch.float64, requires_grad=True)
    expected_x, weight = x.detach().clone().requires_grad_(), layer.conv.weight.detach().clone().requires_grad_()
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in x.shape[2:]), indexing="ij")
    channels = torch.stack([*axes, *([sum(a**2 for a in axes).sqrt()] * with_r)]).expand(2, -1, *x.shape[2:])
    options = {key: value for key, value in options.items() if key != "bias"}
    expected = CONVOLUTIONS[rank](torch.cat([expected_x, channels], 1), weight, layer.conv.bias, **options)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    seed = torch.rand_like(y)
    y.backward(seed)
    expected.backward(seed)
    torch.testing.assert_close(x.grad, expected_x.grad)
    torch.testing.assert_close(layer.conv.weight.grad, weight.grad)


def test_groups_split_the_input_and_its_coordinates_together():
    torch.manual_seed(2)
    layer = CoordConv2d(2, 4, 3, groups=2)  # four channels in all: two inputs, two coordinates
    x = torch.rand(2, 2, 5, 5)
    extended = torch.cat([x, coordinates((5, 5)).expand(2, -1, -1, -1)], dim=1)
    expected = F.conv2d(extended, layer.conv.weight, layer.conv.bias, groups=2)
    torch.testing.assert_close(layer(x), expected)


def test_dtype_device_and_size_follow_the_input():
    add = AddCoords(2)
    assert add(torch.rand(1, 1, 3, 3, dtype=torch.float64)).dtype == torch.float64
    assert add(torch.rand(1, 1, 3, 3, device="meta")).device.type == "meta"
    assert add(torch.rand(1, 1, 3, 5)).shape == (1, 3, 3, 5)
    assert add(torch.rand(1, 1, 9, 2)).shape == (1, 3, 9, 2)


def test_coordinates_are_made_once_and_survive_inference_mode(monkeypatch):
    made = []
    monkeypatch.setattr(coordconv, "coordinates", lambda *key: made.append(key) or coordinates(*key))
    monkeypatch.setattr(coordconv, "_cache", {})
    layer = CoordConv2d(1, 1, 3)
    with torch.inference_mode():
        layer(torch.rand(1, 1, 6, 61))
    layer(torch.rand(4, 1, 6, 61)).sum().backward()
    assert layer.conv.weight.grad is not None
    assert made == [((6, 61), False, torch.float32, torch.device("cpu"))]


def test_every_parameter_is_alive_and_none_is_the_coordinates():
    layer = CoordConv2d(3, 8, 5, with_r=True)
    assert sum(p.numel() for p in layer.parameters()) == 8 * (3 + 3) * 25 + 8
    assert list(layer.state_dict()) == ["conv.weight", "conv.bias"]


def test_wrong_rank_is_named():
    with pytest.raises(ValueError, match="rank must be 1, 2 or 3, not 4"):
        AddCoords(4)
    for shape in ((3, 8), (1, 3, 8, 8, 8)):
        with pytest.raises(ValueError, match=r"2 spatial dimensions, with or without a batch, not \(.*3, 8"):
            CoordConv2d(3, 4, 3)(torch.rand(shape))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_layer_of_no_channels_sees_its_coordinates_alone(rank):
    layer = LAYERS[rank](0, 4, 3)
    images = torch.rand(2, 0, *(8, 7, 6)[:rank])
    assert torch.equal(layer(images), layer.conv(layer.addcoords(images)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_another_dtype_are_refused_in_torchs_own_words(dtype):
    images = torch.rand(2, 3, 8, 8).to(dtype)
    with pytest.raises(RuntimeError) as torchs:
        nn.Conv2d(3, 4, 3)(images)
    with pytest.raises(RuntimeError, match=re.escape(str(torchs.value))):
        CoordConv2d(3, 4, 3)(images)


def test_convolutions_are_called_where_others_count_them(monkeypatch):
    """As profilers do that replace the functions of torch.nn.functional."""
    called, convolve = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *arguments, **named: called.append(1) or convolve(*arguments, **named))
    CoordConv2d(3, 4, 3)(torch.rand(2, 3, 8, 8))
    assert called
