"""Compare the finished runs.

    python plot.py [--out experiments] [--figures FOLDER]

reads every <out>/*/results.json and writes, into <out> unless --figures says otherwise,

    comparison.md                 means with intervals, paired differences with p-values, how many more runs they need
                                  (for ± 0.05 points, or --within), where the variance comes from, the deepest falls
    AccuracyComparison.png        the test accuracy of every run by experiment, with means or medians
    RecipesComparison.png         the tutorial's recipe beside the steady one, if there are runs of both
    Differences.png               paired differences between the seven experiments, if there are pairs
    AccuracyCurves.png, TrainLossCurves.png   of all runs, epoch by epoch
    ConfusionComparison.png       the confusion matrices of exp_02 and exp_06, and their difference
    train_loss.png                the train loss of exp_01 and exp_02, run 01
    Perspective*.png, Card*.png   the first four on digits in perspective and on cards, if there are such runs
    CardStrength.png              medians of what is measured on cards over the strength of the distortion
    diagram_<experiment>.png      what each experiment's network looks like

Runs of one experiment that differ in epochs, data, code or machine are not pooled: the largest set is kept and the
others are named, unless --pool asks for all. Experiments that differ in code or machine are not compared in pairs.

    python plot.py --animate exp_16_run_01_perspective_homography_4_passes

draws <out>/<run>/transformation.gif: what the run's transformer did to test images after each epoch.

Both take a few seconds. The run `test` of train.py is left out; what cannot be read is named and passed over.

    python plot.py --docs             writes docs/results.md and its figures, from results/ and weights/
    python plot.py --record runs      keeps the runs in <out> as results/runs.json, if they are a complete set
    python plot.py --keep exp_16      keeps the weights of its run 01 in weights/, with the record of that run

are for those who maintain this repository.

Exit code 1 if there is no result at all, 2 for wrong usage.
"""

import json
import re
import statistics
import sys
import textwrap
from pathlib import Path

import numpy as np

from lab import cli, figures, tables
from lab.comparison import (
    FAMILIES,
    by_data,
    comparable,
    comparisons,
    distinct,
    groups,
    is_plain_mnist,
    obstacles,
    of_experiment,
    one_run_each,
    poolable,
)
from lab.files import check_room, write_json, write_text
from lab.results import confusion_matrix, is_mnist, last, percentages, read_all
from lab.sets import ONE_RUN_EACH, ORIGINAL_ACCURACY, TUTORIAL_ACCURACY
from lab.settings import RunError, printable
from lab.stats import Interval, is_skewed, mean_interval
from run_experiments import ALL, EXPERIMENTS, SETS

# torch is imported late, by the functions that draw digits: the comparison does not wait for it.

ROOT = Path(__file__).resolve().parent
CONFUSED = ("exp_02", "exp_06")  # whose confusion matrices are compared
CLAIM = (TUTORIAL_ACCURACY, "the tutorial's claim")  # a line in the figures
# The size of images that are not 28×28, and how many digits are on them.
IMAGES = {"whole": ("56×56", 1), "cards": ("128×128", 6), "straight cards": ("28×133", 6)}
STRENGTH = "strength of the distortion"
ACCURACY, LOSS = "test accuracy in %", "train loss, mean per image (nats)"  # axes
N_ANIMATED = 24  # digits
# What the seven ask, under two recipes; without a transformer they are one.
ASKED = ("no transformer", "no transformer, CoordConv", "transformer", "CoordConv in the classifier")
ASKED += ("in the localisation network", "in both")
RECIPES = {
    "the tutorial's recipe": ("exp_03", "exp_04", "exp_02", "exp_05", "exp_06", "exp_07"),
    "the steady recipe": tuple(row.id for row in SETS["steady"]),
}
# Figures of images that are made of digits, by their prefix: their families of comparisons.
DISTORTED = {"Perspective": "In perspective", "Card": "Cards"}
RECORDS = {  # the records in results/: the experiments of each
    "runs": tuple(row.id for row in EXPERIMENTS if row.name in ORIGINAL_ACCURACY),
    "steady": RECIPES["the steady recipe"],
    "swings": tables.SWINGS,
    "homography": tables.HOMOGRAPHIES,
    "perspective": tables.PERSPECTIVE,
    "whole": tables.WHOLE,
    "long": tables.LONG,
    "card": tables.CARD,
    "formulations": ("exp_02", "exp_03", "exp_07"),
}
SHOWN = ("exp_02", "exp_14", "exp_16")  # networks of weights/ whose transforms the documentation shows
ANIMATED = ("exp_16",)  # there, too, with the statistics of its classes
CARDS_SHOWN = 40  # scenes


# what is drawn


def diagram(experiment):
    """Draw the block diagram of a row of the table."""
    arguments = experiment.arguments
    localisation, classifier = (
        "2 × CoordConv" if arguments.get(f"use_coordconf_{part}") else "2 × Conv"
        for part in ("localisation", "classifier")
    )
    transform = "homography" if "Homography" in experiment.model else "affine"
    passes = f" × {arguments['passes']}" if "passes" in arguments else ""
    title, bypass = f"{experiment.id}: {experiment.question}", arguments.get("bypass_localisation", False)
    image, n_digits = IMAGES.get(experiment.data, ("28×28", 1))
    warp = f"{transform}{passes}\nwarp"
    return figures.network_diagram(title, localisation, classifier, warp, bypass, image, n_digits)


def value_rows(record):
    """List each experiment for `figures.values_by_row`, with the original's value."""
    found = {name: [*map(last, runs.values())] for name, runs in groups(record).items()}
    plain = all(map(is_plain_mnist, record.values()))
    marks = ORIGINAL_ACCURACY if plain else {}
    return told([(label(name), values, marks.get(name)) for name, values in found.items()])


def told(rows):
    """Add the mean with its interval to each (label, [values], mark); if a row is skewed, the median to all."""
    skewed = any(is_skewed(values) for _, values, _ in rows)
    centre = (lambda values: Interval(statistics.median(values), None, None)) if skewed else mean_interval
    return [(name, values, centre(values), mark) for name, values, mark in rows]


def accuracy_figure(record, title=""):
    """Draw the runs of every experiment as points, with mean and interval. title: of the data, if it is to be told."""
    line = CLAIM if all(map(is_plain_mnist, record.values())) else None
    title = title and f" ({title})".replace("$", r"\$")  # not a formula
    return figures.values_by_row((value_rows(record), f"{ACCURACY}, last epoch{title}", line))


def recipe_panels(*records):
    """Return what the seven ask under both recipes as panels of `figures.values_by_row`; [] unless both are there.

    records: one for each recipe; where nothing localises both have runs of their own.
    """
    panels = []
    for record, (recipe, exp_ids) in zip(records, RECIPES.items(), strict=True):
        runs = {exp_id: of_experiment(record, ALL[exp_id]).values() for exp_id in exp_ids}
        if not any(runs[exp_id] for exp_id in exp_ids[2:]):
            return []
        found = zip(ASKED, runs.items(), strict=True)
        rows = [
            (f"{what}\n({exp_id})", [*map(last, of_one)], ORIGINAL_ACCURACY.get(ALL[exp_id].name))
            for what, (exp_id, of_one) in found
            if of_one
        ]
        panels.append((told(rows), f"{ACCURACY}, last epoch, {recipe}", CLAIM))
    return panels


def recipes_figure(panels):
    """Draw the panels on one axis, which ends where only single runs of the tutorial's recipe lie; None without any."""
    if not panels:
        return None
    tutorial, steady = ([value for _, values, _, _ in rows for value in values] for rows, _, _ in panels)
    least = min(*steady, *ORIGINAL_ACCURACY.values(), float(np.quantile(tutorial, 0.1))) - 0.05
    return figures.values_by_row(*panels, least=least)


def differences_figure(record, pairs, pool=False):
    """Draw every pair of runs on one test set as a point, with mean and interval, around zero; None without one."""
    rows = [
        (f"{pair[2]}\n({pair[0]} − {pair[1]})", list(comparison.differences.values()), None)
        for pair, comparison in comparisons(record, pairs, ALL, pool=pool).items()
    ]
    if not rows:
        return None
    xlabel, one = "change of the test accuracy in points, last epoch", next(iter(record.values()))
    return figures.values_by_row((told(rows), xlabel, (0, "no difference")), images=one["test_total"] / 100)


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
    """Draw the part of the axis that holds the last two thirds of most curves; swings may leave it at the bottom."""
    values = sorted(value for run in record.values() for value in percentages(run)[len(train_losses(run)) // 3 :])
    low, high = values[len(values) // 50], values[-1]
    span = max(high - low, 0.1)
    return curves_figure(record, percentages, ACCURACY, (low - span * 0.3, high + span * 0.1))


def confusion_figure(record):
    """Draw those of two experiments, a run on average, and their difference; None if they are not known."""
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
        kind = next((words for name, words in DISTORTED.items() if name in prefix), "The seven")
        # Without the transformer's own effect where images are distorted, beside which the others could not be seen.
        pairs = (pair for name in FAMILIES if name.startswith(kind) for pair in FAMILIES[name])
        family = [pair for pair in pairs if pair[1] not in ("exp_12", "exp_31")]
        drawn[f"{prefix}AccuracyComparison.png"] = accuracy_figure(part, title if title != "MNIST" else "")
        both = recipe_panels(part, part) if title == "MNIST" else []
        drawn[f"{prefix}RecipesComparison.png"] = recipes_figure(both)
        drawn[f"{prefix}Differences.png"] = differences_figure(part, family, pool)
        drawn[f"{prefix}AccuracyCurves.png"] = accuracy_curves(part)
        drawn[f"{prefix}TrainLossCurves.png"] = curves_figure(part, train_losses, LOSS)
        drawn[f"{prefix}ConfusionComparison.png"] = confusion_figure(part)
        panels = tables.strength_curves(part, ALL)
        drawn[f"{prefix}Strength.png"] = figures.strength_curves(panels, STRENGTH) if panels else None
        baselines = [runs[1] for exp_id in ("exp_01", "exp_02") if 1 in (runs := of_experiment(part, ALL[exp_id]))]
        curves = [(run["experiment_name"], train_losses(run)) for run in baselines]
        drawn[f"{prefix}train_loss.png"] = figures.loss_curves(curves, LOSS) if curves else None
    return {name: drawing for name, drawing in drawn.items() if drawing}


def draw_comparison(record, target, pool=False, within=tables.ENOUGH):
    """Write what the module's docstring lists into the folder `target`, and print the paths."""
    present = groups(record)
    shown = [row for row in ALL.values() if row in EXPERIMENTS or row.name in present]
    drawn = comparison_figures(record, pool) | {f"diagram_{row.id}.png": diagram(row) for row in shown}
    for name, drawing in drawn.items():
        figures.save(drawing, target / name)
    write_text(target / "comparison.md", tables.comparison_document(record, ALL, pool, within))
    for name in (*drawn, "comparison.md"):  # at the end: who reads only the first lines (`| head`) has all figures
        print(target / name)
    if any(map(one_run_each, by_data(record).values())):
        print(ONE_RUN_EACH, file=sys.stderr)


# what digits are drawn


def dataset_of(settings):
    """Return the images of a run on MNIST, as it is or in perspective. Raise ValueError for other data."""
    from stn import data
    from stn.data_sets import KINDS, described, of_kind

    digits = data.load()
    for kind in KINDS:
        if described(kind, digits.description) == settings["data"]:
            return of_kind(kind, digits)
    raise ValueError("only runs on MNIST can be animated")


def save_animation(path, settings, transforms, digits):
    """Draw what a transformer did to test images at the start and after each epoch, as a GIF.

    transforms: [(N, 3, 3) after epoch 1, ...], of the first test images.
    """
    import torch

    from stn.data_sets import measures_of

    measures, padding = measures_of(digits), settings["arguments"].get("padding", "zeros")
    pictures = []
    for epoch, homographies in enumerate([torch.eye(3).expand(N_ANIMATED, 3, 3), *transforms]):
        title = f"{settings['experiment_name']}, {f'after epoch {epoch}' if epoch else 'at the start'}"
        pictures.append(measures.draw_warps(digits, homographies[:N_ANIMATED], title, padding))
    figures.save_animation(pictures, path)


def read_run(folder):
    """Return (settings, checkpoint) of the run in a folder. Raise OSError, ValueError or RunError."""
    from stn.checkpoint import load_tensors

    return read_json(folder / "settings.json"), load_tensors(folder / "checkpoint.pt")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def animate(out, name):
    """Write the animation of the run `name` into its folder and return the path.

    Raise OSError, ValueError or RunError if the run has not what it takes.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError("the name of a run is needed, not a path")
    place = Path(out) / name
    settings, checkpoint = read_run(place)
    if not checkpoint["transforms"]:
        raise ValueError(f"{place} has no transformer to animate")
    path = place / "transformation.gif"
    save_animation(path, settings, checkpoint["transforms"], dataset_of(settings))
    return path


def draw_shown(pictures):
    """Draw scenes with cards, and what the transformers of single runs do, from weights/."""
    from stn import data, measures, trained
    from stn.card_data import TEST_SEED, scenes, sources_of

    drawn = scenes(sources_of(data.load(), "test", "test"), CARDS_SHOWN, TEST_SEED, 1.0)
    figures.save(figures.scenes(drawn.images[:, 0], "the first test scenes"), pictures / "scenes.png")

    for exp_id in SHOWN:
        _, model, run = trained.load(exp_id)
        name, digits = run["experiment_name"], dataset_of(run)
        figures.save(
            measures.draw_transforms(model, digits, name), pictures / f"visualized_transformation_{exp_id}.png"
        )
        if exp_id in ANIMATED:
            statistics = measures.of_transformer(model, digits).statistics
            figures.save(figures.class_statistics(*statistics, name), pictures / f"class_statistics_{exp_id}.png")
            _, transforms = trained.read_kept(exp_id, part="transforms")
            save_animation(pictures / f"transformation_{exp_id}.gif", run, transforms, digits)


def draw_card(path, exp_id="exp_40", number=0):
    """Draw what extract_id.py makes of a test scene shown large, by a network in weights/."""
    from PIL import Image

    from stn import photographs, trained

    network = trained.load(exp_id)
    scene = dataset_of(network.results).test_images[number, 0].numpy()
    photo = Image.fromarray(scene).resize((1024, 1024), Image.Resampling.BICUBIC).convert("RGB")
    card = photographs.find_card(photo, network.model, photographs.alignment(network))
    pictures = photographs.outlined(photo, card), photographs.straightened(photo, card)
    figures.save(figures.card_found(*map(np.asarray, pictures), card.number), path)


# the documentation


def write_docs(results, docs, pictures):
    """Write docs/results.md, and every figure of the documentation into `pictures`, from what is kept."""
    names = "runs", "steady", "swings", "perspective", "whole", "card"
    runs, steady, swings, *distorted = (read_json(results / f"{name}.json") for name in names)
    drawn = comparison_figures(runs)
    for record in distorted:
        drawn |= comparison_figures(record)
    drawn["RecipesComparison.png"] = recipes_figure(recipe_panels(runs, steady))
    drawn["StabilityCurves.png"] = accuracy_curves(swings)
    drawn["LongCurves.png"] = curves_figure(read_json(results / "long.json"), train_losses, LOSS)
    drawn["diagram.png"] = figures.network_diagram("")
    for name, drawing in drawn.items():
        if not (name.endswith("Curves.png") and name.startswith(tuple(DISTORTED))):  # these show nothing new
            figures.save(drawing, pictures / name)
    draw_shown(pictures)
    draw_card(pictures / "extract_id.png")
    write_text(docs / "results.md", tables.results_document(results, ALL))


def as_in_the_table(run, plain=False):
    """Tell whether a run is its experiment's as the table has it, on MNIST: no short look and no variation."""
    experiment = ALL[run["experiment_name"][:6]]
    settings = {"arguments": experiment.arguments, "n_epochs": experiment.epochs, "plain_convolutions": plain}
    settings |= experiment.recipe._asdict()
    return is_mnist(run["data"]) and all(run[key] == value for key, value in settings.items())


def complete(out, found, exp_ids, plain=False):
    """Return the runs of a set as the table has it, of each experiment those whose numbers all of them have.

    Raise ValueError if there are none, or if code or machines differ.
    """
    runs = {exp_id: of_experiment(found, ALL[exp_id]) for exp_id in exp_ids}
    full = [{n for n, run in of_one.items() if as_in_the_table(run, plain)} for of_one in runs.values()]
    if missing := [exp_id for exp_id, numbers in zip(exp_ids, full, strict=True) if not numbers]:
        raise ValueError(f"{out} has no full run of {', '.join(missing)}")
    numbers = sorted(set.intersection(*full))
    if not numbers:
        raise ValueError(f"{out} has no number of which there is a full run of each experiment")
    kept = {run["experiment_name"]: run for of_one in runs.values() for run in map(of_one.get, numbers)}
    if not comparable(kept):
        raise ValueError("the runs differ in code or machine")
    return kept


def record(out, name, found, results):
    """Keep the runs of a complete set as results/<name>.json.

    Of the formulations, <out> has the runs and <out>_plain the same in the plain form.
    Raise ValueError or OSError if the set is not complete.
    """
    kept = complete(out, found, RECORDS[name])
    if name == "formulations":
        place = f"{Path(out)}_plain"
        kept = {"fast": kept, "plain": complete(place, poolable(read_all(place)[0])[0], RECORDS[name], plain=True)}
    write_json(results / f"{name}.json", kept)


def keep(out, exp_ids, found):
    """Keep the weights of run 01 of experiments in weights/, and print the paths.

    Raise ValueError, OSError or RunError if a run is not there, not whole, or not as the table has it.
    """
    from stn import trained

    for exp_id in exp_ids:
        name = ALL[exp_id].directory(1)
        if name not in found or not as_in_the_table(found[name]):
            raise ValueError(f"{out} has no full run 01 of {exp_id}")
        print(trained.keep(Path(out) / name, N_ANIMATED if exp_id in ANIMATED else 0))


def main():
    cli.keep_streams()
    cli.end_with_the_reader()
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    add("--figures", metavar="FOLDER", help="where the figures go (default: beside the runs)")
    add("--pool", action="store_true", help="pool and compare runs also if code or settings differ")
    needed = f"tell how many runs intervals of ± POINTS need (default: {tables.ENOUGH})"
    add("--within", type=float, default=tables.ENOUGH, metavar="POINTS", help=needed)
    add("--animate", metavar="RUN", help="only draw <out>/RUN/transformation.gif, the run by epochs")
    add("--record", choices=RECORDS, help="only keep the runs as results/NAME.json")
    add("--keep", nargs="+", choices=ALL, metavar="EXP", help="only keep the weights of run 01 of these in weights/")
    add(
        "--docs", action="store_true", help="only write docs/results.md and .readme_figures/ from results/ and weights/"
    )
    options = cli.parse(parser)
    if options.docs:
        write_docs(ROOT / "results", ROOT / "docs", ROOT / ".readme_figures")
        return 0
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
        found, complaints = read_all(options.out)
    except (OSError, EOFError) as error:
        parser.error(f"--out {options.out}: {error}")
    found, same = distinct(found)
    complaints += same
    if not options.pool:
        found, more = poolable(found)
        complaints += more + obstacles(found, ALL)
    for complaint in complaints:
        print(printable(complaint), file=sys.stderr)
    if not found:
        print(f"plot.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
        return 1
    if options.record or options.keep:
        try:
            if options.record:
                record(options.out, options.record, found, ROOT / "results")
            keep(options.out, options.keep or (), found)
        except (RunError, ValueError, OSError) as error:
            parser.error(f"{'--record' if options.record else '--keep'}: {error}")
        return 0
    target = Path(options.figures or options.out)
    try:
        check_room(target)
        draw_comparison(found, target, options.pool, options.within)
    except OSError as error:
        parser.error(f"{target}: the figures cannot be written ({error})")
    return 0


if __name__ == "__main__":
    cli.run(main)
