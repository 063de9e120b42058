"""A run: what it writes, that it can be repeated and continued bit for bit, and that it fails loudly."""

import json
import shutil
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import TRIAL, Interruption, Linear, Unrecorded, forbid, interrupt, run
from stress_kill import points, without_times
from torch import nn

import train
from lab import figures, results
from models import Net, Net_CoordConv, Net_CoordConv_Homography
from stn import metrics, tensorboard, warps
from stn.data import Dataset, epoch_order
from studies.perspective.data import perspective, whole
from train import Recipe, RunError

FILES = ("weights.pt", "confusion_matrix.png", "class_statistics.png", "visualized_transformation.png")
TAGS = ["Accuracy test", "Average loss test", "Average loss train"]


@pytest.fixture(scope="module")
def progress():
    """What the run `finished` says of its progress."""
    return []


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory, progress):
    """A run of three epochs: (its folder, its results)."""
    out = tmp_path_factory.mktemp("finished")
    return out / TRIAL, run(digits, out, on_progress=lambda *at: progress.append(at))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the folder of that run, for a test to break."""
    return shutil.copytree(finished[0], tmp_path / TRIAL)


# ------------------------------------------------------------------------------------------------------ what it writes


def test_results_are_complete_and_consistent(finished, digits):
    folder, found = finished
    written = json.loads((folder / "results.json").read_text())
    assert len(written.pop("checksum")) == 64
    assert written == found == results.read(folder / "results.json")
    assert found["experiment_name"] == TRIAL
    assert found["test_total"] == 500
    assert found["test_accuracy"] == pytest.approx(found["test_correct"] / 5)
    assert (found["run"], found["seed"], found["n_epochs"], found["model"]) == (1, 123, 3, "Net")
    assert found["trainable_parameters"] == 27360
    assert [epoch["epoch"] for epoch in found["history"]] == [1, 2, 3]
    assert found["history"][-1]["test_correct"] == found["test_correct"]
    assert {"python", "torch", "torchvision", "kornia"} <= found["versions"].keys()
    assert (found["device"], found["threads"]) == ("cpu", 1)
    predictions = torch.tensor([int(digit) for digit in found["predictions"]])
    confusion = [[int(((digits.test_labels == t) & (predictions == p)).sum()) for p in range(10)] for t in range(10)]
    assert found["confusion_matrix"] == confusion


def test_the_folder_holds_what_is_promised_and_nothing_half_written(finished):
    names = {path.name for path in finished[0].iterdir() if "tfevents" not in path.name} - {".lock", ".holder"}
    assert names == {"settings.json", "checkpoint.pt", "checkpoint_previous.pt", "results.json", *FILES}


def test_the_final_weights_give_the_reported_result(finished, digits):
    folder, found = finished
    model = Net()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["history"] == found["history"]
    with torch.no_grad():
        scores = model.eval()(digits.test_images)
    assert F.nll_loss(scores, digits.test_labels).item() == pytest.approx(found["avg_test_loss"], rel=1e-5)
    assert int((scores.argmax(1) == digits.test_labels).sum()) == found["test_correct"]


def test_tensorboard_has_the_history(finished):
    folder, found = finished
    logged = points(folder)
    for tag, key in zip(TAGS, ("test_accuracy", "test_loss", "train_loss"), strict=True):
        assert logged[tag] == [(e["epoch"], pytest.approx(e[key], rel=1e-6)) for e in found["history"]]


def test_progress_tells_the_epoch_the_steps_and_the_last_epochs_history(finished, progress):
    """640 images are ten steps: there is one look in each epoch, before its second step."""
    first, second, _ = (epoch | {"lost_epoch": None} for epoch in finished[1]["history"])
    assert progress == [(1, 0, 10, None), (2, 0, 10, first), (3, 0, 10, second)]


PARTS = [  # of a run: (a function, the seconds that it takes); their sums tell which were counted
    (train, "new_training", 1),
    (tensorboard, "start", 2),
    (Dataset, "draw_epoch", 4),
    (train, "train_epoch", 8),
    (train, "evaluate", 16),
    (train, "conclude", 32),
    (tensorboard, "epoch_done", 64),
    (train, "save_checkpoint", 128),
]


def test_seconds_are_counted_in_the_part_in_which_they_pass(digits, tmp_path, monkeypatch):
    """A clock that only moves while these functions run: each second is counted once, in one part of one epoch."""
    now = [100.0]

    def slowly(function, seconds):
        def run_slowly(*args, **kwargs):
            now[0] += seconds
            return function(*args, **kwargs)

        return run_slowly

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for module, name, seconds in PARTS:
        monkeypatch.setattr(module, name, slowly(getattr(module, name), seconds))
    found = run(digits, tmp_path, n_epochs=2, model=Linear)
    counted = [{key: value for key, value in epoch.items() if key.endswith("_seconds")} for epoch in found["history"]]
    in_both = {"train_seconds": 4 + 8, "test_seconds": 16, "log_seconds": 64}
    # The checkpoint of an epoch is counted in the next; what the last one takes is not known when it is written.
    assert counted == [in_both | {"other_seconds": 1 + 2}, in_both | {"other_seconds": 32 + 128}]
    assert found["seconds"] == sum(sum(epoch.values()) for epoch in counted)


def test_seconds_add_up_to_what_passed(digits, tmp_path, monkeypatch):
    """A clock that moves by a second at each look: at each checkpoint all seconds since the start are counted."""
    now, started, sums = [0.0], [], []
    load, save = train.load_checkpoint, train.save_checkpoint

    def look():
        now[0] += 1
        return now[0]

    def loading(*args):
        started.append(now[0])
        return load(*args)

    def saving(place, owner, model, training, history, transforms):
        counted = sum(value for epoch in history for key, value in epoch.items() if key.endswith("_seconds"))
        sums.append((counted, now[0] - started[0]))
        save(place, owner, model, training, history, transforms)

    monkeypatch.setattr(time, "perf_counter", look)
    monkeypatch.setattr(train, "load_checkpoint", loading)
    monkeypatch.setattr(train, "save_checkpoint", saving)
    found = run(digits, tmp_path, model=Linear)
    assert [counted for counted, _ in sums] == [passed for _, passed in sums]
    assert 0 < sums[0][0] < sums[1][0] < sums[2][0] == found["seconds"]


def test_a_network_of_ones_own(digits, tmp_path):
    found = run(digits, tmp_path, "mine", 2, Linear)
    assert (found["model"], found["trainable_parameters"], found["transformer"]) == ("Linear", 7850, None)
    assert not (tmp_path / "mine" / "visualized_transformation.png").exists()


def test_parameters_that_are_frozen_are_neither_trained_nor_counted(digits, tmp_path):
    class Frozen(Linear):
        def __init__(self):
            super().__init__()
            self[1].bias.requires_grad_(False)

    found = run(digits, tmp_path, n_epochs=1, model=Frozen)
    torch.manual_seed(123)
    before = Frozen().state_dict()
    after = torch.load(tmp_path / TRIAL / "weights.pt", weights_only=True)
    assert found["trainable_parameters"] == 7840
    assert torch.equal(after["1.bias"], before["1.bias"])
    assert not torch.equal(after["1.weight"], before["1.weight"])


def test_the_figure_shows_the_images_as_they_were_and_as_they_are_warped(digits, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "transformed_digits", lambda *images: shown.append(images))
    torch.manual_seed(5)
    model = Net(padding="background")
    nn.init.normal_(model.loc_fc2.weight, std=0.05)
    metrics.draw_transforms(model, digits, "a title")
    before, after, title, frames = shown[0]
    raw = (digits.test_images[:64, 0] * digits.description["std"] + digits.description["mean"]) * 255
    assert (before * 255 - raw.round()).abs().max() < 0.01
    assert before.min() >= 0
    with torch.no_grad():
        homographies = model.homography(digits.test_images[:64])
    warped = warps.homography_warp(before.unsqueeze(1), homographies, "background")[:, 0]
    torch.testing.assert_close(after, warped, atol=1e-4, rtol=0)
    assert (after - before).abs().max() > 0.1
    corner = homographies @ torch.tensor([-1.0, -1.0, 1.0])  # the upper left one, in pixels from the first pixel
    torch.testing.assert_close(frames[:, 0], corner[:, :2] * 14 + 13.5, atol=1e-4, rtol=0)
    assert (frames.shape, title) == ((64, 4, 2), "a title")


# ------------------------------------------------------------------------------------------------------- how it trains


def test_train_loss_and_steps_are_those_of_the_plain_recipe(digits):
    """One epoch of train_epoch against the tutorial's loop, written out: SGD 0.01, batches of 64, mean per image."""
    torch.manual_seed(3)
    model, plain = Linear(), nn.Linear(784, 10)
    plain.load_state_dict(model[1].state_dict())
    order = torch.randperm(600)
    loss = train.train_epoch(train.PlainTraining(model, digits, Recipe()).step, order.split(64))
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


def test_a_run_is_torchs_own_loop_over_the_epochs(digits, tmp_path):
    """Adam with the learning rate of torch's cosine schedule, on the images in the order of each epoch."""
    found = run(digits, tmp_path, model=Linear, recipe=Recipe("adam", 0.002, decay=True))
    torch.manual_seed(123)
    plain = Linear()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.002)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    for epoch in found["history"]:
        losses = []
        for batch in epoch_order(640, 123, epoch["epoch"]).split(64):
            optimizer.zero_grad()
            loss = F.nll_loss(plain(digits.train_images[batch]), digits.train_labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        assert epoch["train_loss"] == pytest.approx(sum(losses) / 10, rel=1e-4)
    weights = torch.load(tmp_path / TRIAL / "weights.pt", weights_only=True)
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5)


def test_repeating_gives_the_same_bits(finished, digits, tmp_path):
    torch.rand(1000)  # nothing that ran before may matter
    again = run(digits, tmp_path)
    assert without_times(again) == without_times(finished[1])
    for name in FILES:
        assert (tmp_path / TRIAL / name).read_bytes() == (finished[0] / name).read_bytes()


def test_more_epochs_begin_with_the_same_epochs(finished, digits, tmp_path):
    longer = run(digits, tmp_path, n_epochs=4, model=Unrecorded)
    assert without_times(longer)["history"][:3] == without_times(finished[1])["history"]


# ---------------------------------------------------------------------------------------------------- how it goes on

MOMENTS = {
    "after logging the first epoch": (Net, torch, "save", 1),
    "in the second epoch": (Net, train, "evaluate", 2),
    "after logging the second epoch": (Unrecorded, torch, "save", 2),
    "before the figures": (Unrecorded, train, "conclude", 1),
    "between two figures": (Unrecorded, figures, "save", 2),
    "after the figures": (Unrecorded, tensorboard, "epoch_done", 3),
    "after logging the last epoch": (Unrecorded, torch, "save", 3),
    "before the results": (Unrecorded, train, "finish", 1),
    "after the weights": (Unrecorded, results, "write", 1),
}


OFTEN = ("in the second epoch", "between two figures", "after the weights")


@pytest.mark.parametrize(
    "moment", [moment if moment in OFTEN else pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS]
)
def test_going_on_after_an_interruption_gives_the_same_bits(finished, digits, tmp_path, monkeypatch, moment):
    folder, undisturbed = tmp_path / TRIAL, finished[0]
    model, *interrupted_call = MOMENTS[moment]
    with monkeypatch.context() as patch:
        interrupt(patch, *interrupted_call)
        with pytest.raises(Interruption):
            run(digits, tmp_path, model=model)
    assert not (folder / "results.json").exists()
    torch.rand(7)
    resumed = run(digits, tmp_path, model=model)
    assert without_times(resumed) == without_times(finished[1])
    assert points(folder) == points(undisturbed)
    for name in FILES:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize(("made", "canvas"), [(perspective, 1), pytest.param(whole, 2, marks=pytest.mark.slow)])
def test_going_on_with_adam_on_images_in_perspective_gives_the_same_bits(digits, tmp_path, monkeypatch, made, canvas):
    """The optimiser's state, the learning rates and the images of each epoch are those of an undisturbed run."""
    options = {"n_epochs": 2, "recipe": Recipe("adam", 0.002, 0.001, 1.0, decay=True)}
    options["model"] = partial(Net_CoordConv_Homography, padding="background", canvas=canvas)
    distorted, expected = made(digits), made(digits)
    undisturbed = run(distorted, tmp_path / "undisturbed", **options)
    expected.draw_epoch(123, 2)
    some = torch.arange(100)
    assert torch.equal(distorted.batch(some)[0], expected.batch(some)[0])
    with monkeypatch.context() as patch:
        interrupt(patch, train, "evaluate", at_call=2)
        with pytest.raises(Interruption):
            run(made(digits), tmp_path / "interrupted", **options)
    resumed = run(made(digits), tmp_path / "interrupted", **options)
    assert without_times(resumed) == without_times(undisturbed)
    checkpoints = [
        torch.load(tmp_path / name / TRIAL / "checkpoint.pt", weights_only=True)
        for name in ("undisturbed", "interrupted")
    ]
    assert checkpoints[0]["optimizer_state"]["steps"] == 2 * 10
    for part in ("model", "optimizer_state"):
        for name, tensor in checkpoints[0][part].items():
            assert torch.equal(tensor, checkpoints[1][part][name]), name
    assert torch.equal(*(torch.stack(checkpoint["transforms"]) for checkpoint in checkpoints))


def test_only_the_last_epoch_looks_at_all_test_images_if_the_data_say_so(finished, digits, tmp_path):
    made = run(digits._replace(n_test_each_epoch=100), tmp_path)
    assert [entry["test_total"] for entry in made["history"]] == [100, 100, 500]
    predicted = [[int(digit) for digit in done["predictions"]] for done in (made, finished[1])]
    assert predicted[0] == predicted[1]  # what is watched does not change the training
    assert (made["test_correct"], made["test_total"]) == (finished[1]["test_correct"], 500)
    condensed = results.condensed(made)
    assert results.percentages(condensed) == pytest.approx([entry["test_accuracy"] for entry in made["history"]])
    assert results.percentages(condensed)[-1] == made["test_accuracy"]
    assert results.correct_images(condensed) == [entry["test_correct"] for entry in made["history"][:2]]
    for name in ("results.json", "weights.pt"):  # as if it had been interrupted after its last epoch
        (tmp_path / TRIAL / name).unlink()
    assert without_times(run(digits._replace(n_test_each_epoch=100), tmp_path)) == without_times(made)


def test_a_finished_run_is_not_trained_again(finished, digits, monkeypatch):
    forbid(monkeypatch, train, "train_epoch")
    model = Net()
    again = train.train(model, TRIAL, 3, data=digits, out=finished[0].parent)
    assert again == finished[1]
    weights = torch.load(finished[0] / "weights.pt", weights_only=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_arguments_that_json_changes_do_not_prevent_going_on(digits, tmp_path, monkeypatch):
    options = {"n_epochs": 1, "model": Linear, "arguments": {"size": (1, 2)}}
    first = run(digits, tmp_path, **options)
    forbid(monkeypatch, train, "train_epoch")
    assert run(digits, tmp_path, **options) == first


# ---------------------------------------------------------------------------------------------------- what is refused


def test_another_run_in_the_folder_is_an_error_that_names_the_difference(finished, digits, monkeypatch):
    forbid(monkeypatch, train, "train_epoch")
    before = {path: path.read_bytes() for path in finished[0].iterdir()}
    with pytest.raises(RunError, match=r"n_epochs 3 instead of 4; to replace it, .*--force.*--out"):
        run(digits, finished[0].parent, n_epochs=4)
    with pytest.raises(RunError, match=r"model Net instead of Net_CoordConv"):
        run(digits, finished[0].parent, model=Net_CoordConv)
    same_name = type("Net", (Linear,), {})  # another network
    with pytest.raises(
        RunError,
        match=r"holds a run with weights_signature \w+ instead of \w+, structure \w+ instead of \w+; to replace it",
    ):
        run(digits, finished[0].parent, model=same_name)
    assert {path: path.read_bytes() for path in finished[0].iterdir()} == before


def test_overwriting_replaces_the_run_and_leaves_other_files(finished, digits, tmp_path):
    run(digits, tmp_path, n_epochs=2, model=Linear)
    note, drawing, rest = (tmp_path / TRIAL / name for name in ("note.txt", "mine.png", ".x.7.part"))
    for path in (note, drawing, rest):
        path.write_text("mine")
    again = run(digits, tmp_path, overwrite=True, model=Unrecorded)
    assert without_times(again) == without_times(finished[1])
    assert points(note.parent) == points(finished[0])
    assert (note.read_text(), drawing.read_text(), rest.exists()) == ("mine", "mine", False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "no checksum"),
        ("{}", "no checksum"),
        ('{"experiment_name": "x", "test_accuracy": 1}', "no checksum"),
        ('{"experiment_name": "x", "test_accuracy": 1, "checksum": "0"}', "its checksum does not fit"),
    ],
    ids=["empty", "half", "list", "nothing", "no checksum", "wrong checksum"],
)
def test_broken_results_are_named_with_the_way_out(copied, digits, monkeypatch, content, reason):
    (copied / "results.json").write_text(content)
    forbid(monkeypatch, train, "train_epoch")
    with pytest.raises(RunError, match=rf"^.*{TRIAL}/results.json is broken \({reason}.*\); to replace it, .*--force"):
        run(digits, copied.parent)


def test_results_in_which_a_number_is_altered_are_broken(copied, digits):
    path = copied / "results.json"
    path.write_text(path.read_text().replace('"test_correct": ', '"test_correct": 1', 1))
    with pytest.raises(RunError, match="its checksum does not fit"):
        run(digits, copied.parent)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"n_epochs": 3}', None])
def test_broken_settings_are_another_run(copied, digits, monkeypatch, content):
    path = copied / "settings.json"
    path.unlink() if content is None else path.write_text(content)
    forbid(monkeypatch, train, "train_epoch")
    with pytest.raises(RunError, match=f"{TRIAL} is of another version of this program, or has no readable settings"):
        run(digits, copied.parent)


def test_a_folder_in_which_all_is_broken_can_be_replaced(copied, digits):
    for path in copied.iterdir():
        path.write_bytes(b"[broken")
    found = run(digits, copied.parent, n_epochs=1, model=Linear, overwrite=True)
    assert results.read(copied / "results.json") == found
    assert run(digits, copied.parent, n_epochs=1, model=Linear) == found


def test_a_run_of_an_earlier_version_is_refused_in_one_line_and_left_as_it_is(copied, digits, monkeypatch):
    """Its settings had no format, and the signature of the weights another name."""
    path = copied / "settings.json"
    settings = json.loads(path.read_text())
    del settings["format"]
    settings["state_dict"] = settings.pop("weights_signature")
    path.write_text(json.dumps(settings))
    before = {path: path.read_bytes() for path in copied.iterdir()}
    forbid(monkeypatch, train, "train_epoch")
    with pytest.raises(RunError) as refused:
        run(digits, copied.parent)
    message = str(refused.value)
    assert message.startswith(f"{copied} is of another version of this program")
    assert message.endswith(
        "to replace it, run again with --force (in Python: overwrite=True), to keep it, choose another --out"
    )
    assert "\n" not in message
    assert {path: path.read_bytes() for path in copied.iterdir()} == before


@pytest.mark.parametrize(
    "options", [{"recipe": Recipe("rmsprop")}, {"n_epochs": 0}, {"name": "../elsewhere"}, {"device": "foo"}], ids=str
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(digits, tmp_path, options):
    """What can be is in test_settings.py."""
    with pytest.raises(RunError):
        run(digits, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
