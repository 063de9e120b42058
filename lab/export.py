"""Finished runs as two tables in CSV, for pandas, R or a spreadsheet; values are those of results.json, unrounded."""

import csv
import re

from lab.comparison import split_name
from lab.files import atomic_write
from lab.results import lost_epoch

# Of results.json: what has a table of its own, is long, or stands in the first columns under a clearer name.
LEFT_OUT = ("experiment_name", "run", "history", "confusion_matrix", "predictions", "events", "avg_test_loss")


def write_tables(results, folder):
    """Write runs.csv, a row for each run, and epochs.csv, a row for each epoch of each run; return the paths.

    results: {name of a run: the content of its results.json}.
    """
    runs, epochs = [], []
    for name, run in results.items():
        experiment, number = split_name(name, run)
        exp_id = re.match(r"exp_\d+", name)
        row = {"name": name, "experiment_id": exp_id and exp_id[0], "experiment": experiment, "run": number}
        last = run["history"][-1]
        outcome = {"test_loss": last["test_loss"], "train_loss": last["train_loss"], "lost_epoch": lost_epoch(run)}
        rest = {key: value for key, value in run.items() if key not in LEFT_OUT}
        rest["transformer"] = run["transformer"] or {}  # None where a network has none
        runs.append(row | outcome | flattened(rest))
        epochs += [row | {"seed": run["seed"]} | epoch for epoch in run["history"]]
    return [write_table(folder / name, rows) for name, rows in (("runs.csv", runs), ("epochs.csv", epochs))]


def flattened(nested, prefix=""):
    """Flatten dicts and lists: {"arguments": {"passes": 2}, "sizes": [3]} -> {"arguments.passes": 2, "sizes.0": 3}."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def write_table(path, rows):
    """Write rows, dicts, as CSV; a column is empty where a row has no such key. Return the path."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    groups = list(dict.fromkeys(column.partition(".")[0] for column in columns))
    columns.sort(key=lambda column: groups.index(column.partition(".")[0]))  # those of one dict side by side
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
