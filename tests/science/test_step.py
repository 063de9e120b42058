"""The training step: that of torch's own optimisers, plain and recorded, on a GPU captured."""

import copy
import math
import shutil
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import Interruption, Linear, interrupt, run
from torch import nn
from torch.nn.utils import parametrizations, prune

import train
from fast.step import FastTraining
from lab.settings import Recipe
from models import Net, Net_CoordConv_Homography
from stn.step import is_localisation, trainable, unchanged
from studies.perspective.data import whole

FORMS = {"plain": train.PlainTraining, "fast": FastTraining}
NETWORKS = {"Net": Net, "homography": partial(Net_CoordConv_Homography, True, True, passes=2)}
NETWORKS["canvas"] = partial(Net_CoordConv_Homography, padding="background", passes=2, canvas=2)


def new(network, seed=0):
    torch.manual_seed(seed)
    return network()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("optimizer", "norm"),
    [
        *(("sgd", None), ("adam", 0.01)),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("sgd", 0.01), ("sgd", 100.0), ("adam", None), ("adam", 100.0))
        ),
    ],
)
def test_steps_are_those_of_torchs_own_optimisers(digits, optimizer, norm, form):
    """Written out here: two groups of parameters, the gradient of the localisation network clipped by itself."""
    network = new(Net_CoordConv_Homography).double().eval()
    digits = digits._replace(train_images=digits.train_images.double())
    network.train = lambda mode=True: network  # no dropout
    plain = copy.deepcopy(network)
    groups = [
        {"params": [p for name, p in plain.named_parameters() if name.startswith("loc_") == localisation], "lr": rate}
        for localisation, rate in ((True, 0.002), (False, 0.001))
    ]
    torchs = torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups)
    training = FORMS[form](network, digits, Recipe(optimizer, 0.002, 0.004, norm))
    training.scale_rates(0.5)
    for batch in torch.arange(320).split(64):
        torchs.zero_grad()
        loss = F.nll_loss(plain(digits.train_images[batch]), digits.train_labels[batch])
        loss.backward()
        if norm:
            nn.utils.clip_grad_norm_(groups[0]["params"], norm)
        torchs.step()
        torch.testing.assert_close(training.step(batch), loss.detach(), rtol=1e-4, atol=1e-6)
    for parameter, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


def test_the_rate_of_the_localisation_network_follows_the_other_unless_it_is_given(digits):
    for recipe, rates in ((Recipe(), (0.01, 0.01)), (Recipe(learning_rate=0.02), (0.02, 0.02))):
        assert train.PlainTraining(new(Net), digits, recipe).rates == [*rates]
        assert (recipe.as_settings()["learning_rate"], recipe.as_settings()["localisation_rate"]) == rates
    assert Recipe(learning_rate=0.02, localisation_rate=0.001).as_settings()["localisation_rate"] == 0.001


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        *(("Net", "sgd"), ("canvas", "adam")),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("Net", "adam"), ("homography", "adam"), ("homography", "sgd"), ("canvas", "sgd"))
        ),
    ],
)
def test_the_recorded_step_is_the_one_that_was_recorded_to_the_bit_and_the_plain_one_up_to_rounding(
    digits, network, optimizer
):
    """600 images: nine full batches, repeated, and one of 24, computed as usual; another factor of the rates in each.

    The network is trained, dropout included. Images that are distorted as they are taken are those of an epoch that was
    drawn after the recording.
    """
    train.configure()
    made = whole if network == "canvas" else lambda images: images
    outcomes = {}
    recipe = Recipe(optimizer, 0.02, 0.01, 0.5)
    for form in ("recorded", "unrecorded", "plain"):
        model = new(NETWORKS[network]).train()
        images = made(digits)
        training = FORMS["plain" if form == "plain" else "fast"](model, images, recipe)
        step = training.unrecorded_step if form == "unrecorded" else training.step
        images.draw_epoch(123, 1)
        torch.manual_seed(1)
        losses = []
        for number, batch in enumerate(torch.arange(600).split(64)):
            training.scale_rates(1 / (1 + number))
            losses.append(step(batch))
        tensors = train.tensors_in(training.state_dict()) if form != "plain" else []
        outcomes[form] = [*losses, *(p.detach() for p in model.parameters()), *tensors]
    assert all(torch.equal(a, b) for a, b in zip(outcomes["recorded"], outcomes["unrecorded"], strict=True))
    few = 3  # steps: later ones are further apart, as every rounding is
    for ours, expected in zip(outcomes["recorded"][:few], outcomes["plain"][:few], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    before = new(NETWORKS[network]).parameters()
    assert not any(torch.equal(a, b) for a, b in zip(outcomes["recorded"][10:], before, strict=False))


def test_batches_are_as_large_as_the_recipe_says(digits, tmp_path, monkeypatch):
    """Of 640 images, in the fast form and in the plain one: the recorded step and the last, smaller one."""
    sizes = []
    original = FastTraining.step
    monkeypatch.setattr(FastTraining, "step", lambda self, x: sizes.append(len(x)) or original(self, x))
    losses = {
        plain: run(digits, tmp_path / str(plain), n_epochs=1, recipe=Recipe(batch_size=256), plain=plain)["history"][0]
        for plain in (False, True)
    }
    assert sizes[-3:] == [256, 256, 128]
    assert losses[False]["train_loss"] == pytest.approx(losses[True]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_is_not_repeatable_may_branch_on_values(digits, form):
    class Branching(Linear):
        def forward(self, x):
            return super().forward(x if x.mean().item() > 0 else 0 * x)

    few = digits._replace(train_images=torch.stack([-torch.ones(1, 28, 28)] * 64 + [torch.ones(1, 28, 28)] * 64))
    model = new(Branching)
    before = model[1].weight.detach().clone()
    training = FORMS[form](model, few, Recipe())
    training.step(torch.arange(64))
    assert torch.equal(model[1].weight, before)  # the image was replaced by zeros
    training.step(torch.arange(64, 128))
    assert not torch.equal(model[1].weight, before)


@pytest.mark.parametrize("form", FORMS)
def test_preparing_leaves_no_trace_in_a_network(digits, form):
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

    network = Normalised()
    before = [tensor.detach().clone() for tensor in (*network.parameters(), *network.buffers())]
    training = FORMS[form](network, digits, Recipe("adam"))
    with unchanged(network, training):
        network.train()
        training.step(torch.arange(64))
    after = *network.parameters(), *network.buffers()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(tensor.any() for tensor in train.tensors_in(training.state_dict()))
    for batch in torch.arange(640).split(64):
        training.step(batch)
    assert network.calls == 10
    assert network.layers[1].num_batches_tracked == 10


class Rebinding(Linear):
    """Counts its steps in a buffer that it binds anew, and makes another buffer in the first one."""

    repeatable = True

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("last", None)

    def forward(self, x):
        if self.training:
            self.steps, self.last = self.steps + 1, x.mean()
        return super().forward(x)


def test_a_buffer_that_a_network_binds_anew_is_put_back_and_counts_every_step(digits, tmp_path):
    network = new(Rebinding)
    training = train.PlainTraining(network, digits, Recipe())
    with unchanged(network, training):
        network.train()
        training.step(torch.arange(64))
    assert (float(network.steps), network.last) == (0, None)
    run(digits, tmp_path, n_epochs=1, model=lambda: network)
    assert network.steps == math.ceil(len(digits.train_labels) / 64)


def first_320(digits):
    """Five batches in double precision, and a little noise, against ties in pooling: only rounding can differ."""
    torch.manual_seed(5)
    images = [part.double() for part in (digits.train_images[:320], digits.test_images)]
    images[0] += 0.01 * torch.randn_like(images[0])
    return digits._replace(train_images=images[0], test_images=images[1], train_labels=digits.train_labels[:320])


def watch(network, called):
    """Hooks of every kind, the names of whose calls are collected."""
    note = lambda name: lambda *_: called.append(name)  # noqa: E731
    network.conv1.register_forward_hook(note("forward"))
    network.fc1.register_forward_pre_hook(note("before"))
    network.fc2.register_full_backward_hook(note("backward"))
    network.fc2.weight.register_hook(note("gradient"))
    network.fc1.weight.register_post_accumulate_grad_hook(note("accumulated"))


def test_hooks_are_called_in_every_step_of_a_run(digits, tmp_path):
    """And a run with them ends where one without ends, up to rounding."""
    few, called = first_320(digits), []
    watched, plain = new(Net).double(), new(Net).double()
    watch(watched, called)
    for network, name in ((watched, "exp_98_run_01_watched"), (plain, "exp_99_run_01_trial")):
        train.train(network, name, 1, data=few, out=tmp_path)
    for name in ("backward", "gradient", "accumulated"):
        assert called.count(name) >= 5, name
    for name in ("forward", "before"):
        assert called.count(name) >= 5 + math.ceil(len(few.test_labels) / 1000), name
    for ours, expected in zip(watched.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


def test_a_hook_between_two_starts_of_a_run_changes_nothing(digits, tmp_path, monkeypatch):
    """One for Grad-CAM, say: the run goes on, to the bits of one without."""
    few, results = first_320(digits), []
    with monkeypatch.context() as patch:
        interrupt(patch, train, "train_epoch", at_call=2)
        with pytest.raises(Interruption):
            run(few, tmp_path / "begun", n_epochs=2, model=lambda: new(Net).double())
    for hook in (False, True):
        out, again = shutil.copytree(tmp_path / "begun", tmp_path / str(hook)), new(Net).double()
        if hook:
            again.conv1.register_forward_hook(lambda *_: None)
            again.fc1.weight.register_post_accumulate_grad_hook(lambda _: None)
        results.append(run(few, out, n_epochs=2, model=lambda again=again: again))
    for ours, expected in zip(*(found["history"] for found in results), strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-6)


@pytest.mark.parametrize("watched", ["everywhere", "a layer", "a parameter"])
def test_what_has_hooks_is_not_recorded(digits, watched):
    network = new(Net)
    hook = {
        "everywhere": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
        "a layer": lambda: network.fc1.register_forward_pre_hook(lambda *_: None),
        "a parameter": lambda: network.fc1.weight.register_hook(lambda _: None),
    }[watched]()
    assert FastTraining(network, digits, Recipe()).repeat is None
    hook.remove()
    assert FastTraining(network, digits, Recipe()).repeat is not None


def test_a_buffer_that_is_expanded_is_left_alone(digits):
    class Expanded(Linear):
        def __init__(self):
            super().__init__()
            self.register_buffer("grid", torch.zeros(1, 784).expand(5, 784))

        def forward(self, x):
            return self[2](self[1](self[0](x) + self.grid[0]))

    network = new(Expanded)
    training = train.PlainTraining(network, digits, Recipe())
    with unchanged(network, training):
        training.step(torch.arange(64))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_traced_network_is_trained(digits, tmp_path):
    traced = torch.jit.trace(new(Net).eval(), digits.test_images[:2])
    assert run(digits, tmp_path, n_epochs=1, model=lambda: traced)["n_epochs"] == 1


@pytest.mark.parametrize(
    "wrap", [nn.Sequential, nn.DataParallel, lambda network: nn.Sequential(torch.compile(network))]
)
def test_a_localisation_network_within_another_network_has_its_own_rate(digits, wrap):
    recipe = Recipe(localisation_rate=0.001)
    for form in FORMS.values():
        training = form(wrap(new(Net)), digits, recipe)
        assert sum(is_localisation(name) for name, _ in trainable(training.model)) == 8
    assert len(train.PlainTraining(wrap(new(Net)), digits, recipe).localiser) == 8


CHANGES = {
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize(
    "change",
    ["spectral_norm", *(pytest.param(change, marks=pytest.mark.slow) for change in ("pruning", "weight_norm"))],
)
def test_a_network_with_changed_layers_is_trained_as_by_the_plain_loop(digits, tmp_path, change):
    few, states = first_320(digits), []
    for plain in (False, True):
        network = new(Net).double()
        for layer in (network.conv2, network.loc_conv1, network.fc1):
            CHANGES[change](layer)
        train.train(network, "exp_99_run_01_trial", 1, data=few, out=tmp_path / str(plain), plain=plain)
        states.append(network.state_dict().values())
    for ours, expected in zip(*states, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_parameter_without_a_part_in_the_loss_stays_as_it_is(digits, optimizer, form):
    class Idle(Linear):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.ones(3))

    model = new(Idle)
    FORMS[form](model, digits, Recipe(optimizer)).step(torch.arange(64))
    assert model.idle.tolist() == [1, 1, 1]


@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_parameter_has_no_place_in_a_step(digits, form):
    model = new(Linear)
    model[1].bias.requires_grad_(False)
    before = model[1].bias.clone()
    assert [name for name, _ in trainable(model)] == ["1.weight"]
    training = FORMS[form](model, digits, Recipe("adam"))
    training.step(torch.arange(64))
    assert torch.equal(model[1].bias, before)
    assert len(train.tensors_in(training.state_dict())) == 3  # the number of steps, the mean and the square


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
        step = FastTraining(model, on_gpu, Recipe()).step
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
    step = FastTraining(new(network).cuda(), on_gpu, Recipe("adam", 0.002, 0.001)).step
    assert math.isfinite(sum(step(batch).item() for batch in torch.arange(600, device="cuda").split(64)))
