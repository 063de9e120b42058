"""docs/results.md, from results/ and weights/ and from nothing else.

Its text and the order of its tables are in tools/results.md.jinja and in the sections of the studies; the functions
here make the tables. The templates call them, those of lab/tables.py as `tables`, and the methods of a `Page`.
"""

import json
import statistics
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import kendalltau

from lab import stats, tables
from lab.catalogue import load_object, spec_of, studies
from lab.comparison import by_seed, comparisons, families, groups, of_experiment
from lab.published import ORIGINAL_ACCURACY, TUTORIAL_ACCURACY
from lab.results import PARTS, commit, last, last_five, read_checksummed
from lab.tables import differences_table, format_column, interval_text, markdown_table, p_text, paragraphs

ROOT = Path(__file__).resolve().parent.parent
FORMULATIONS = ("exp_02", "exp_03", "exp_07")  # that are trained in the fast and in the plain form
RECORDS = {name: exp_ids for study in studies().values() for name, exp_ids in study.records.items()}


@lru_cache
def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


class Page(NamedTuple):
    """What the page is written from."""

    folder: Path  # results/
    table: dict  # {id: Experiment}

    def read(self, name):
        """Return the content of results/<name>.json."""
        return read_json(self.folder / f"{name}.json")

    def chosen(self, name, columns, exp_ids=None, prefix=""):
        """Return the table of a study's record; columns: "module:name" of them, the rest as in `chosen_table`."""
        return tables.chosen_table(self.read(name), exp_ids or RECORDS[name], self.table, load_object(columns), prefix)

    def differences(self, name, family):
        """Return the table of the paired differences of a family in a record."""
        return differences_table(self.read(name), families()[family], self.table)

    def source(self, name, arguments=None, part=None):
        """Say where the runs of a record, or of a part of it, come from: how many, machine, commit and command.

        arguments: of run_experiments.py, by default those that choose the record's experiments.
        """
        record = self.read(name)[part] if part else self.read(name)
        one, n_runs = next(iter(record.values())), len(record) // len(groups(record))
        on_gpu = "--device cuda --jobs 20" if one["device"] == "cuda" else ""
        arguments = self.only(RECORDS[name]) if arguments is None else arguments
        command = " ".join(filter(None, (f"python run_experiments.py --runs {n_runs}", on_gpu, arguments)))
        command += f" && python tools/records.py --record {name}"
        commits = " and ".join(sorted({commit(run) for run in record.values()}))
        return machine(one, f"{len(record)} runs", command, commits=commits)

    def measurement(self, name, describe, *parts):
        """Describe the measurement in results/<name>.json and say where it comes from; parts: see `machine`."""
        measured = self.read(name)
        parts = [part.format_map(measured) for part in parts]
        return paragraphs(describe(measured), machine(measured, *parts, measured["command"]))

    @staticmethod
    def only(exp_ids):
        return f"--only {' '.join(exp_ids)}"


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
    signs = (" = " if values[a] == values[b] else " > " for a, b in pairwise(ordered))
    return exp_id(ordered[0]) + "".join(sign + exp_id(name) for sign, name in zip(signs, ordered[1:], strict=True))


def rows_table(rows, *columns):
    """Return a table of dicts; columns: (title, format of a cell, for str.format_map)."""
    titles, cells = zip(*columns, strict=True)
    return markdown_table(titles, [[cell.format_map(row) for cell in cells] for row in rows])


RATIO = "{ratio:.1f} ({ratio_min:.1f} to {ratio_max:.1f})"
STEPS = (  # of a recorded step
    ("a recorded step, ms", "{experiment}"),
    ("ordinary layers", "{plain_ms:.1f}"),
    ("ours", "{fast_ms:.1f}"),
    ("ratio (lowest to highest)", RATIO),
)


def speed_table(speed):
    header = ["", "ms a step: tutorial", "ours", "s an epoch: tutorial", "ours", "ratio (lowest to highest round)"]
    keys = ("tutorial_ms_per_step", "ours_ms_per_step", "tutorial_seconds_per_epoch", "ours_seconds_per_epoch")
    rows = [[row["experiment"], *(f"{row[key]:.1f}" for key in keys), RATIO.format_map(row)] for row in speed["rows"]]
    for name, part in (("the seven, as one job", "whole_job"), ("while all cores are busy", "all_cores_busy")):
        minutes = speed["tutorial_minutes_whole_job"], speed[f"ours_minutes_{part}"]
        rows.append([name, "", "", *(f"{value:.1f} min" for value in minutes), f"{speed[f'ratio_{part}']:.1f}"])
    return markdown_table(header, rows)


def core_text(speed):
    """Describe what one core reaches: the convolutions beside a product of large matrices, and steps in both forms."""
    core = speed["core"]
    summary = (
        "{instruction_set}, {images_in_a_register} images in a register. A product of two 1024² matrices runs at "
        "{peak_gflops:.0f} GFLOP/s; at that rate the convolutions of a step of exp_02 take {floor_ms_exp_02:.1f} ms."
    )
    rates = ("GFLOP/s", "{gflops:.0f}"), ("of the peak", "{share_of_peak:.0%}")
    convolutions = rows_table(core["convolutions"], ("convolution, forward and backward", "{convolution}"), *rates)
    return paragraphs(summary.format_map(core), convolutions, rows_table(core["steps"], *STEPS))


def cards_speed_text(record):
    """Describe networks that read cards, on one core: their steps in both forms, and drawing's share of an epoch."""
    summary = "A core draws {scenes_a_second:,} scenes a second.".format_map(record)
    epoch = ("s an epoch", "{epoch_seconds:.1f}"), ("of it drawing", "{drawing_share:.1%}")
    return paragraphs(summary, rows_table(record["rows"], *STEPS, *epoch))


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
    """Tabulate how long it takes to look at many runs."""
    shown = {"plot": "`plot.py`", "second_start": "a second start", "tensorboard": "TensorBoard lists them"}
    size = "{runs:,} runs ({files:,} files, {megabytes} MB)".format_map(record)
    rows = [
        [name, *(f"{statistics.median(record[key][kind]):.1f}" for kind in ("seconds", "cpu_seconds"))]
        for key, name in shown.items()
    ]
    return markdown_table([size, "seconds", "of a core"], rows)


def faults_table(record):
    """Tabulate what was tried to make runs fail, how often nothing was lost, and how soon it was reported."""
    rows = [
        [kind, row["tried"], row["survived"], f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else "under 0.1"]
        for kind, row in record["faults"].items()
    ]
    return markdown_table(["fault", "tried", "survived", "longest time until it was reported, seconds"], rows)


def kept_table(folder):
    """Tabulate the networks in weights/ by their records."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        run = read_checksummed(path)
        title = run["experiment_name"].partition("_run_")[2].partition("_")[2].replace("_", " ")
        summary = [f"`{path.stem}`", title, spec_of(run["data"]).summary, f"{last(run):.2f}", run["seed"]]
        rows.append([*summary, commit(run), f"`{run['weights'][:16]}`"])
    header = ["", "experiment", "MNIST", "accuracy, %", "seed", "commit", "SHA-256 of the weights begins with"]
    return markdown_table(header, rows)


def own_images_table(record):
    """Tabulate the share of pictures of each kind that every network reads."""
    kinds = next(iter(record["rows"].values()))
    rows = [
        [f"`{name}`", *(f"{100 * row[kind] / record['images']:.1f}" for kind in kinds)]
        for name, row in record["rows"].items()
    ]
    return markdown_table([f"read right, % of {record['images']}", *kinds], rows)


def extract_id_table(record):
    """Tabulate how often extract_id.py finds a card and reads its number, and how long a photograph takes."""
    rows = []
    for kind, row in record["rows"].items():
        error = f"{row['corner_error']:.2f}" if "corner_error" in row else ""
        share = f"{100 * row['kept'] / row['scenes']:.1f}"
        rows.append([kind, f"{row['scenes']:,}", row["kept"], share, row.get("right", ""), error])
    header = ["", "photographs", f"a card found, with a confidence of {record['threshold']:.2f} or more", "%"]
    header += ["of those the number is right", "corner error in % of the diagonal, median"]
    seconds = (
        "Seconds for a photograph of 1600×1200 on a core: {to_find:.3f} to find the card, {without_imports:.2f} with "
        "both pictures, {with_imports:.2f} with imports."
    )
    return paragraphs(markdown_table(header, rows), seconds.format_map(record["seconds"]))


def machine(measured, *parts, commits=None):
    """Say where numbers come from: what `lab.folder.provenance` gave, and parts of which the last is a command.

    commits: if there are several.
    """
    version, commits = f"torch {measured['versions']['torch']}", f"commit {commits or commit(measured)}"
    return f"({', '.join([*parts[:-1], measured['device_name'], version, commits])}; command: `{parts[-1]}`)"


def results_document(folder, table):
    """Return docs/results.md, from the JSON files in `folder`. table: {id: Experiment}."""
    templates = Environment(loader=FileSystemLoader(ROOT), undefined=StrictUndefined, trim_blocks=True)
    sections = [study.section for study in studies().values() if study.section]
    names = globals() | {"page": Page(folder, table), "sections": sections}
    return templates.get_template("tools/results.md.jinja").render(names) + "\n"
