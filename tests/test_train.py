"""A run: what it writes, that it can be repeated and continued bit for bit, and that it fails loudly."""

import contextlib
import copy
import json
import math
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from stress_kill import points, without_times
from torch import nn

import train
from lab import figures
from models import Net, Net_CoordConv, Net_CoordConv_Homography
from stn import tensorboard
from stn.data import perspective
from train import Recipe, RunError

FILES = ("weights.pt", "confusion_matrix.png", "class_statistics.png", "visualized_transformation.png")
TAGS = ["Accuracy test", "Average loss test", "Average loss train"]


def run(digits, out, name="exp_99_run_01_trial", n_epochs=3, model=Net, **options):
    torch.manual_seed(123)
    return train.train(model(), name, n_epochs, data=digits, out=out, **options)


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A run of three epochs: (its folder, its results)."""
    out = tmp_path_factory.mktemp("finished")
    return out / "exp_99_run_01_trial", run(digits, out)


def test_results_are_complete_and_consistent(finished, digits):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["experiment_name"] == "exp_99_run_01_trial"
    assert results["test_total"] == 500
    assert results["test_accuracy"] == pytest.approx(results["test_correct"] / 5)
    assert (results["run"], results["seed"], results["n_epochs"], results["model"]) == (1, 123, 3, "Net")
    assert results["live_parameters"] == 27360
    assert [epoch["epoch"] for epoch in results["history"]] == [1, 2, 3]
    assert results["history"][-1]["test_correct"] == results["test_correct"]
    assert {"python", "torch", "torchvision", "kornia"} <= results["versions"].keys()
    assert (results["device"], results["threads"]) == ("cpu", 1)
    predictions = torch.tensor([int(digit) for digit in results["predictions"]])
    confusion = [[int(((digits.test_labels == t) & (predictions == p)).sum()) for p in range(10)] for t in range(10)]
    assert results["confusion_matrix"] == confusion


def test_the_folder_holds_what_is_promised_and_nothing_half_written(finished):
    names = {path.name for path in finished[0].iterdir() if "tfevents" not in path.name} - {".lock", ".holder"}
    assert names == {
        "settings.json",
        "checkpoint.pt",
        "checkpoint_previous.pt",
        "weights.pt",
        "results.json",
        "confusion_matrix.png",
        "class_statistics.png",
        "visualized_transformation.png",
    }


def test_the_final_weights_give_the_reported_result(finished, digits):
    folder, results = finished
    model = Net()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["history"] == results["history"]
    with torch.no_grad():
        scores = model.eval()(digits.test_images)
    assert F.nll_loss(scores, digits.test_labels).item() == pytest.approx(results["avg_test_loss"], rel=1e-5)
    assert int((scores.argmax(1) == digits.test_labels).sum()) == results["test_correct"]


def test_tensorboard_has_the_history(finished):
    folder, results = finished
    logged = points(folder)
    for tag, key in zip(TAGS, ("test_accuracy", "test_loss", "train_loss"), strict=True):
        assert logged[tag] == [(e["epoch"], pytest.approx(e[key], rel=1e-6)) for e in results["history"]]


def test_train_loss_and_steps_are_those_of_the_plain_recipe(digits):
    """One epoch of train_epoch against the tutorial's loop, written out: SGD 0.01, batches of 64, mean per image."""
    torch.manual_seed(3)
    model, plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1)), nn.Linear(784, 10)
    plain.load_state_dict(model[1].state_dict())
    order = torch.randperm(600)
    step = train.training_step(model, digits)
    loss = train.train_epoch(step, order)
    total = 0.0
    for start in range(0, 600, 64):
        batch = order[start : start + 64]
        output = F.log_softmax(plain(digits.train_images[batch].flatten(1)), 1)
        nll = -output[torch.arange(len(batch)), digits.train_labels[batch]]
        total += nll.sum().item()
        gradients = torch.autograd.grad(nll.mean(), list(plain.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
                parameter -= 0.01 * gradient
    assert loss == pytest.approx(total / 600, rel=1e-5)
    torch.testing.assert_close(model[1].weight, plain.weight)


def test_repeating_gives_the_same_bits(finished, digits, tmp_path):
    torch.rand(1000)  # nothing that ran before may matter
    again = run(digits, tmp_path)
    assert without_times(again) == without_times(finished[1])
    for name in FILES:
        assert (tmp_path / "exp_99_run_01_trial" / name).read_bytes() == (finished[0] / name).read_bytes()


MOMENTS = {
    "after logging the first epoch": (torch, "save", 1),
    "in the second epoch": (train, "evaluate", 2),
    "after logging the second epoch": (torch, "save", 2),
    "before the figures": (train, "conclude", 1),
    "between two figures": (figures, "save", 2),
    "after the figures": (tensorboard, "epoch_done", 3),
    "after logging the last epoch": (torch, "save", 3),
    "before the results": (train, "finish", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_going_on_after_an_interruption_gives_the_same_bits(finished, digits, tmp_path, monkeypatch, moment):
    class Interruption(Exception):
        pass

    calls = []

    def interrupt(original, at_call):
        def wrapped(*arguments):
            calls.append(1)
            if len(calls) == at_call:
                raise Interruption
            return original(*arguments)

        return wrapped

    *target, at_call = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*target, interrupt(getattr(*target), at_call))
        with pytest.raises(Interruption):
            run(digits, tmp_path)
    assert not (tmp_path / "exp_99_run_01_trial" / "results.json").exists()
    torch.rand(7)
    resumed = run(digits, tmp_path)
    folder, undisturbed = finished
    assert without_times(resumed) == without_times(undisturbed)
    assert points(tmp_path / "exp_99_run_01_trial") == points(folder)
    for name in FILES:
        assert (tmp_path / "exp_99_run_01_trial" / name).read_bytes() == (folder / name).read_bytes()
    assert not list((tmp_path / "exp_99_run_01_trial").glob("*.part"))


def test_more_epochs_begin_with_the_same_epochs(finished, digits, tmp_path):
    longer = run(digits, tmp_path, n_epochs=4)
    assert without_times(longer)["history"][:3] == without_times(finished[1])["history"]


def test_a_finished_run_is_not_trained_again(finished, digits, monkeypatch):
    monkeypatch.setattr(train, "train_epoch", None)
    model = Net()
    again = train.train(model, "exp_99_run_01_trial", 3, data=digits, out=finished[0].parent)
    assert again == finished[1]
    weights = torch.load(finished[0] / "weights.pt", weights_only=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_another_run_in_the_folder_is_an_error_that_names_the_difference(finished, digits):
    before = {path: path.read_bytes() for path in finished[0].iterdir()}
    with pytest.raises(RunError, match=r"n_epochs 3 instead of 4; to replace it, .*--force.*--out"):
        run(digits, finished[0].parent, n_epochs=4)
    with pytest.raises(RunError, match=r"model Net instead of Net_CoordConv"):
        run(digits, finished[0].parent, model=Net_CoordConv)

    class Net(nn.Sequential):  # the same name, another network
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))

    with pytest.raises(RunError, match=r"state_dict \w+ instead of \w+; to replace it"):
        run(digits, finished[0].parent, model=Net)
    assert {path: path.read_bytes() for path in finished[0].iterdir()} == before


def test_overwriting_replaces_the_run_and_leaves_other_files(finished, digits, tmp_path):
    run(digits, tmp_path, n_epochs=2)
    note, drawing, rest = (tmp_path / "exp_99_run_01_trial" / name for name in ("note.txt", "mine.png", ".x.7.part"))
    for path in (note, drawing, rest):
        path.write_text("mine")
    again = run(digits, tmp_path, overwrite=True)
    assert without_times(again) == without_times(finished[1])
    assert points(note.parent) == points(finished[0])
    assert (note.read_text(), drawing.read_text(), rest.exists()) == ("mine", "mine", False)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "[" * 100_000, '{"experiment_name": "x", "test_accuracy": 1}']
)
def test_broken_results_are_named_with_the_way_out(digits, tmp_path, content):
    run(digits, tmp_path, n_epochs=1)
    path = tmp_path / "exp_99_run_01_trial" / "results.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"results.json is broken .*--force"):
        run(digits, tmp_path, n_epochs=1)
    run(digits, tmp_path, n_epochs=1, overwrite=True)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"n_epochs": 1}'])
def test_broken_settings_are_another_run(digits, tmp_path, content):
    run(digits, tmp_path, n_epochs=1)
    (tmp_path / "exp_99_run_01_trial" / "settings.json").write_text(content)
    with pytest.raises(RunError, match="experiment_name unknown instead of exp_99_run_01_trial"):
        run(digits, tmp_path, n_epochs=1)


def test_arguments_that_json_changes_do_not_prevent_going_on(digits, tmp_path):
    first = run(digits, tmp_path, n_epochs=1, arguments={"size": (1, 2)})
    assert run(digits, tmp_path, n_epochs=1, arguments={"size": (1, 2)}) == first


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "model", [Net, partial(Net_CoordConv_Homography, True, True, passes=2)], ids=["Net", "homography"]
)
def test_the_recorded_step_is_the_ordinary_one_to_the_bit(digits, model, optimizer):
    """600 images: nine full batches, repeated, and one of 24, computed as usual; another pace for each."""
    train.configure()
    outcomes = []
    for repeatable in (True, False):
        torch.manual_seed(0)
        network = model().train()
        network.repeatable = repeatable
        pace = torch.ones(())
        step = train.training_step(network, digits, Recipe(optimizer, 0.02, 0.01, 0.5), pace)
        torch.manual_seed(1)
        losses = []
        for number, batch in enumerate(torch.arange(600).split(64)):
            pace.fill_(1 / (1 + number))
            losses.append(step(batch).item())
        outcomes.append((losses, [p.detach() for p in network.parameters()]))
    (losses, weights), (expected_losses, expected_weights) = outcomes
    assert losses == expected_losses
    assert all(torch.equal(a, b) for a, b in zip(weights, expected_weights, strict=True))
    torch.manual_seed(0)
    assert not any(torch.equal(a, b) for a, b in zip(weights, model().parameters(), strict=True))


def test_going_on_with_adam_on_images_in_perspective_gives_the_same_bits(digits, tmp_path, monkeypatch):
    """The moments, the pace and the images of each epoch are those of a run without an interruption."""
    how = {"recipe": Recipe("adam", 0.002, 0.001, 1.0, decay=True)}
    how["model"] = partial(Net_CoordConv_Homography, padding="background", passes=2)
    undisturbed = run(perspective(digits), tmp_path / "undisturbed", **how)
    original, calls = train.evaluate, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(perspective(digits), tmp_path / "interrupted", **how)
    resumed = run(perspective(digits), tmp_path / "interrupted", **how)
    assert without_times(resumed) == without_times(undisturbed)
    checkpoints = [
        torch.load(tmp_path / name / "exp_99_run_01_trial" / "checkpoint.pt", weights_only=True)
        for name in ("undisturbed", "interrupted")
    ]
    assert checkpoints[0]["moments"]["steps"] == 3 * 10
    for part in ("model", "moments"):
        for name, tensor in checkpoints[0][part].items():
            assert torch.equal(tensor, checkpoints[1][part][name]), name
    assert torch.equal(*(torch.stack(checkpoint["transforms"]) for checkpoint in checkpoints))


@pytest.mark.parametrize("recipe", [Recipe("rmsprop"), Recipe(learning_rate=0.0), Recipe(localisation_rate=math.nan)])
def test_a_recipe_that_is_none_is_refused(digits, tmp_path, recipe):
    with pytest.raises(RunError, match="a recipe has positive numbers and one of"):
        run(digits, tmp_path, recipe=recipe)


def test_recording_leaves_no_trace_in_a_network(digits):
    """Not in its weights, and not in its buffers, saved with it or not."""

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
    before = [tensor.clone() for tensor in (*network.parameters(), *network.buffers())]
    step = train.training_step(network, digits)
    assert all(torch.equal(a, b) for a, b in zip(before, (*network.parameters(), *network.buffers()), strict=True))
    for batch in torch.arange(640).split(64):
        step(batch)
    assert network.calls == 10
    assert network.layers[1].num_batches_tracked == 10


@pytest.mark.parametrize("norm", [None, 0.01, 100.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_are_those_of_torchs_own_optimisers(digits, optimizer, norm):
    torch.manual_seed(0)
    network = Net_CoordConv_Homography().double().eval()
    digits = digits._replace(train_images=digits.train_images.double())
    network.train = lambda mode=True: network  # no dropout
    plain = copy.deepcopy(network)
    groups = [
        {"params": [p for name, p in plain.named_parameters() if name.startswith("loc_") == localisation], "lr": rate}
        for localisation, rate in ((True, 0.002), (False, 0.001))
    ]
    torchs = torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups)
    step = train.training_step(network, digits, Recipe(optimizer, 0.002, 0.004, norm), 0.5)
    for batch in torch.arange(320).split(64):
        torchs.zero_grad()
        F.nll_loss(plain(digits.train_images[batch]), digits.train_labels[batch]).backward()
        if norm:
            nn.utils.clip_grad_norm_(groups[0]["params"], norm)
        torchs.step()
        step(batch)
    for parameter, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


def test_the_pace_falls_along_a_half_cosine():
    assert [Recipe(decay=True).pace(epoch, 4) for epoch in (1, 3)] == pytest.approx([1, 0.5])
    assert Recipe().pace(7, 10) == 1


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
        torch.manual_seed(0)
        model = network().cuda()
        if not dropout:
            model.train = lambda mode=True, model=model: nn.Module.train(model, False)
        step = train.training_step(model, on_gpu)
        model.train()
        torch.manual_seed(1)
        losses = [step(batch).item() for batch in torch.arange(600, device="cuda").split(64)]
        weights.append([p.detach().cpu() for p in model.parameters()])
        if not dropout:
            torch.manual_seed(0)
            plain = network().eval()
            optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
            for batch, loss in zip(torch.arange(600).split(64), losses, strict=True):
                optimizer.zero_grad()
                expected = F.nll_loss(plain(digits.train_images[batch]), digits.train_labels[batch])
                expected.backward()
                optimizer.step()
                assert loss == pytest.approx(expected.item(), rel=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(*weights[1:], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
    model = network().cuda()
    step = train.training_step(model, on_gpu, Recipe("adam", 0.002, 0.001))
    assert math.isfinite(sum(step(batch).item() for batch in torch.arange(600, device="cuda").split(64)))


@given(name=st.text(max_size=30) | st.text("./\\ab\0", max_size=8))
def test_no_name_leaves_the_output_folder(tmp_path_factory, name):
    out = tmp_path_factory.getbasetemp() / "out"
    settings = name, nn.Linear(1, 1), {}, 1, 1, 1, {}, "cpu"
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        assert train.run_settings(*settings)["experiment_name"] == name
    with contextlib.suppress(RunError):
        train.run_settings(*settings)
        assert (out / name).resolve().parent == out


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", ".hidden", "a b", "-x"])
def test_names_that_are_no_plain_folder_name_are_refused(digits, tmp_path, name):
    with pytest.raises(RunError, match="an experiment's name is"):
        run(digits, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_a_network_of_ones_own(digits, tmp_path):
    class Linear(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))

    results = run(digits, tmp_path, "mine", 2, Linear)
    assert (results["model"], results["live_parameters"]) == ("Linear", 7850)
    assert not (tmp_path / "mine" / "visualized_transformation.png").exists()


def test_the_figure_shows_the_images_as_they_were(digits, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "transformed_digits", lambda *images: shown.append(images) or figures.Figure())
    run(digits, tmp_path, n_epochs=1)
    before, after, _, frames = shown[0]
    raw = (digits.test_images[:64, 0] * digits.description["std"] + digits.description["mean"]) * 255
    assert (before * 255 - raw.round()).abs().max() < 0.01
    assert before.min() >= 0
    assert after.shape == before.shape
    assert frames.shape == (64, 4, 2)
