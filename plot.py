"""Compare the finished runs.

    python plot.py [--out experiments] [--figures FOLDER]

reads every <out>/*/results.json and writes, into <out> unless --figures says otherwise,

    AccuracyComparison.png        test accuracy by experiment, with a 95 % interval where there are several runs
    train_loss.png                the train loss of exp_01 and exp_02, run 01
    diagram_<experiment>.png      what each experiment's network looks like

It takes a few seconds. The run `test` of train.py is left out; what cannot be read is named and passed over.

    python plot.py --readme

is for those who maintain this repository: it also copies the seven results to results/, and redraws every figure and
rewrites every table of the README from them.

Exit code 1 if there is no result at all, 2 for wrong usage.
"""

import itertools
import json
import math
import re
import shutil
import sys
from pathlib import Path

import figures
from files import whole
from run_experiments import EXPERIMENTS, new_parser
from stats import mean_and_half_width

ROOT = Path(__file__).resolve().parent
BASELINE = ("baseline (tutorial's claim)", 98.69)
# The original's test accuracies in %: exp_02 and exp_06 exact, the others read off its bar chart (± 0.02).
ORIGINAL = dict(zip((e.id for e in EXPERIMENTS), (98.70, 98.84, 98.55, 98.54, 98.86, 99.06, 98.84), strict=True))


def read_results(out):
    """Return ({experiment without its run number: [results, by run]}, [complaint about a folder passed over])."""
    found, complaints = {}, []
    for folder in sorted(path for path in Path(out).iterdir() if path.is_dir() and path.name != "test"):
        path = folder / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            check(results, folder.name)
        except FileNotFoundError:
            complaints.append(f"{folder}: passed over, it has no results.json (unfinished?)")
        except (OSError, ValueError, RecursionError) as error:
            complaints.append(f"{path}: passed over, it is broken ({error})")
        else:
            found.setdefault(re.sub(r"_run_\d+", "", folder.name, count=1), []).append(results)
    return found, complaints


def check(results, name):
    """Raise ValueError if this is not the content of the results.json of the run `name`."""
    if not isinstance(results, dict):
        raise ValueError("not a JSON object")
    if results.get("experiment_name") != name:
        raise ValueError(f"it is of {results.get('experiment_name')!r}; a copied or renamed folder?")
    accuracy, history = results.get("test_accuracy"), results.get("history")
    if type(accuracy) not in (int, float) or not 0 <= accuracy <= 100:  # isinstance would let True pass for a number
        raise ValueError("'test_accuracy' is not a percentage")
    if not isinstance(history, list) or not all(
        isinstance(epoch, dict) and type(epoch.get("train_loss")) is float and math.isfinite(epoch["train_loss"])
        for epoch in history
    ):
        raise ValueError("'history' is not a list of epochs with their losses")


def accuracy_rows(found):
    """The bars of `figures.accuracy_bars`: the tutorial's claim, then every experiment."""
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


def draw_comparison(found, target):
    """Write the figures of the module's docstring into the folder `target`, and print their paths."""

    def draw(figure, name):
        figures.save(figure, target / name)
        print(target / name)

    draw(figures.accuracy_bars(accuracy_rows(found)), "AccuracyComparison.png")
    runs = {results["experiment_name"]: results for several in found.values() for results in several}
    baselines = [name for name in (experiment.directory(1) for experiment in EXPERIMENTS[:2]) if name in runs]
    curves = [(name, [epoch["train_loss"] for epoch in runs[name]["history"]]) for name in baselines]
    if curves:
        draw(figures.loss_curves(curves, "train loss, mean per image (nats)"), "train_loss.png")
    for experiment in EXPERIMENTS:
        draw(diagram(experiment), f"diagram_{experiment.id}.png")


# The README: blocks between two comments, made from the files in results/ and from nothing else.


def markdown_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def readme_blocks(folder):
    """{name of a block: its Markdown}, from the JSON files in `folder`."""

    def read(name):
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    runs = {experiment.id: read(experiment.directory(1)) for experiment in EXPERIMENTS}
    job, speed = read("job"), read("benchmark")
    peak = max(row["ours_peak_mb"] for row in speed["rows"])
    blocks = {}
    for experiment in EXPERIMENTS:
        run = runs[experiment.id]
        blocks[experiment.id] = (
            f"*{experiment.question}* Here {run['test_accuracy']:.2f} % after {run['n_epochs']} epochs "
            f"({run['test_correct']} of {run['test_total']} test images), in the original "
            f"{ORIGINAL[experiment.id]:.2f} %."
        )
    blocks["results"] = markdown_table(
        [
            "directory in experiments/",
            "epochs",
            "live parameters",
            "accuracy %",
            "original %",
            "largest step, images",
            "minutes",
        ],
        [
            [
                f"`{run['experiment_name']}`",
                run["n_epochs"],
                f"{run['live_parameters']:,}",
                f"{run['test_accuracy']:.2f}",
                f"{ORIGINAL[name]:.2f}",
                largest_step(run["history"]),
                f"{run['seconds'] / 60:.1f}",
            ]
            for name, run in runs.items()
        ],
    )
    run = runs["exp_01"]
    machine = f"{run['device_name']}, Python {run['versions']['python']}, torch {run['versions']['torch']}"
    blocks["job"] = (
        f"{job['runs']} runs trained in {job['minutes']:.1f} minutes, {job['at_a_time']} at a time ({machine}; "
        f"one run each, seed {run['seed']})."
    )
    blocks["speed"] = (
        markdown_table(
            ["", "ms a step: tutorial", "ours", "s an epoch: tutorial", "ours", "ratio (lowest to highest round)"],
            [
                [
                    r["experiment"],
                    f"{r['tutorial_ms_per_step']:.1f}",
                    f"{r['ours_ms_per_step']:.1f}",
                    f"{r['tutorial_seconds_per_epoch']:.1f}",
                    f"{r['ours_seconds_per_epoch']:.1f}",
                    f"{r['ratio']:.1f} ({r['ratio_min']:.1f} to {r['ratio_max']:.1f})",
                ]
                for r in speed["rows"]
            ],
        )
        + f"\n\nThe whole job: {speed['tutorial_minutes_whole_job']:.1f} minutes with the tutorial's loop, "
        + f"{speed['ours_minutes_whole_job']:.1f} with ours, **{speed['ratio_whole_job']:.1f} times as fast** "
        + f"(medians of {speed['rounds']} rounds; {speed['device_name']}, {speed['cores']} cores, "
        + f"torch {speed['versions']['torch']}; peak memory {peak} MB a process). With the starts of the processes and "
        + f"the end, when one core has nothing left to do, ours took {job['minutes']:.1f} minutes as measured above."
    )
    blocks["formulations"] = formulations_table(read("formulations"))
    h100 = read("h100")
    seconds = sum(run["seconds"] for run in h100["runs"])
    one, seven = h100["minutes"]["1 at a time"], h100["minutes"]["7 at a time"]
    blocks["h100"] = (
        f"On one {h100['device_name']} (torch {h100['versions']['torch']}) the seven runs took {one:.1f} minutes one "
        f"at a time, of which {seconds:.0f} seconds were training and testing, and {seven:.1f} minutes seven at a "
        f"time, with the same bits."
    )
    return blocks


def formulations_table(record):
    """Plain against fast convolutions, run by run, over the epochs that both completed."""
    rows, first, last, accuracy = [], [], [], []
    for name, plain in record["plain"].items():
        fast = record["fast"][name]
        n = min(len(plain["train_loss"]), len(fast["train_loss"]))
        first.append(100 * (fast["train_loss"][0] / plain["train_loss"][0] - 1))
        last.append(100 * (fast["train_loss"][n - 1] / plain["train_loss"][n - 1] - 1))
        means = [sum(form["test_correct"][n - 5 : n]) / 500 for form in (plain, fast)]
        accuracy.append(means[1] - means[0])
        rows.append([name[:13], n, f"{first[-1]:+.2f} %", f"{last[-1]:+.2f} %", *(f"{mean:.2f}" for mean in means)])
    header = ["run", "epochs compared", "train loss of the first, fast against plain", "of the last"]
    header += ["test accuracy %, mean of the last five: plain", "fast"]
    (mean, half), (loss, loss_half) = mean_and_half_width(accuracy), mean_and_half_width(last)
    return (
        f"{markdown_table(header, rows)}\n\nThe first epoch's losses differ by {max(map(abs, first)):.2f} % at most. "
        f"Over the {len(rows)} pairs the last loss changes by {loss:+.1f} ± {loss_half:.1f} % and the accuracy by "
        f"{mean:+.2f} ± {half:.2f} points (mean and 95 % interval, Student's t)."
    )


def largest_step(history, n_last=10):
    """The largest change of the number of correct test images between neighbouring epochs, in the last `n_last`."""
    correct = [epoch["test_correct"] for epoch in history[-n_last - 1 :]]
    return max(abs(after - before) for before, after in itertools.pairwise(correct))


def fill_readme(text, blocks):
    """Replace what stands between `<!-- name -->` and `<!-- end -->`. Raises KeyError for an unknown name."""
    pattern = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[3]}", text)


def update_readme(out, found):
    """Copy the first run of every experiment into results/, and make the README's figures and tables from there.

    Raises ValueError or OSError if one of them is missing or was not trained in full.
    """
    results, pictures = ROOT / "results", ROOT / ".readme_figures"
    first = {run["experiment_name"]: run for runs in found.values() for run in runs}
    for experiment in EXPERIMENTS:
        if first.get(experiment.directory(1), {}).get("n_epochs") != experiment.epochs:
            raise ValueError(f"--readme needs {experiment.directory(1)} in full")
    for experiment in EXPERIMENTS:
        name = experiment.directory(1)
        shutil.copyfile(Path(out) / name / "results.json", results / f"{name}.json")
    shutil.copyfile(Path(out) / "job.json", results / "job.json")
    for index, name in ((1, "confusion_matrix"), (5, "confusion_matrix"), (1, "visualized_transformation")):
        experiment = EXPERIMENTS[index]
        shutil.copyfile(Path(out) / experiment.directory(1) / f"{name}.png", pictures / f"{name}_{experiment.id}.png")
    draw_comparison({f"{e.id}_{e.title}": [first[e.directory(1)]] for e in EXPERIMENTS}, pictures)
    with whole(ROOT / "README.md") as temporary:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        temporary.write_text(fill_readme(text, readme_blocks(results)), encoding="utf-8")


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: beside the runs)")
    parser.add_argument("--readme", action="store_true", help="update results/, .readme_figures/ and README.md")
    options = parser.parse_args()
    if not Path(options.out).is_dir():
        parser.error(f"--out {options.out}: there is no such folder")

    found, complaints = read_results(options.out)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not found:
        print(f"plot.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
        return 1
    if options.readme:
        try:
            update_readme(options.out, found)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return 0
    target = Path(options.figures or options.out)
    target.mkdir(parents=True, exist_ok=True)
    draw_comparison(found, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
