"""The training step: torch's own optimisers, and the recorded and captured forms of it to the bit."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import Linear
from torch import nn

import train
from lab.settings import Recipe
from models import Net, Net_CoordConv_Homography
from stn.perspective import whole
from stn.step import new_optimizer_state, plain_step, trainable, training_step

NETWORKS = {"Net": Net, "homography": partial(Net_CoordConv_Homography, True, True, passes=2)}
NETWORKS["canvas"] = partial(Net_CoordConv_Homography, padding="background", passes=2, canvas=2)


def new(network, seed=0):
    torch.manual_seed(seed)
    return network()


@pytest.mark.parametrize("norm", [None, 0.01, 100.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_are_those_of_torchs_own_optimisers(digits, optimizer, norm):
    network = new(Net_CoordConv_Homography).double().eval()
    digits = digits._replace(train_images=digits.train_images.double())
    network.train = lambda mode=True: network  # no dropout
    plain = copy.deepcopy(network)
    groups = [
        {"params": [p for name, p in plain.named_parameters() if name.startswith("loc_") == localisation], "lr": rate}
        for localisation, rate in ((True, 0.002), (False, 0.001))
    ]
    torchs = torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups)
    step = plain_step(network, digits, Recipe(optimizer, 0.002, 0.004, norm), 0.5)
    for batch in torch.arange(320).split(64):
        torchs.zero_grad()
        loss = F.nll_loss(plain(digits.train_images[batch]), digits.train_labels[batch])
        loss.backward()
        if norm:
            nn.utils.clip_grad_norm_(groups[0]["params"], norm)
        torchs.step()
        torch.testing.assert_close(step(batch), loss.detach(), rtol=1e-4, atol=1e-6)
    for parameter, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_recorded_step_is_the_plain_one_to_the_bit(digits, network, optimizer):
    """600 images: nine full batches, repeated, and one of 24, computed as usual; another factor of the rates in each.

    The network is trained, dropout included, and the optimiser's state is in the caller's hands in both forms. Images
    that are distorted as they are taken are those of an epoch that was drawn after the recording.
    """
    train.configure()
    made = whole if network == "canvas" else lambda images: images
    outcomes = []
    recipe = Recipe(optimizer, 0.02, 0.01, 0.5)
    for form in (training_step, plain_step):
        model = new(NETWORKS[network]).train()
        lr_scale, state = torch.ones(()), new_optimizer_state(model, recipe)
        images = made(digits)
        step = form(model, images, recipe, lr_scale, state)
        images.draw_epoch(123, 1)
        torch.manual_seed(1)
        losses = []
        for number, batch in enumerate(torch.arange(600).split(64)):
            lr_scale.fill_(1 / (1 + number))
            losses.append(step(batch).item())
        outcomes.append((losses, [p.detach() for p in model.parameters()], list(state.values())))
    (losses, weights, state), (expected_losses, expected_weights, expected_state) = outcomes
    assert losses == expected_losses
    assert all(torch.equal(a, b) for a, b in zip(weights, expected_weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))
    assert [tensor.item() for tensor in state[:1]] == ([] if optimizer == "sgd" else [10])
    before = new(NETWORKS[network]).parameters()
    assert not any(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


def test_a_network_that_is_not_repeatable_may_branch_on_values(digits):
    class Branching(Linear):
        def forward(self, x):
            return super().forward(x if x.mean().item() > 0 else 0 * x)

    few = digits._replace(train_images=torch.stack([-torch.ones(1, 28, 28)] * 64 + [torch.ones(1, 28, 28)] * 64))
    model = new(Branching)
    before = model[1].weight.detach().clone()
    step = training_step(model, few)
    step(torch.arange(64))
    assert torch.equal(model[1].weight, before)  # the image was replaced by zeros
    step(torch.arange(64, 128))
    assert not torch.equal(model[1].weight, before)


def test_recording_leaves_no_trace_in_a_network(digits):
    """Not in its weights, and not in its buffers, saved with it or not, and not in the optimiser's state."""

    class Normalised(nn.Module):
        repeatable = True

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10), nn.LogSoftmax(1))
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x):
            if self.training:
                self.calls += 1
            return self.layers(x)

    network, recipe = Normalised(), Recipe("adam")
    state = new_optimizer_state(network, recipe)
    changed = [*network.parameters(), *network.buffers(), *state.values()]
    before = [tensor.detach().clone() for tensor in changed]
    step = training_step(network, digits, recipe, 1.0, state)
    assert all(torch.equal(a, b) for a, b in zip(before, changed, strict=True))
    for batch in torch.arange(640).split(64):
        step(batch)
    assert network.calls == 10
    assert network.layers[1].num_batches_tracked == 10
    assert state["steps"] == 10


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_parameter_without_a_part_in_the_loss_stays_as_it_is(digits, optimizer):
    class Idle(Linear):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.ones(3))

    model = new(Idle)
    step = plain_step(model, digits, Recipe(optimizer))
    step(torch.arange(64))
    assert model.idle.tolist() == [1, 1, 1]


def test_a_frozen_parameter_has_no_place_in_a_step(digits):
    model = new(Linear)
    model[1].bias.requires_grad_(False)
    before = model[1].bias.clone()
    state = new_optimizer_state(model, Recipe("adam"))
    assert [name for name, _ in trainable(model)] == ["1.weight"]
    assert list(state) == ["steps", "mean 1.weight", "square 1.weight"]
    plain_step(model, digits, Recipe("adam"), 1.0, state)(torch.arange(64))
    assert torch.equal(model[1].bias, before)


def test_plain_sgd_has_no_state():
    assert new_optimizer_state(new(Linear), Recipe()) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "network", [Net, partial(Net_CoordConv_Homography, padding="background", passes=2)], ids=["Net", "homography"]
)
def test_the_captured_step_is_the_ordinary_one(digits, network):
    """600 images: nine full batches, replayed, and one of 24, launched as usual; twice, for the same dropout."""
    train.configure()
    on_gpu = digits.to("cuda")
    weights = []
    for dropout in (False, True, True):
        model = new(network).cuda()
        if not dropout:
            model.train = lambda mode=True, model=model: nn.Module.train(model, False)
        step = training_step(model, on_gpu)
        model.train()
        torch.manual_seed(1)
        losses = [step(batch).item() for batch in torch.arange(600, device="cuda").split(64)]
        weights.append([p.detach().cpu() for p in model.parameters()])
        if not dropout:
            plain = new(network).eval()
            optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
            for batch, loss in zip(torch.arange(600).split(64), losses, strict=True):
                optimizer.zero_grad()
                expected = F.nll_loss(plain(digits.train_images[batch]), digits.train_labels[batch])
                expected.backward()
                optimizer.step()
                assert loss == pytest.approx(expected.item(), rel=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(*weights[1:], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
    step = training_step(new(network).cuda(), on_gpu, Recipe("adam", 0.002, 0.001))
    assert math.isfinite(sum(step(batch).item() for batch in torch.arange(600, device="cuda").split(64)))
