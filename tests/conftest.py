"""A small part of the real MNIST, a way to call the scripts as a user does, and a record of the faults tried."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import torch
from filelock import FileLock
from helpers import write_idx
from stress_kill import Family, run_job

from lab import results
from lab.files import write_json
from lab.folder import provenance
from lab.settings import Experiment, Job
from run_experiments import ALL
from stn import data, mnist
from studies.cards import data as card_data
from studies.cards import metrics as card_metrics

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)  # machines here are noisy
hypothesis.settings.register_profile("slow", hypothesis.settings.get_profile("steady"), max_examples=1000)
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent
FAULTS = {}  # kind of fault: {"tried", "survived", "seconds": the longest until it was told}


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, metavar="N", help="kills in the stress test (default: 3)")
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked as slow")
    parser.addoption("--save-faults", metavar="FILE", help="write what became of the faults that were tried, as JSON")
    parser.addoption("--save-measurements", metavar="FOLDER", help="write what the slow tests measured there, as JSON")


def pytest_configure(config):
    if config.getoption("--slow"):
        hypothesis.settings.load_profile("slow")
    if config.getoption("--save-faults") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--save-faults needs all tests in one process: leave out -n")
    if folder := config.getoption("--save-measurements"):
        Path(folder).mkdir(parents=True, exist_ok=True)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: "science" not in item.path.parts)  # first; the order is otherwise as it was
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: needs --slow"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With -n, one process has all tests of a file, in this order: what a file makes for its tests is made once."""
    if config.getoption("dist") != "load":  # another one is asked for
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_sessionfinish(session):
    if path := session.config.getoption("--save-faults"):
        faults = {kind: row | {"seconds": round(row["seconds"], 2)} for kind, row in FAULTS.items()}
        write_json(path, {"command": command_of(session.config), **provenance(), "faults": faults})


def command_of(config):
    return " ".join(["python -m pytest", *config.invocation_params.args])


@pytest.fixture
def save_measurement(request):
    """save_measurement(name, numbers): write FOLDER/name.json if --save-measurements FOLDER is given."""

    def save(name, numbers):
        if folder := request.config.getoption("--save-measurements"):
            path = Path(folder) / f"{name}.json"
            write_json(path, {"command": command_of(request.config), **provenance(), **numbers})

    return save


@pytest.fixture(scope="session")
def fault():
    """`with fault(kind) as told:` around a fault and the tests of what became of it; `told()` where it is noticed."""

    @contextlib.contextmanager
    def meet(kind, tries=1):
        row = FAULTS.setdefault(kind, {"tried": 0, "survived": 0, "seconds": 0.0})
        row["tried"] += tries
        started = time.perf_counter()

        def told(seconds=None):
            row["seconds"] = max(row["seconds"], time.perf_counter() - started if seconds is None else seconds)

        try:
            yield told
        except KeyboardInterrupt:  # of the tests: it says nothing
            row["tried"] -= tries
            raise
        row["survived"] += tries

    return meet


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def archives():
    """The folder of MNIST's four archives."""
    return ROOT / "data" / "MNIST" / "raw"


def few_digits(folder):
    """Write the first few hundred images of MNIST into `folder`, as four IDX files."""
    arrays = mnist.read_mnist()
    write_idx(folder, [array[:n] for array, n in zip(arrays, (640, 640, 500, 500), strict=True)])


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make): a new folder, filled by `make(folder)`, and what that returns (see json).

    With -n, one process makes it and all have it: nothing may be changed there.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name, make):
        folder, done = root / name, root / f"{name}.json"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                done.write_text(json.dumps(make(folder)))
        return folder, json.loads(done.read_text())

    return once


@pytest.fixture(scope="session")
def idx_folder(made_once):
    return made_once("few_digits", few_digits)[0]


@pytest.fixture(scope="session")
def undisturbed(idx_folder, made_once):
    """The folder of the short job of stress_kill.py, undisturbed: exp_03 and exp_08."""
    return made_once("undisturbed", lambda out: run_job(idx_folder, out))[0]


def prepared(experiments, *arguments, runs=1, n_epochs=1):
    """Prepare the runs of experiments by the command's options, on the CPU; return what `prepare` does."""
    from run_experiments import parse_arguments, prepare

    options = parse_arguments([*map(str, arguments), *(() if "--device" in arguments else ("--device", "cpu"))])
    return prepare(options, [Job(row, run, n_epochs) for run in range(1, runs + 1) for row in experiments])


@pytest.fixture
def start():
    """Start a command, start(["python", "train.py"], cwd=...), with its output in pipes; killed after the test."""
    with contextlib.ExitStack() as stack:

        def begin(command, **options):
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = stack.enter_context(Family(command, **(pipes | options)))
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture(scope="session")
def digits(idx_folder):
    return data.load(idx_folder)


@pytest.fixture(scope="module")
def few_cards(digits):
    """few_cards(), few_cards(straight=True): sets of few cards with few digits; all sets are while a module is tested.

    The training numbers have two batches.
    """
    sizes = {
        card_data: {"N_TRAIN": 100, "N_TEST": 60, "HELD_OUT": 400},
        card_metrics: {"N_ALIGNED": 50, "N_CURVE": 30},
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, numbers in sizes.items():
            for name, number in numbers.items():
                patch.setattr(module, name, number)
        yield partial(card_data.cards, digits)


def results_of(name, correct, total=1000, **changes):
    """Return results as `train` writes them, of a run with these numbers of correct test images by epoch.

    The network and the recipe are those of the experiment's row, if there is one.
    """
    row = ALL.get(name.partition("_run_")[0], Experiment("", "", "Net", 1, ""))
    epoch = {"train_loss": 0.1, "test_loss": 0.1}
    epoch |= {"train_seconds": 10.0, "test_seconds": 1.0, "log_seconds": 0.5, "other_seconds": 0.5}
    history = [
        {"epoch": number, **epoch, "test_correct": n, "test_accuracy": 100 * n / total}
        for number, n in enumerate(correct, 1)
    ]
    matrix = [[0] * 10 for _ in range(10)]
    matrix[0][0], matrix[0][1] = correct[-1], total - correct[-1]
    return {
        **{"experiment_name": name, "avg_test_loss": 0.1, "test_accuracy": 100 * correct[-1] / total},
        **{"test_correct": correct[-1], "test_total": total, "n_epochs": len(correct), "run": int(name[11:13])},
        **{"seed": 122 + int(name[11:13]), "model": row.model, "arguments": row.arguments, **row.recipe.as_settings()},
        **{"data": {"name": "few"}, "device_name": "a machine", "trainable_parameters": 27360},
        **{"versions": {"torch": "2"}, "git_commit": "a" * 40, "seconds": 12.0 * len(correct), "transformer": None},
        **{"plain_convolutions": False, "history": history, "confusion_matrix": matrix},
        "predictions": "0" * correct[-1] + "1" * (total - correct[-1]),
        **changes,
    }


def record_of(runs):
    """{(experiment's id, run): (correct images by epoch, changes)} -> a record of runs with 1000 test images."""
    record = {}
    for (exp_id, run), (correct, changes) in runs.items():
        name = ALL[exp_id].directory(run)
        record[name] = results.condensed(results_of(name, correct, **changes))
    return record


def write_results(out, name, correct, **changes):
    folder = out / name
    folder.mkdir(parents=True)
    results.write(folder / "results.json", results_of(name, correct, **changes))
    return folder / "results.json"


@pytest.fixture(scope="session")
def call():
    """Run a script of the repository in a process of its own: call("plot.py", "--out", folder, cwd=folder)."""

    def run(script, *arguments, **options):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = os.environ | {"PYTHONWARNINGS": "error::UserWarning"}
        return subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment, **options)

    return run


@pytest.fixture
def call_here(monkeypatch, capsys):
    """As `call`, but in the tests' own process, which saves importing torch: for what a script says and writes.

    Options are those of the script's `main`.
    """

    def run(script, *arguments, cwd=".", **options):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM)}
        try:
            code = importlib.import_module(Path(script).stem).main(**options)
        except SystemExit as exit_:
            code = exit_.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        told = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, told.out, told.err)

    return run
