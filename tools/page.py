"""docs/results.md, from results/ and weights/ and from nothing else.

Its text, the order of its tables and what is only formatted are in tools/*.jinja and in the sections of the studies.
What is computed is here: the templates call a `Page` as `page`, lab/tables.py as `tables`, and some functions.
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
from lab.tables import CENTRE, differences_table, format_interval, interval_text, markdown_table, p_text, paragraphs

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Environment(loader=FileSystemLoader(ROOT), undefined=StrictUndefined, trim_blocks=True)
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

    def has(self, name):
        """Tell whether there is such a file; the runs of some studies are made one record after another."""
        return (self.folder / f"{name}.json").exists()

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
        one, numbers = next(iter(record.values())), [run["run"] for run in record.values()]
        n_runs = max(numbers) if min(numbers) == 1 else f"{min(numbers)}-{max(numbers)}"
        on_gpu = "--device cuda --jobs 20" if one["device"] == "cuda" else ""
        arguments = f"--only {' '.join(RECORDS[name])}" if arguments is None else arguments
        command = " ".join(filter(None, (f"python run_experiments.py --runs {n_runs}", on_gpu, arguments)))
        command += f" && python tools/records.py --record {name}"
        commits = " and ".join(sorted({commit(run) for run in record.values()}))
        return machine(one, f"{len(record)} runs", command, commits=commits)

    def measured(self, name, *parts):
        """Say where the measurement in results/<name>.json comes from; parts: more to say, with fields of it."""
        record = self.read(name)
        return machine(record, *(part.format_map(record) for part in parts), record["command"])

    def kept(self):
        """Return {id: results} of the networks in weights/."""
        return {path.stem: read_checksummed(path) for path in sorted((self.folder.parent / "weights").glob("*.json"))}


def questions_table(tutorial, steady, table):
    """What each of the seven asks, and what came out under the tutorial's recipe and under the steady one."""
    runs = [last(run) for run in of_experiment(tutorial, table["exp_01"]).values()]
    reached = sum(value >= TUTORIAL_ACCURACY for value in runs)
    rows = {"": ["`exp_01`", table["exp_01"].question, f"{reached} of {len(runs)} runs reach {TUTORIAL_ACCURACY} %"]}
    header = ["", "question"]
    for recipe, record, family in (("tutorial's", tutorial, "The seven"), ("steady", steady, "The steady recipe")):
        pairs = comparisons(record, families()[family], table)
        header += [f"{recipe} recipe, points: {CENTRE}", "p", "would be seen"]
        for (one, other, added), comparison in pairs.items():
            cell = format_interval(comparison.interval, "+")
            asks, cell = ("exp_03", f"the transformer: {cell}") if added == "the transformer" else (one, cell)
            row = rows.setdefault(added, [f"`{asks}`", table[asks].question])
            row += [f"{cell} ({one} − {other})", p_text(comparison.p_value)]
            enough, values = comparison.interval.n >= stats.MIN_VALUES, comparison.differences.values()
            row.append(f"{stats.detectable(values, len(families()[family])):.2f}" if enough else "–")
    return markdown_table(header, [row + [""] * (len(header) - len(row)) for row in rows.values()])


def original_table(record):
    """Which of the original's values lie inside our spread, and what becomes of its ranking."""
    original, centres, rows = {}, {}, []
    for name, accuracy in ORIGINAL_ACCURACY.items():
        exp_id = "_".join(name.split("_")[:2])
        values = [last(run) for run in groups(record)[name].values()]
        original[exp_id], centres[exp_id] = accuracy, stats.centre(values)
        rows.append([f"`{exp_id}`", f"{accuracy:.2f}"])
        for low, high in (stats.prediction_limits(values), (min(values), max(values))):
            rows[-1] += [f"{low:.2f} to {high:.2f}", "yes" if low <= accuracy <= high else "no"]
    header = ["", "original %", "one more run of ours (95 %)", "inside", "our runs", "inside"]
    tau = kendalltau(list(original.values()), list(centres.values()))
    ranks = [["the original's", ranking(original)], ["of our centres", ranking(centres)]]
    ranks.append(["Kendall's tau", f"{tau.statistic:.2f}, p = {p_text(float(tau.pvalue))}"])
    return paragraphs(markdown_table(header, rows), markdown_table(["ranking", "from the best to the worst"], ranks))


def ranking(values):
    """Order experiments from the best to the worst, equal ones joined by an equals sign."""
    ordered = sorted(values, key=values.get, reverse=True)
    signs = (" = " if values[a] == values[b] else " > " for a, b in pairwise(ordered))
    return ordered[0] + "".join(sign + exp_id for sign, exp_id in zip(signs, ordered[1:], strict=True))


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


def formulations_table(record):
    """Compare fast with plain convolutions, by experiment: two records, {"fast": …, "plain": …}."""
    plain_runs, pairs, rows = groups(record["plain"]), {}, []
    for name, runs in groups(record["fast"]).items():
        fast, plain = (by_seed(form, lambda run: run) for form in (runs, plain_runs.get(name, {})))
        pairs[f"`{name}`"] = [(fast[seed], plain[seed]) for seed in sorted(fast.keys() & plain.keys())]
    pairs["all"] = [pair for of_one in pairs.values() for pair in of_one]
    for label, of_one in pairs.items():
        first_losses = ([run["history"]["train_loss"][0] for run in pair] for pair in of_one)
        losses = [100 * (fast / plain - 1) for fast, plain in first_losses]
        centres = [stats.centre(map(last, form)) for form in zip(*of_one, strict=True)]
        changes = [[measure(fast) - measure(plain) for fast, plain in of_one] for measure in (last, last_five)]
        cells = [label, len(of_one), interval_text(losses, "+"), f"{max(map(abs, losses)):.2f} %"]
        cells += [f"{centre:.2f}" for centre in centres]
        rows.append([*cells, *(interval_text(change, "+") for change in changes)])
    first = f"first epoch's train loss, fast against plain, %: {CENTRE}"
    accuracies = ["accuracy % after the last epoch: fast", "plain", "fast less plain, points", "mean of the last five"]
    return markdown_table(["", "pairs", first, "largest", *accuracies], rows)


def machine(measured, *parts, commits=None):
    """Say where numbers come from: what `lab.folder.provenance` gave, and parts of which the last is a command.

    commits: if there are several.
    """
    version, commits = f"torch {measured['versions']['torch']}", f"commit {commits or commit(measured)}"
    return f"({', '.join([*parts[:-1], measured['device_name'], version, commits])}; command: `{parts[-1]}`)"


def results_document(folder, table):
    """Return docs/results.md, from the JSON files in `folder`. table: {id: Experiment}."""
    functions = questions_table, original_table, parts_table, formulations_table
    functions += commit, last, load_object, spec_of, statistics.median
    names = {function.__name__: function for function in functions} | {"page": Page(folder, table), "tables": tables}
    names["sections"] = [study.section for study in studies().values() if study.section]
    return TEMPLATES.get_template("tools/results.md.jinja").render(names) + "\n"


def measurement_tables():
    """Return the tables of tools/measurements.md.jinja, as functions of a record."""
    return TEMPLATES.get_template("tools/measurements.md.jinja").module
