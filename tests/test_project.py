"""The repository as a whole: what is written in one place agrees with what is written in another."""

import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import plot
from lab import results, tables
from models import Net_CoordConv_Homography
from run_experiments import ALL, EXPERIMENTS, seed_of
from stn import data
from train import save_tensors

README = (ROOT / "README.md").read_text(encoding="utf-8")


def requirements(lines):
    return {
        match[1]: match[2]
        for line in lines
        if (match := re.match(r"([a-z-]+) ?(>=[\d.]+)", line.strip().removeprefix("- ")))
    }


def test_conda_environment_is_in_step_with_requirements():
    pip = requirements((ROOT / "requirements.txt").read_text().splitlines())
    conda = requirements((ROOT / "stn.cpu.yml").read_text().splitlines())
    del conda["python"]
    conda["torch"] = conda.pop("pytorch")
    assert conda == pip
    assert {"torch", "torchvision", "kornia", "matplotlib", "tensorboard", "numpy", "tqdm"} <= pip.keys()


def test_readme_says_what_is_in_results():
    assert tables.fill_readme(README, tables.readme_blocks(ROOT / "results")) == README
    assert README.count("<!-- end -->") == 15 + len(EXPERIMENTS)


def test_every_figure_and_file_that_the_readme_names_exists():
    for path in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    figures = {path.name for path in (ROOT / ".readme_figures").iterdir()}
    assert figures == set(re.findall(r"\.readme_figures/([\w.]+)", README))


def test_the_readmes_program_runs(tmp_path, monkeypatch):
    """With weights of a new network in place of the trained ones."""
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    folder = tmp_path / re.search(r'run = "(.*)"', program)[1]
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = Net_CoordConv_Homography()
    torch.nn.init.normal_(model.loc_fc2.weight, std=0.02)  # it warps, a little
    save_tensors(folder / "weights.pt", model.state_dict())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program, names)
    torch.testing.assert_close(names["back"], names["corner"], atol=1e-4, rtol=1e-4)
    assert (names["source"].abs().amax((1, 2)) > 0.1).all()
    assert names["rectified"].shape == (5, 1, 28, 28)


REPORTED = [(name, identity) for name, identities in tables.RECORDS.items() for identity in identities]


def record(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "identity"), REPORTED)
def test_reported_runs_are_full_and_consistent(name, identity):
    experiment = next(row for row in ALL if row.id == identity)
    runs = tables.of_experiment(record(name), identity)
    n_runs = {"runs": 10, "transformers": 6, "perspective": 8}[name]
    assert sorted(runs) == list(range(1, n_runs + 1))
    for number, run in runs.items():
        assert plot.as_in_the_table(run, experiment)
        assert (run["model"], run["n_epochs"], run["seed"]) == (experiment.model, experiment.epochs, seed_of(number))
        assert {**data.read()[1], **(data.PERSPECTIVE if experiment.perspective else {})} == run["data"]
        assert re.fullmatch(r"[0-9a-f]{40}", run["git_commit"])
        assert len(run["wrong"].split()) == run["test_total"] - run["test_correct"]
        assert [len(column) for column in run["history"].values()] == [experiment.epochs] * 3
        assert run["history"]["test_correct"][-1] == run["test_correct"]
        assert sum(map(sum, results.confusion_matrix(run))) == run["test_total"] == 10_000
        assert bool(run["transformer"]) == (not experiment.arguments.get("bypass_localisation"))


@pytest.mark.parametrize("name", tables.RECORDS)
def test_reported_runs_come_from_one_commit_and_one_machine(name):
    runs = record(name)
    assert tables.comparable(runs, runs)
    assert tables.poolable(runs) == (runs, [])


def test_the_first_twenty_epochs_of_exp_02_are_exp_01():
    runs = record("runs")
    for number, short in tables.of_experiment(runs, "exp_01").items():
        long = tables.of_experiment(runs, "exp_02")[number]
        assert short["history"] == {key: column[:20] for key, column in long["history"].items()}


def test_the_reported_job_trained_all_seven():
    assert json.loads((ROOT / "results" / "job.json").read_text())["runs"] == len(EXPERIMENTS)


def test_every_fault_that_was_tried_was_survived():
    faults = json.loads((ROOT / "results" / "faults.json").read_text())["faults"]
    for kind, row in faults.items():
        assert row["survived"] == row["tried"] > 0, kind


def test_a_module_does_nothing_when_imported(tmp_path):
    names = [path.stem for path in ROOT.glob("*.py")]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import torch; state = torch.get_rng_state(); "
        f"import {', '.join(names)}; assert torch.equal(state, torch.get_rng_state()); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_imports_run_one_way():
    """Each file imports only those that stand above it in this list."""
    order = [
        "files",
        "results",
        "data",
        "coordconv",
        "fast",
        "stn",
        "models",
        "measures",
        "figures",
        "board",
        "train",
        "cluster",
        "run_experiments",
        "stats",
        "report",
        "plot",
        "benchmark",
        "trials",
    ]
    assert sorted(order) == sorted(path.stem for path in ROOT.glob("*.py"))
    for position, name in enumerate(order):
        source = (ROOT / f"{name}.py").read_text()
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)) & set(order)
        assert imported <= set(order[:position]), name
