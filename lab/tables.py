"""Every table, in Markdown, from records (see lab/results.py) and from nothing else."""

import itertools
import json
import statistics

from scipy.stats import kendalltau

from lab import stats
from lab.comparison import (
    FAMILIES,
    by_data,
    comparisons,
    falls,
    groups,
    is_plain_mnist,
    last_steps,
    obstacles,
    of_experiment,
    one_run_each,
    split_name,
)
from lab.results import PARTS, commit, last, last_five, percentages, read_checksummed, wrong_images
from lab.sets import IC_STN_ERROR, ONE_RUN_EACH, ORIGINAL_ACCURACY, TUTORIAL_ACCURACY

SWINGS = ("exp_02", "exp_20", "exp_21", "exp_22")
HOMOGRAPHIES = ("exp_02", "exp_22", "exp_08", "exp_09", "exp_10", "exp_11")
PERSPECTIVE = tuple(f"exp_{number}" for number in range(12, 20))
WHOLE = ("exp_26", "exp_27", "exp_28", "exp_29")
LONG = "exp_30", "exp_42"
CARD = tuple(f"exp_{number}" for number in range(31, 42))
UPPER_END = "exp_41"  # of them: what the reader makes of cards that are straightened perfectly
ENOUGH = 0.05  # points, of the interval to each side that a user is told the number of runs for
DEEP = 0.5  # points, of a fall worth telling


# Cells and rows


def markdown_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def column(values_by_row, sign=""):
    """Tell the values of each row, a list of lists, as text: (how, [text of each row]).

    By the mean with its 95 % interval, or, where a row is skewed, all rows by the median with the range.
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


def machine(content, *parts, commits=None):
    """Say where numbers come from: what `lab.folder.provenance` gave, and parts of which the last is a command.

    commits: if there are several.
    """
    torch = content["versions"]["torch"]
    what = [*parts[:-1], content["device_name"], f"torch {torch}", f"commit {commits or commit(content)}"]
    return f"({', '.join(what)}; command: `{parts[-1]}`)"


# Experiments, a row each. Columns are (title, function of {run: condensed results}); lists of numbers `column` tells.


def experiments_table(rows, *columns):
    """rows: {label: {run: condensed results}}."""
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
    """What all runs have in common."""
    return lambda runs: next(iter(runs.values()))[key]


def of_measure(name, factor=1):
    """A measure of the transformers of all runs, times a factor; none where a network has no such measure."""

    def tell(runs):
        found = (run["transformer"] or {} for run in runs.values())
        return [factor * measures[name] for measures in found if name in measures]

    return tell


def of_steps(tell):
    """tell: called with the changes between the last epochs, of all runs; without any the cell is empty."""
    return lambda runs: tell(sizes) if (sizes := last_steps(runs)) else ""


def measured(name, digits):
    """The mean over runs of a measure of their transformers; "before → after" where there are two."""

    def tell(runs):
        measures = [run["transformer"] for run in runs.values() if run["transformer"]]
        keys = [key for key in (name, f"{name}_before", f"{name}_after") if measures and key in measures[0]]
        return " → ".join(f"{statistics.fmean(found[key] for found in measures):.{digits}f}" for key in keys)

    return tell


def of_paper(runs):
    """The error of the network of the IC-STN paper that is like that of these runs, where there is one."""
    error = IC_STN_ERROR.get(next(iter(runs.values()))["experiment_name"][:6])
    return f"{error:.2f}" if error else ""


def at_equal_size(runs):
    """The mean corner distance after the transformer if that left the digits as large as they were.

    Without the runs whose transformer has lost the digits from sight.
    """
    measures = [run["transformer"] for run in runs.values() if run["transformer"] and run["transformer"]["ink_area"]]
    distances = [found["corner_distance_after"] / found["ink_area"] ** 0.5 for found in measures]
    return f"{statistics.fmean(distances):.1f}" if distances else ""


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
RESULTS = (
    ("epochs", shared("n_epochs")),
    RUNS,
    ("parameters", lambda runs: f"{shared('trainable_parameters')(runs):,}"),
    *(LAST, FIVE, ("original %", original), *STEPS),
)
SWINGING = (
    *(RUNS, LAST, FIVE, *STEPS),
    ("over 50", of_steps(lambda sizes: f"{100 * sum(size > 50 for size in sizes) / len(sizes):.0f} %")),
    ("largest since the tenth epoch", largest_since_the_tenth),
    ("lowest accuracy % after the fifth", lowest_after_the_fifth),
)
TRANSFORMING = (RUNS, LAST, LARGEST, *INK)
RECTIFYING = (
    *(RUNS, ("error %, last epoch", of_runs(lambda run: 100 - last(run))), ("the paper's", of_paper), LARGEST),
    ("corner distance, px", measured("corner_distance", 1)),
    ("at equal size", at_equal_size),
    *INK,
)


READING = (
    *(RUNS, ("numbers read whole, %", of_runs(last)), ("digits read, %", of_measure("digits_read"))),
    *(("IoU, %", of_measure("iou", 100)), ("IoU of 95 % or more, % of the cards", of_measure("iou_95", 100))),
    ("corner error, % of the diagonal, median card", of_measure("corner_error")),
    ("95th percentile", of_measure("corner_error_p95")),
)


def card_table(record, table):
    """Every experiment with cards; the numbers read in % of those behind the true homography, too."""
    upper = of_experiment(record, table[UPPER_END])

    def of_upper_end(runs):
        return [100 * last(run) / last(upper[number]) for number, run in runs.items() if number in upper]

    return chosen_table(record, CARD, table, (*READING, ("numbers read, % of exp_41's", of_upper_end)))


def strength_curves(record, table):
    """List what is measured on cards at each strength, medians over runs: (title, [(exp_id, strengths, values)])."""
    titles = {"numbers_read": "numbers read whole, %", "digits_read": "digits read, %", "iou": "IoU"}
    titles["corner_error"] = "corner error, % of the diagonal"
    panels = {title: [] for title in titles.values()}
    for exp_id in CARD:
        runs = of_experiment(record, table[exp_id]).values()
        curves = [run["transformer"]["by_strength"] for run in runs if run["transformer"]]
        if "coordconf" not in table[exp_id].title and curves:
            for name, title in titles.items():
                if name in curves[0]:
                    medians = [statistics.median(values) for values in zip(*(c[name] for c in curves), strict=True)]
                    panels[title].append((exp_id, curves[0]["strength"], medians))
    return list(panels.items()) if any(panels.values()) else []


def results_table(record):
    """Every experiment with its runs, by both measures."""
    return experiments_table({f"`{name}`": runs for name, runs in groups(record).items()}, *RESULTS)


def chosen_table(record, exp_ids, table, columns):
    """Some experiments by their ids, without those that are not there."""
    rows = {}
    for exp_id in exp_ids:
        if runs := of_experiment(record, table[exp_id]):
            title = table[exp_id].title.removeprefix("perspective_").removeprefix("card_").replace("_", " ")
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
    for family in FAMILIES.values():
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


def questions_table(tutorial, steady, table):
    """What each of the seven asks, and what came out under the tutorial's recipe and under the steady one."""
    runs = [last(run) for run in of_experiment(tutorial, table["exp_01"]).values()]
    reached = sum(value >= TUTORIAL_ACCURACY for value in runs)
    rows = {"": ["`exp_01`", table["exp_01"].question, f"{reached} of {len(runs)} runs reach {TUTORIAL_ACCURACY} %"]}
    header = ["", "question"]
    for recipe, record, family in (("tutorial's", tutorial, "The seven"), ("steady", steady, "The steady recipe")):
        found = comparisons(record, FAMILIES[family], table)
        how, cells = column([comparison.differences.values() for comparison in found.values()], sign="+")
        header += [f"{recipe} recipe, points: {how}", "p", "would be seen"]
        for ((one, other, what), comparison), cell in zip(found.items(), cells, strict=True):
            asks, cell = ("exp_03", f"the transformer: {cell}") if what == "the transformer" else (one, cell)
            row = rows.setdefault(what, [f"`{asks}`", table[asks].question])
            seen = stats.detectable(list(comparison.differences.values()), len(found))
            row += [f"{cell} ({one} − {other})", p_text(comparison.p_value), f"{seen:.2f}"]
    return markdown_table(header, [row + [""] * (len(header) - len(row)) for row in rows.values()])


def falls_table(found):
    """The five deepest of the `falls` of a record."""
    rows = [
        [f"`{name}`", epoch, *(f"{value:.2f}" for value in (before, after, end))]
        for _, name, epoch, before, after, end in found[:5]
    ]
    return markdown_table(["run", "in epoch", "accuracy %, before", "after", "at the end"], rows)


def original_table(record):
    """Which of the original's values lie inside our spread, and what becomes of its ranking."""
    runs = {name: [last(run) for run in groups(record)[name].values()] for name in ORIGINAL_ACCURACY}
    rows = []
    for name, values in runs.items():
        rows.append([f"`{name[:6]}`", f"{ORIGINAL_ACCURACY[name]:.2f}"])
        for low, high in (stats.prediction_limits(values), (min(values), max(values))):
            rows[-1] += [f"{low:.2f} to {high:.2f}", "yes" if low <= ORIGINAL_ACCURACY[name] <= high else "no"]
    header = ["", "original %", "one more run of ours (95 %)", "inside", "our runs", "inside"]
    medians = {name: statistics.median(values) for name, values in runs.items()}
    tau = kendalltau(list(ORIGINAL_ACCURACY.values()), list(medians.values()))
    ranks = [["the original's", ranking(ORIGINAL_ACCURACY)], ["of our medians", ranking(medians)]]
    ranks.append(["Kendall's tau", f"{tau.statistic:.2f}, p = {p_text(float(tau.pvalue))}"])
    return paragraphs(markdown_table(header, rows), markdown_table(["ranking", "from the best to the worst"], ranks))


def ranking(values):
    """Order experiments from the best to the worst, equal ones joined by an equals sign."""
    ordered = sorted(values, key=values.get, reverse=True)
    signs = (" = " if values[a] == values[b] else " > " for a, b in itertools.pairwise(ordered))
    return ordered[0][:6] + "".join(sign + name[:6] for sign, name in zip(signs, ordered[1:], strict=True))


# Speed and faults


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
    told = (
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
        told,
        markdown_table(["convolution, forward and backward", "GFLOP/s", "of the peak"], rates),
        markdown_table(["a recorded step, ms", "ordinary layers", "ours", "ratio (lowest to highest)"], steps),
    )


def cards_speed_text(record):
    """Tell of networks that read cards, on one core: their steps in both forms, and what drawing takes of an epoch."""
    told = "A core draws {scenes_a_second:,} scenes a second.".format_map(record)
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
    return paragraphs(told, markdown_table(header, rows))


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
    told = "{minutes:.1f} minutes for {runs} runs, {at_a_time} at a time.".format_map(job)
    return paragraphs(told, parts_table(job))


def formulations_table(record):
    """Fast against plain convolutions, by experiment: {"fast": {run: condensed results}, "plain": the same}."""
    rows, everything = [], []
    for name, fast in groups(record["fast"]).items():
        forms = [fast, groups(record["plain"]).get(name, {})]
        pairs = [[form[run] for form in forms] for run in sorted(forms[0].keys() & forms[1].keys())]
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
    told = f"{interval_text(losses, '+')} %", f"{max(map(abs, losses)):.2f} %"
    return [len(pairs), *told, *(f"{mean:.2f}" for mean in means), *changes]


def scale_table(record):
    shown = {"plot": "`plot.py`", "second_start": "a second start", "tensorboard": "TensorBoard lists them"}
    rows = []
    for key, name in shown.items():
        medians = (statistics.median(record[key][kind]) for kind in ("seconds", "cpu_seconds"))
        rows.append([name, *(f"{median:.1f}" for median in medians)])
    size = f"{record['runs']:,} runs ({record['files']:,} files, {record['megabytes']} MB)"
    return markdown_table([size, "seconds", "of a core"], rows)


def faults_table(record):
    """What was tried to make runs fail, how often nothing was lost, and how soon it was told."""
    rows = [
        [kind, row["tried"], row["survived"], f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else "under 0.1"]
        for kind, row in record["faults"].items()
    ]
    return markdown_table(["fault", "tried", "survived", "longest time until it was told, seconds"], rows)


# Networks that are kept, and what they make of images of one's own


def kept_table(folder):
    """Tell of the networks in weights/ what their records say."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        run = read_checksummed(path)
        where = "in perspective" if "perspective_sigma" in run["data"] else "as it is"
        where = "cards" if "cards_strength" in run["data"] else where
        where += ", whole" if "canvas" in run["data"] else ""
        told = [f"`{path.stem}`", run["experiment_name"][14:].replace("_", " "), where, f"{last(run):.2f}", run["seed"]]
        rows.append([*told, commit(run), f"`{run['weights'][:16]}`"])
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
    found = f"a card found, with a confidence of {record['threshold']:.2f} or more"
    header = [
        "",
        "photographs",
        found,
        "%",
        "of those the number is right",
        "corner error in % of the diagonal, median",
    ]
    seconds = (
        "{to_find:.3f} to find the card, {without_imports:.2f} with both pictures, {with_imports:.2f} with imports"
    )
    told = f"Seconds for a photograph of 1600×1200 on a core: {seconds.format_map(record['seconds'])}."
    return paragraphs(markdown_table(header, rows), told)


# Documents


def paragraphs(*parts):
    return "\n\n".join(filter(None, parts))


def comparison_document(record, table, pool=False, within=ENOUGH):
    """Tell all that can be said about the runs in a folder, as Markdown; within: see `needed_table`."""
    parts = ["# Comparison", *(obstacles(record, table) if not pool else ())]
    for (title, _), part in by_data(record).items():
        single = sum(len(runs) == 1 for runs in groups(part).values())
        note = f"{single} of the experiments have one run only, and therefore no interval." if single else ""
        luck = ONE_RUN_EACH if one_run_each(part) else ""
        cards = card_table(part, table) if any("digits" in run["data"] for run in part.values()) else ""
        parts += [f"## {title}", results_table(part), note, luck, cards]
        for name, family in FAMILIES.items():
            if differences := differences_table(part, family, table, pool):
                parts += [f"### Paired differences: {name}", differences]
        if needed := needed_table(part, table, pool, within):
            parts += [f"### How many runs it takes for ± {within:g} points", needed]
        if variance := variance_table(part):
            parts += ["### Where the variance comes from", variance]
        if fallen := [fall for fall in falls(part) if fall[0] >= DEEP]:
            parts += [f"### Falls of {DEEP} points and more from one epoch to the next", falls_table(fallen)]
    return paragraphs(*parts) + "\n"


def results_document(folder, table):
    """Return docs/results.md, from the JSON files in `folder`. table: {id: Experiment}."""

    def read(name):
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    def made(record, arguments, name):
        one, n_runs = next(iter(record.values())), len(record) // len(groups(record))
        on_gpu = "--device cuda --jobs 20" if one["device"] == "cuda" else ""
        command = " ".join(filter(None, (f"python run_experiments.py --runs {n_runs}", on_gpu, arguments)))
        commits = " and ".join(sorted({commit(run) for run in record.values()}))
        return machine(one, f"{len(record)} runs", f"{command} && python plot.py --record {name}", commits=commits)

    def only(exp_ids):
        return f"--only {' '.join(exp_ids)}"

    def measurement(title, name, tell, *parts):
        content = read(name)
        parts = [part.format_map(content) for part in parts]
        return f"### {title}\n\n{tell(content)}\n\n{machine(content, *parts, content['command'])}"

    def differences(record, name):
        return differences_table(record, FAMILIES[name], table)

    def figure(title, name):
        return f"![{title}](../.readme_figures/{name})"

    names = "runs", "steady", "swings", "homography", "perspective", "whole", "long", "card", "formulations"
    runs, steady, swings, homography, perspective, whole, long, card, formulations = map(read, names)
    imitating = read("core_avx2")["core"]["environment"]
    rounds = "medians of {rounds} rounds, {cores} cores"
    before = "Written by `python plot.py --docs` from `results/` and `weights/`, as is every figure here; do not edit."
    kept = (
        "Pictures of single networks show those in `weights/`, most of whose runs are others than those of the tables."
    )
    page = paragraphs(
        "# Results",
        f"{before} What the columns mean and how the tests are made: [method.md](method.md). {kept}",
        "## The seven experiments",
        results_table(runs),
        made(runs, "", "runs"),
        figure("Test accuracy of every run", "AccuracyComparison.png"),
        "### The same questions under the steady recipe",
        results_table(steady),
        made(steady, "--set steady", "steady"),
        figure("Test accuracy of every run under both recipes", "RecipesComparison.png"),
        "### What each asks, and what came out",
        questions_table(runs, steady, table),
        "The steady recipe:",
        differences(steady, "The steady recipe"),
        "The tutorial's recipe:",
        differences(runs, "The seven"),
        figure("Paired differences under the tutorial's recipe", "Differences.png"),
        "### Where the differences between runs come from",
        "Under the tutorial's recipe:",
        variance_table(runs),
        "Under the steady recipe:",
        variance_table(steady),
        "### Against the original's single runs",
        original_table(runs),
        "### All runs, epoch by epoch",
        figure("Test accuracy of all runs by epoch", "AccuracyCurves.png"),
        figure("Train loss of all runs by epoch", "TrainLossCurves.png"),
        figure("Train loss of exp_01 and exp_02, run 01", "train_loss.png"),
        figure("Confusion matrices of exp_02 and exp_06, and their difference", "ConfusionComparison.png"),
        figure("Test images, and as the classifier of exp_02 sees them", "visualized_transformation_exp_02.png"),
        "## The swings",
        chosen_table(swings, SWINGS, table, SWINGING),
        differences(swings, "The swings"),
        made(swings, only(SWINGS), "swings"),
        figure("Test accuracy by epoch, with each of the two changes and with both", "StabilityCurves.png"),
        f"The deepest falls in the {len(runs)} runs of the seven:",
        falls_table(falls(runs)),
        "## A homography on MNIST as it is",
        chosen_table(homography, HOMOGRAPHIES, table, TRANSFORMING),
        chosen_table(homography, HOMOGRAPHIES[2:], table, SWINGING),
        differences(homography, "A homography on MNIST as it is"),
        made(homography, only(HOMOGRAPHIES), "homography"),
        "## MNIST in perspective",
        chosen_table(perspective, PERSPECTIVE, table, RECTIFYING),
        *(differences(perspective, name) for name in FAMILIES if name.startswith("In perspective")),
        made(perspective, only(PERSPECTIVE), "perspective"),
        figure("Accuracy of every transformer on MNIST in perspective", "PerspectiveAccuracyComparison.png"),
        figure("Paired differences in perspective", "PerspectiveDifferences.png"),
        figure("exp_14: the frame that one pass reads, and what it yields", "visualized_transformation_exp_14.png"),
        figure("exp_16: the same after four passes", "visualized_transformation_exp_16.png"),
        figure("exp_16, epoch by epoch", "transformation_exp_16.gif"),
        figure("Mean and variance of each class before and after exp_16", "class_statistics_exp_16.png"),
        "### Whole images",
        chosen_table(whole, WHOLE, table, RECTIFYING),
        differences(whole, "In perspective, whole images"),
        made(whole, only(WHOLE), "whole"),
        figure("Accuracy of every transformer on whole images", "PerspectiveWholeAccuracyComparison.png"),
        figure("Paired differences on whole images", "PerspectiveWholeDifferences.png"),
        "### More images",
        chosen_table(long, LONG, table, (("epochs", shared("n_epochs")), *RECTIFYING)),
        made(long, "--set long", "long"),
        figure("Train loss of both runs by epoch", "LongCurves.png"),
        "## A number on a card",
        card_table(card, table),
        *(differences(card, name) for name in FAMILIES if name.startswith("Cards")),
        made(card, "--set card", "card"),
        figure("Numbers read whole, every run", "CardAccuracyComparison.png"),
        figure("Paired differences of numbers read whole", "CardDifferences.png"),
        figure("Medians of what is measured over the strength of the distortion", "CardStrength.png"),
        "## Networks to try",
        "### What is in weights/",
        kept_table(folder.parent / "weights"),
        measurement("Digits in imitated photographs", "own_images", own_images_table),
        measurement("The number on a card", "extract_id", extract_id_table),
        "## Speed",
        measurement("Beside the tutorial's loop", "benchmark", speed_table, rounds),
        measurement("On one core", "benchmark", core_text),
        measurement("Beside the tutorial's loop, on an AMD EPYC", "benchmark_amd", speed_table, rounds),
        measurement("On one core of an AMD EPYC", "benchmark_amd", core_text),
        measurement(
            "On one core that imitates one with AVX2 alone",
            "core_avx2",
            core_text,
            " ".join(f"{key}={value}" for key, value in imitating.items()),
        ),
        measurement("Cards", "cards_speed", cards_speed_text),
        measurement("A whole job, and what its runs spend beside their training", "job", job_text),
        measurement("Memory", "memory", "All processes of a job together: {peak_megabytes:,} MB at most.".format_map),
        measurement("A thousand runs", "scale", scale_table),
        measurement("On a GPU", "h100", gpu_text),
        "### Fast against plain convolutions",
        formulations_table(formulations),
        made(
            formulations["fast"],
            "--only exp_02 exp_03 exp_07, the same with --plain --out experiments_plain",
            "formulations",
        ),
        "## Faults",
        measurement("What was tried, and how often it held", "faults", faults_table),
    )
    return page + "\n"


def gpu_text(record):
    minutes = " and ".join(f"{value:.2f}" for value in record["minutes"])
    return f"The seven in {minutes} minutes, {record['at_a_time']} at a time."
