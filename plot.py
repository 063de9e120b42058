"""Compare the finished runs.

    python plot.py [--out experiments] [--figures FOLDER]

reads every <out>/*/results.json and writes, into <out> unless --figures says otherwise,

    AccuracyComparison.png        test accuracy by experiment, with a 95 % interval where there are several runs
    train_loss.png                the train loss of exp_01 and exp_02, run 01
    diagram_<experiment>.png      what each experiment's network looks like

It takes a few seconds. The run `test` of train.py is left out; what cannot be read is named and passed over.
Exit code 1 if there is no result at all, 2 for wrong usage.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import figures
from run_experiments import EXPERIMENTS
from stats import mean_and_half_width

BASELINE = ("baseline (tutorial's claim)", 98.69)
KEYS = {"experiment_name": str, "test_accuracy": (int, float), "run": int, "n_epochs": int, "history": list}


def read_results(out):
    """Return ({experiment without its run number: [results, by run]}, [complaint about a folder passed over])."""
    found, complaints = {}, []
    for folder in sorted(path for path in Path(out).iterdir() if path.is_dir() and path.name != "test"):
        path = folder / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            check(results)
        except FileNotFoundError:
            complaints.append(f"{folder}: passed over, it has no results.json (unfinished?)")
        except (OSError, ValueError) as error:
            complaints.append(f"{path}: passed over, it is broken ({error})")
        else:
            name = re.sub(r"_run_\d+", "", results["experiment_name"], count=1)
            found.setdefault(name, []).append(results)
    return found, complaints


def check(results):
    """Raise ValueError if this is not the content of a results.json."""
    if not isinstance(results, dict):
        raise ValueError("not a JSON object")
    for key, kind in KEYS.items():
        if not isinstance(results.get(key), kind):
            raise ValueError(f"{key!r} is missing or of the wrong type")
    if not (math.isfinite(results["test_accuracy"]) and 0 <= results["test_accuracy"] <= 100):
        raise ValueError("'test_accuracy' is not a percentage")


def accuracy_rows(found):
    rows = [(BASELINE[0], BASELINE[1], None, 0)]
    for name, runs in found.items():
        mean, half = mean_and_half_width([results["test_accuracy"] for results in runs])
        rows.append((name, mean, half, len(runs)))
    return rows


def diagram(experiment):
    """The block diagram of a row of the table."""
    return figures.network_diagram(
        f"{experiment.id}: {experiment.question}",
        coordconv_localisation=experiment.arguments.get("use_coordconf_localisation", False),
        coordconv_classifier=experiment.arguments.get("use_coordconf_classifier", False),
        bypass=experiment.arguments.get("bypass_localisation", False),
        transform="homography" if "Homography" in experiment.model else "affine",
    )


def main():
    usage, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=usage,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: beside the runs)")
    options = parser.parse_args()
    if not Path(options.out).is_dir():
        parser.error(f"--out {options.out}: there is no such folder")

    found, complaints = read_results(options.out)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not found:
        print(f"plot.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
        return 1
    target = Path(options.figures or options.out)
    target.mkdir(parents=True, exist_ok=True)

    def draw(figure, name):
        figures.save(figure, target / name)
        print(target / name)

    draw(figures.accuracy_bars(accuracy_rows(found)), "AccuracyComparison.png")
    first_runs = {results["experiment_name"]: results for runs in found.values() for results in runs}
    baselines = [experiment.directory(1) for experiment in EXPERIMENTS[:2]]
    curves = [
        (name, [epoch["train_loss"] for epoch in first_runs[name]["history"]])
        for name in baselines
        if name in first_runs
    ]
    if curves:
        draw(figures.loss_curves(curves, "train loss, mean per image (nats)"), "train_loss.png")
    for experiment in EXPERIMENTS:
        draw(diagram(experiment), f"diagram_{experiment.id}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
