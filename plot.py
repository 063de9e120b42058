"""Compare the finished runs.

    python plot.py [--out experiments] [--figures FOLDER]

reads every <out>/*/results.json and writes, into <out> unless --figures says otherwise,

    comparison.md                 means with intervals, paired differences with p-values, where the variance comes from
    AccuracyComparison.png        the test accuracy of every run by experiment, with means and 95 % intervals
    Differences.png               paired differences between the seven experiments, if there are pairs
    AccuracyCurves.png, TrainLossCurves.png   of all runs, epoch by epoch
    ConfusionComparison.png       the confusion matrices of exp_02 and exp_06, and their difference
    train_loss.png                the train loss of exp_01 and exp_02, run 01
    Perspective*.png              the first four on digits in perspective, if there are such runs
    diagram_<experiment>.png      what each experiment's network looks like

Runs of one experiment that differ in epochs, data, code or machine are not pooled: the largest set is kept and the
others are named, unless --pool asks for all. Experiments that differ in code or machine are not compared in pairs.

    python plot.py --animate exp_16_run_01_perspective_homography_4_passes

draws <out>/<run>/transformation.gif: what the run's transformer did to test images after each epoch.

Both take a few seconds. The run `test` of train.py is left out; what cannot be read is named and passed over.

    python plot.py --readme

is for those who maintain this repository: it also condenses the runs, if they are complete sets, into results/, and
redraws every figure and rewrites every table of the README from there.

Exit code 1 if there is no result at all, 2 for wrong usage.
"""

import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

from lab import figures, tables
from lab.files import whole, write_json
from lab.results import confusion_matrix, read_all
from lab.stats import mean_interval
from run_experiments import ALL, EXPERIMENTS, end_with_the_reader, new_parser, row_of

ROOT = Path(__file__).resolve().parent
TUTORIAL = (98.69, "the tutorial's claim")  # its test accuracy in %
CONFUSED = ("exp_02", "exp_06")  # whose confusion matrices are compared
N_ANIMATED = 24  # digits
# Without the transformer's own effect, beside which the others could not be seen.
SMALL_PERSPECTIVE_PAIRS = [pair for pair in tables.ALL_PERSPECTIVE_PAIRS if pair[1] != "exp_12"]
UNSHOWN = ("PerspectiveTrainLossCurves.png", "PerspectiveAccuracyCurves.png")  # in the README
# The figures of single runs that the README shows: (record, experiment, file). They lie beside the runs of such a
# record, the others are drawn from results/.
SHOWN = (
    ("runs", "exp_02", "visualized_transformation.png"),
    ("perspective", "exp_14", "visualized_transformation.png"),
    ("perspective", "exp_16", "visualized_transformation.png"),
    ("perspective", "exp_16", "class_statistics.png"),
    ("perspective", "exp_16", "transformation.gif"),
)


def of_perspective(run):
    """Whether a run is on MNIST in perspective."""
    return "perspective_sigma" in run["data"]


def diagram(experiment):
    """The block diagram of a row of the table."""
    passes = experiment.arguments.get("passes", 1)
    looks = f" × {passes}" if passes > 1 else ""
    return figures.network_diagram(
        f"{experiment.id}: {experiment.question}",
        coordconv_localisation=experiment.arguments.get("use_coordconf_localisation", False),
        coordconv_classifier=experiment.arguments.get("use_coordconf_classifier", False),
        bypass=experiment.arguments.get("bypass_localisation", False),
        transform=("homography" if "Homography" in experiment.model else "affine") + looks,
    )


def accuracy_figure(record):
    """The runs of every experiment as points, with mean and interval."""
    rows = []
    for name, runs in tables.groups(record).items():
        values = [tables.last(run) for run in runs.values()]
        mean, low, high, _ = mean_interval(values)
        rows.append((label(name), values, mean, low, high, tables.ORIGINAL.get(name[:6])))
    clean = not any(map(of_perspective, record.values()))
    return figures.values_by_row(rows, "test accuracy in %, last epoch", TUTORIAL if clean else None)


def differences_figure(record, pairs, pool=False):
    """Every pair of runs as a point, with mean and interval, around zero; None if there is no pair."""
    rows = [
        (f"{pair[2]}\n({pair[0]} − {pair[1]})", list(comparison.differences.values()), *comparison.interval[:3], None)
        for pair, comparison, _ in tables.comparisons(record, pairs, pool=pool)
    ]
    xlabel = "change of the test accuracy in points, last epoch"
    return figures.values_by_row(rows, xlabel, (0, "no difference"), images=100) if rows else None


def curves_figure(record, values, ylabel, limits=None, logarithmic=False):
    """A panel for every experiment; values: a run -> [value after epoch 1, 2, ...]."""
    panels = [(label(name), [values(run) for run in runs.values()]) for name, runs in tables.groups(record).items()]
    return figures.run_curves(panels, ylabel, limits, logarithmic)


def label(name, width=34):
    """The directory's name of an experiment in lines of at most `width` characters."""
    return textwrap.fill(name.replace("_", " "), width).replace("exp ", "exp_")


def train_losses(run):
    return run["history"]["train_loss"]


def accuracy_limits(record):
    """The part of the axis in which the last two thirds of most curves lie; swings may leave it at the bottom."""
    values = sorted(
        value for run in record.values() for value in tables.percentages(run)[len(train_losses(run)) // 3 :]
    )
    low, high = values[len(values) // 50], values[-1]
    span = max(high - low, 0.1)
    return low - span * 0.3, high + span * 0.1


def confusion_figure(record):
    """Those of two experiments, a run on average, and their difference; None if they are not known."""
    matrices, titles = [], []
    for identity in CONFUSED:
        runs = tables.of_experiment(record, identity)
        counts = [confusion_matrix(run) for run in runs.values()]
        if not counts or None in counts:
            return None
        matrices.append(
            [[sum(cells) / len(counts) for cells in zip(*rows, strict=True)] for rows in zip(*counts, strict=True)]
        )
        titles.append(f"{identity}, mean of {len(counts)} run{'s' if len(counts) > 1 else ''}")
    return figures.confusion_comparison(*matrices, titles)


def comparison_figures(record, pool=False):
    """[(file name, Figure)] of all that compares runs on MNIST as it is or in perspective."""
    drawn = []
    for prefix, family in (("", tables.ORIGINAL_PAIRS), ("Perspective", SMALL_PERSPECTIVE_PAIRS)):
        part = {name: run for name, run in record.items() if of_perspective(run) == bool(prefix)}
        if not part:
            continue
        drawn += [(f"{prefix}AccuracyComparison.png", accuracy_figure(part))]
        drawn += [(f"{prefix}Differences.png", differences_figure(part, family, pool))]
        limits = accuracy_limits(part)
        drawn += [
            (f"{prefix}AccuracyCurves.png", curves_figure(part, tables.percentages, "test accuracy in %", limits))
        ]
        name = f"{prefix}TrainLossCurves.png"
        drawn += [(name, curves_figure(part, train_losses, "train loss, mean per image (nats)", logarithmic=True))]
    baselines = [tables.of_experiment(record, identity) for identity in ("exp_01", "exp_02")]
    curves = [(runs[1]["experiment_name"], train_losses(runs[1])) for runs in baselines if 1 in runs]
    drawn += [("ConfusionComparison.png", confusion_figure(record))]
    if curves:
        drawn += [("train_loss.png", figures.loss_curves(curves, "train loss, mean per image (nats)"))]
    return [(name, figure) for name, figure in drawn if figure]


def draw_comparison(record, target, pool=False):
    """Write what the module's docstring lists into the folder `target`, and print the paths."""
    drawn = comparison_figures(record, pool)
    present = tables.groups(record)
    drawn += [
        (f"diagram_{experiment.id}.png", diagram(experiment))
        for experiment in ALL
        if experiment in EXPERIMENTS or f"{experiment.id}_{experiment.title}" in present
    ]
    for name, figure in drawn:
        figures.save(figure, target / name)
    with whole(target / "comparison.md") as temporary:
        temporary.write_text(tables.comparison_document(record, pool), encoding="utf-8")
    for name, _ in drawn:  # at the end: who reads only the first lines (`| head`) has all figures
        print(target / name)
    print(target / "comparison.md")


def animate(out, name):
    """Draw what the transformer of the run `name` did to test images after each epoch, as a GIF; returns its path.

    Raises OSError, ValueError or train.RunError if the run has not what it takes.
    """
    import torch  # late, with all that imports it: other plots do not wait for it

    from stn import data, measures, warps
    from train import load_tensors

    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError("the name of a run is needed, not a path")
    folder = Path(out) / name
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    checkpoint = load_tensors(folder / "checkpoint.pt", "cpu")
    if not checkpoint["transforms"]:
        raise ValueError(f"{folder} has no transformer to animate")
    digits = data.load()
    if "perspective_sigma" in settings["data"]:
        digits = data.perspective(digits)
    if settings["data"] != digits.description:
        raise ValueError(f"{folder}: only runs on MNIST can be animated")
    images = digits.test_images[:N_ANIMATED]
    padding = settings["arguments"].get("padding", "zeros")
    pictures = []
    for epoch, homographies in enumerate([torch.eye(3).expand(N_ANIMATED, 3, 3), *checkpoint["transforms"]]):
        after = warps.homography_warp(images, homographies[:N_ANIMATED], padding)
        title = f"{name}, after epoch {epoch}" if epoch else f"{name}, at the start"
        frames = measures.frames(homographies[:N_ANIMATED])
        shown = (digits.pixels(both)[:, 0] for both in (images, after))
        pictures.append(figures.transformed_digits(*shown, title, frames))
    figures.save_animation(pictures, folder / "transformation.gif")
    return folder / "transformation.gif"


def as_in_the_table(run, experiment):
    """Whether a run is the experiment's as the table has it, on MNIST: no short look and no variation."""
    settings = {"arguments": experiment.arguments, "n_epochs": experiment.epochs, **experiment.recipe}
    settings["plain_convolutions"] = False
    return run["data"]["name"] == "MNIST" and all(run[key] == value for key, value in settings.items())


def update_readme(out, record):
    """Condense complete sets of runs into results/, and make the README's figures and tables from there.

    Raises ValueError or OSError if there is no complete set, or its runs differ in code or machine.
    """
    results, pictures = ROOT / "results", ROOT / ".readme_figures"
    written = []
    for name, identities in tables.RECORDS.items():
        experiments = [row_of(identity) for identity in identities]
        sets = [
            {
                run["experiment_name"]: run
                for run in tables.of_experiment(record, row.id).values()
                if as_in_the_table(run, row)
            }
            for row in experiments
        ]
        if not all(sets):
            continue
        together = {name: run for runs in sets for name, run in runs.items()}
        if not tables.comparable(together, together):
            raise ValueError(f"the runs for results/{name}.json differ in code or machine")
        write_json(results / f"{name}.json", together)
        written.append(name)
    if not written:
        raise ValueError("--readme needs all experiments of a set: " + ", ".join(tables.RECORDS))
    if "runs" in written:
        shutil.copyfile(Path(out) / "job.json", results / "job.json")
    for record_name, identity, name in SHOWN:
        directory = row_of(identity).directory(1)
        if record_name in written:
            if name.endswith(".gif"):
                animate(out, directory)
            stem, _, kind = name.partition(".")
            shutil.copyfile(Path(out) / directory / name, pictures / f"{stem}_{identity}.{kind}")
    draw_readme(results, pictures)
    with whole(ROOT / "README.md") as temporary:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        temporary.write_text(tables.fill_readme(text, tables.readme_blocks(results)), encoding="utf-8")


def draw_readme(results, pictures):
    """Draw the README's comparisons from the records in `results`."""
    runs, transformers, perspective = (
        json.loads((results / f"{name}.json").read_text(encoding="utf-8")) for name in tables.RECORDS
    )
    drawn = comparison_figures({**runs, **perspective})
    swings = {name: run for name, run in transformers.items() if name[:6] in tables.RECORDS["transformers"][:4]}
    limits = accuracy_limits(swings)
    drawn += [("StabilityCurves.png", curves_figure(swings, tables.percentages, "test accuracy in %", limits))]
    drawn += [(f"diagram_{experiment.id}.png", diagram(experiment)) for experiment in EXPERIMENTS]
    for name, figure in drawn:
        if name not in UNSHOWN:
            figures.save(figure, pictures / name)


def main():
    end_with_the_reader()
    parser = new_parser(__doc__)
    parser.add_argument("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: beside the runs)")
    parser.add_argument("--pool", action="store_true", help="pool and compare runs also if code or settings differ")
    parser.add_argument("--animate", metavar="RUN", help="only draw <out>/RUN/transformation.gif, the run by epochs")
    parser.add_argument("--readme", action="store_true", help="update results/, .readme_figures/ and README.md")
    options = parser.parse_args()
    if not Path(options.out).is_dir():
        parser.error(f"--out {options.out}: there is no such folder")

    if options.animate:
        from train import RunError

        try:
            print(animate(options.out, options.animate))
        except (RunError, ValueError, OSError, LookupError, TypeError) as error:
            parser.error(f"--animate {options.animate}: {error}")
        return 0
    try:
        record, complaints = read_all(options.out)
    except (OSError, EOFError) as error:
        parser.error(f"--out {options.out}: {error}")
    if not options.pool:
        record, more = tables.poolable(record)
        complaints += more + tables.refused(record)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not record:
        print(f"plot.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
        return 1
    if options.readme:
        try:
            update_readme(options.out, record)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return 0
    target = Path(options.figures or options.out)
    try:
        target.mkdir(parents=True, exist_ok=True)
        draw_comparison(record, target, options.pool)
    except OSError as error:
        parser.error(f"{target}: the figures cannot be written ({error})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
