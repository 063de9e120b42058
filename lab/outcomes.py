"""What came out of each experiment, in a line: from the runs in a folder, or else from the records in results/."""

import json
import statistics
from functools import lru_cache
from pathlib import Path

from lab import catalogue
from lab.comparison import by_data, drop_duplicate_runs, drop_incompatible_runs, groups
from lab.files import ROOT
from lab.results import condensed, is_lost_run, is_mnist, last, read_files
from lab.stats import centre

RECORDS = ROOT / "results"


def of_folder(out):
    """Return ({experiment: line}, [complaint about each results.json that cannot be read]) of the runs in a folder."""
    runs, complaints = read_files(sorted(Path(out).glob("exp_*/results.json")))
    record = drop_duplicate_runs({name: condensed(results) for name, results in runs.items()})[0]
    return describe_runs(drop_incompatible_runs(record)[0], out), complaints


def of_records(set_name):
    """Return {experiment: line} from the records of the study that has a set, or of the seven; the first one counts."""
    names = [name for study in catalogue.studies().values() if set_name in study.sets for name in study.records]
    return {name: line for record in reversed(names or ["runs"]) for name, line in of_record(record).items()}


@lru_cache  # a study has several sets
def of_record(name):
    """Return {experiment: line} from results/<name>.json, {} without it."""
    path = RECORDS / f"{name}.json"
    return describe_runs(json.loads(path.read_text(encoding="utf-8")), f"results/{name}.json") if path.exists() else {}


def describe_runs(record, source):
    """Return {experiment: what came out, as in the tables, and how long it took} of runs that belong together."""
    lines = {}
    for part in map(groups, by_data(record).values()):
        for name, numbered in part.items():
            runs = list(numbered.values())
            n, n_epochs, data = len(runs), runs[0]["n_epochs"], runs[0]["data"]
            which, each = (f"centre of {n} runs", " each") if n > 1 else ("one run", "")
            length = f"{n_epochs} epoch{'s' if n_epochs > 1 else ''}{'' if is_mnist(data) else ' on ' + data['name']}"
            minutes = statistics.fmean(run["seconds"] for run in runs) / 60
            lost = sum(map(is_lost_run, runs))
            which += f", {lost} of them lost," if lost else ""
            lines[name] = (
                f"{centre(map(last, runs)):.2f} %, {which} of {length} in {minutes:.1f} minutes{each} ({source})"
            )
    return lines
