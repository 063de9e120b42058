"""The three commands as a user types them, on a few hundred digits, in a temporary folder."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlencode

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from stress_kill import assert_same_run, processes

import run_experiments
from run_experiments import ALL, EXPERIMENTS, SETS, Job, in_starting_order

NAMES = [experiment.directory(1) for experiment in EXPERIMENTS]


def assert_same_results(one, other, names=NAMES):
    for name in names:
        assert_same_run(one / name, other / name)


@pytest.fixture(scope="module")
def workplace(call, idx_folder, tmp_path_factory):
    """A folder in which `run_experiments.py --epochs 2` has been called: (folder, the finished process)."""
    folder = tmp_path_factory.mktemp("workplace")
    return folder, call("run_experiments.py", "--epochs", 2, "--data", idx_folder, "--jobs", 2, cwd=folder)


def test_run_experiments_makes_the_seven_runs(workplace, idx_folder):
    folder, process = workplace
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in (folder / "experiments").iterdir()) == [*NAMES, "job.json"]
    announcement, summary, total = process.stdout.split("\n\n")
    said = "normalised with the mean 0.1253 and standard deviation 0.3017 of its training images"
    assert announcement.splitlines() == ["7 runs into experiments", f"{idx_folder}: {said}"]
    assert re.fullmatch(r"7 of 7 runs trained in \d+\.\d minutes, 2 at a time\n", total)
    for line, name in zip(summary.splitlines()[1:], NAMES, strict=True):
        results = json.loads((folder / "experiments" / name / "results.json").read_text())
        shown = re.fullmatch(rf"{name} +([\d.]+) %  (\d+) of 500 +finished", line)
        assert shown is not None, line
        assert float(shown[1]) == pytest.approx(results["test_accuracy"], abs=0.005)
        assert int(shown[2]) == results["test_correct"]
    assert "Traceback" not in process.stderr


def test_the_first_two_rows_are_the_same_network(workplace):
    histories = []
    for name in NAMES[:2]:
        results = json.loads((workplace[0] / "experiments" / name / "results.json").read_text())
        histories.append([{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in results["history"]])
    assert histories[0] == histories[1]


def test_running_again_skips_and_other_settings_are_refused(workplace, call, idx_folder):
    folder, _ = workplace
    again = call("run_experiments.py", "--epochs", 2, "--data", idx_folder, cwd=folder)
    assert again.returncode == 0
    assert again.stdout.count("skipped: already finished") == 14  # before the start and in the summary
    assert again.stderr == ""
    other = call("run_experiments.py", "--epochs", 3, "--data", idx_folder, "--only", "exp_03", cwd=folder)
    assert other.returncode == 2
    assert "n_epochs 2 instead of 3" in other.stderr
    assert "--force" in other.stderr
    assert "Traceback" not in other.stderr


def test_plot_compares_them(workplace, call):
    folder, _ = workplace
    process = call("plot.py", cwd=folder)
    assert process.returncode == 0, process.stderr
    written = [folder / line for line in process.stdout.splitlines()]
    names = ["AccuracyComparison.png", "Differences.png", "AccuracyCurves.png", "TrainLossCurves.png", "train_loss.png"]
    assert [path.name for path in written] == [*names, *(f"diagram_exp_0{n}.png" for n in range(1, 8)), "comparison.md"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:-1])


@pytest.fixture(scope="module")
def tensorboard(workplace):
    """The address of a TensorBoard that has read the seven runs, and a function that asks it for JSON."""
    folder, _ = workplace
    command = [sys.executable, "-m", "tensorboard.main", "--logdir=experiments", "--host=127.0.0.1", "--port=0"]
    log = folder / "tensorboard.log"
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


def test_tensorboard_shows_the_seven_runs(workplace, tensorboard):
    _, get = tensorboard
    tags = get("plugin/scalars/tags")
    for name in NAMES:
        assert {"Accuracy test", "Average loss test", "Average loss train", "Images per second"} <= set(tags[name])
        query = urlencode({"run": name, "tag": "Accuracy test"})
        logged = [(step, value) for _, step, value in get(f"plugin/scalars/scalars?{query}")]
        results = json.loads((workplace[0] / "experiments" / name / "results.json").read_text())
        assert logged == [(e["epoch"], pytest.approx(e["test_accuracy"])) for e in results["history"]]


def test_tensorboard_compares_them(workplace, tensorboard):
    """The table of hyperparameters with the last accuracies, one page of custom scalars, a graph and a text each."""
    _, get = tensorboard
    columns = get("plugin/hparams/experiment", {"experimentName": ""})["hparamInfos"]
    assert {"model", "bypass_localisation", "learning_rate", "seed"} <= {column["name"] for column in columns}
    metrics = [{"metric": {"tag": "Accuracy test", "group": ""}}]
    query = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 100}
    sessions = get("plugin/hparams/session_groups", query | {"colParams": metrics})["sessionGroups"]
    assert sorted(session["name"] for session in sessions) == NAMES
    for session in sessions:
        results = json.loads((workplace[0] / "experiments" / session["name"] / "results.json").read_text())
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


def test_tensorboards_page_in_a_browser_lists_the_seven_runs(tensorboard, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no Chromium is installed (none of {', '.join(names)})")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--window-size=1400,1100", "--virtual-time-budget=30000", "--dump-dom", tensorboard[0]]
    page = subprocess.run(command, capture_output=True, text=True, timeout=170).stdout
    assert "Accuracy test" in page
    assert set(re.findall(r"exp_\d\d_run_\d\d_\w+", page)) == set(NAMES)


@pytest.fixture
def start(idx_folder, tmp_path):
    """Start run_experiments.py into tmp_path/out and yield the process; ended at the end of the test."""
    with contextlib.ExitStack() as stack:

        def begin(*arguments):
            command = [sys.executable, ROOT / "run_experiments.py", "--data", idx_folder, "--out", tmp_path / "out"]
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, *map(str, arguments)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield begin


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_an_interrupted_job_goes_on_to_the_same_bits(workplace, start, call, idx_folder, tmp_path, fault, how):
    """Interrupted in the middle, continued with another number of processes, and compared with the undisturbed job.

    Ctrl-C is pressed three times. (What SIGKILL does is tested in test_faults.py.)
    """
    out = tmp_path / "out"
    some = ("--only", "exp_01", "exp_04", "exp_07")
    process = start("--epochs", 2, "--jobs", 2, *some)
    wait_for(lambda: list(out.glob("*/checkpoint.pt")))
    with fault("SIGINT or SIGTERM") as told:
        for _ in range(3 if how == "SIGINT" else 1):
            if how == "SIGINT":
                os.killpg(process.pid, signal.SIGINT)  # as the terminal does it: to the workers, too
            else:
                process.terminate()
            time.sleep(0.02)
        output, errors = process.communicate(timeout=60)
        wait_for(lambda: not processes(process.pid))
        told()
        assert process.returncode == {"SIGINT": 130, "SIGTERM": 143}[how]
        assert output.splitlines()[-1].startswith("Interrupted: the same command goes on")
        assert output.count("Interrupted") == 1
        assert "Traceback" not in errors
        assert "KeyboardInterrupt" not in errors
    again = call("run_experiments.py", "--data", idx_folder, "--out", out, "--epochs", 2, "--jobs", 1, *some)
    assert again.returncode == 0, again.stderr
    assert_same_results(out, workplace[0] / "experiments", [NAMES[0], NAMES[3], NAMES[6]])


@pytest.mark.parametrize("delay", [0.1, 0.4, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_during_the_start_is_obeyed(start, fault, delay, number):
    process = start("--epochs", 300, "--jobs", 2)
    process.stdout.readline()  # "7 runs into ...": from here on signals are answered
    time.sleep(delay)
    with fault("SIGINT or SIGTERM") as told:
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        wait_for(lambda: not processes(process.pid))
        told()
        assert process.returncode == 128 + number
        assert output.splitlines()[-1].startswith("Interrupted: the same command goes on")
        assert "Traceback" not in errors


def test_force_starts_again_and_says_how_to_go_on(workplace, call, start, idx_folder, tmp_path):
    shutil.copytree(workplace[0] / "experiments", tmp_path / "out")
    before = (tmp_path / "out" / NAMES[2] / "results.json").stat().st_mtime_ns
    process = call(
        *(
            "run_experiments.py",
            "--data",
            idx_folder,
            "--out",
            tmp_path / "out",
            "--epochs",
            2,
            "--only",
            "exp_03",
            "--force",
        )
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "out" / NAMES[2] / "results.json").stat().st_mtime_ns > before
    assert_same_results(tmp_path / "out", workplace[0] / "experiments")
    interrupted = start("--epochs", 300, "--only", "exp_04", "--force")
    wait_for(lambda: not (tmp_path / "out" / NAMES[3] / "results.json").exists())
    interrupted.send_signal(signal.SIGTERM)
    assert "the command without --force goes on" in interrupted.communicate(timeout=60)[0]


def test_bars_on_a_terminal_that_does_not_know_its_width():
    """One of the running experiment, with its accuracy, and one of the whole with the time left."""
    ours, theirs = os.openpty()  # a new one has a width of 0
    jobs = [Job(experiment, 1, 10) for experiment in EXPERIMENTS[:2]]
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "w") as terminal:
        assert os.get_terminal_size(theirs).columns == 0
        display = run_experiments.Display(jobs, terminal)
        display.start(jobs[0])
        for bar in (display.bars[jobs[0].name], display.total):
            bar.mininterval = 0
        display.progress(jobs[0], 6, 1, 2, 98.5)
        os.set_blocking(ours, False)
        shown = b"".join(iter(lambda: screen.read(10_000) or b"", b"")).decode()
        assert re.search(r"all +28% \|.*\| \d\d:\d\d<\d\d:\d\d", shown)
        assert re.search(rf"{jobs[0].name[:44]} +55% \|.*98\.50 %", shown)
        display.end(jobs[0])
        display.close()


def test_the_longest_runs_start_first():
    jobs = [Job(experiment, 1, experiment.epochs) for experiment in EXPERIMENTS]
    order = [job.experiment.id for job in in_starting_order(jobs)]
    assert set(order[:4]) == {"exp_02", "exp_05", "exp_06", "exp_07"}
    assert order[4] == "exp_01"
    assert set(order[5:]) == {"exp_03", "exp_04"}


def test_runs_have_their_own_seeds_and_share_them_between_experiments(call, idx_folder, workplace, tmp_path):
    process = call(
        *("run_experiments.py", "--data", idx_folder, "--out", tmp_path, "--epochs", 2, "--runs", 2),
        *("--only", "exp_04", "exp_03"),
    )
    assert process.returncode == 0, process.stderr
    results = {path.name: json.loads((path / "results.json").read_text()) for path in tmp_path.glob("exp_*")}
    assert sorted((name[:13], r["run"], r["seed"]) for name, r in results.items()) == [
        ("exp_03_run_01", 1, 123),
        ("exp_03_run_02", 2, 124),
        ("exp_04_run_01", 1, 123),
        ("exp_04_run_02", 2, 124),
    ]
    assert results[NAMES[2]]["predictions"] != results[NAMES[2].replace("run_01", "run_02")]["predictions"]
    assert_same_results(tmp_path, workplace[0] / "experiments", NAMES[2:4])


def test_the_plain_form_is_another_setting_with_nearly_the_same_result(call, idx_folder, workplace, tmp_path):
    arguments = ("run_experiments.py", "--data", idx_folder, "--epochs", 2, "--only", "exp_07", "--plain")
    refused = call(*arguments, "--out", workplace[0] / "experiments")
    assert refused.returncode == 2
    assert "plain_convolutions False instead of True" in refused.stderr
    assert call(*arguments, "--out", tmp_path).returncode == 0
    plain, fast = (
        json.loads((out / NAMES[6] / "results.json").read_text())["history"]
        for out in (tmp_path, workplace[0] / "experiments")
    )
    for ours, other in zip(plain, fast, strict=True):
        assert ours["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


def test_a_failing_run_is_told_and_the_others_go_on(call, idx_folder, tmp_path):
    (tmp_path / NAMES[2]).write_text("a file where the folder should be")
    process = call(
        *("run_experiments.py", "--data", idx_folder, "--out", tmp_path, "--epochs", 1, "--only", "exp_03", "exp_04")
    )
    assert process.returncode == 1
    lines = {line.split()[0]: line for line in process.stdout.splitlines() if line.startswith("exp_")}
    assert "failed: " in lines[NAMES[2]]
    assert "xists" in lines[NAMES[2]]
    assert lines[NAMES[3]].endswith("finished")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "exp_99"], "unknown experiment 'exp_99'; the known ones are exp_01, exp_02, exp_03, exp_04"),
        (["--runs", "0"], "argument --runs: a whole number from 1 to 999 is needed, not '0'"),
        (["--epochs", "-1"], "argument --epochs: a whole number from 1 to 10000 is needed, not '-1'"),
        (["--epochs", "ten"], "not 'ten'"),
        (["--jobs", "1e3"], "not '1e3'"),
        (["--device", "tpu"], "cpu, cuda or cuda:N is needed, not 'tpu'"),
        (["--run"], "unrecognized arguments: --run"),
        (["--epochs", "2", "--epochs", "3"], "error: --epochs is given twice"),
        (["--out", ""], "argument --out: the name of a folder is needed, not an empty one"),
        (["--data", "/nowhere", "--out", "/tmp"], "/nowhere: neither train-images-idx3-ubyte nor"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(call, fault, arguments, message):
    with fault("nonsense on the command line") as told:
        process = call("run_experiments.py", *arguments)
        told()
        assert process.returncode == 2
        assert message in process.stderr.splitlines()[-1]
        assert "Traceback" not in process.stderr


TEXT = st.text().filter(lambda text: not text.startswith("-"))  # that would be another option


def no_whole_number(limit):
    """Texts that are no whole number from 1 to `limit`: any, and numbers beside."""
    beside = st.integers(max_value=0) | st.integers(min_value=limit + 1) | st.floats(max_value=0) | st.floats(1.5)
    return beside.map(str) | TEXT.filter(lambda text: not text.strip().isdigit())


NONSENSE = {
    "--runs": no_whole_number(999),
    "--epochs": no_whole_number(10_000),
    "--jobs": no_whole_number(1024),
    "--device": TEXT.filter(lambda text: not text.startswith(("cpu", "cuda"))) | st.just("cuda:") | st.just("cuda:-1"),
    "--set": TEXT.filter(lambda text: text not in SETS),
    "--only": TEXT.filter(lambda text: text not in [experiment.id for experiment in ALL]),
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
        ("benchmark.py", ["--rounds", "-1"], "a whole number from 1 to 99 is needed, not '-1'"),
        ("benchmark.py", ["--only", "exp_12"], "unknown experiment 'exp_12'"),
        ("train.py", ["--epochs", "3"], "unrecognized arguments: --epochs 3"),
    ],
)
def test_wrong_usage_of_the_other_scripts(call, fault, script, arguments, message):
    with fault("nonsense on the command line") as told:
        process = call(script, *arguments)
        told()
        assert process.returncode == 2
        assert message in process.stderr.splitlines()[-1]
        assert "Traceback" not in process.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_refused(call, tmp_path):
    process = call("run_experiments.py", "--device", "cuda", "--out", tmp_path)
    assert process.returncode == 2
    assert "--device cuda: torch finds 0 CUDA devices here" in process.stderr


def test_list_names_every_experiment_without_importing_torch(call):
    process = call("run_experiments.py", "--list")
    assert process.returncode == 0
    for experiment in ALL:
        assert f"{experiment.id}  {experiment.title}, {experiment.epochs} epochs" in process.stdout
        assert experiment.question in process.stdout
    program = (
        "import sys, run_experiments; run_experiments.parse_arguments(['--list']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_the_other_sets(call, idx_folder, tmp_path):
    """Rows of the homography and the perspective set, trained, measured, skipped when finished, and compared."""
    command = ("--data", idx_folder, "--out", tmp_path, "--epochs", 1, "--only", "exp_16", "exp_08", "exp_12")
    process = call("run_experiments.py", *command)
    assert process.returncode == 0, process.stderr
    names = [next(e for e in ALL if e.id == name).directory(1) for name in ("exp_08", "exp_12", "exp_16")]
    clean, alone, four = (json.loads((tmp_path / name / "results.json").read_text()) for name in names)
    assert (clean["localisation_rate"], clean["decay"], clean["arguments"]["padding"]) == (0.001, False, "background")
    assert "perspective_sigma" not in clean["data"]
    assert alone["data"] == four["data"] == {**clean["data"], "perspective_sigma": 3.5}
    assert alone["transformer"] is None
    assert {key for key in four["transformer"] if key not in clean["transformer"]} == {
        "corner_distance_before",
        "corner_distance_after",
    }
    again = call("run_experiments.py", *command)
    assert again.stdout.count("skipped: already finished") == 2 * 3
    plotted = call("plot.py", "--out", tmp_path)
    assert plotted.returncode == 0, plotted.stderr
    assert (tmp_path / "PerspectiveAccuracyComparison.png").exists()


def test_set_selects_and_only_overrules():
    ids = [experiment.id for experiment in ALL]
    assert ids == [f"exp_{number:02d}" for number in range(1, len(ALL) + 1)]
    assert SETS["original"] == EXPERIMENTS
    assert [len(experiments) for experiments in SETS.values()] == [7, 4, 8, 3]
    assert run_experiments.selection(run_experiments.parse_arguments([])) == list(EXPERIMENTS)
    chosen = run_experiments.parse_arguments(["--set", "homography"])
    assert run_experiments.selection(chosen) == list(SETS["homography"])
    chosen = run_experiments.parse_arguments(["--only", "exp_12", "exp_03"])
    assert [experiment.id for experiment in run_experiments.selection(chosen)] == ["exp_03", "exp_12"]


def test_train_py_trains_the_homography_into_test_over_whatever_is_there(tmp_path, idx_folder):
    """A copy of the scripts in a temporary folder, with few digits as its MNIST and two epochs instead of thirty."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    source = (tmp_path / "train.py").read_text()
    assert source.count("N_EPOCHS = 30") == source.count("(load() if data") == 1
    source = source.replace("N_EPOCHS = 30", "N_EPOCHS = 2").replace(
        "(load() if data", f"(load({str(idx_folder)!r}) if data"
    )
    (tmp_path / "train.py").write_text(source)
    outputs = []
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert process.returncode == 0, process.stderr
        outputs.append(process.stdout)
        results = json.loads((tmp_path / "experiments" / "test" / "results.json").read_text())
        assert results["model"] == "Net_CoordConv_Homography"
        exp_08 = SETS["homography"][0]
        assert results["arguments"] == exp_08.arguments
        assert {key: results[key] for key in exp_08.recipe} == exp_08.recipe
        assert source.replace("N_EPOCHS = 2", "N_EPOCHS = 30").count(f"N_EPOCHS = {exp_08.epochs}  #") == 1
        assert results["experiment_name"] == "test"
    assert outputs[0] == outputs[1]
    assert len(list((tmp_path / "experiments" / "test").glob("events.*"))) == 1
    asked = subprocess.run([sys.executable, "train.py", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (asked.returncode, asked.stdout.startswith("usage: train.py")) == (0, True)
