"""Every table, in Markdown, from records (see lab/results.py) and from nothing else."""

import itertools
import json
import statistics

from scipy.stats import kendalltau

from lab import stats
from lab.comparison import FAMILIES, comparisons, falls, groups, last_steps, obstacles, of_experiment
from lab.results import PARTS, last, last_five, percentages, wrong_images
from lab.sets import ORIGINAL_ACCURACY, TUTORIAL_ACCURACY

SWINGS = ("exp_02", "exp_20", "exp_21", "exp_22")
HOMOGRAPHIES = ("exp_02", "exp_22", "exp_08", "exp_09", "exp_10", "exp_11")
PERSPECTIVE = tuple(f"exp_{number}" for number in range(12, 20))
N_FALLS = 5
FIGURES = "../.readme_figures"  # from docs/


# cells and rows


def markdown_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def column(values_by_row, digits=2, sign=""):
    """Tell the values of each row, a list of lists, as text: (how, [text of each row]).

    By the mean with its 95 % interval, or, where a row is skewed, all rows by the median with the range.
    """
    values_by_row = [list(values) for values in values_by_row]
    skewed = any(map(stats.is_skewed, values_by_row))
    tell = median_text if skewed else interval_text
    how = "median (range)" if skewed else "mean ± 95 %" if max(map(len, values_by_row)) > 1 else "one run"
    return how, [tell(values, digits, sign) for values in values_by_row]


def interval_text(values, digits=2, sign=""):
    interval = stats.mean_interval(values)
    text = f"{interval.mean:{sign}.{digits}f}"
    if interval.half is None:
        return text
    if interval.method == "BCa bootstrap":  # not symmetric
        return f"{text} ({interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f})"
    return f"{text} ± {interval.half:.{digits}f}"


def median_text(values, digits=2, sign=""):
    if len(values) == 1:
        return interval_text(values, digits, sign)
    numbers = statistics.median(values), min(values), max(values)
    return "{} ({} to {})".format(*(f"{number:{sign}.{digits}f}" for number in numbers))


def p_text(p):
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def name_of(exp_id, table):
    return f"`{exp_id}` {table[exp_id].title.removeprefix('perspective_').replace('_', ' ')}"


def source(record, command):
    """Say where the runs of a record come from."""
    run = next(iter(record.values()))
    return machine(run, f"{len(record)} runs", command)


def machine(content, *parts):
    """Say where numbers come from: what `lab.folder.provenance` gave, and parts of which the last is a command."""
    commit = (content["git_commit"] or "unknown")[:7]
    torch = f"torch {content['versions']['torch']}"
    return f"({', '.join([*parts[:-1], content['device_name'], torch, f'commit {commit}'])}; command: `{parts[-1]}`)"


# experiments


def results_table(record):
    """Every experiment with its runs, by both measures."""
    found = groups(record)
    ends = column([[last(run) for run in runs.values()] for runs in found.values()])
    fives = column([[last_five(run) for run in runs.values()] for runs in found.values()])
    rows = []
    for (name, runs), end, five in zip(found.items(), ends[1], fives[1], strict=True):
        sizes, one = last_steps(runs), next(iter(runs.values()))
        original = ORIGINAL_ACCURACY.get(name[:6])
        rows.append(
            [
                *(f"`{name}`", one["n_epochs"], len(runs), f"{one['trainable_parameters']:,}", end, five),
                f"{original:.2f}" if original else "",
                f"{statistics.median(sizes):.0f}, {max(sizes)}" if sizes else "",
            ]
        )
    header = ["experiment", "epochs", "runs", "parameters", f"accuracy %, last epoch: {ends[0]}"]
    header += [f"mean of the last five: {fives[0]}", "original %", "step in images: median, largest"]
    return markdown_table(header, rows)


def differences_table(record, family, table, pool=False):
    """Paired differences of a family, by both measures; "" if there are none."""
    ends, means = (comparisons(record, family, table, value, pool) for value in (last, last_five))
    if not ends:
        return ""
    tested = any(comparison.p_value is not None for comparison in ends.values())
    columns = []
    for found in (ends, means):
        how, cells = column([c.differences.values() for c in found.values()], sign="+")
        columns.append(
            (how, [[cell, *([p_text(c.p_value)] * tested)] for cell, c in zip(cells, found.values(), strict=True)])
        )
    rows = []
    for (pair, end), *cells in zip(ends.items(), *(cells for _, cells in columns), strict=True):
        named = f"{pair[2]} ({pair[0]} − {pair[1]})"
        rows.append([named, len(end.differences), f"{end.wins}, {end.losses}", *cells[0], *cells[1]])
    header = ["what is added", "pairs", "better, worse", f"last epoch, points: {columns[0][0]}", *["p"] * tested]
    header += [f"mean of the last five, points: {columns[1][0]}", *["p"] * tested]
    return markdown_table(header, rows)


def questions_table(record, table):
    """What each of the seven asks, and what came out."""
    found = comparisons(record, FAMILIES["The seven"], table)
    how, cells = column([comparison.differences.values() for comparison in found.values()], sign="+")
    runs = [last(run) for run in of_experiment(record, "exp_01").values()]
    reached = sum(value >= TUTORIAL_ACCURACY for value in runs)
    rows = [
        ["`exp_01`", table["exp_01"].question, "", f"{reached} of {len(runs)} runs reach {TUTORIAL_ACCURACY} %", ""]
    ]
    for (pair, comparison), cell in zip(found.items(), cells, strict=True):
        asks, other = pair[:2] if pair[2] != "the transformer" else ("exp_03", "exp_02")
        what = f"{pair[2]}: {cell}" if asks != pair[0] else cell
        rows.append([f"`{asks}`", table[asks].question, other, what, p_text(comparison.p_value)])
    return markdown_table(["", "question", "compared with", f"change of the accuracy, points: {how}", "p"], rows)


def variance_table(record):
    """Where the variance between the runs of each experiment comes from; "" if the images are not known."""
    rows = []
    for name, runs in groups(record).items():
        wrong = [wrong_images(run) for run in runs.values()]
        if len(wrong) < 2 or None in wrong:
            continue
        total = next(iter(runs.values()))["test_total"]
        split = stats.variance_split([[image not in errors for image in range(total)] for errors in wrong])
        numbers = f"{split.between_runs:.1f}", f"{split.finite_test_set:.1f}", f"{100 * split.share:.0f} %"
        rows.append([f"`{name}`", len(runs), *numbers, p_text(split.p_value)])
    header = ["experiment", "runs", "standard deviation between runs, images", "if all runs were equally good"]
    return markdown_table([*header, "share of the variance", "p"], rows) if rows else ""


def swings_table(record, exp_ids, table):
    """How much the accuracy changes from epoch to epoch."""
    found = {exp_id: runs for exp_id in exp_ids if (runs := of_experiment(record, exp_id))}
    ends = column([[last(run) for run in runs.values()] for runs in found.values()])
    fives = column([[last_five(run) for run in runs.values()] for runs in found.values()])
    rows = []
    for (exp_id, runs), end, five in zip(found.items(), ends[1], fives[1], strict=True):
        sizes = last_steps(runs)
        later = [max(stats.steps(run["history"]["test_correct"][9:]), default=0) for run in runs.values()]
        lowest = min(min(percentages(run)[5:], default=100) for run in runs.values())
        often = f"{100 * sum(size > 50 for size in sizes) / len(sizes):.0f} %"
        steps = f"{statistics.median(sizes):.0f}", max(sizes), often, max(later)
        rows.append([name_of(exp_id, table), len(runs), end, five, *steps, f"{lowest:.2f}"])
    header = ["", "runs", f"accuracy %, last epoch: {ends[0]}", f"mean of the last five: {fives[0]}"]
    header += ["step in images: median", "largest", "over 50", "largest since the tenth epoch"]
    return markdown_table([*header, "lowest accuracy % after the fifth"], rows)


def falls_table(record):
    """The deepest falls of the accuracy from one epoch to the next, after the tenth."""
    rows = [
        [f"`{name}`", epoch, *(f"{value:.2f}" for value in (before, after, end))]
        for _, name, epoch, before, after, end in falls(record)[:N_FALLS]
    ]
    return markdown_table(["run", "in epoch", "accuracy %, before", "after", "at the end"], rows)


def transformers_table(record, exp_ids, table, distorted):
    """What the transformers of some experiments do to the digits, and the accuracy or, if distorted, the error."""
    found = {exp_id: runs for exp_id in exp_ids if (runs := of_experiment(record, exp_id))}
    how, scores = column(
        [[100 - last(run) if distorted else last(run) for run in runs.values()] for runs in found.values()]
    )
    rows = []
    for (exp_id, runs), score in zip(found.items(), scores, strict=True):
        row = [name_of(exp_id, table), len(runs), score, max(last_steps(runs), default=0)]
        row += [before_and_after(runs, "corner_distance", 1), at_equal_size(runs)] if distorted else []
        row += [before_and_after(runs, "within_class_variance", 4), measured(runs, "ink_kept", 3)]
        rows.append([*row, measured(runs, "ink_area", 2)])
    header = ["", "runs", f"{'error' if distorted else 'accuracy'} %, last epoch: {how}", "largest step, images"]
    header += ["corner distance, px", "at equal size"] if distorted else []
    return markdown_table([*header, "variance within a class", "ink kept", "ink area"], rows)


def measured(runs, name, digits):
    """The mean over runs of a measure of their transformers, as text; empty without a transformer."""
    values = [run["transformer"][name] for run in runs.values() if run["transformer"]]
    return f"{statistics.fmean(values):.{digits}f}" if values else ""


def before_and_after(runs, name, digits):
    parts = (measured(runs, f"{name}_{when}", digits) for when in ("before", "after"))
    return " → ".join(filter(None, parts))


def at_equal_size(runs):
    """The mean corner distance after the transformer if that left the digits as large as they were, as text."""
    transformers = [run["transformer"] for run in runs.values() if run["transformer"]]
    distances = [measures["corner_distance_after"] / measures["ink_area"] ** 0.5 for measures in transformers]
    return f"{statistics.fmean(distances):.1f}" if distances else ""


def original_table(record):
    """Which of the original's values lie inside our spread, and what becomes of its ranking."""
    runs = {exp_id: [last(run) for run in of_experiment(record, exp_id).values()] for exp_id in ORIGINAL_ACCURACY}
    rows = []
    for exp_id, values in runs.items():
        low, high = stats.prediction_limits(values)
        original = ORIGINAL_ACCURACY[exp_id]
        inside = "yes" if low <= original <= high else "no"
        rows.append([f"`{exp_id}`", f"{original:.2f}", f"{low:.2f} to {high:.2f}", inside])
        rows[-1] += [
            f"{min(values):.2f} to {max(values):.2f}",
            "yes" if min(values) <= original <= max(values) else "no",
        ]
    header = ["", "original %", "one more run of ours (95 %)", "inside", "our runs", "inside"]
    means = {exp_id: statistics.fmean(values) for exp_id, values in runs.items()}
    tau = kendalltau(list(ORIGINAL_ACCURACY.values()), list(means.values()))
    ranks = markdown_table(
        ["ranking", "from the best to the worst"],
        [["the original's", ranking(ORIGINAL_ACCURACY)], ["of our means", ranking(means)]],
    )
    agreement = f"Kendall's tau between the two: {tau.statistic:.2f}, p = {p_text(float(tau.pvalue))}."
    return f"{markdown_table(header, rows)}\n\n{ranks}\n\n{agreement}"


def ranking(values):
    """Order experiments from the best to the worst, equal ones joined by an equals sign."""
    ordered = sorted(values, key=values.get, reverse=True)
    signs = (" = " if values[a] == values[b] else " > " for a, b in itertools.pairwise(ordered))
    return ordered[0] + "".join(sign + name for sign, name in zip(signs, ordered[1:], strict=True))


# speed and faults


def speed_table(speed):
    rows = []
    for r in speed["rows"]:
        steps = f"{r['tutorial_ms_per_step']:.1f}", f"{r['ours_ms_per_step']:.1f}"
        epochs = f"{r['tutorial_seconds_per_epoch']:.1f}", f"{r['ours_seconds_per_epoch']:.1f}"
        rows.append(
            [r["experiment"], *steps, *epochs, f"{r['ratio']:.1f} ({r['ratio_min']:.1f} to {r['ratio_max']:.1f})"]
        )
    minutes = f"{speed['tutorial_minutes_whole_job']:.1f} min", f"{speed['ours_minutes_whole_job']:.1f} min"
    busy = f"{speed['ours_minutes_all_cores_busy']:.1f} min"
    rows.append(["the seven, as one job", "", "", *minutes, f"{speed['ratio_whole_job']:.1f}"])
    rows.append(["while all cores are busy", "", "", minutes[0], busy, f"{speed['ratio_all_cores_busy']:.1f}"])
    header = ["", "ms a step: tutorial", "ours", "s an epoch: tutorial", "ours", "ratio (lowest to highest round)"]
    return markdown_table(header, rows)


def parts_table(job):
    """What the runs of a job spent beside their training."""
    names = [part.removesuffix("_seconds") for part in PARTS]
    runs = sorted(job["rows"], key=lambda row: row["experiment"])
    runs.append({"experiment": "all", **{name: sum(row[name] for row in runs) for name in names}})
    rows = []
    for row in runs:
        total = sum(row[name] for name in names)
        shares = [100 * row[name] / total for name in names[1:]]
        rows.append([row["experiment"], f"{total:.0f}", *(f"{share:.2f} %" for share in (*shares, sum(shares)))])
    header = ["", "seconds", "evaluation", "TensorBoard", "measures, figures, checkpoints, start", "all three"]
    return markdown_table(header, rows)


def formulations_table(record):
    """Plain against fast convolutions, run by run, over the epochs that both completed."""
    rows, first, final, accuracy = [], [], [], []
    for name, plain in record["plain"].items():
        fast = record["fast"][name]
        n = min(len(plain["train_loss"]), len(fast["train_loss"]))
        first.append(100 * (fast["train_loss"][0] / plain["train_loss"][0] - 1))
        final.append(100 * (fast["train_loss"][n - 1] / plain["train_loss"][n - 1] - 1))
        means = [sum(form["test_correct"][n - 5 : n]) / 500 for form in (plain, fast)]
        accuracy.append(means[1] - means[0])
        rows.append([name[:13], n, f"{first[-1]:+.2f} %", f"{final[-1]:+.2f} %", *(f"{mean:.2f}" for mean in means)])
    changes = interval_text(final, 1, "+"), f"{interval_text(accuracy, sign='+')} points"
    rows.append(["all pairs", "", f"largest {max(map(abs, first)):.2f} %", f"{changes[0]} %", "", changes[1]])
    header = ["run", "epochs compared", "train loss of the first, fast against plain", "of the last"]
    return markdown_table([*header, "test accuracy %, mean of the last five: plain", "fast"], rows)


def scale_table(record):
    shown = {"plot": "`plot.py`", "second_start": "a second start", "tensorboard": "TensorBoard lists them"}
    rows = [
        [name, *(f"{statistics.median(record[key][kind]):.1f}" for kind in ("seconds", "cpu_seconds"))]
        for key, name in shown.items()
    ]
    size = f"{record['runs']:,} runs ({record['files']:,} files, {record['megabytes']} MB)"
    return markdown_table([size, "seconds", "of a core"], rows)


def faults_table(record):
    """What was tried to make runs fail, how often nothing was lost, and how soon it was told."""
    rows = [
        [kind, row["tried"], row["survived"], f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else "under 0.1"]
        for kind, row in record["faults"].items()
    ]
    return markdown_table(["fault", "tried", "survived", "longest time until it was told, seconds"], rows)


# documents


def paragraphs(*parts):
    return "\n\n".join(filter(None, parts))


def figure(title, name):
    return f"![{title}]({FIGURES}/{name})"


def comparison_document(record, table, pool=False):
    """Tell all that can be said about the runs in a folder, as Markdown."""
    single = sum(len(runs) == 1 for runs in groups(record).values())
    note = f"{single} of the experiments have one run only, and therefore no interval." if single else ""
    parts = ["# Comparison", results_table(record), note, *(obstacles(record, table) if not pool else ())]
    for name, family in FAMILIES.items():
        if differences := differences_table(record, family, table, pool):
            parts += [f"## Paired differences: {name}", differences]
    if variance := variance_table(record):
        parts += ["## Where the variance comes from", variance]
    return paragraphs(*parts) + "\n"


def results_document(folder, table):
    """Return docs/results.md, from the JSON files in `folder`. table: {id: Experiment}."""

    def read(name):
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    def family(record, name):
        return differences_table(record, FAMILIES[name], table)

    runs, transformers, perspective = read("runs"), read("transformers"), read("perspective")
    job, memory, scale, h100, speed = (read(name) for name in ("job", "memory", "scale", "h100", "benchmark"))
    formulations, faults = read("formulations"), read("faults")
    of_runs = source(runs, "python run_experiments.py --runs 10 && python plot.py --record runs")
    only = "--only exp_02 exp_20 exp_21 exp_22 exp_08 exp_09 exp_10 exp_11"
    of_transformers = source(
        transformers,
        f"python run_experiments.py --device cuda --jobs 20 --runs 6 {only} && python plot.py --record transformers",
    )
    of_perspective = source(
        perspective,
        "python run_experiments.py --device cuda --jobs 20 --set perspective --runs 8 && "
        "python plot.py --record perspective",
    )
    minutes = " and ".join(f"{value:.2f}" for value in h100["minutes"])
    return (
        paragraphs(
            "# Results",
            "Written by `python plot.py --docs` from the files in `results/`, as is every figure here; do not edit. "
            "What the columns mean and how the tests are made: [method.md](method.md).",
            "## The seven experiments",
            results_table(runs),
            of_runs,
            figure("Test accuracy of every run", "AccuracyComparison.png"),
            "### What each asks, and what came out",
            questions_table(runs, table),
            family(runs, "The seven"),
            figure("Paired differences", "Differences.png"),
            "### Where the differences between runs come from",
            variance_table(runs),
            "### Against the original's single runs",
            original_table(runs),
            "### All runs, epoch by epoch",
            figure("Test accuracy of all runs by epoch", "AccuracyCurves.png"),
            figure("Train loss of all runs by epoch", "TrainLossCurves.png"),
            figure("Train loss of exp_01 and exp_02, run 01", "train_loss.png"),
            figure("Confusion matrices of exp_02 and exp_06, and their difference", "ConfusionComparison.png"),
            figure(
                "Test images as they are and as the classifier of exp_02 sees them",
                "visualized_transformation_exp_02.png",
            ),
            "## The swings",
            swings_table(transformers, SWINGS, table),
            family(transformers, "The swings"),
            of_transformers,
            figure("Test accuracy by epoch, with each of the two changes and with both", "StabilityCurves.png"),
            f"The deepest falls in the {len(runs)} runs of the seven:",
            falls_table(runs),
            "## A homography on MNIST as it is",
            transformers_table(transformers, HOMOGRAPHIES, table, distorted=False),
            swings_table(transformers, HOMOGRAPHIES[2:], table),
            family(transformers, "A homography on MNIST as it is"),
            "The runs are those of the section before.",
            "## MNIST in perspective",
            transformers_table(perspective, PERSPECTIVE, table, distorted=True),
            *(family(perspective, name) for name in FAMILIES if name.startswith("In perspective")),
            of_perspective,
            figure("Accuracy of every transformer on MNIST in perspective", "PerspectiveAccuracyComparison.png"),
            figure("Paired differences in perspective", "PerspectiveDifferences.png"),
            figure(
                "One pass of exp_14: the frame that the transformer reads, and what the classifier sees",
                "visualized_transformation_exp_14.png",
            ),
            figure("Four passes of exp_16", "visualized_transformation_exp_16.png"),
            figure("exp_16, epoch by epoch", "transformation_exp_16.gif"),
            figure(
                "Mean and variance of each class before and after the transformer of exp_16",
                "class_statistics_exp_16.png",
            ),
            "## Speed",
            speed_table(speed),
            machine(speed, f"medians of {speed['rounds']} rounds", f"{speed['cores']} cores", speed["command"]),
            "### A whole job, and what its runs spend beside their training",
            f"{job['minutes']:.1f} minutes for {job['runs']} runs, {job['at_a_time']} at a time.",
            parts_table(job),
            machine(job, job["command"]),
            "### Memory",
            f"All processes of the job together: {memory['peak_megabytes']:,} MB, what they share counted once.",
            machine(memory, memory["command"]),
            "### A thousand runs",
            scale_table(scale),
            machine(scale, scale["command"]),
            "### On a GPU",
            f"The seven in {minutes} minutes, {h100['at_a_time']} at a time ({len(h100['minutes'])} jobs).",
            machine(h100, h100["command"]),
            "### Fast against plain convolutions",
            formulations_table(formulations),
            machine(formulations, formulations["command"]),
            "## Faults",
            faults_table(faults),
            machine(faults, faults["command"]),
        )
        + "\n"
    )
