"""docs/results.md, from results/ and weights/ and from nothing else."""

import itertools
import json
import statistics
from pathlib import Path
from typing import NamedTuple

from scipy.stats import kendalltau

from lab import catalogue, stats
from lab.catalogue import spec_of
from lab.comparison import by_seed, comparisons, families, groups, of_experiment
from lab.published import ORIGINAL_ACCURACY, TUTORIAL_ACCURACY
from lab.results import PARTS, commit, last, last_five, read_checksummed
from lab.tables import (
    differences_table,
    format_column,
    interval_text,
    markdown_table,
    p_text,
    paragraphs,
    results_table,
    variance_table,
)

FORMULATIONS = ("exp_02", "exp_03", "exp_07")  # that are trained in the fast and in the plain form


class Page(NamedTuple):
    """What a section of the page is written from."""

    folder: Path  # results/
    table: dict  # {id: Experiment}

    def read(self, name):
        """Return the content of results/<name>.json."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def differences(self, record, name):
        """Return the table of the paired differences of a family."""
        return differences_table(record, families()[name], self.table)

    def source(self, record, arguments, name):
        """Say where the runs of a record come from: how many, the machine, the commit and the command."""
        one, n_runs = next(iter(record.values())), len(record) // len(groups(record))
        on_gpu = "--device cuda --jobs 20" if one["device"] == "cuda" else ""
        command = " ".join(filter(None, (f"python run_experiments.py --runs {n_runs}", on_gpu, arguments)))
        commits = " and ".join(sorted({commit(run) for run in record.values()}))
        return machine(
            one, f"{len(record)} runs", f"{command} && python tools/records.py --record {name}", commits=commits
        )

    def measurement(self, title, name, describe, *parts):
        """Return a section on a measurement in results/<name>.json."""
        measured = self.read(name)
        parts = [part.format_map(measured) for part in parts]
        return f"### {title}\n\n{describe(measured)}\n\n{machine(measured, *parts, measured['command'])}"

    @staticmethod
    def only(exp_ids):
        return f"--only {' '.join(exp_ids)}"

    @staticmethod
    def figure(title, name):
        return f"![{title}](../.readme_figures/{name})"


def questions_table(tutorial, steady, table):
    """What each of the seven asks, and what came out under the tutorial's recipe and under the steady one."""
    runs = [last(run) for run in of_experiment(tutorial, table["exp_01"]).values()]
    reached = sum(value >= TUTORIAL_ACCURACY for value in runs)
    rows = {"": ["`exp_01`", table["exp_01"].question, f"{reached} of {len(runs)} runs reach {TUTORIAL_ACCURACY} %"]}
    header = ["", "question"]
    for recipe, record, family in (("tutorial's", tutorial, "The seven"), ("steady", steady, "The steady recipe")):
        pairs = comparisons(record, families()[family], table)
        how, cells = format_column([comparison.differences.values() for comparison in pairs.values()], sign="+")
        header += [f"{recipe} recipe, points: {how}", "p", "would be seen"]
        for ((one, other, what), comparison), cell in zip(pairs.items(), cells, strict=True):
            asks, cell = ("exp_03", f"the transformer: {cell}") if what == "the transformer" else (one, cell)
            row = rows.setdefault(what, [f"`{asks}`", table[asks].question])
            seen = stats.detectable(list(comparison.differences.values()), len(families()[family]))
            row += [f"{cell} ({one} − {other})", p_text(comparison.p_value), f"{seen:.2f}"]
    return markdown_table(header, [row + [""] * (len(header) - len(row)) for row in rows.values()])


def original_table(record):
    """Which of the original's values lie inside our spread, and what becomes of its ranking."""
    runs = {name: [last(run) for run in groups(record)[name].values()] for name in ORIGINAL_ACCURACY}
    rows = []
    for name, values in runs.items():
        rows.append([f"`{exp_id(name)}`", f"{ORIGINAL_ACCURACY[name]:.2f}"])
        for low, high in (stats.prediction_limits(values), (min(values), max(values))):
            rows[-1] += [f"{low:.2f} to {high:.2f}", "yes" if low <= ORIGINAL_ACCURACY[name] <= high else "no"]
    header = ["", "original %", "one more run of ours (95 %)", "inside", "our runs", "inside"]
    medians = {name: statistics.median(values) for name, values in runs.items()}
    tau = kendalltau(list(ORIGINAL_ACCURACY.values()), list(medians.values()))
    ranks = [["the original's", ranking(ORIGINAL_ACCURACY)], ["of our medians", ranking(medians)]]
    ranks.append(["Kendall's tau", f"{tau.statistic:.2f}, p = {p_text(float(tau.pvalue))}"])
    return paragraphs(markdown_table(header, rows), markdown_table(["ranking", "from the best to the worst"], ranks))


def exp_id(name):
    """Return the id in the name of an experiment, "exp_01" of "exp_01_reproduce_baseline"."""
    return "_".join(name.split("_")[:2])


def ranking(values):
    """Order experiments from the best to the worst, equal ones joined by an equals sign."""
    ordered = sorted(values, key=values.get, reverse=True)
    signs = (" = " if values[a] == values[b] else " > " for a, b in itertools.pairwise(ordered))
    return exp_id(ordered[0]) + "".join(sign + exp_id(name) for sign, name in zip(signs, ordered[1:], strict=True))


RATIO = "{ratio:.1f} ({ratio_min:.1f} to {ratio_max:.1f})"


def speed_table(speed):
    keys = ("tutorial_ms_per_step", "ours_ms_per_step", "tutorial_seconds_per_epoch", "ours_seconds_per_epoch")
    rows = []
    for row in speed["rows"]:
        ratio = RATIO.format_map(row)
        rows.append([row["experiment"], *(f"{row[key]:.1f}" for key in keys), ratio])
    for name, part in (("the seven, as one job", "whole_job"), ("while all cores are busy", "all_cores_busy")):
        minutes = speed["tutorial_minutes_whole_job"], speed[f"ours_minutes_{part}"]
        rows.append([name, "", "", *(f"{value:.1f} min" for value in minutes), f"{speed[f'ratio_{part}']:.1f}"])
    header = ["", "ms a step: tutorial", "ours", "s an epoch: tutorial", "ours", "ratio (lowest to highest round)"]
    return markdown_table(header, rows)


def core_text(speed):
    """What one core reaches: the convolutions beside the product of two large matrices, and steps in both forms."""
    core = speed["core"]
    summary = (
        "{instruction_set}, {images_in_a_register} images in a register. A product of two 1024² matrices runs at "
        "{peak_gflops:.0f} GFLOP/s; at that rate the convolutions of a step of exp_02 take {floor_ms_exp_02:.1f} ms."
    ).format_map(core)
    rates, steps = (
        [[form.format_map(row) for form in forms] for row in core[part]]
        for part, forms in (
            ("convolutions", ("{convolution}", "{gflops:.0f}", "{share_of_peak:.0%}")),
            ("steps", ("{experiment}", "{plain_ms:.1f}", "{fast_ms:.1f}", RATIO)),
        )
    )
    return paragraphs(
        summary,
        markdown_table(["convolution, forward and backward", "GFLOP/s", "of the peak"], rates),
        markdown_table(["a recorded step, ms", "ordinary layers", "ours", "ratio (lowest to highest)"], steps),
    )


def cards_speed_text(record):
    """Tell of networks that read cards, on one core: their steps in both forms, and what drawing takes of an epoch."""
    summary = "A core draws {scenes_a_second:,} scenes a second.".format_map(record)
    forms = "{experiment}", "{plain_ms:.1f}", "{fast_ms:.1f}", RATIO, "{epoch_seconds:.1f}", "{drawing_share:.1%}"
    rows = [[form.format_map(row) for form in forms] for row in record["rows"]]
    header = [
        "a recorded step, ms",
        "ordinary layers",
        "ours",
        "ratio (lowest to highest)",
        "s an epoch",
        "of it drawing",
    ]
    return paragraphs(summary, markdown_table(header, rows))


def parts_table(job):
    """What the runs of a job spent beside their training."""
    names = [part.removesuffix("_seconds") for part in PARTS]
    spent = [(row["experiment"], [row[name] for name in names]) for row in job["rows"]]
    total = "all", [sum(seconds) for seconds in zip(*(seconds for _, seconds in spent), strict=True)]
    rows = []
    for experiment, seconds in [*sorted(spent), total]:
        shares = [100 * part / sum(seconds) for part in (*seconds[1:], sum(seconds[1:]))]
        rows.append([experiment, f"{sum(seconds):.0f}", *(f"{share:.2f} %" for share in shares)])
    header = ["", "seconds", "evaluation", "TensorBoard", "measures, figures, checkpoints, start", "all three"]
    return markdown_table(header, rows)


def job_text(job):
    summary = "{minutes:.1f} minutes for {runs} runs, {at_a_time} at a time.".format_map(job)
    return paragraphs(summary, parts_table(job))


def formulations_table(record):
    """Fast against plain convolutions, by experiment: two records, {"fast": …, "plain": …}."""
    rows, everything = [], []
    for name, fast in groups(record["fast"]).items():
        ours, theirs = (by_seed(runs, lambda run: run) for runs in (fast, groups(record["plain"]).get(name, {})))
        pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
        everything += pairs
        rows.append([f"`{name}`", *formulations_cells(pairs)])
    rows.append(["all", *formulations_cells(everything)])
    first = "first epoch's train loss, fast against plain: mean"
    accuracies = ["accuracy % after the last epoch: fast", "plain", "fast less plain, points", "mean of the last five"]
    return markdown_table(["", "pairs", first, "largest", *accuracies], rows)


def formulations_cells(pairs):
    """The cells of the pairs (fast, plain)."""
    first_losses = ([run["history"]["train_loss"][0] for run in pair] for pair in pairs)
    losses = [100 * (fast / plain - 1) for fast, plain in first_losses]
    means = [statistics.fmean(map(last, form)) for form in zip(*pairs, strict=True)]
    changes = [interval_text([value(fast) - value(plain) for fast, plain in pairs], "+") for value in (last, last_five)]
    summary = f"{interval_text(losses, '+')} %", f"{max(map(abs, losses)):.2f} %"
    return [len(pairs), *summary, *(f"{mean:.2f}" for mean in means), *changes]


def scale_table(record):
    shown = {"plot": "`plot.py`", "second_start": "a second start", "tensorboard": "TensorBoard lists them"}
    rows = []
    for key, name in shown.items():
        medians = (statistics.median(record[key][kind]) for kind in ("seconds", "cpu_seconds"))
        rows.append([name, *(f"{median:.1f}" for median in medians)])
    size = f"{record['runs']:,} runs ({record['files']:,} files, {record['megabytes']} MB)"
    return markdown_table([size, "seconds", "of a core"], rows)


def faults_table(record):
    """What was tried to make runs fail, how often nothing was lost, and how soon it was reported."""
    rows = [
        [kind, row["tried"], row["survived"], f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else "under 0.1"]
        for kind, row in record["faults"].items()
    ]
    return markdown_table(["fault", "tried", "survived", "longest time until it was reported, seconds"], rows)


def kept_table(folder):
    """Tell of the networks in weights/ what their records say."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        run = read_checksummed(path)
        title = run["experiment_name"].partition("_run_")[2].partition("_")[2].replace("_", " ")
        summary = [f"`{path.stem}`", title, spec_of(run["data"]).summary, f"{last(run):.2f}", run["seed"]]
        rows.append([*summary, commit(run), f"`{run['weights'][:16]}`"])
    header = ["", "experiment", "MNIST", "accuracy, %", "seed", "commit", "SHA-256 of the weights begins with"]
    return markdown_table(header, rows)


def own_images_table(record):
    """Tell how many pictures of each kind every network reads."""
    kinds = list(next(iter(record["rows"].values())))
    rows = [
        [f"`{name}`", *(f"{100 * row[kind] / record['images']:.1f}" for kind in kinds)]
        for name, row in record["rows"].items()
    ]
    return markdown_table([f"read right, % of {record['images']}", *kinds], rows)


def extract_id_table(record):
    """Tell how often extract_id.py finds a card and reads its number, and how long a photograph takes."""
    rows = []
    for kind, row in record["rows"].items():
        error = f"{row['corner_error']:.2f}" if "corner_error" in row else ""
        share = f"{100 * row['kept'] / row['scenes']:.1f}"
        rows.append([kind, f"{row['scenes']:,}", row["kept"], share, row.get("right", ""), error])
    found_header = f"a card found, with a confidence of {record['threshold']:.2f} or more"
    header = [
        "",
        "photographs",
        found_header,
        "%",
        "of those the number is right",
        "corner error in % of the diagonal, median",
    ]
    seconds = (
        "{to_find:.3f} to find the card, {without_imports:.2f} with both pictures, {with_imports:.2f} with imports"
    )
    summary = f"Seconds for a photograph of 1600×1200 on a core: {seconds.format_map(record['seconds'])}."
    return paragraphs(markdown_table(header, rows), summary)


def gpu_text(record):
    minutes = " and ".join(f"{value:.2f}" for value in record["minutes"])
    return f"The seven in {minutes} minutes, {record['at_a_time']} at a time."


def machine(measured, *parts, commits=None):
    """Say where numbers come from: what `lab.folder.provenance` gave, and parts of which the last is a command.

    commits: if there are several.
    """
    torch = measured["versions"]["torch"]
    what = [*parts[:-1], measured["device_name"], f"torch {torch}", f"commit {commits or commit(measured)}"]
    return f"({', '.join(what)}; command: `{parts[-1]}`)"


def results_document(folder, table):
    """Return docs/results.md, from the JSON files in `folder`. table: {id: Experiment}."""
    page = Page(folder, table)
    runs, steady, formulations = map(page.read, ("runs", "steady", "formulations"))
    imitating = page.read("core_avx2")["core"]["environment"]
    rounds = "medians of {rounds} rounds, {cores} cores"
    before = (
        "Written by `python tools/records.py --docs` from `results/` and `weights/`, as is every figure here; "
        "do not edit."
    )
    kept = "Pictures of single networks show the ones in `weights/`; these are mostly not runs from the tables."
    sections = [
        part
        for study in catalogue.studies().values()
        if study.section
        for part in catalogue.load_object(study.section)(page)
    ]
    document = paragraphs(
        "# Results",
        f"{before} What the columns mean and how the tests are made: [method.md](method.md). {kept}",
        "## The seven experiments",
        results_table(runs),
        page.source(runs, "", "runs"),
        page.figure("Test accuracy of every run", "AccuracyComparison.png"),
        "### The same questions under the steady recipe",
        results_table(steady),
        page.source(steady, "--set steady", "steady"),
        page.figure("Test accuracy of every run under both recipes", "RecipesComparison.png"),
        "### What each asks, and what came out",
        questions_table(runs, steady, table),
        "The steady recipe:",
        page.differences(steady, "The steady recipe"),
        "The tutorial's recipe:",
        page.differences(runs, "The seven"),
        page.figure("Paired differences under the tutorial's recipe", "Differences.png"),
        "### Where the differences between runs come from",
        "Under the tutorial's recipe:",
        variance_table(runs),
        "Under the steady recipe:",
        variance_table(steady),
        "### Against the original's single runs",
        original_table(runs),
        "### All runs, epoch by epoch",
        page.figure("Test accuracy of all runs by epoch", "AccuracyCurves.png"),
        page.figure("Train loss of all runs by epoch", "TrainLossCurves.png"),
        page.figure("Train loss of exp_01 and exp_02, run 01", "train_loss.png"),
        page.figure("Confusion matrices of exp_02 and exp_06, and their difference", "ConfusionComparison.png"),
        page.figure("Test images, and as the classifier of exp_02 sees them", "visualized_transformation_exp_02.png"),
        *sections,
        "## Networks to try",
        "### What is in weights/",
        kept_table(folder.parent / "weights"),
        page.measurement("Digits in imitated photographs", "own_images", own_images_table),
        page.measurement("The number on a card", "extract_id", extract_id_table),
        "## Speed",
        page.measurement("Beside the tutorial's loop", "benchmark", speed_table, rounds),
        page.measurement("On one core", "benchmark", core_text),
        page.measurement("Beside the tutorial's loop, on an AMD EPYC", "benchmark_amd", speed_table, rounds),
        page.measurement("On one core of an AMD EPYC", "benchmark_amd", core_text),
        page.measurement(
            "On one core that imitates one with AVX2 alone",
            "core_avx2",
            core_text,
            " ".join(f"{key}={value}" for key, value in imitating.items()),
        ),
        page.measurement("Cards", "cards_speed", cards_speed_text),
        page.measurement("A whole job, and what its runs spend beside their training", "job", job_text),
        page.measurement(
            "Memory", "memory", "All processes of a job together: {peak_megabytes:,} MB at most.".format_map
        ),
        page.measurement("A thousand runs", "scale", scale_table),
        page.measurement("On a GPU", "h100", gpu_text),
        "### Fast against plain convolutions",
        formulations_table(formulations),
        page.source(
            formulations["fast"],
            f"{page.only(FORMULATIONS)}, the same with --plain --out experiments_plain",
            "formulations",
        ),
        "## Faults",
        page.measurement("What was tried, and how often it held", "faults", faults_table),
    )
    return document + "\n"
