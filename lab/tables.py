"""Tables of runs in Markdown, made from records (see lab/results.py) only."""

import math
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
    list_incomparable,
    of_experiment,
    one_run_each,
    split_name,
)
from lab.published import ORIGINAL_ACCURACY
from lab.results import (
    ONE_RUN_EACH,
    correct_images,
    is_lost_run,
    last,
    last_five,
    log_loss,
    lost_runs,
    percentages,
    wrong_images,
)

TARGET_HALF_WIDTH = 0.05  # of the confidence interval, in points (see --within)
N_STEPS = 10  # the last changes from epoch to epoch that are looked at
MIN_DROP = 0.5  # the smallest drop, in points, that is listed


# Cells and rows


def markdown_table(header, rows):
    """Return a table in Markdown, "" without rows."""
    rows = list(rows)
    lines = [header, ["---"] * len(header), *rows] if rows else []
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


CENTRE, MEDIAN = "centre (95 %)", "median (range)"  # titles of what `interval_text` and `median_text` return


def interval_text(values, sign=""):
    """Return the centre of values with its interval; of two to five, that there is none; "" without any."""
    return format_interval(stats.centre_interval(values), sign) if values else ""


def format_interval(interval, sign=""):
    """Format a `stats.Interval`."""
    if interval.low is None:
        return f"{interval.centre:{sign}.2f}{' (no interval)' if interval.n > 1 else ''}"
    return f"{interval.centre:{sign}.2f} ({interval.low:{sign}.2f} to {interval.high:{sign}.2f})"


def median_text(values, sign=""):
    """Return the median of at least one value, and the range."""
    median, low, high = (f"{value:{sign}.2f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})" if len(values) > 1 else median


def p_text(p):
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


# Tables with a row per experiment. A column is (title, function of {run: condensed results}); the function returns text
# or a list of numbers, of which the table shows the centre with its interval.


def experiments_table(rows, *columns):
    """Return the table of `rows`, {label: {run: condensed results}}, with those columns that have anything to say."""
    header, cells = [""], [list(rows)]
    for title, cell_of in columns:
        column = [cell_of(runs) for runs in rows.values()]
        if not any(column):
            continue
        if any(isinstance(cell, list) for cell in column):
            title += f": {CENTRE}" if max(map(len, column)) > 1 else ": one run"
            column = [interval_text(cell) for cell in column]
        header.append(title)
        cells.append(column)
    return markdown_table(header, zip(*cells, strict=True))


def per_run(value):
    return lambda runs: [value(run) for run in runs.values()]


def spread_of(value):
    """Return the column of the median and the range of a value of all runs, "" for one run."""
    return MEDIAN, lambda runs: median_text([*map(value, runs.values())]) if len(runs) > 1 else ""


def common(key):
    """Return a column of a value that all runs of a row have in common."""
    return lambda runs: next(iter(runs.values()))[key]


def transformer_metrics(runs):
    """List what was measured of the transformers of runs."""
    return [run["transformer"] for run in runs.values() if run["transformer"]]


def metric(name, factor=1):
    """Return a column of a transformer's metric in all runs, times a factor; runs without it are left out."""
    return lambda runs: [factor * metrics[name] for metrics in transformer_metrics(runs) if name in metrics]


def centre_metric(name, digits):
    """Return a column of a transformer's metric, as the centre of all runs; "before → after" if there are both."""

    def cell_of(runs):
        measured = transformer_metrics(runs)
        keys = [key for key in (name, f"{name}_before", f"{name}_after") if measured and key in measured[0]]
        return " → ".join(f"{stats.centre(metrics[key] for metrics in measured):.{digits}f}" for key in keys)

    return cell_of


def of_steps(summarise):
    """Return a column that summarises how the number of correct images changes in the last epochs; "" without any."""

    def cell_of(runs):
        sizes = [size for run in runs.values() for size in stats.steps(correct_images(run))[-N_STEPS:]]
        return summarise(sizes) if sizes else ""

    return cell_of


def original(runs):
    """Return the original's accuracy, "" for other experiments and other images."""
    run = next(iter(runs.values()))
    accuracy = ORIGINAL_ACCURACY.get(split_name(run["experiment_name"], run)[0])
    return f"{accuracy:.2f}" if accuracy and all(map(is_plain_mnist, runs.values())) else ""


def largest_since_the_tenth(runs):
    return max(max(stats.steps(correct_images(run)[9:]), default=0) for run in runs.values())


def lowest_after_the_fifth(runs):
    return f"{min(min(percentages(run)[5:], default=100) for run in runs.values()):.2f}"


def error(run):
    """Return the error in % after the last epoch."""
    return 100 - last(run)


def n_lost(runs):
    """Count the runs whose transformer has lost the digits, see `lab.results.is_lost`."""
    return sum(map(is_lost_run, runs.values()))


RUNS, LOST = ("runs", len), ("lost", n_lost)
PARAMETERS = ("parameters", lambda runs: f"{common('trainable_parameters')(runs):,}")
LAST, SPREAD = ("accuracy %, last epoch", per_run(last)), spread_of(last)
LAST_FIVE = ("mean of the last five", per_run(last_five))
ERROR = ("error %, last epoch", per_run(error)), spread_of(error)
LARGEST_STEP = ("largest step, images", of_steps(max))
STEPS = (
    ("step in images: median", of_steps(lambda sizes: f"{statistics.median(sizes):.0f}")),
    ("largest", of_steps(max)),
)
INK = (
    ("variance within a class", centre_metric("within_class_variance", 4)),
    ("ink kept", centre_metric("ink_kept", 3)),
    ("ink area", centre_metric("ink_area", 2)),
)
TRANSFORMS = (RUNS, LOST, LAST, SPREAD, LARGEST_STEP, *INK)
STABILITY = (
    *(RUNS, LOST, LAST, SPREAD, LAST_FIVE, *STEPS),
    ("over 50", of_steps(lambda sizes: f"{100 * sum(size > 50 for size in sizes) / len(sizes):.0f} %")),
    ("largest since the tenth epoch", largest_since_the_tenth),
    ("lowest accuracy % after the fifth", lowest_after_the_fifth),
)
RESULTS = (
    ("epochs", common("n_epochs")),
    *(RUNS, LOST, PARAMETERS, LAST, SPREAD, LAST_FIVE),
    ("original %", original),
    *STEPS,
)


def results_table(record):
    """Every experiment with its runs, by both measures."""
    return experiments_table({f"`{name}`": runs for name, runs in groups(record).items()}, *RESULTS)


def chosen_table(record, exp_ids, table, columns, prefix=""):
    """Those of some experiments that there are runs of; prefix: of their titles, left out."""
    rows = {}
    for exp_id in exp_ids:
        title = table[exp_id].title.removeprefix(prefix).replace("_", " ")
        rows[f"`{exp_id}` {title}"] = of_experiment(record, table[exp_id])
    return experiments_table({label: runs for label, runs in rows.items() if runs}, *columns)


def variance_table(record):
    """Where the variance between the runs of each experiment comes from; "" if the images are not known."""
    rows = []
    for name, runs in groups(record).items():
        wrong = [wrong_images(run) for run in runs.values()]
        if len(wrong) > 1 and None not in wrong:
            total = common("test_total")(runs)
            split = stats.variance_split([[image not in errors for image in range(total)] for errors in wrong])
            numbers = f"{split.between_runs:.1f}", f"{split.finite_test_set:.1f}", f"{100 * split.share:.0f} %"
            rows.append([f"`{name}`", len(runs), *numbers, p_text(split.p_value)])
    header = ["experiment", "runs", "standard deviation between runs, images", "if all runs were equally good"]
    return markdown_table([*header, "share of the variance", "p"], rows)


# Comparisons


def differences_table(record, family, table, pool=False):
    """Paired differences of a family, by both measures and by the test loss; "" if there are none.

    The test loss was not declared as a measure before the runs, so it has no p-value.
    """
    values, rows = (last, last_five, log_loss), []
    by_last, by_five, by_loss = (comparisons(record, family, table, value, pool) for value in values)
    for pair, made in by_last.items():
        (one, other, added), five = pair, by_five[pair]
        row = [f"{added} ({one} − {other})", made.interval.n, f"{made.wins}, {made.losses}"]
        row += [format_interval(made.interval, "+"), median_text(made.differences.values(), "+"), p_text(made.p_value)]
        row += [format_interval(five.interval, "+"), p_text(five.p_value)]
        rows.append([*row, *(loss_cells(by_loss[pair]) if pair in by_loss else ("–", "–"))])
    header = ["what is added", "pairs", "better, worse", f"last epoch, points: {CENTRE}", MEDIAN, "p"]
    header += [f"mean of the last five, points: {CENTRE}", "p", f"test loss, %: {CENTRE}", "lower, higher"]
    return markdown_table(header, rows)


def loss_cells(comparison):
    """Return the cells of a `Comparison` of logarithms of losses: the change in %, and how often it is down and up."""
    n, *logarithms = comparison.interval
    change = stats.Interval(n, *(None if value is None else 100 * math.expm1(value) for value in logarithms))
    return format_interval(change, "+"), f"{comparison.losses}, {comparison.wins}"


def needed_table(record, table, pool=False, within=TARGET_HALF_WIDTH):
    """How many pairs of runs a comparison would need for an interval of ± `within` points; "" if there are no pairs."""
    made, rows = {}, []
    for family in families().values():
        made |= comparisons(record, family, table, pool=pool)
    for (one, other, added), comparison in made.items():
        n, _, low, high = comparison.interval
        numbers = "none", f"at least {stats.MIN_VALUES}", f"at least {stats.MIN_VALUES - n}"
        if low is not None:
            needed = stats.runs_needed(comparison.differences.values(), within)
            numbers = f"± {(high - low) / 2:.2f}", f"{needed:,}", f"{max(0, needed - n):,}"
        rows.append([f"{added} ({one} − {other})", n, *numbers])
    return markdown_table(["comparison", "pairs", "half the interval", "pairs it takes", "more runs of each"], rows)


def drops_table(record, smallest=0.0):
    """The five runs with the largest drops, in points, from one epoch to the next; "" without any."""
    rows = [
        [f"`{name}`", epoch, *(f"{value:.2f}" for value in accuracies)]
        for points, name, epoch, *accuracies in largest_drops(record)[:5]
        if points >= smallest
    ]
    return markdown_table(["run", "in epoch", "accuracy %, before", "after", "at the end"], rows)


# Documents


def paragraphs(*parts):
    return "\n\n".join(filter(None, parts))


def section(title, text):
    """Return text under a heading, "" without text."""
    return text and f"### {title}\n\n{text}"


def comparison_document(record, table, pool=False, within=TARGET_HALF_WIDTH):
    """Return comparison.md, all that can be said about the runs in a folder; within: see `needed_table`."""
    parts = ["# Comparison", *(list_incomparable(record, table) if not pool else ())]
    for (title, _), part in by_data(record).items():
        few = sum(len(runs) < stats.MIN_VALUES for runs in groups(part).values())
        too_few = f"{few} of the experiments have fewer than {stats.MIN_VALUES} runs, and therefore no interval."
        luck = ONE_RUN_EACH if one_run_each(part) else ""
        spec = spec_of(next(iter(part.values()))["data"])
        extra = load_object(spec.extra_table)(part, table) if spec.extra_table else ""
        lost = "\n".join(f"- `{name}` {text}." for name, text in lost_runs(part).items())
        parts += [f"## {title}", results_table(part), lost, too_few if few else "", luck, extra]
        for name, family in families().items():
            parts.append(section(f"Paired differences: {name}", differences_table(part, family, table, pool)))
        needed = needed_table(part, table, pool, within)
        parts.append(section(f"How many runs it takes for ± {within:g} points", needed))
        parts.append(section("Where the variance comes from", variance_table(part)))
        title = f"Falls of {MIN_DROP} points and more from one epoch to the next"
        parts.append(section(title, drops_table(part, MIN_DROP)))
    return paragraphs(*parts) + "\n"
