"""The trials behind figures of the README: what they make, and that the README says what they found."""

import json
import re
import statistics

import torch
from conftest import ROOT

import data
import trials
from run_experiments import EXPERIMENTS, Job, parse_arguments, prepare

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_readme_says_what_logging_costs():
    found = json.loads((ROOT / "results" / "logging.json").read_text())
    cost = {
        images: statistics.median(row["logging_cpu_seconds"] for row in found["rows"] if row["log_images"] == images)
        for images in (5, 0)
    }
    size = {row["log_images"]: row["event_file_kb"] for row in found["rows"]}
    seconds = found["seconds_of_a_whole_run"]
    share = 100 * cost[5] / seconds
    said = f"{cost[5]:.1f} seconds of a processor in a run of exp_02, {share:.1f} % of the run's {seconds:.0f},"
    assert said in README
    assert f"and {size[5]:.0f} kB; with `--log-images 0` {cost[0]:.2f} seconds and {size[0]:.0f} kB." in README
    assert share < 5


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
