"""The trials behind figures of the README: what they make, and that the README says what they found."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trials
from conftest import ROOT

import train
from run_experiments import EXPERIMENTS, Job, parse_arguments, prepare
from stn import data, tensorboard

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("part", "module", "name", "calls"),
    [
        ("training", train, "train_epoch", 2),
        ("evaluation", train, "evaluate", 2),
        ("tensorboard", tensorboard, "epoch_done", 2),
        ("rest", train, "conclude", 1),
    ],
)
def test_time_is_counted_in_the_part_that_it_passes_in(digits, monkeypatch, part, module, name, calls):
    """A clock that only moves where a function of this part sleeps."""
    monkeypatch.setattr(data, "load", lambda: digits)
    monkeypatch.setattr(trials, "row_of", lambda identity: replace(EXPERIMENTS[2], epochs=2))
    now, function = [0.0], getattr(module, name)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow(*arguments):
        now[0] += 3
        return function(*arguments)

    monkeypatch.setattr(module, name, slow)
    row = trials.parts_of_a_run("exp_03", 0)
    parts = {part: row[part] for part in ("training", "evaluation", "tensorboard", "rest", "seconds")}
    assert parts == dict.fromkeys(parts, 0) | {part: 3 * calls, "seconds": 3 * calls}
    assert getattr(module, name) is slow  # nothing stays replaced
    assert row["event_file_kb"] > 1


SHARE_MEMORY = """
import os, time
shared = b"1" * (200 * 2**20)
if os.fork() == 0:
    if os.fork() == 0:
        print(flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not list(Path("/proc/self/task").glob("*/children")), reason="needs /proc of Linux")
def test_memory_that_processes_share_counts_once():
    with subprocess.Popen(
        [sys.executable, "-c", SHARE_MEMORY], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            process.stdout.readline()
            family = trials.family(process.pid)
            assert (len(family), family[0]) == (3, process.pid)  # with its child and its grandchild
            assert 200 < trials.megabytes(family) < 300
            assert trials.megabytes(family[:1]) < 100  # a third of it, and what is its own
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert (trials.family(process.pid), trials.megabytes([process.pid])) == ([process.pid], 0)  # it has ended


def test_the_limits_hold():
    """5 % of the runs' time for all but training, 2 GB of memory for the job, and five times the tutorial's speed."""
    parts, memory, speed = (
        json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in ("parts", "memory", "benchmark")
    )
    assert parts["cores"] == memory["cores"] == speed["processes_at_a_time"] == 2
    runs = [row for row in parts["rows"] if row["log_images"]]
    assert {row["experiment"] for row in runs} == {experiment.id for experiment in EXPERIMENTS}
    beside = sum(row[part] for row in runs for part in ("evaluation", "tensorboard", "rest"))
    assert beside < 0.05 * sum(row["seconds"] for row in runs)
    assert memory["peak_megabytes"] < 2000
    assert speed["ratio_whole_job"] > 5


@pytest.mark.parametrize("name", ["benchmark", "faults", "memory", "parts", "scale"])
def test_a_record_names_a_commit_and_a_command_that_others_have(name):
    record = json.loads((ROOT / "results" / f"{name}.json").read_text())
    assert re.fullmatch("[0-9a-f]{40}", record["git_commit"])
    assert "/tmp" not in record["command"]


def test_the_readme_says_how_many_runs_there_were():
    found = json.loads((ROOT / "results" / "scale.json").read_text())
    plot, again = (statistics.median(found[name]["seconds"]) for name in ("plot", "second_start"))
    assert (
        f"With {found['runs']:,} tiny runs in one folder ({found['files']:,} files, {found['megabytes']} MB)" in README
    )
    assert f"`plot.py` takes {plot:.1f} seconds," in README
    assert re.search(rf"prints the summary, takes {again:.1f}\. Command: `{re.escape(found['command'])}`", README)
    assert max(plot, again) < 10


def test_few_images_are_the_first_of_mnist(tmp_path):
    trials.write_few_images(tmp_path, 5)
    few, mnist = data.read(tmp_path)[0], data.read()[0]
    assert all((ours == theirs[:5]).all() for ours, theirs in zip(few, mnist, strict=True))


def test_a_multiplied_run_is_a_finished_one(idx_folder, tmp_path):
    arguments = ["--data", str(idx_folder), "--out", str(tmp_path), "--device", "cpu", "--epochs", "1"]
    options = parse_arguments(arguments)
    experiment = EXPERIMENTS[2]
    trials.run_job(Job(experiment, 1, 1), options)
    trials.multiply(tmp_path / experiment.directory(1), tmp_path / experiment.directory(17), 17)
    jobs = [Job(experiment, run, 1) for run in (1, 16, 17)]
    torch.set_num_threads(1)
    prepare(options, jobs)
    assert [job.status for job in jobs] == ["skipped: already finished", "not started", "skipped: already finished"]
