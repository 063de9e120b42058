"""runs.csv and epochs.csv: what pandas or R reads is what the results.json files say."""

import csv
import json

import pytest
from conftest import results_of, write_results

import plot
from lab import export

STRENGTHS = {"strength": [0.0, 0.5], "iou": [0.9876543210123456, 1 / 3]}
RUNS = {
    "exp_03_run_01_bypass_localisation": ([900, 982], {"arguments": {"bypass_localisation": True}}),
    "exp_03_run_02_bypass_localisation": ([901], {"code": "b" * 64}),  # is not pooled
    "exp_15_run_01_perspective_homography_2_passes": (
        [931],
        {
            "arguments": {"passes": 2, "padding": "background", "sizes": [8, 10]},
            "data": {"name": 'few, "own"', "perspective_sigma": 3.5},
            "transformer": {"ink_kept": 0.1 + 0.2, "corner_distance_after": 1e-7, "by_strength": STRENGTHS},
        },
    ),
    "my_net_run_02": ([700], {"seed": 5}),
    (LOST := "exp_16_run_01_perspective_homography_4_passes"): (
        [931, 100],
        {"history": [*results_of(LOST, [931])["history"], results_of(LOST, [0, 100])["history"][1] | {"seen": 0.01}]},
    ),
}


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def at(content, path):
    """Return the value at "a.b.0" in dicts and lists, None if there is none."""
    for key in path.split("."):
        if isinstance(content, list):
            content = content[int(key)]
        elif isinstance(content, dict):
            content = content.get(key)
    return content


def text_of(value):
    return "" if value is None else str(value)


@pytest.fixture
def folder(tmp_path):
    for name, (correct, changes) in RUNS.items():
        write_results(tmp_path, name, correct, **changes)
    (tmp_path / "unfinished").mkdir()
    return tmp_path


def test_the_tables_hold_what_results_json_says_of_every_run(folder, call_here):
    """Of all runs, also those that are not pooled, and beside comparison.md."""
    process = call_here("plot.py", "--out", folder, "--figures", folder / "figures")
    assert process.returncode == 0, process.stderr
    assert "run 02 left out" in process.stderr
    figures = folder / "figures"
    assert process.stdout.splitlines()[-3:] == [
        str(figures / name) for name in ("comparison.md", "runs.csv", "epochs.csv")
    ]
    contents = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/results.json")}
    runs, epochs = rows_of(figures / "runs.csv"), rows_of(figures / "epochs.csv")
    assert [row["name"] for row in runs] == sorted(RUNS)
    first = ["name", "experiment_id", "experiment", "run", "test_loss", "train_loss", "lost_epoch"]
    assert list(runs[0])[: len(first)] == first
    for row in runs:
        content = contents[row["name"]]
        last = content["history"][-1]
        assert float(row["test_loss"]) == last["test_loss"]
        assert float(row["train_loss"]) == last["train_loss"]
        assert row["lost_epoch"] == ("2" if row["name"] == LOST else "")
        for column in row.keys() - {*first}:
            assert row[column] == text_of(at(content, column)), column
    columns = {"seed", "model", "n_epochs", "test_accuracy", "test_correct", "test_total", "seconds", "code"}
    columns |= {"git_commit", "device_name", "arguments.passes", "arguments.sizes.1", "data.name", "versions.torch"}
    columns |= {"transformer.ink_kept", "transformer.by_strength.iou.1"}
    assert columns <= runs[0].keys()
    for name in RUNS:
        own = [row for row in epochs if row["name"] == name]
        assert [int(row["epoch"]) for row in own] == [entry["epoch"] for entry in contents[name]["history"]]
        for row, entry in zip(own, contents[name]["history"], strict=True):
            assert {key: float(row[key]) for key in entry} == entry
            assert row["seed"] == str(contents[name]["seed"])


def test_an_experiment_is_named_as_in_the_comparison(folder):
    found, contents = plot.read_runs(folder)
    paths = export.write_tables(contents, folder)
    assert [path.name for path in paths] == ["runs.csv", "epochs.csv"]
    named = [(row["experiment_id"], row["experiment"], row["run"]) for row in rows_of(paths[0])]
    assert named == [
        ("exp_03", "exp_03_bypass_localisation", "1"),
        ("exp_03", "exp_03_bypass_localisation", "2"),
        ("exp_15", "exp_15_perspective_homography_2_passes", "1"),
        ("exp_16", "exp_16_perspective_homography_4_passes", "1"),
        ("", "my_net", "2"),
    ]
    assert len(found) == 4


def test_columns_of_one_kind_stand_side_by_side(folder):
    _, contents = plot.read_runs(folder)
    columns = list(rows_of(export.write_tables(contents, folder)[0])[0])
    groups = [column.partition(".")[0] for column in columns]
    assert [group for n, group in enumerate(groups) if group != groups[n - 1]] == list(dict.fromkeys(groups))
