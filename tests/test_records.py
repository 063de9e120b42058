"""Data checks: the files in results/ are complete, consistent, and say where they come from."""

import json
import re

import pytest
from conftest import ROOT

import plot
from lab import comparison, results
from lab.settings import Job
from run_experiments import ALL, EXPERIMENTS
from stn import data
from stn.perspective import PERSPECTIVE

N_RUNS = {"runs": 10, "transformers": 6, "perspective": 8}


def read(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", plot.RECORDS)
def test_recorded_runs_are_full_and_consistent(name):
    record = read(name)
    described = data.read()[1]
    for exp_id in plot.RECORDS[name]:
        experiment, runs = ALL[exp_id], comparison.of_experiment(record, exp_id)
        assert sorted(runs) == list(range(1, N_RUNS[name] + 1))
        for number, run in runs.items():
            assert plot.as_in_the_table(run)
            seed = Job(experiment, number, experiment.epochs).seed
            assert (run["model"], run["n_epochs"], run["seed"]) == (experiment.model, experiment.epochs, seed)
            assert run["data"] == {**described, **(PERSPECTIVE if experiment.perspective else {})}
            assert re.fullmatch(r"[0-9a-f]{40}", run["git_commit"])
            assert len(run["wrong"].split()) == run["test_total"] - run["test_correct"]
            assert [len(column) for column in run["history"].values()] == [experiment.epochs] * 3
            assert run["history"]["test_correct"][-1] == run["test_correct"]
            assert sum(map(sum, results.confusion_matrix(run))) == run["test_total"] == 10_000
            assert bool(run["transformer"]) == (not experiment.arguments.get("bypass_localisation"))
    assert len(record) == N_RUNS[name] * len(plot.RECORDS[name])


@pytest.mark.parametrize("name", plot.RECORDS)
def test_recorded_runs_come_from_one_commit_and_one_machine(name):
    record = read(name)
    assert comparison.comparable(record)
    assert comparison.poolable(record) == (record, [])


def test_the_first_twenty_epochs_of_exp_02_are_exp_01():
    record = read("runs")
    for number, short in comparison.of_experiment(record, "exp_01").items():
        long = comparison.of_experiment(record, "exp_02")[number]
        assert short["history"] == {key: column[:20] for key, column in long["history"].items()}


def test_the_recorded_job_trained_all_seven():
    job = read("job")
    assert sorted(row["experiment"] for row in job["rows"]) == [experiment.id for experiment in EXPERIMENTS]
    assert job["runs"] == len(EXPERIMENTS)


def test_every_fault_that_was_tried_was_survived():
    for kind, row in read("faults")["faults"].items():
        assert row["survived"] == row["tried"] > 0, kind


def test_the_limits_hold():
    """5 % of the runs' time for all but training, 2 GB of memory for the job, and five times the tutorial's speed."""
    job, memory, speed = read("job"), read("memory"), read("benchmark")
    assert job["at_a_time"] == memory["cores"] == speed["processes_at_a_time"] == 2
    parts = ("train", "test", "log", "other")
    spent = {part: sum(row[part] for row in job["rows"]) for part in parts}
    assert sum(spent.values()) - spent["train"] < 0.05 * sum(spent.values())
    assert memory["peak_megabytes"] < 2000
    assert speed["ratio_whole_job"] > 5


@pytest.mark.parametrize(
    "name", ["benchmark", "faults", "formulations", "h100", "job", "memory", "own_images", "scale"]
)
def test_a_measurement_names_a_commit_and_a_command_that_others_have(name):
    record = read(name)
    assert re.fullmatch("[0-9a-f]{40}", record["git_commit"])
    assert record["command"].startswith("python ")
    assert "/tmp" not in record["command"]
