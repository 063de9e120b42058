"""What belongs together: code, settings, files and data of a run. Each case once made the program say false things.

Real runs on few digits. Nothing here is found by luck: it is refused in one line, or harmless.
"""

import contextlib
import json
import platform
import re
import shutil
import subprocess
import sys

import pytest
import records
import torch
from conftest import ROOT, prepared, results_of, write_results
from filelock import FileLock
from helpers import TRIAL, Interruption, Linear, Unrecorded, forbid, interrupt, run, write_idx
from hypothesis import given
from hypothesis import strategies as st
from stress_kill import points, without_times
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import plot
import run_experiments
import train
from lab import comparison, results, tables
from lab.settings import Recipe, RunError
from models import Net
from run_experiments import ALL
from stn import mnist
from stn.checkpoint import load_tensors

NAME = "exp_03_run_01_bypass_localisation"


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A finished run of three epochs: (the folder of its folder, its results)."""
    out = tmp_path_factory.mktemp("finished")
    return out, run(digits, out, model=Linear)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "out")


def stop(copy, *names):
    """Make a finished run one that was stopped after its last epoch."""
    for name in ("results.json", *names):
        (copy / TRIAL / name).unlink()


# Code


@pytest.mark.parametrize("code", ["0" * 64, None], ids=["other", "not known"])
def test_a_run_is_not_continued_with_other_code_but_a_finished_one_is_shown(
    copy, finished, digits, monkeypatch, fault, code
):
    monkeypatch.setattr(train, "code_of", lambda model, data: code)
    with fault("code changed since a run was begun") as told:
        assert run(digits, copy, model=Linear) == finished[1]
        stop(copy)
        begun = r"other code \(commit .*\)" if finished[1]["git_commit"] else "code that is not known"
        with pytest.raises(RunError, match=f"was started with {begun}, and can only .*--force"):
            run(digits, copy, model=Linear)
        told()
        run(digits, copy, model=Linear, overwrite=True)


def test_a_run_is_not_continued_with_other_versions_of_the_packages(copy, finished, digits, monkeypatch, fault):
    monkeypatch.setattr(train.folder, "versions", lambda: finished[1]["versions"] | {"torch": "1.0"})
    with fault("code changed since a run was begun"):
        assert run(digits, copy, model=Linear) == finished[1]
        stop(copy)
        with pytest.raises(RunError, match=r"was started with torch [\d.]+\S* instead of 1\.0; .*--force"):
            run(digits, copy, model=Linear)


def test_a_run_that_is_continued_on_another_machine_names_both(copy, finished, digits, monkeypatch, fault):
    monkeypatch.setattr(train.folder, "processor_name", lambda: "another")
    with fault("code changed since a run was begun"):
        assert run(digits, copy, model=Linear) == finished[1]
        stop(copy)
        (copy / TRIAL / "checkpoint.pt").unlink()  # one epoch is left
        assert run(digits, copy, model=Linear)["device_name"] == f"{finished[1]['device_name']} and another"


def test_code_that_changes_between_the_command_and_its_run_is_refused(digits, tmp_path, monkeypatch):
    made = train.settings_of(Linear(), TRIAL, None, 1, digits.description, "cpu")
    monkeypatch.setattr(train, "code_of", lambda model, data: "0" * 64)
    with pytest.raises(RunError, match="the code has changed since this command was started"):
        train.train_run(Linear(), made, digits, tmp_path, "cpu", False, "", 0, None)


def test_the_code_of_a_network_of_ones_own_is_that_of_its_file_and_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    codes = set()
    for number in range(2):
        module = tmp_path / f"mine_{number}.py"
        module.write_text(f"from torch import nn\n\nclass Mine(nn.Linear):\n    number = {number}\n")
        codes.add(train.code_of(__import__(module.stem).Mine(1, 1), {}))
    codes.add(train.code_of(nn.Linear(1, 1), {}))
    assert len(codes) == 3
    typed = {}
    exec("from torch import nn\nclass Typed(nn.Linear):\n    pass", typed)
    assert train.code_of(typed["Typed"](1, 1), {}) is None


def test_another_network_of_equal_weights_is_not_taken_for_the_same(digits, tmp_path, fault):
    def network(layer):
        return lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), layer, nn.LogSoftmax(1))

    with fault("code changed since a run was begun"):
        first = run(digits, tmp_path, n_epochs=1, model=network(nn.ReLU()))
        assert run(digits, tmp_path, n_epochs=1, model=network(nn.ReLU())) == first
        for _ in range(2):  # finished, then unfinished
            with pytest.raises(RunError, match="holds a run with structure"):
                run(digits, tmp_path, n_epochs=1, model=network(nn.Tanh()))
            (tmp_path / TRIAL / "results.json").unlink(missing_ok=True)


def test_code_that_changes_after_it_was_imported_is_refused(digits, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(train.folder, "CODE", (*train.folder.CODE, "plot.py"))  # as if there were one more file
    with (
        fault("code changed since a run was begun"),
        pytest.raises(RunError, match="the code has changed since it was imported; start Python again"),
    ):
        run(digits, tmp_path, model=Linear)


def record_of(*runs):
    """(name, changes) ... -> a record of runs with 1000 test images."""
    return {
        name: results.condensed(results_of(name, [900, 900 + number], **changes))
        for number, (name, changes) in enumerate(runs)
    }


DIRTY = {"git_commit": "a" * 40 + "-dirty"}


@pytest.mark.parametrize(
    ("one", "other", "pooled"),
    [
        ({"code": "1", **DIRTY}, {"code": "2", **DIRTY}, False),
        ({"code": "1", **DIRTY}, {"code": "1", **DIRTY}, True),
        ({"code": "1", "git_commit": "b" * 40}, {"code": "1", "git_commit": "c" * 40}, True),
        ({"code": None, "git_commit": None}, {"code": None, "git_commit": None}, False),
        (DIRTY, DIRTY, False),
        ({}, {}, True),
    ],
)
def test_runs_are_pooled_by_their_code_and_unknown_code_equals_nothing(one, other, pooled, fault):
    histories = [
        [{**epoch, "train_loss": loss} for epoch in results_of(NAME, [900, 980])["history"]] for loss in (0.1, 0.2)
    ]
    record = record_of(
        (NAME, one | {"history": histories[0]}), (NAME.replace("01", "02"), other | {"history": histories[1]})
    )
    with fault("runs of other or unknown code pooled"):
        kept, complaints = comparison.drop_incompatible_runs(record)
        assert len(kept) == 1 + pooled
        assert len(complaints) == 1 - pooled
        assert comparison.comparable(record) == pooled


# Files


def test_files_of_another_run_are_refused(copy, digits, tmp_path, fault):
    """A checkpoint of another seed, length or network, and weights of the same run from another place."""
    others = [{"run": 2, "seed": 124}, {"n_epochs": 4}, {"model": Unrecorded, "n_epochs": 1}]
    for number, other in enumerate(others):
        name = f"exp_98_run_0{number}_other"
        with fault("checkpoint or weights of another run") as told:
            run(digits, tmp_path / "others", **{"name": name, "model": Linear, **other})
            out = shutil.copytree(copy, tmp_path / f"out_{number}")
            (out / TRIAL / "results.json").unlink()
            shutil.copy(tmp_path / "others" / name / "checkpoint.pt", out / TRIAL)
            with pytest.raises(RunError, match=r"checkpoint.pt belongs to another run.*--force"):
                run(digits, out, model=Linear)
            told()
            shutil.copy(tmp_path / "others" / name / "weights.pt", copy / TRIAL)
            with pytest.raises(RunError, match=r"weights.pt is not the file that the run has written.*--force"):
                run(digits, copy, model=Linear)


def test_results_of_other_settings_are_refused(copy, digits, fault):
    path = copy / TRIAL / "results.json"
    results.write(path, results.read(path) | {"seed": 7})
    with (
        fault("results of another run"),
        pytest.raises(RunError, match=r"results.json disagrees with settings.json: seed 7 instead of 123"),
    ):
        run(digits, copy, model=Linear)


MUTATION = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "delete"]), st.integers(0, 10**6), st.integers(0, 255)),
    min_size=1,
    max_size=3,
)


def mutated(content, mutations):
    content = bytearray(content)
    for how, place, byte in mutations:
        place %= max(len(content), 1)
        if how == "flip" and content:
            content[place] ^= byte or 1
        elif how == "cut":
            del content[place:]
        elif how == "insert":
            content.insert(place, byte)
        elif content:
            del content[place]
    return bytes(content)


@pytest.fixture(scope="module")
def scratch(finished, tmp_path_factory):
    """A copy of the finished run in which files are broken and mended: (folder, {name: good content})."""
    out = shutil.copytree(finished[0], tmp_path_factory.mktemp("scratch") / "out")
    names = ("results.json", "settings.json", "checkpoint.pt", "weights.pt")
    return out / TRIAL, {name: (out / TRIAL / name).read_bytes() for name in names}


@given(mutations=MUTATION)
def test_mutated_results_are_refused_or_mean_the_same(scratch, mutations):
    place, good = scratch
    (place / "results.json").write_bytes(mutated(good["results.json"], mutations))
    record, complaints = results.read_all(place.parent)
    (place / "results.json").write_bytes(good["results.json"])
    if record:  # white space between the values
        assert record == results.read_all(place.parent)[0]
    else:
        assert len(complaints) == 1
        assert complaints[0].isprintable()


def plain(content, told=("code", "git_commit", "versions", "device_name")):
    """Settings without what is only told, and without what says nothing."""
    return {key: value for key, value in content.items() if value is not None and key not in told}


@given(mutations=MUTATION)
def test_mutated_settings_are_refused_or_mean_the_same(scratch, mutations):
    place, good = scratch
    asked = json.loads(good["settings.json"])
    (place / "settings.json").write_bytes(mutated(good["settings.json"], mutations))
    try:
        state = train.folder.state_of(place, asked)
        there = train.folder.read_settings(place)
        if state == "finished" and plain({"structure": asked["structure"]} | there) != plain(asked):
            pytest.fail("other settings are taken for those of the run")
        if state == "finished" and plain(there, ()) != plain(
            asked, ()
        ):  # another code or commit is told there than in the results
            with pytest.raises(RunError, match=r"disagrees with settings\.json"):
                train.folder.read_results(place)
    except RunError as error:
        complaint = str(error)
    else:
        complaint = ""
    finally:
        (place / "settings.json").write_bytes(good["settings.json"])
    assert complaint == "" or ("--force" in complaint and "\n" not in complaint)


@given(mutations=MUTATION, name=st.sampled_from(["checkpoint.pt", "weights.pt"]))
def test_mutated_checkpoints_are_damaged(scratch, mutations, name):
    place, good = scratch
    content = mutated(good[name], mutations)
    (place / name).write_bytes(content)
    try:
        if content == good[name]:
            load_tensors(place / name)
        else:
            with pytest.raises(train.Damaged):
                load_tensors(place / name)
    finally:
        (place / name).write_bytes(good[name])


def test_runs_with_the_same_number_or_content_are_named(tmp_path, fault):
    """`foo` beside `foo_run_01`, a copy under another number, and numbers that only the names tell."""
    name = "exp_03_run_0{}_foo".format
    write_results(tmp_path, name(1), [900, 982])
    write_results(tmp_path, name(2), [900, 982], seconds=7.0)  # sealed anew with another time, the rest is a copy
    write_results(tmp_path, name(3), [901, 983], run=1)  # its number was left at the default
    folder = tmp_path / "exp_03_foo"
    folder.mkdir()
    results.write(folder / "results.json", results_of(name(1), [902, 984]) | {"experiment_name": "exp_03_foo"})
    with fault("runs whose numbers collide, or copies"):
        record, complaints = comparison.drop_duplicate_runs(results.read_all(tmp_path)[0])
        assert list(record) == [name(1), name(3)]
        assert sorted(complaints) == [
            f"exp_03_foo: left out, it has the same number as {name(1)}",
            f"{name(2)}: left out, it is a copy of {name(1)}",
        ]
        assert list(comparison.groups(record)["exp_03_foo"]) == [1, 3]


def test_another_experiment_of_the_same_id_is_not_compared_as_that_of_the_table(fault):
    """It was: under the number of the run whose name sorts last."""
    mnist = {"data": {"name": "MNIST", "md5": results.MNIST_MD5}}
    correct = {f"exp_02_run_01_{ALL['exp_02'].title}": 980, NAME: 970, "exp_03_run_01_variant": 950}
    record = {name: results.condensed(results_of(name, [n], **mnist)) for name, n in correct.items()}
    with fault("runs whose numbers collide, or copies"):
        found = comparison.comparisons(record, comparison.families()["The seven"], ALL)
        assert [pairs.differences for pairs in found.values()] == [{123: pytest.approx(1.0)}]
        rows = tables.results_table(record).splitlines()[2:]
        assert ["98.55" in row for row in rows] == [False, True, False]  # the original's


# TensorBoard


def test_each_epoch_is_shown_once_after_kills_and_whatever_the_clock_says(finished, digits, tmp_path, fault):
    """Killed in each epoch between its logs and its checkpoint; each time the clock goes back by years."""
    with fault("events file damaged or out of order", 3):
        for number, year in enumerate((2096, 2064, 2032)):
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, train, "save_checkpoint", at_call=min(number, 1) + 1)
                with pytest.raises(Interruption):
                    run(digits, tmp_path, model=Linear)
            now = max((tmp_path / TRIAL).glob("events*[!r]"), key=lambda path: path.stat().st_mtime)
            now.rename(now.with_name(now.name.replace(now.name.split(".")[3], str((year - 1970) * 31_557_600))))
        run(digits, tmp_path, model=Linear)
        assert points(tmp_path / TRIAL) == points(finished[0] / TRIAL)
        events = plugin_event_accumulator.EventAccumulator(str(tmp_path / TRIAL)).Reload()  # as TensorBoard
        assert [event.step for event in events.Tensors("Accuracy test")] == [1, 2, 3]


def test_a_finished_runs_altered_files_are_named_at_the_next_start(idx_folder, tmp_path, fault):
    what = [ALL["exp_03"]], "--data", idx_folder, "--out", tmp_path
    _, (options, (job,), _) = prepared(*what)
    run_experiments.train_job(job, options)
    (events,) = (tmp_path / NAME).glob("events*")
    content = bytearray(events.read_bytes())
    content[len(content) // 2] ^= 1
    events.write_bytes(content)
    added = shutil.copy(events, tmp_path / NAME / "events.out.tfevents.9")
    (tmp_path / NAME / "weights.pt").unlink()
    with fault("files of a finished run altered"):
        _, (_, (job,), lines) = prepared(*what)
        told = [line for line in lines if line.endswith("missing, damaged or replaced")]
        wanted = sorted(map(str, (events, added, tmp_path / NAME / "weights.pt")))
        assert told == [f"{path} was modified after the run: missing, damaged or replaced" for path in wanted]
        assert job.status == "skipped: already finished"


# Data


@pytest.fixture
def fashion(idx_folder, tmp_path):
    """Other images in a folder that is called MNIST."""
    arrays = [mnist.read_idx(idx_folder / name) for name in mnist.MD5]
    folder = tmp_path / "MNIST"
    folder.mkdir()
    write_idx(folder, [255 - array if array.ndim == 3 else array for array in arrays])
    return folder


def test_names_of_data_are_shown_as_they_are(idx_folder, call_here, tmp_path, fault):
    """A pair of dollars is a formula for matplotlib, a bar ends a cell in Markdown, an escape colours a terminal."""
    folder = shutil.copytree(idx_folder, tmp_path / "$a$\\frac$|few_\x1b[31m")
    with fault("names of folders with other characters"):
        _, (options, (job,), lines) = prepared([ALL["exp_03"]], "--data", folder, "--out", tmp_path / "out")
        assert "few_\\x1b[31m: normalised with" in lines[0]
        assert lines[0].isprintable()
        assert run_experiments.train_job(job, options)[0] == "finished"
        plotted = call_here("plot.py", "--out", tmp_path / "out")
        assert plotted.returncode == 0, plotted.stderr
        events = EventAccumulator(str(tmp_path / "out" / NAME)).Reload()
        (text,) = events.Tensors("Settings/text_summary")
        table = text.tensor_proto.string_val[0].decode().splitlines()
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in table} == {3}


def test_a_folder_called_mnist_is_not_mnist(fashion, tmp_path, fault):
    out = tmp_path / "out"
    _, (options, jobs, _) = prepared([ALL["exp_02"], ALL["exp_03"]], "--data", fashion, "--out", out)
    assert [run_experiments.train_job(job, options)[0] for job in jobs] == ["finished"] * 2
    with fault("other data under the name of MNIST"):
        record = results.read_all(out)[0]
        assert not any("wrong" in run for run in record.values())
        assert not any(map(records.as_in_the_table, record.values()))
        document = tables.comparison_document(record, ALL)
        assert re.search(r"^## 'MNIST' \(MD5 [0-9a-f]{32}\), 500 test images$", document, re.MULTILINE)
        assert "98.84" not in document  # the original's, on MNIST
        drawn = plot.comparison_figures(record)
        figure = drawn["AccuracyComparison.png"]
        assert "last epoch ('MNIST' (MD5 " in figure.axes[0].get_xlabel()
        assert not any("original" in text.get_text() or "claim" in text.get_text() for text in figure.legends[0].texts)
        with pytest.raises(ValueError, match="only runs on MNIST"):
            plot.animate(out, ALL["exp_02"].directory(1))


def test_each_data_set_has_a_table_of_its_own(fault):
    mnists = {"name": "MNIST", "md5": results.MNIST_MD5}
    datas = [
        mnists,
        mnists | {"perspective_sigma": 3.5},
        mnists | {"perspective_sigma": 7},
        mnists | {"perspective_sigma": 3.5, "canvas": 2},
        {"name": "few", "md5": "1" * 32},
    ]
    record = record_of(*((ALL[f"exp_0{n}"].directory(1), {"data": data}) for n, data in enumerate(datas, 1)))
    with fault("tables of mixed data"):
        document = tables.comparison_document(record, ALL)
        assert re.findall(r"^## (.*)$", document, re.MULTILINE) == [
            "MNIST",
            "MNIST in perspective, 3.5 pixels",
            "MNIST, perspective_sigma 7",
            "MNIST in perspective, 3.5 pixels, whole images",
            f"'few' (MD5 {'1' * 32}), 1,000 test images",
        ]
        assert document.count("98.70") == 1  # the original's exp_01, in the table of MNIST alone


# Networks of one's own


def ends_with(layer):
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), layer)


class Twelve(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 12), nn.LogSoftmax(1))


class Frozen(Linear):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (Twelve, {}, r"gives \(2, 12\) of 2 images, not log-probabilities \(2, 10\)"),
        (ends_with(nn.Identity()), {}, "rows are not log-probabilities: it should end with log_softmax"),
        (ends_with(nn.Softmax(1)), {}, "rows are not log-probabilities"),
        (lambda: nn.Linear(784, 10), {}, r"the network fails on images \(2, 1, 28, 28\): RuntimeError: "),
        (Frozen, {}, "the network has no parameter to train"),
        (Linear, {"run": 0}, "run is a whole number from 1, seed one from 0, not run 0 and seed 123"),
        (Linear, {"seed": -1}, "not run 1 and seed -1"),
        (Linear, {"seed": 1.5}, "not run 1 and seed 1.5"),
        (Linear, {"n_epochs": 2.0}, r"at least one epoch is needed, not 2\.0"),
        (Linear, {"n_epochs": "3"}, "at least one epoch is needed, not '3'"),
        (Linear, {"recipe": Recipe(localisation_norm=0)}, "positive numbers"),
        (Linear, {"recipe": Recipe(learning_rate="a")}, "a recipe has positive numbers"),
        (Linear, {"arguments": [1]}, "arguments are a dict of plain values"),
        (Linear, {"arguments": {"layer": nn.ReLU()}}, "not JSON serializable; arguments are a dict of plain values"),
        (Linear, {"arguments": {"rate": float("nan")}}, "arguments are a dict of plain values"),
    ],
)
def test_a_network_that_cannot_be_a_run_is_refused_before_training(
    digits, tmp_path, monkeypatch, fault, network, options, message
):
    forbid(monkeypatch, train, "train_epoch")
    with fault("a network or arguments that cannot be a run") as told:
        with pytest.raises(RunError, match=message) as error:
            run(digits, tmp_path, model=network, **options)
        told()
        assert "\n" not in str(error.value)
    assert not (tmp_path / TRIAL / "settings.json").exists()


class Normalised(nn.Sequential):
    """Which cannot be trained on a batch of one image."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10), nn.LogSoftmax(1))


class FullBatchesOnly(Linear):
    def forward(self, x):
        if self.training and len(x) < 64:
            raise ValueError("64 images are needed")
        return super().forward(x)


class Unrecordable(Linear):
    repeatable = True

    def forward(self, x):
        return super().forward(x * float(x.max()))


def first(digits, n):
    return digits._replace(train_images=digits.train_images[:n], train_labels=digits.train_labels[:n])


@pytest.mark.parametrize(
    ("network", "n", "message"),
    [
        (Normalised, 129, r"a training step on a batch of 1 image fails: ValueError: Expected more than 1 value per"),
        (FullBatchesOnly, 130, "a training step on a batch of 2 images fails: ValueError: 64 images are needed"),
        (FullBatchesOnly, 50, "a training step on a batch of 50 images fails"),
        (Unrecordable, 128, "a training step cannot be recorded"),
    ],
)
def test_a_step_that_would_fail_is_told_before_the_first_epoch(
    digits, tmp_path, monkeypatch, fault, network, n, message
):
    forbid(monkeypatch, train, "train_epoch")
    with fault("a network or arguments that cannot be a run") as told:
        with pytest.raises(RunError, match=message) as error:
            run(first(digits, n), tmp_path, model=network)
        told()
        assert "\n" not in str(error.value)
    assert not (tmp_path / TRIAL / "settings.json").exists()


def test_the_steps_that_are_tried_leave_no_trace(digits):
    """Neither in weights nor in buffers, nor in what the optimiser remembers."""
    torch.manual_seed(0)
    model = Normalised()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = train.settings_of(model, TRIAL, {}, 1, digits.description, "cpu", recipe=Recipe("adam"))
    training = train.new_training(model, first(digits, 130), settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert train.tensors_in(training.state_dict()) == []
    training.step(torch.arange(64))
    assert not torch.equal(model[2].weight, before["2.weight"])


def test_a_lazy_network_is_trained(digits, tmp_path):
    """Its first look at images gives its layers their sizes, and the seed before it was built their weights."""

    def lazy():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(20), nn.ReLU(), nn.LazyLinear(10), nn.LogSoftmax(1))

    found = [run(digits, tmp_path / name, n_epochs=1, model=lazy) for name in ("one", "two")]
    assert found[0]["trainable_parameters"] == 785 * 20 + 21 * 10
    assert without_times(found[0]) == without_times(found[1])
    with pytest.raises(RunError, match="the network fails on images"):
        run(digits, tmp_path / "three", model=lambda: nn.Sequential(nn.LazyConv3d(2, 3)))


def test_a_lazy_layer_that_is_never_called_is_named(digits, tmp_path):
    class Unused(Linear):
        def __init__(self):
            super().__init__()
            self.spare = nn.LazyLinear(10)

        def forward(self, x):
            return self[2](self[1](self[0](x)))

    with pytest.raises(RunError, match=r"spare\.weight, spare\.bias have no size: .* never called"):
        run(digits, tmp_path, model=Unused)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_network_is_trained_by_the_same_recipe(digits, tmp_path, in_place):
    """As without compiling up to rounding, the localisation network's own rate included."""

    def compiled():
        network = Net()
        if in_place:
            network.compile(backend="eager")
            return network
        return torch.compile(network, backend="eager")

    recipe = Recipe(localisation_rate=0.001)
    few = first(digits, 150)
    plain = run(few, tmp_path / "plain", n_epochs=1, recipe=recipe, plain=True)
    found = run(few, tmp_path / "compiled", n_epochs=1, recipe=recipe, model=compiled)
    assert found["history"][0]["train_loss"] == pytest.approx(plain["history"][0]["train_loss"], rel=1e-4)
    assert found["trainable_parameters"] == plain["trainable_parameters"]
    parts = [torch.load(tmp_path / name / TRIAL / "weights.pt", weights_only=True) for name in ("plain", "compiled")]
    weights = [{name.removeprefix("_orig_mod."): tensor for name, tensor in part.items()} for part in parts]
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-4)
    moved = [(part["loc_fc2.bias"] - torch.tensor(Net.transform_identity)).norm().item() for part in weights]
    assert moved[1] == pytest.approx(moved[0], rel=0.1)  # its own rate is a tenth


@pytest.mark.slow
def test_a_compiled_network_goes_on_after_an_interruption_to_the_same_bits(digits, tmp_path, monkeypatch):
    def compiled():
        return torch.compile(Net(), backend="eager")

    few = first(digits, 150)
    whole = run(few, tmp_path / "whole", n_epochs=2, model=compiled)
    with monkeypatch.context() as patch:
        interrupt(patch, train, "train_epoch", at_call=2)
        with pytest.raises(Interruption):
            run(few, tmp_path / "interrupted", n_epochs=2, model=compiled)
    assert without_times(run(few, tmp_path / "interrupted", n_epochs=2, model=compiled)) == without_times(whole)


def test_a_network_may_keep_what_it_made_at_the_first_look(digits, tmp_path):
    class Keeping(Linear):
        kept = None

        def forward(self, x):
            if self.kept is None:
                self.kept = torch.linspace(0.5, 1, 784).view(1, 1, 28, 28)
            return super().forward(x * self.kept)

    assert run(digits, tmp_path, n_epochs=1, model=Keeping)["n_epochs"] == 1


def test_scores_that_are_nan_in_a_class_without_images_are_found(digits, tmp_path, fault):
    class Unseen(Linear):
        def forward(self, x):
            scores = super().forward(x)
            if self.training or len(x) == 2:
                return scores
            return torch.where(torch.arange(10) == 9, torch.nan, scores)

    few = digits._replace(
        test_images=digits.test_images[digits.test_labels < 9], test_labels=digits.test_labels[digits.test_labels < 9]
    )
    with fault("loss or gradient not finite"), pytest.raises(RunError, match="in epoch 1 is not finite"):
        run(few, tmp_path, model=Unseen)


# Messages


def start(idx_folder, out, shell, tmp_path, only="exp_03"):
    """Run the command in a shell line in which {command} stands for it."""
    command = f"{sys.executable} {ROOT / 'run_experiments.py'} --data {idx_folder} --out {out} --epochs 1 --only {only}"
    return subprocess.run(["bash", "-c", shell.format(command=command)], capture_output=True, cwd=tmp_path, timeout=170)


def test_a_closed_pipe_ends_the_job_quietly_and_the_same_command_goes_on(idx_folder, tmp_path, fault):
    with fault("stdout or stderr closed, full or without letters") as told:
        process = start(idx_folder, "out", "{command} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
        told()
        assert (process.returncode, process.stderr) == (141, b"")
        _, (options, (job,), _) = prepared([ALL["exp_03"]], "--data", idx_folder, "--out", tmp_path / "out")
        assert run_experiments.train_job(job, options)[0] == "finished"


@pytest.mark.parametrize("shell", ["{command}", "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {command}"])
def test_a_folder_whose_name_is_no_text_is_refused(idx_folder, tmp_path, shell, fault):
    with fault("stdout or stderr closed, full or without letters"):
        process = start(idx_folder, "$'out_\\xff'", shell, tmp_path)
        assert process.returncode == 2
        said = process.stderr.splitlines()[-1]
        assert said == b"run_experiments.py: error: --out 'out_\\udcff': a name that is text in UTF-8 is needed"
        assert list(tmp_path.glob("out*")) == []


def test_data_in_a_folder_whose_name_is_no_text_are_refused(capsys):
    with pytest.raises(SystemExit):
        run_experiments.parse_arguments(["--data", "few_\udcff"])
    said = r"--data 'few_\udcff': a name that is text in UTF-8 is needed"
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_a_lack_of_memory_is_told_in_one_line(idx_folder, tmp_path, fault):
    with fault("working directory deleted, or no memory"):
        process = start(idx_folder, tmp_path / "out", "ulimit -v 600000; {command}", tmp_path)
        assert process.returncode in (1, 2)
        assert b"Traceback" not in process.stderr, process.stderr.decode()
        assert process.stderr.count(b"run_experiments.py: ") == 1


def test_no_link_is_written_through(digits, tmp_path, fault):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (".holder", ".lock", "results.json", "checkpoint.pt"):
        out = tmp_path / f"out_{name}"
        (out / TRIAL).mkdir(parents=True)
        (out / TRIAL / name).symlink_to(victim)
        with fault("symbolic links"):
            try:
                run(digits, out, n_epochs=1, model=Linear)
            except RunError as error:
                assert "symbolic link" in str(error) or "of another version" in str(error)  # noqa: PT017 either is right
            assert victim.read_text() == "mine"


def test_a_linked_run_is_not_replaced(copy, digits, tmp_path, fault):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / TRIAL).symlink_to(copy / TRIAL)
    with fault("symbolic links"):
        with pytest.raises(RunError, match="is a symbolic link: what it leads to is not replaced"):
            run(digits, linked, model=Linear, overwrite=True)
        assert (copy / TRIAL / "results.json").exists()


@pytest.mark.parametrize("state", ["another model", "another commit", "failed", "held"])
def test_what_files_say_is_told_in_one_line_without_escape_sequences(copy, digits, state, fault):
    odd = "a\nb\x1b[31m"
    stop(copy)
    content = json.loads((copy / TRIAL / "settings.json").read_text())
    change = {"another model": {"model": odd, odd: odd}, "another commit": {"git_commit": odd, "code": "0" * 64}}
    (copy / TRIAL / "settings.json").write_text(json.dumps(content | change.get(state, {})))
    if state == "failed":
        (copy / TRIAL / "failed.txt").write_bytes(odd.encode() + b"\xff")
    with fault("names of folders with other characters"), contextlib.ExitStack() as stack:
        if state == "held":
            stack.enter_context(FileLock(copy / TRIAL / ".lock"))
            (copy / TRIAL / ".holder").write_text(f"{10**30} \x1b[31m{platform.node()}")
        with pytest.raises(RunError) as error:
            run(digits, copy, model=Linear)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a\x1b[31mred", "a|b", "a\nb", "a b", "-x", "$(id)"])
def test_names_of_folders_made_by_hand_are_quoted(tmp_path, name, fault):
    write_results(tmp_path, NAME, [982])
    (tmp_path / name).mkdir()
    results.write(tmp_path / name / "results.json", results_of(NAME, [983]) | {"experiment_name": name})
    with fault("names of folders with other characters"):
        record, complaints = results.read_all(tmp_path)
        assert list(record) == [NAME]
        assert len(complaints) == 1
        assert complaints[0].isprintable()
        assert f"{name!a} is not the name of a run" in complaints[0]
