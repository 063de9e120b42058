"""Compare the finished runs.

    python plot.py [--out experiments] [--figures FOLDER]

reads every <out>/*/results.json and writes, into <out> unless --figures says otherwise,

    comparison.md                 centres with intervals, paired differences with p-values, how many more runs they need
                                  (for ± 0.05 points, or --within), where the variance comes from, the deepest falls
    runs.csv, epochs.csv          a row for each run, and for each of its epochs, to go on with in pandas or R
    AccuracyComparison.png        the test accuracy of every run by experiment, with centre and interval
    RecipesComparison.png         the tutorial's recipe beside the steady one, if there are runs of both
    Differences.png               paired differences between the seven experiments, if there are pairs
    AccuracyCurves.png, TrainLossCurves.png   of all runs, epoch by epoch
    ConfusionComparison.png       the confusion matrices of exp_02 and exp_06, and their difference
    train_loss.png                the train loss of exp_01 and exp_02, run 01
    Perspective*.png, Card*.png   the first four on digits in perspective and on cards, if there are such runs
    CardStrength.png              medians of what is measured on cards over the strength of the distortion
    diagram_<experiment>.png      what each experiment's network looks like

Runs of one experiment that differ in epochs, data, code or machine are not pooled: the largest set is kept and the
others are named, unless --pool asks for all. (runs.csv and epochs.csv always have all.) Experiments that differ in code
or machine, or were not trained as their rows of the table say, are not compared in pairs.

    python plot.py --animate exp_16_run_01_perspective_homography_4_passes

draws <out>/<run>/transformation.gif: what the run's transformer did to test images after each epoch.

Both take a few seconds. The run `test` of train.py is left out; what cannot be read is named and passed over.

Exit code 1 if there is no result at all, 2 for wrong usage.
"""

import json
import re
import sys
import textwrap
from pathlib import Path

import numpy as np

from lab import cli, export, figures, tables
from lab.catalogue import build_network, datasets, find_network, load_object, spec_of, studies
from lab.comparison import (
    by_data,
    by_seed,
    comparisons,
    drop_duplicate_runs,
    drop_incompatible_runs,
    families,
    groups,
    is_plain_mnist,
    list_incomparable,
    of_experiment,
    one_run_each,
)
from lab.files import write_text
from lab.published import CLAIM, ORIGINAL_ACCURACY
from lab.results import (
    ONE_RUN_EACH,
    condensed,
    confusion_matrix,
    is_lost_run,
    last,
    lost_runs,
    percentages,
    read_whole,
)
from lab.settings import RunError, printable
from run_experiments import ALL, EXPERIMENTS

# torch is imported late, by the functions that draw digits or networks.

ROOT = Path(__file__).resolve().parent
# By the number of values that a localisation network predicts.
TRANSFORMS = {1: "rotation", 3: "scale and shift", 4: "similarity", 6: "affine", 8: "homography", 32: "spline"}
CONFUSED = ("exp_02", "exp_06")  # experiments whose confusion matrices are compared
ACCURACY, LOSS = "test accuracy in %", "train loss, mean per image (nats)"  # axes
N_ANIMATED = 24  # digits


# what is drawn


def diagram(experiment):
    """Draw the block diagram of a row of the table; None if its network is not derived from `models.Net`."""
    import models

    arguments, spec, kind = experiment.arguments, datasets()[experiment.data], find_network(experiment.model)
    network = build_network(kind, arguments, spec) if kind else None  # one that is not there any more
    if network and not isinstance(network, models.Net):
        return None
    convolutions = (
        "2 × CoordConv" if arguments.get(f"use_coordconf_{part}") else "2 × Conv"
        for part in ("localisation", "classifier")
    )
    n_params = len(network.transform_identity) if network else 0
    passes = f" × {arguments['passes']}" if "passes" in arguments else ""
    warp = f"{TRANSFORMS.get(n_params, 'transform')}{passes}\nwarp"
    title, bypass = f"{experiment.id}: {experiment.question}", arguments.get("bypass_localisation", False)
    size = "×".join(map(str, spec.image_size))
    return figures.network_diagram(title, *convolutions, warp, bypass, size, spec.n_digits)


def accuracy_figure(record, title=""):
    """Draw the runs of every experiment as points, with centre and interval. title: of the data set, or ""."""
    plain = all(map(is_plain_mnist, record.values()))
    marks = ORIGINAL_ACCURACY if plain else {}
    title = title and f" ({title})".replace("$", r"\$")  # not a formula
    rows = [
        (label(name), [*map(last, runs.values())], marks.get(name), [*map(is_lost_run, runs.values())])
        for name, runs in groups(record).items()
    ]
    return figures.values_by_row((rows, f"{ACCURACY}, last epoch{title}", CLAIM if plain else None))


def differences_figure(record, pairs, pool=False):
    """Draw every pair of runs on one test set as a point, with centre and interval, around zero; None without one."""
    rows = []
    for (one, other, added), comparison in comparisons(record, pairs, ALL, pool=pool).items():
        lost = [by_seed(of_experiment(record, ALL[exp_id]), is_lost_run) for exp_id in (one, other)]
        either = [lost[0][seed] or lost[1][seed] for seed in comparison.differences]
        rows.append((f"{added}\n({one} − {other})", list(comparison.differences.values()), None, either))
    if not rows:
        return None
    xlabel, one = "change of the test accuracy in points, last epoch", next(iter(record.values()))
    return figures.values_by_row((rows, xlabel, (0, "no difference")), images=one["test_total"] / 100)


def curves_figure(record, values, ylabel, limits=None):
    """Draw a panel for every experiment; values: a run -> [value after epoch 1, 2, ...]; without limits logarithmic."""
    panels = [(label(name), [values(run) for run in runs.values()]) for name, runs in groups(record).items()]
    return figures.run_curves(panels, ylabel, limits)


def label(name, width=34):
    """Break the directory's name of an experiment into lines of at most `width` characters."""
    return textwrap.fill(name.replace("_", " "), width).replace("exp ", "exp_")


def train_losses(run):
    return run["history"]["train_loss"]


def accuracy_curves(record):
    """Zoom the axis to the last two thirds of most curves; deep dips may be cut off."""
    values = sorted(value for run in record.values() for value in percentages(run)[len(train_losses(run)) // 3 :])
    low, high = values[len(values) // 50], values[-1]
    span = max(high - low, 0.1)
    return curves_figure(record, percentages, ACCURACY, (low - span * 0.3, high + span * 0.1))


def confusion_figure(record):
    """Draw the mean confusion matrices of two experiments and their difference; None if they are not known."""
    matrices, titles = [], []
    for exp_id in CONFUSED:
        counts = [confusion_matrix(run) for run in of_experiment(record, ALL[exp_id]).values()]
        if not counts or None in counts:
            return None
        matrices.append(np.mean(counts, axis=0))
        titles.append(f"{exp_id}, mean of {len(counts)} run{'s' if len(counts) > 1 else ''}")
    return figures.confusion_comparison(*matrices, titles)


def comparison_figures(record, pool=False):
    """Return {file name: Figure} of all that compares runs, a set of figures for each data set."""
    drawn = {}
    for (title, prefix), part in by_data(record).items():
        spec = spec_of(next(iter(part.values()))["data"])
        pairs = (pair for name in spec.figure_families for pair in families()[name])
        family = [pair for pair in pairs if pair[1] not in spec.figure_omits]
        drawn[f"{prefix}AccuracyComparison.png"] = accuracy_figure(part, title if title != "MNIST" else "")
        drawn[f"{prefix}Differences.png"] = differences_figure(part, family, pool)
        drawn[f"{prefix}AccuracyCurves.png"] = accuracy_curves(part)
        drawn[f"{prefix}TrainLossCurves.png"] = curves_figure(part, train_losses, LOSS)
        drawn[f"{prefix}ConfusionComparison.png"] = confusion_figure(part)
        for path in filter(None, (spec.extra_figures, *(study.extra_figures for study in studies().values()))):
            drawn |= {f"{prefix}{name}": drawing for name, drawing in load_object(path)(part, ALL).items()}
        baselines = [runs[1] for exp_id in ("exp_01", "exp_02") if 1 in (runs := of_experiment(part, ALL[exp_id]))]
        curves = [(run["experiment_name"], train_losses(run)) for run in baselines]
        drawn[f"{prefix}train_loss.png"] = figures.loss_curves(curves, LOSS) if curves else None
    return {name: drawing for name, drawing in drawn.items() if drawing}


def read_runs(out, pool=False):
    """Return the record of the runs in a folder that are compared, and {name: content of results.json} of all.

    Say on stderr which are left out, and which are not compared.
    """
    results, complaints = read_whole(out)
    record, duplicates = drop_duplicate_runs({name: condensed(content) for name, content in results.items()})
    complaints += duplicates
    if not pool:
        record, incompatible = drop_incompatible_runs(record)
        complaints += incompatible + list_incomparable(record, ALL)
    for complaint in complaints:
        print(printable(complaint), file=sys.stderr)
    return record, results


def draw_comparison(record, results, target, pool=False, within=tables.TARGET_HALF_WIDTH):
    """Write what the module's docstring lists into the folder `target`, and print the paths."""
    present = groups(record)
    shown = [row for row in ALL.values() if row in EXPERIMENTS or row.name in present]
    drawn = comparison_figures(record, pool) | {f"diagram_{row.id}.png": diagram(row) for row in shown}
    for name, drawing in drawn.items():
        if drawing:
            figures.save(drawing, target / name)
    write_text(target / "comparison.md", tables.comparison_document(record, ALL, pool, within))
    exported = export.write_tables(results, target)
    for name, text in lost_runs(record).items():
        print(f"{name}: {text}", file=sys.stderr)
    # At the end: who reads only the first lines (`| head`) has all files.
    for path in (*(target / name for name in (*drawn, "comparison.md")), *exported):
        print(path)
    if any(map(one_run_each, by_data(record).values())):
        print(ONE_RUN_EACH, file=sys.stderr)


# what digits are drawn


def dataset_of(settings):
    """Return the images of a run on MNIST, as it is or what a study makes of it. Raise ValueError for other data."""
    from stn import data

    digits, spec = data.load(), spec_of(settings["data"])
    if spec.describe(digits.description) != settings["data"]:
        raise ValueError("only runs on MNIST can be animated")
    return spec.built(digits)


def save_animation(path, settings, transforms, digits):
    """Draw what a transformer did to test images at the start and after each epoch, as a GIF.

    transforms: [(N, 3, 3) after epoch 1, ...], of the first test images.
    """
    import torch

    from stn.data import metrics_of

    metrics, padding = metrics_of(digits), settings["arguments"].get("padding", "zeros")
    pictures = []
    for epoch, homographies in enumerate([torch.eye(3).expand(N_ANIMATED, 3, 3), *transforms]):
        title = f"{settings['experiment_name']}, {f'after epoch {epoch}' if epoch else 'at the start'}"
        pictures.append(metrics.draw_warps(digits, homographies[:N_ANIMATED], title, padding))
    figures.save_animation(pictures, path)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def animate(out, name):
    """Write the animation of the run `name` into its folder and return the path.

    Raise OSError, ValueError or RunError if the run cannot be read or has no transformer.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError("the name of a run is needed, not a path")
    from stn.checkpoint import load_tensors

    run_dir = Path(out) / name
    settings, transforms = read_json(run_dir / "settings.json"), load_tensors(run_dir / "checkpoint.pt")["transforms"]
    if not transforms:
        raise ValueError(f"{run_dir} has no transformer to animate")
    save_animation(run_dir / "transformation.gif", settings, transforms, dataset_of(settings))
    return run_dir / "transformation.gif"


def main():
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    add("--figures", metavar="FOLDER", help="where the figures go (default: beside the runs)")
    add("--pool", action="store_true", help="pool and compare runs also if code or settings differ")
    needed = f"say how many runs give intervals of ± POINTS (default: {tables.TARGET_HALF_WIDTH})"
    add("--within", type=float, default=tables.TARGET_HALF_WIDTH, metavar="POINTS", help=needed)
    add("--animate", metavar="RUN", help="only draw <out>/RUN/transformation.gif, the run by epochs")
    options = cli.parse(parser)
    if not 0.001 <= options.within <= 100:
        parser.error(f"--within: points from 0.001 to 100 are needed, not {options.within}")
    if not Path(options.out).is_dir():
        parser.error(f"--out {options.out}: there is no such folder")
    if options.animate:
        try:
            print(animate(options.out, options.animate))
        except (RunError, ValueError, OSError, LookupError, TypeError) as error:
            parser.error(f"--animate {options.animate}: {error}")
        return 0
    try:
        record, results = read_runs(options.out, options.pool)
    except (OSError, EOFError) as error:
        parser.error(f"--out {options.out}: {error}")
    if not record:
        print(f"plot.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
        return 1
    target = Path(options.figures or options.out)
    try:
        target.mkdir(parents=True, exist_ok=True)
        draw_comparison(record, results, target, options.pool, options.within)
    except OSError as error:
        parser.error(f"{target}: the figures cannot be written ({error})")
    return 0


if __name__ == "__main__":
    cli.run(main)
