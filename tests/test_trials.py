"""The trials behind figures of the README: what they make, and that the README says what they found."""

import json
import os
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import board
import data
import train
import trials
from run_experiments import EXPERIMENTS, Job, parse_arguments, prepare

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_parts_of_a_run_are_all_of_it(digits, monkeypatch):
    evaluate = train.evaluate
    monkeypatch.setattr(data, "load", lambda: digits)
    monkeypatch.setattr(trials, "row_of", lambda identity: replace(EXPERIMENTS[2], epochs=2))
    for part, names in trials.PARTS.items():
        for name in names:  # to be as before after the test
            module = board if part == "tensorboard" else train
            monkeypatch.setattr(module, name, getattr(module, name))
    light = trials.parts_of_a_run("exp_03", 0)
    parts = [light[part] for part in ("training", "evaluation", "tensorboard", "rest")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(light["seconds"], abs=0.003)  # they are rounded
    monkeypatch.setattr(train, "evaluate", lambda *arguments: time.sleep(0.3) or evaluate(*arguments))
    heavy = trials.parts_of_a_run("exp_03", 1)
    assert heavy["evaluation"] > 0.6
    assert heavy["event_file_kb"] > 2 * light["event_file_kb"]


def test_shared_memory_counts_once():
    own = trials.megabytes([os.getpid()])
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    assert 100 < own < 1.1 * resident
    assert trials.megabytes([2**22 + 1]) == 0  # larger than any process's number: it has ended


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
