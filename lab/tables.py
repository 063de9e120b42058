"""Tables of runs in Markdown, made from records (see lab/results.py) only."""

import statistics

from lab import stats
from lab.catalogue import load_object, spec_of
from lab.comparison import (
    by_data,
    comparisons,
    families,
    groups,
    is_plain_mnist,
    largest_drops,
    last_steps,
    of_experiment,
    one_run_each,
    split_name,
    why_incomparable,
)
from lab.published import ORIGINAL_ACCURACY
from lab.results import ONE_RUN_EACH, last, last_five, percentages, wrong_images

ENOUGH = 0.05  # target half-width of the confidence interval, in points (see --within)
DEEP = 0.5  # the smallest fall, in points, that is listed


# Cells and rows


def markdown_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def column(values_by_row, sign=""):
    """Format a column, a list of values for each row: return (how, [text of each row]).

    Each text is the mean with its 95 % interval or, if any row is skewed, the median with the range.
    """
    values_by_row = [list(values) for values in values_by_row]
    skewed = any(stats.is_skewed(values) for values in values_by_row if values)
    tell = median_text if skewed else interval_text
    how = "median (range)" if skewed else "mean ± 95 %" if max(map(len, values_by_row)) > 1 else "one run"
    return how, [tell(values, sign) if values else "" for values in values_by_row]


def interval_text(values, sign="", digits=2):
    mean, low, high = stats.mean_interval(values)
    text = f"{mean:{sign}.{digits}f}"
    return text if low is None else f"{text} ± {(high - low) / 2:.{digits}f}"


def median_text(values, sign=""):
    middle, *limits = (f"{value:{sign}.2f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({' to '.join(limits)})" if len(values) > 1 else middle


def p_text(p):
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


# Tables with a row per experiment. A column is (title, function of {run: condensed results}); the function returns text
# or a list of numbers that `column` formats.


def experiments_table(rows, *columns):
    """Return the table of `rows`, {label: {run: condensed results}}, with these columns."""
    header, cells = [""], [list(rows)]
    for title, tell in columns:
        found = [tell(runs) for runs in rows.values()]
        if isinstance(found[0], list):
            how, found = column(found)
            title += f": {how}"
        header.append(title)
        cells.append(found)
    return markdown_table(header, zip(*cells, strict=True))


def of_runs(value):
    return lambda runs: [value(run) for run in runs.values()]


def shared(key):
    """Return a column of a value that all runs of a row have in common."""
    return lambda runs: next(iter(runs.values()))[key]


def of_measure(name, factor=1):
    """Return a column of a transformer's measure in all runs, times a factor; runs without it are left out."""

    def tell(runs):
        found = (run["transformer"] or {} for run in runs.values())
        return [factor * measures[name] for measures in found if name in measures]

    return tell


def of_steps(tell):
    """Return a column of tell(the changes between the last epochs of all runs); without changes a cell is empty."""
    return lambda runs: tell(sizes) if (sizes := last_steps(runs)) else ""


def measured(name, digits):
    """Return a column of a transformer's measure, as the mean over runs; "before → after" if there are both."""

    def tell(runs):
        measures = [run["transformer"] for run in runs.values() if run["transformer"]]
        keys = [key for key in (name, f"{name}_before", f"{name}_after") if measures and key in measures[0]]
        return " → ".join(f"{statistics.fmean(found[key] for found in measures):.{digits}f}" for key in keys)

    return tell


def original(runs):
    if not all(map(is_plain_mnist, runs.values())):
        return ""
    run = next(iter(runs.values()))
    accuracy = ORIGINAL_ACCURACY.get(split_name(run["experiment_name"], run)[0])
    return f"{accuracy:.2f}" if accuracy else ""


def largest_since_the_tenth(runs):
    return max(max(stats.steps(run["history"]["test_correct"][9:]), default=0) for run in runs.values())


def lowest_after_the_fifth(runs):
    return f"{min(min(percentages(run)[5:], default=100) for run in runs.values()):.2f}"


RUNS = ("runs", len)
LAST = ("accuracy %, last epoch", of_runs(last))
FIVE = ("mean of the last five", of_runs(last_five))
LARGEST = ("largest step, images", of_steps(max))
STEPS = (
    ("step in images: median", of_steps(lambda sizes: f"{statistics.median(sizes):.0f}")),
    ("largest", of_steps(max)),
)
INK = (
    ("variance within a class", measured("within_class_variance", 4)),
    ("ink kept", measured("ink_kept", 3)),
    ("ink area", measured("ink_area", 2)),
)
SWINGING = (
    *(RUNS, LAST, FIVE, *STEPS),
    ("over 50", of_steps(lambda sizes: f"{100 * sum(size > 50 for size in sizes) / len(sizes):.0f} %")),
    ("largest since the tenth epoch", largest_since_the_tenth),
    ("lowest accuracy % after the fifth", lowest_after_the_fifth),
)
RESULTS = (
    ("epochs", shared("n_epochs")),
    RUNS,
    ("parameters", lambda runs: f"{shared('trainable_parameters')(runs):,}"),
    *(LAST, FIVE, ("original %", original), *STEPS),
)


def results_table(record):
    """Every experiment with its runs, by both measures."""
    return experiments_table({f"`{name}`": runs for name, runs in groups(record).items()}, *RESULTS)


def chosen_table(record, exp_ids, table, columns, prefix=""):
    """Some experiments by their ids, without those that are not there; prefix: of their titles, left out."""
    rows = {}
    for exp_id in exp_ids:
        if runs := of_experiment(record, table[exp_id]):
            title = table[exp_id].title.removeprefix(prefix).replace("_", " ")
            rows[f"`{exp_id}` {title}"] = runs
    return experiments_table(rows, *columns)


def variance_table(record):
    """Where the variance between the runs of each experiment comes from; "" if the images are not known."""
    rows = []
    for name, runs in groups(record).items():
        wrong = [wrong_images(run) for run in runs.values()]
        if len(wrong) > 1 and None not in wrong:
            total = shared("test_total")(runs)
            split = stats.variance_split([[image not in errors for image in range(total)] for errors in wrong])
            numbers = f"{split.between_runs:.1f}", f"{split.finite_test_set:.1f}", f"{100 * split.share:.0f} %"
            rows.append([f"`{name}`", len(runs), *numbers, p_text(split.p_value)])
    header = ["experiment", "runs", "standard deviation between runs, images", "if all runs were equally good"]
    return markdown_table([*header, "share of the variance", "p"], rows) if rows else ""


# Comparisons


def differences_table(record, family, table, pool=False):
    """Paired differences of a family, by both measures; "" if there are none."""
    found = [comparisons(record, family, table, value, pool) for value in (last, last_five)]
    if not found[0]:
        return ""
    header, rows = ["what is added", "pairs", "better, worse"], []
    for (one, other, what), pairs in found[0].items():
        rows.append([f"{what} ({one} − {other})", len(pairs.differences), f"{pairs.wins}, {pairs.losses}"])
    for name, pairs in zip(("last epoch", "mean of the last five"), found, strict=True):
        how, cells = column([comparison.differences.values() for comparison in pairs.values()], sign="+")
        tested = any(comparison.p_value is not None for comparison in pairs.values())
        header += [f"{name}, points: {how}", *["p"] * tested]
        for row, cell, comparison in zip(rows, cells, pairs.values(), strict=True):
            row += [cell, *[p_text(comparison.p_value)] * tested]
    return markdown_table(header, rows)


def needed_table(record, table, pool=False, within=ENOUGH):
    """How many pairs of runs a comparison would need for an interval of ± `within` points; "" if there are no pairs."""
    found, rows = {}, []
    for family in families().values():
        found |= comparisons(record, family, table, pool=pool)
    for (one, other, what), comparison in found.items():
        _, low, high = comparison.interval
        if low is not None:
            values = list(comparison.differences.values())
            needed = stats.runs_needed(values, within)
            numbers = f"± {(high - low) / 2:.2f}", f"{needed:,}", f"{max(0, needed - len(values)):,}"
            rows.append([f"{what} ({one} − {other})", len(values), *numbers])
    header = ["comparison", "pairs", "interval", "pairs it takes", "more runs of each"]
    return markdown_table(header, rows) if rows else ""


def falls_table(found):
    """The five deepest of the `largest_drops` of a record."""
    rows = [
        [f"`{name}`", epoch, *(f"{value:.2f}" for value in (before, after, end))]
        for _, name, epoch, before, after, end in found[:5]
    ]
    return markdown_table(["run", "in epoch", "accuracy %, before", "after", "at the end"], rows)


# Documents


def paragraphs(*parts):
    return "\n\n".join(filter(None, parts))


def comparison_document(record, table, pool=False, within=ENOUGH):
    """Tell all that can be said about the runs in a folder, as Markdown; within: see `needed_table`."""
    parts = ["# Comparison", *(why_incomparable(record, table) if not pool else ())]
    for (title, _), part in by_data(record).items():
        single = sum(len(runs) == 1 for runs in groups(part).values())
        note = f"{single} of the experiments have one run only, and therefore no interval." if single else ""
        luck = ONE_RUN_EACH if one_run_each(part) else ""
        spec = spec_of(next(iter(part.values()))["data"])
        extra = [load_object(path)(part, table) for path in [spec.extra_table] if path]
        parts += [f"## {title}", results_table(part), note, luck, *extra]
        for name, family in families().items():
            if differences := differences_table(part, family, table, pool):
                parts += [f"### Paired differences: {name}", differences]
        if needed := needed_table(part, table, pool, within):
            parts += [f"### How many runs it takes for ± {within:g} points", needed]
        if variance := variance_table(part):
            parts += ["### Where the variance comes from", variance]
        if fallen := [fall for fall in largest_drops(part) if fall[0] >= DEEP]:
            parts += [f"### Falls of {DEEP} points and more from one epoch to the next", falls_table(fallen)]
    return paragraphs(*parts) + "\n"
