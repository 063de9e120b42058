"""The three commands as a user types them, on a few hundred digits, in a temporary folder."""

import contextlib
import inspect
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
import torch
from conftest import ROOT, prepared
from hypothesis import given
from hypothesis import strategies as st
from stress_kill import assert_same_run, wait_until, without_times

import plot
import run_experiments
import train
from lab.results import ONE_RUN_EACH, read_all
from lab.settings import Job, longest_first
from run_experiments import ALL, EXPERIMENTS, SETS

NAMES = [experiment.directory(1) for experiment in EXPERIMENTS]


def assert_same_results(one, other, names=NAMES):
    for name in names:
        assert_same_run(one / name, other / name)


@pytest.fixture(scope="session")
def workplace(call, idx_folder, made_once):
    """A folder in which `run_experiments.py --epochs 2` has been called, and what it said: (folder, results, process).

    results: {name of a run: its results}
    """

    def make(folder):
        process = call("run_experiments.py", "--epochs", 2, "--data", idx_folder, "--jobs", 2, cwd=folder)
        return {"returncode": process.returncode, "stdout": process.stdout, "stderr": process.stderr}

    folder, said = made_once("workplace", make)
    return folder, results_in(folder / "experiments"), SimpleNamespace(**said)


def results_in(out):
    """Return {name of a run: the content of its results.json}."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("exp_*/results.json"))}


def test_run_experiments_makes_the_seven_runs(workplace, idx_folder):
    folder, results, process = workplace
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in (folder / "experiments").iterdir()) == [*NAMES, "job.json"]
    announcement, summary, luck, total = process.stdout.split("\n\n")
    assert luck == ONE_RUN_EACH
    said = "normalised with the mean 0.1253 and standard deviation 0.3017 of its training images"
    assert announcement.splitlines() == ["7 runs into experiments", f"{idx_folder}: {said}"]
    assert re.fullmatch(r"7 of 7 runs trained in \d+\.\d minutes, 2 at a time\n", total)
    for line, name in zip(summary.splitlines()[1:], NAMES, strict=True):
        shown = re.fullmatch(rf"{name} +([\d.]+) %  (\d+) of 500 +finished", line)
        assert shown is not None, line
        assert float(shown[1]) == pytest.approx(results[name]["test_accuracy"], abs=0.005)
        assert int(shown[2]) == results[name]["test_correct"]
    assert "Traceback" not in process.stderr


def test_the_whole_job_is_written_down(workplace):
    folder, results, _ = workplace
    job = json.loads((folder / "experiments" / "job.json").read_text())
    assert job["command"].startswith("python run_experiments.py --epochs 2 --data")
    assert (job["runs"], job["at_a_time"]) == (7, 2)
    assert [(row["experiment"], row["run"]) for row in job["rows"]] == [(name[:6], 1) for name in NAMES]
    for row, name in zip(job["rows"], NAMES, strict=True):
        for part in ("train", "test", "log", "other"):
            spent = sum(epoch[f"{part}_seconds"] for epoch in results[name]["history"])
            assert row[part] == pytest.approx(spent, abs=0.006)


def test_the_code_of_a_job_is_that_of_its_runs(tmp_path):
    job = Job(EXPERIMENTS[0], 1, 2)
    own = {"git_commit": "a" * 40, "device_name": "a GPU", "versions": {}, "cores": 1}
    job.results = {"seconds": {}, **own}
    options = SimpleNamespace(set="original", out=tmp_path, jobs=1)
    assert run_experiments.write_job(options, [job], 1.0) == 0
    written = json.loads((tmp_path / "job.json").read_text())
    assert {key: written[key] for key in own} == own


def test_the_first_two_rows_are_the_same_network(workplace):
    first, second = (without_times(workplace[1][name]["history"]) for name in NAMES[:2])
    assert first == second


def test_running_again_skips_and_other_settings_are_refused(workplace, call, idx_folder):
    folder = workplace[0]
    again = call("run_experiments.py", "--epochs", 2, "--data", idx_folder, cwd=folder)
    assert again.returncode == 0
    assert again.stdout.count("skipped: already finished") == 14  # before the start and in the summary
    assert again.stderr == ""
    others = {"n_epochs 2 instead of 3": (3, ()), "plain_convolutions false instead of true": (2, ("--plain",))}
    for difference, (n_epochs, more) in others.items():
        arguments = ("--data", idx_folder, "--out", folder / "experiments", *more)
        kind, why = prepared(EXPERIMENTS, *arguments, n_epochs=n_epochs)
        assert kind == "failed"
        for line, name in zip(why.splitlines(), NAMES, strict=True):
            assert line.startswith(f"{folder / 'experiments' / name} holds a run with {difference}; ")
            assert "--force" in line


def test_plot_compares_them(workplace, call_here, tmp_path):
    folder = shutil.copytree(workplace[0], tmp_path / "copy")
    process = call_here("plot.py", cwd=folder)
    assert process.returncode == 0, process.stderr
    written = [folder / line for line in process.stdout.splitlines()]
    names = ["AccuracyComparison.png", "Differences.png", "AccuracyCurves.png", "TrainLossCurves.png", "train_loss.png"]
    names += [*(f"diagram_exp_0{n}.png" for n in range(1, 8)), "comparison.md", "runs.csv", "epochs.csv"]
    assert [path.name for path in written] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:-3])


@pytest.fixture(scope="module")
def tensorboard(workplace, tmp_path_factory):
    """The address of a TensorBoard that has read the seven runs, and a function that asks it for JSON."""
    folder = workplace[0]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir=experiments", "--host=127.0.0.1", "--port=0"]
    log = tmp_path_factory.mktemp("tensorboard") / "log"
    with log.open("w") as stream, subprocess.Popen(command, cwd=folder, stderr=stream, stdout=stream) as server:
        try:
            deadline = time.monotonic() + 60
            while (address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)

            def get(path, content=None):
                headers = {"Content-Type": "application/json"} if content else {}
                content = content and json.dumps(content).encode()
                request = urllib.request.Request(f"{address[0]}/data/{path}", content, headers)
                with urllib.request.urlopen(request, timeout=20) as response:
                    return json.load(response)

            while sorted(get("runs")) != NAMES:
                assert time.monotonic() < deadline, get("runs")
                time.sleep(0.2)
            yield address[0], get
        finally:
            server.terminate()


def test_tensorboard_shows_and_compares_the_seven_runs(workplace, tensorboard):
    _, get = tensorboard
    tags = get("plugin/scalars/tags")
    for name in NAMES:
        assert {"Accuracy test", "Average loss test", "Average loss train", "Images per second"} <= set(tags[name])
        query = urlencode({"run": name, "tag": "Accuracy test"})
        logged = [(step, value) for _, step, value in get(f"plugin/scalars/scalars?{query}")]
        history = workplace[1][name]["history"]
        assert logged == [(e["epoch"], pytest.approx(e["test_accuracy"])) for e in history]

    # The table of hyperparameters with the last accuracies, one page of custom scalars, a graph and a text each.
    columns = get("plugin/hparams/experiment", {"experimentName": ""})["hparamInfos"]
    assert {"model", "bypass_localisation", "learning_rate", "seed"} <= {column["name"] for column in columns}
    metrics = [{"metric": {"tag": "Accuracy test", "group": ""}}]
    query = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 100}
    sessions = get("plugin/hparams/session_groups", query | {"colParams": metrics})["sessionGroups"]
    assert sorted(session["name"] for session in sessions) == NAMES
    for session in sessions:
        results = workplace[1][session["name"]]
        accuracy = {value["name"]["tag"]: value["value"] for value in session["metricValues"]}["Accuracy test"]
        assert accuracy == pytest.approx(results["test_accuracy"])
        assert session["hparams"]["model"] == results["model"]
    (page,) = get("plugin/custom_scalars/layout")["category"]
    assert [chart["multiline"]["tag"] for chart in page["chart"]] == [
        ["Accuracy test$"],
        ["Average loss test$"],
        ["Average loss train$"],
    ]
    assert sorted(get("plugin/graphs/info")) == sorted(get("plugin/images/tags")) == NAMES
    for experiment, name in zip(EXPERIMENTS, NAMES, strict=True):
        (text,) = get(f"plugin/text/text?{urlencode({'run': name, 'tag': 'Question/text_summary'})}")
        assert experiment.question in text["text"]


NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES_OF_CHROMIUM)), None)


@pytest.mark.skipif(BROWSER is None, reason=f"no Chromium is installed (none of {', '.join(NAMES_OF_CHROMIUM)})")
def test_tensorboards_page_in_a_browser_lists_the_seven_runs(tensorboard, tmp_path):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--window-size=1400,1100", "--virtual-time-budget=30000", "--dump-dom", tensorboard[0]]
    page = subprocess.run(command, capture_output=True, text=True, timeout=170).stdout
    assert "Accuracy test" in page
    assert set(re.findall(r"exp_\d\d_run_\d\d_\w+", page)) == set(NAMES)


@pytest.fixture
def begin(start, idx_folder, tmp_path):
    """Start run_experiments.py into tmp_path/out."""
    command = [sys.executable, ROOT / "run_experiments.py", "--data", idx_folder, "--out", tmp_path / "out"]
    return lambda *arguments, before=(): start([*before, *command, *arguments])


@pytest.fixture
def terminal():
    """Open a terminal: (what must stand before the command that shall own it, a function that presses Ctrl-C)."""
    keyboard, theirs = os.openpty()
    # The first terminal that the leader of a session opens becomes its own.
    yield ["sh", "-c", 'exec "$@" <"$0"', os.ttyname(theirs)], lambda: os.write(keyboard, b"\x03")
    os.close(keyboard)
    os.close(theirs)


def ended(process, told):
    """Wait for the end of an interrupted job and of all its processes; check its last line."""
    output, errors = process.communicate(timeout=60)
    wait_until(lambda: not process.members())
    told()
    assert output.splitlines()[-1].startswith("Interrupted: the same command goes on")
    assert output.count("Interrupted") == 1
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors
    return process.returncode


def test_an_interrupted_job_goes_on_to_the_same_bits(workplace, begin, terminal, idx_folder, tmp_path, fault):
    """Interrupted by Ctrl-C, pressed three times, continued in one process, and compared with the undisturbed job.

    (What SIGTERM and SIGKILL do is tested below and in test_faults.py.)
    """
    out = tmp_path / "out"
    some = ("--epochs", 2, "--only", "exp_04", "exp_07")
    on_it, press = terminal

    process = begin("--jobs", 1, *some, before=on_it)
    wait_until(lambda: [*out.glob("*/checkpoint.pt")])
    with fault("SIGINT or SIGTERM") as told:
        for _ in range(3):
            press()
            time.sleep(0.02)
        assert ended(process, told) == 130
    assert len(list(out.glob("*/results.json"))) < 2
    _, (options, jobs, _) = prepared([ALL["exp_04"], ALL["exp_07"]], "--data", idx_folder, "--out", out, n_epochs=2)
    left = [job for job in jobs if job.status == "not started"]
    assert {run_experiments.train_job(job, options)[0] for job in left} == {"finished"}
    assert_same_results(out, workplace[0] / "experiments", [NAMES[3], NAMES[6]])


INTERRUPTS = [(number, delay) for number in (signal.SIGINT, signal.SIGTERM) for delay in (0, 0.2, 0.6, 1.2, 2.4)]
OFTEN = (signal.SIGINT, 0), (signal.SIGTERM, 0.6), (signal.SIGINT, 2.4)


@pytest.mark.parametrize(
    ("number", "delay"),
    [pair if pair in OFTEN else pytest.param(*pair, marks=pytest.mark.slow) for pair in INTERRUPTS],
)
def test_an_interrupt_during_the_start_is_obeyed(begin, fault, delay, number):
    process = begin("--epochs", 300, "--jobs", 2)
    process.stdout.readline()  # "7 runs into ...": from here on signals are answered
    time.sleep(delay)
    with fault("SIGINT or SIGTERM") as told:
        process.send_signal(number)
        assert ended(process, told) == 128 + number


def test_force_starts_again_and_says_how_to_go_on(workplace, begin, idx_folder, tmp_path):
    shutil.copytree(workplace[0] / "experiments", tmp_path / "out")
    before = (tmp_path / "out" / NAMES[2] / "results.json").stat().st_mtime_ns
    arguments = ("--data", idx_folder, "--out", tmp_path / "out", "--force")
    _, (options, (job,), _) = prepared([ALL["exp_03"]], *arguments, n_epochs=2)
    assert run_experiments.train_job(job, options)[0] == "finished"
    assert (tmp_path / "out" / NAMES[2] / "results.json").stat().st_mtime_ns > before
    assert_same_results(tmp_path / "out", workplace[0] / "experiments")
    interrupted = begin("--epochs", 300, "--only", "exp_04", "--force")
    wait_until(lambda: not (tmp_path / "out" / NAMES[3] / "results.json").exists())
    interrupted.send_signal(signal.SIGTERM)
    assert "the command without --force goes on" in interrupted.communicate(timeout=60)[0]


def test_the_longest_runs_start_first():
    jobs = [Job(experiment, 1, experiment.epochs) for experiment in EXPERIMENTS]
    order = [job.experiment.id for job in longest_first(jobs)]
    assert order == ["exp_02", "exp_05", "exp_06", "exp_07", "exp_01", "exp_03", "exp_04"]


@given(st.lists(st.sampled_from(list(ALL.values())), min_size=1), st.integers(1, 12))
def test_longest_first_keeps_the_order_of_equal_costs(experiments, runs):
    jobs = [Job(experiment, run, 30) for run in range(1, runs + 1) for experiment in experiments]
    order = longest_first(jobs)
    assert sorted(map(id, order)) == sorted(map(id, jobs))
    place = {id(job): number for number, job in enumerate(jobs)}
    for one, other in itertools.pairwise(order):
        assert one.cost > other.cost or (one.cost == other.cost and place[id(one)] < place[id(other)])


def test_runs_have_their_own_seeds_and_share_them_between_experiments(idx_folder, workplace, tmp_path):
    """The second runs of two experiments, beside their first, which are kept."""
    for name in NAMES[2:4]:
        shutil.copytree(workplace[0] / "experiments" / name, tmp_path / name)
    rows = [ALL["exp_03"], ALL["exp_04"]]
    _, (options, jobs, _) = prepared(rows, "--data", idx_folder, "--out", tmp_path, runs=2, n_epochs=2)
    assert [job.status == "skipped: already finished" for job in jobs] == [True, True, False, False]
    for job in jobs[2:]:
        assert run_experiments.train_job(job, options)[0] == "finished"
    results = results_in(tmp_path)
    assert sorted((name[:13], r["run"], r["seed"]) for name, r in results.items()) == [
        ("exp_03_run_01", 1, 123),
        ("exp_03_run_02", 2, 124),
        ("exp_04_run_01", 1, 123),
        ("exp_04_run_02", 2, 124),
    ]
    for name in NAMES[2:4]:
        assert results[name]["predictions"] != results[name.replace("run_01", "run_02")]["predictions"]
    assert_same_results(tmp_path, workplace[0] / "experiments", NAMES[2:4])


@pytest.mark.parametrize(
    ("text", "numbers"), [("1", [1]), ("3", [1, 2, 3]), ("21-23", [21, 22, 23]), ("7-7", [7]), ("999-999", [999])]
)
def test_runs_are_a_number_or_a_range(text, numbers):
    assert [*run_experiments.parse_arguments(["--runs", text]).runs] == numbers
    assert [*run_experiments.parse_arguments([]).runs] == [1]


def test_a_range_of_runs_has_the_seeds_of_its_numbers(call, idx_folder, tmp_path):
    """Runs 02 and 03 of the seven, without run 01; the summary and job.json name them."""
    options = ("--data", idx_folder, "--epochs", 1, "--jobs", 2, "--out", tmp_path)
    process = call("run_experiments.py", *options, "--runs", "2-3")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("14 runs into ")
    assert ONE_RUN_EACH not in process.stdout
    names = [row.directory(run) for run in (2, 3) for row in EXPERIMENTS]
    summary = process.stdout.split("\n\n")[1].splitlines()[1:]
    assert [line.split()[0] for line in summary] == names
    results = results_in(tmp_path)
    assert sorted(results) == sorted(names)
    assert {(r["run"], r["seed"]) for r in results.values()} == {(2, 124), (3, 125)}
    job = json.loads((tmp_path / "job.json").read_text())
    assert job["command"].endswith("--runs 2-3")
    assert (job["runs"], [(row["experiment"], row["run"]) for row in job["rows"]]) == (
        14,
        [(row.id, run) for run in (2, 3) for row in EXPERIMENTS],
    )


def test_the_plain_form_has_nearly_the_same_result(idx_folder, workplace, tmp_path):
    arguments = ("--data", idx_folder, "--out", tmp_path, "--plain")
    _, (options, (job,), _) = prepared([ALL["exp_07"]], *arguments, n_epochs=2)
    assert run_experiments.train_job(job, options)[0] == "finished"
    plain, fast = (results[NAMES[6]]["history"] for results in (results_in(tmp_path), workplace[1]))
    for ours, other in zip(plain, fast, strict=True):
        assert ours["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


RUNS_NEEDED = "a whole number from 1 to 999 is needed, or a range of them, as in 21-40"
BAD_RUNS = ("0", "1000", "40-21", "0-5", "990-1000", "5-", "1-2-3", "1_0", "²", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "exp_99"], "argument --only: invalid choice: 'exp_99' (choose from "),
        *((["--runs", bad], f"argument --runs: {RUNS_NEEDED}, not {bad!r}") for bad in BAD_RUNS),
        (["--epochs", "-1"], "--epochs: a whole number from 1 to 10000 is needed, not '-1'"),
        (["--epochs", "ten"], "--epochs: a whole number from 1 to 10000 is needed, not 'ten'"),
        (["--jobs", "1e3"], "--jobs: a whole number from 1 to 1024 is needed, not '1e3'"),
        (["--log-images", "-1"], "--log-images: a whole number from 0 to 10000 is needed, not '-1'"),
        (["--device", "tpu"], "cpu, cuda or cuda:N is needed, not 'tpu'"),
        (["--run"], "unrecognized arguments: --run"),
        (["--epochs", "2", "--epochs", "3"], "error: --epochs is given twice"),
        (["--out", ""], "--out: the name of a folder is needed, not an empty one"),
        (["--data", "/nowhere", "--out", "/tmp"], "/nowhere: neither train-images-idx3-ubyte nor"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(call_here, fault, arguments, message):
    with fault("nonsense on the command line") as told:
        process = call_here("run_experiments.py", *arguments)
        told()
        assert process.returncode == 2
        assert message in process.stderr.splitlines()[-1]
        assert "Traceback" not in process.stderr


TEXT = st.text().filter(lambda text: not text.startswith("-"))  # that would be another option


def no_whole_number(limit):
    """Make texts that are no whole number from 1 to `limit`: any, and numbers beside."""
    beside = st.integers(max_value=0) | st.integers(min_value=limit + 1) | st.floats(max_value=0) | st.floats(1.5)
    return beside.map(str) | TEXT.filter(lambda text: not text.strip().isdigit())


NONSENSE = {
    "--runs": no_whole_number(999).filter(lambda text: not re.fullmatch(r"\d+-\d+", text)) | st.just("40-21"),
    "--epochs": no_whole_number(10_000),
    "--jobs": no_whole_number(1024),
    "--device": TEXT.filter(lambda text: not text.startswith(("cpu", "cuda"))) | st.just("cuda:") | st.just("cuda:-1"),
    "--set": TEXT.filter(lambda text: text not in SETS),
    "--only": TEXT.filter(lambda text: text not in ALL),
    "--out": st.text(" \t\n", max_size=3),
}


@given(words=st.sampled_from(sorted(NONSENSE)).flatmap(lambda flag: st.tuples(st.just(flag), NONSENSE[flag])))
def test_every_nonsense_is_refused_with_one_line(words, fault):
    with fault("nonsense on the command line") as told, contextlib.redirect_stderr(io.StringIO()) as errors:
        with pytest.raises(SystemExit) as exit_:
            run_experiments.parse_arguments([*words])
        told()
        assert exit_.value.code == 2
        assert re.search(r"^\S+: error: ", errors.getvalue(), re.MULTILINE)


@given(words=st.lists(st.sampled_from([*NONSENSE, "--data", "--force", "--plain", "--list"]) | st.text(max_size=5)))
def test_any_words_are_understood_or_refused(words):
    """No other exception; what is understood can be used."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        code, options = 0, None
        try:
            options = run_experiments.parse_arguments(words)
        except SystemExit as exit_:
            code = exit_.code
        assert run_experiments.selection(options) if options else code == 2 or {"-h", "--help"} & {*words}


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("plot.py", ["--out", "a", "--out", "b"], "error: --out is given twice"),
        ("plot.py", ["extra"], "unrecognized arguments: extra"),
        ("plot.py", ["--within", "nan"], "--within: points from 0.001 to 100 are needed, not nan"),
        ("tools/benchmark.py", ["--rounds", "-1"], "a whole number from 1 to 99 is needed, not '-1'"),
        ("tools/benchmark.py", ["--only", "exp_12"], "invalid choice: 'exp_12'"),
        ("train.py", ["--epochs", "3"], "unrecognized arguments: --epochs 3"),
    ],
)
def test_wrong_usage_of_the_other_scripts(call_here, fault, script, arguments, message):
    with fault("nonsense on the command line") as told:
        process = call_here(script, *arguments)
        told()
        assert process.returncode == 2
        assert message in process.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_refused(tmp_path):
    why = "--device cuda: torch finds 0 CUDA devices here"
    assert prepared(EXPERIMENTS, "--device", "cuda", "--out", tmp_path) == ("failed", why)


def test_list_names_every_experiment(call):
    process = call("run_experiments.py", "--list")
    assert process.returncode == 0
    for experiment in ALL.values():
        assert f"{experiment.id}  {experiment.title}, {experiment.epochs} epochs" in process.stdout
        assert experiment.question in process.stdout


def test_the_other_sets(idx_folder, tmp_path):
    """Train rows of the perspective set and of whole images, measure, skip when finished, and compare them."""
    rows = [ALL[exp_id] for exp_id in ("exp_12", "exp_27")]
    arguments = ("--data", idx_folder, "--out", tmp_path)
    _, (options, jobs, _) = prepared(rows, *arguments)
    assert [run_experiments.train_job(job, options)[0] for job in jobs] == ["finished"] * 2
    alone, whole = results_in(tmp_path).values()
    assert (whole["localisation_rate"], whole["decay"]) == (ALL["exp_27"].recipe.localisation_rate, True)
    assert alone["data"]["perspective_sigma"] == 3.5
    assert whole["data"] == {**alone["data"], "canvas": 2}
    assert alone["transformer"] is None
    assert {"corner_distance_before", "corner_distance_after"} <= whole["transformer"].keys()
    _, (_, jobs, _) = prepared(rows, *arguments)
    assert [job.status for job in jobs] == ["skipped: already finished"] * 2
    drawn = plot.comparison_figures(read_all(tmp_path)[0])
    assert {"PerspectiveAccuracyComparison.png", "PerspectiveWholeAccuracyComparison.png"} <= drawn.keys()


def test_set_selects_and_only_overrules():
    assert list(ALL) == sorted(ALL, key=lambda exp_id: int(exp_id.removeprefix("exp_")))
    assert SETS["original"] == EXPERIMENTS
    assert run_experiments.selection(run_experiments.parse_arguments([])) == list(EXPERIMENTS)
    chosen = run_experiments.parse_arguments(["--set", "homography"])
    assert run_experiments.selection(chosen) == list(SETS["homography"])
    chosen = run_experiments.parse_arguments(["--only", "exp_12", "exp_03"])
    assert [experiment.id for experiment in run_experiments.selection(chosen)] == ["exp_03", "exp_12"]


def test_train_py_trains_as_exp_08_into_test_over_whatever_is_there(tmp_path, digits, idx_folder, call_here):
    """On few digits."""
    (tmp_path / "experiments" / "test").mkdir(parents=True)
    for name in ("results.json", "events.out.tfevents.1"):
        (tmp_path / "experiments" / "test" / name).write_text("those of something else")
    process = call_here("train.py", cwd=tmp_path, n_epochs=2, data=digits)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "experiments" / "test" / "results.json").read_text())
    assert (results["model"], results["experiment_name"]) == ("Net_CoordConv_Homography", "test")
    assert len(results["history"]) == 2
    line = f"test accuracy {results['test_accuracy']:.2f} % after 2 epochs; see experiments/test"
    assert process.stdout == f"{line}\n"
    assert len(list((tmp_path / "experiments" / "test").glob("events.*"))) == 1
    found = json.loads((tmp_path / "experiments" / "test" / "settings.json").read_text())
    _, (_, (job,), _) = prepared([ALL["exp_08"]], "--data", idx_folder, "--out", tmp_path / "out", n_epochs=2)
    expected = job.settings.as_json() | {"experiment_name": "test"}
    assert found.pop("device_name")
    assert found == expected | ({"device": "cuda"} if torch.cuda.is_available() else {})
    assert inspect.signature(train.main).parameters["n_epochs"].default == ALL["exp_08"].epochs


def test_train_py_tells_an_interrupt(tmp_path, digits, call_here, monkeypatch):
    monkeypatch.setattr(train, "train_epoch", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    process = call_here("train.py", cwd=tmp_path, n_epochs=1, data=digits)
    assert process.returncode == 128 + signal.SIGINT
    assert process.stdout.splitlines()[-1] == "Interrupted: the same command starts again."


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_py_ends_when_it_is_interrupted(start, tmp_path, number):
    settings = tmp_path / "experiments" / "test" / "settings.json"
    process = start([sys.executable, ROOT / "train.py"], cwd=tmp_path)
    wait_until(settings.exists)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.splitlines()[-1] == "Interrupted: the same command starts again."
    assert "Traceback" not in errors


def test_train_py_explains_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: train.py")
    assert list(tmp_path.iterdir()) == []
