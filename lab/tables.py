"""What the README and plot.py say about runs: tables and sentences, made from results and from nothing else.

A *record* is {name of a run: its condensed results (see results.py)}; the files in results/ are records. In the README
a text stands between two comments, `<!-- name -->` and `<!-- end -->`; `plot.py --readme` fills it.
"""

import itertools
import json
import re
import statistics

from scipy.stats import kendalltau

from lab import stats
from lab.results import wrong_images
from lab.stats import compare, holm, mean_interval
from run_experiments import EXPERIMENTS, SETS, row_of

# The original's test accuracies in %: exp_02 and exp_06 exact, the others read off its bar chart (± 0.02).
SEVEN = EXPERIMENTS[:7]  # the study's; who adds a row has more
ORIGINAL = dict(zip((e.id for e in SEVEN), (98.70, 98.84, 98.55, 98.54, 98.86, 99.06, 98.84), strict=True))
# The records in results/, and the experiments of each.
RECORDS = {
    "runs": tuple(experiment.id for experiment in SEVEN),
    "transformers": ("exp_02", "exp_20", "exp_21", "exp_22", "exp_08", "exp_09", "exp_10", "exp_11"),
    "perspective": tuple(experiment.id for experiment in SETS["perspective"]),
}
# Families of comparisons: (experiment, its partner, what the one has and the other has not). Those of the original's
# are in the order of its sections, exp_02 to exp_07.
ORIGINAL_PAIRS = (
    ("exp_02", "exp_01", "ten more epochs"),
    ("exp_02", "exp_03", "the transformer"),
    ("exp_04", "exp_03", "CoordConv in the classifier, without a transformer"),
    ("exp_05", "exp_02", "CoordConv in the classifier"),
    ("exp_06", "exp_02", "CoordConv in the localisation network"),
    ("exp_07", "exp_02", "CoordConv in both"),
)
STABILITY_PAIRS = (
    ("exp_20", "exp_02", "padding with the background"),
    ("exp_21", "exp_02", "a slow localisation network"),
    ("exp_22", "exp_02", "both"),
)
HOMOGRAPHY_PAIRS = (
    ("exp_08", "exp_02", "a homography, background and slow localisation"),
    ("exp_08", "exp_22", "a homography alone"),
    ("exp_09", "exp_08", "CoordConv in the classifier"),
    ("exp_10", "exp_08", "CoordConv in the localisation network"),
    ("exp_11", "exp_08", "CoordConv in both"),
)
PERSPECTIVE_PAIRS = (
    ("exp_14", "exp_13", "a homography instead of an affine transform"),
    ("exp_16", "exp_17", "with four passes, a homography instead of an affine transform"),
)
PASSES_PAIRS = (
    ("exp_13", "exp_12", "one affine pass"),
    ("exp_15", "exp_14", "a second pass of a homography"),
    ("exp_16", "exp_15", "a third and a fourth pass"),
    ("exp_17", "exp_13", "three more affine passes"),
)
PERSPECTIVE_COORDCONV_PAIRS = (
    ("exp_18", "exp_14", "CoordConv in the localisation network"),
    ("exp_19", "exp_16", "with four passes, CoordConv in the localisation network"),
)
# One family of comparisons a question; the p-values of a family are corrected together.
FAMILIES = {
    "the seven experiments": ORIGINAL_PAIRS,
    "the swings": STABILITY_PAIRS,
    "a homography on MNIST as it is": HOMOGRAPHY_PAIRS,
    "in perspective, homography against affine": PERSPECTIVE_PAIRS,
    "in perspective, passes": PASSES_PAIRS,
    "in perspective, CoordConv": PERSPECTIVE_COORDCONV_PAIRS,
}
ALL_PERSPECTIVE_PAIRS = PERSPECTIVE_PAIRS + PASSES_PAIRS + PERSPECTIVE_COORDCONV_PAIRS
N_STEPS = 10  # the last changes from epoch to epoch that are looked at


# ---------------------------------------------------------------------------------------------- runs and their values


def groups(record):
    """{experiment, its directory's name without the number of the run: {run: condensed results}}."""
    found = {}
    for name, run in record.items():
        found.setdefault(re.sub(r"_run_\d+", "", name, count=1), {})[run["run"]] = run
    return found


def of_experiment(record, identity):
    """{run: condensed results} of an experiment of the tables by its id; {} if there are none."""
    experiment = row_of(identity)
    return {run["run"]: run for name, run in record.items() if name == experiment.directory(run["run"])}


def percentages(run):
    """Test accuracy in % after each epoch."""
    return [100 * correct / run["test_total"] for correct in run["history"]["test_correct"]]


def last(run):
    """Accuracy in % after the last epoch."""
    return percentages(run)[-1]


def last_five(run):
    """Mean accuracy in % after the last five epochs: a measure that a single swing does not decide."""
    return statistics.fmean(percentages(run)[-5:])


def by_run(runs, value):
    return {number: value(run) for number, run in runs.items()}


def last_steps(runs):
    """The changes of the number of correct test images between neighbouring ones of the last epochs, of all runs."""
    return [size for run in runs.values() for size in stats.steps(run["history"]["test_correct"], N_STEPS)]


def provenance(run):
    """What must be equal in runs that are compared: the code, the machine's kind, the form, the data."""
    keys = ("git_commit", "device", "device_name", "versions", "plain_convolutions", "batch_size", "threads", "data")
    return {key: run.get(key) for key in keys}


def poolable(record):
    """(the record without runs that must not be pooled with the others of their experiment, [a line about each]).

    The runs of an experiment belong together if they have the same settings, data, code and machine. Of several such
    sets the largest is kept, of equal ones that with more epochs.
    """
    kept, complaints = {}, []
    own = {"run", "seed", "experiment_name", "state_dict"}  # these may differ, and what a run has measured
    measured = {"avg_test_loss", "test_correct", "seconds", "train_seconds", "transformer", "history", "wrong"}
    for name, runs in groups(record).items():
        sets = {}
        for run in runs.values():
            settings = {key: value for key, value in run.items() if key not in own | measured}
            sets.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
        ranked = sorted(sets.items(), key=lambda item: (len(item[1]), item[1][0]["n_epochs"]), reverse=True)
        reference = json.loads(ranked[0][0])
        kept |= {run["experiment_name"]: run for run in ranked[0][1]}
        for settings, others in ranked[1:]:
            settings = json.loads(settings)
            different = [key for key in settings | reference if settings.get(key) != reference.get(key)]
            numbers = ", ".join(f"{run['run']:02d}" for run in others)
            what = ", ".join(
                f"{key} {brief(settings.get(key))} instead of {brief(reference.get(key))}" for key in different
            )
            complaints.append(f"{name}: run {numbers} left out, it has {what} (--pool keeps it)")
    return {name: run for name, run in record.items() if name in kept}, complaints


def brief(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:50]} …"


def comparable(runs, others):
    """Whether two experiments were run with the same code on the same kind of machine."""
    return all(provenance(run) == provenance(other) for run in runs.values() for other in others.values())


def comparisons(record, pairs, value=last, pool=False):
    """[((experiment, partner, what), Comparison, p-value after Holm's correction)] of those pairs that can be made."""
    found = []
    for pair in pairs:
        ours, others = (of_experiment(record, identity) for identity in pair[:2])
        comparison = compare(by_run(ours, value), by_run(others, value))
        if comparison and (pool or not obstacle(record, pair)):
            found.append((pair, comparison))
    adjusted = holm([comparison.p_value for _, comparison in found])
    return [(pair, comparison, p) for (pair, comparison), p in zip(found, adjusted, strict=True)]


def obstacle(record, pair):
    """Why two experiments must not be compared in pairs, or None; each has runs of one kind (see `poolable`)."""
    ours, others = (next(iter(of_experiment(record, identity).values()), None) for identity in pair[:2])
    if not ours or not others:
        return None
    different = [key for key, value in provenance(ours).items() if value != provenance(others)[key]]
    epochs = [run["n_epochs"] for run in (ours, others)]
    table = [row_of(identity).epochs for identity in pair[:2]]
    different += ["n_epochs"] * (epochs[0] != epochs[1] and epochs != table)  # some differ by intention
    return f"{pair[0]} and {pair[1]} are not compared: they differ in {', '.join(different)}" if different else None


def refused(record):
    """A line about each pair of experiments that is there and is not compared."""
    pairs = dict.fromkeys(pair[:2] for pairs in FAMILIES.values() for pair in pairs)
    return [f"{why} (--pool compares them)" for pair in pairs if (why := obstacle(record, pair))]


# --------------------------------------------------------------------------------------------------------- as Markdown


def markdown_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def with_interval(values, digits=2, sign=""):
    """Mean and 95 % interval of several runs, as text."""
    return interval_text(mean_interval(list(values)), digits, sign)


def interval_text(interval, digits=2, sign=""):
    text = f"{interval.mean:{sign}.{digits}f}"
    if interval.half is None:
        return text
    if interval.method == "BCa bootstrap":  # not symmetric
        return f"{text} ({interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f})"
    return f"{text} ± {interval.half:.{digits}f}"


def p_text(p):
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p):
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def results_table(record):
    """Every experiment with its runs, by both measures."""
    rows = []
    for name, runs in groups(record).items():
        sizes = last_steps(runs)
        one = next(iter(runs.values()))
        rows.append(
            [
                f"`{name}`",
                one["n_epochs"],
                len(runs),
                f"{one['live_parameters']:,}",
                with_interval(map(last, runs.values())),
                with_interval(map(last_five, runs.values())),
                f"{ORIGINAL[name[:6]]:.2f}" if name[:6] in ORIGINAL else "",
                f"{statistics.median(sizes):.0f}, {max(sizes)}" if sizes else "",
            ]
        )
    header = ["experiment", "epochs", "runs", "live parameters", "accuracy %, last epoch", "mean of the last five"]
    header += ["original %", "step: median, largest"]
    return markdown_table(header, rows)


def differences_table(record, pairs, pool=False):
    """Paired differences of a family, by both measures."""
    rows = []
    ends, means = (comparisons(record, pairs, value, pool) for value in (last, last_five))
    for (pair, end, p), (_, mean, p_mean) in zip(ends, means, strict=True):
        images = 100 * end.interval.mean  # of 10,000
        rows.append(
            [
                f"{pair[2]} ({pair[0]} − {pair[1]})",
                len(end.differences),
                difference_text(end),
                f"{images:+.0f}",
                f"{end.wins}, {end.losses}",
                p_text(p),
                difference_text(mean),
                p_text(p_mean),
            ]
        )
    header = ["what is added", "pairs", "accuracy, last epoch, points", "images of 10,000", "better, worse", "p (Holm)"]
    return markdown_table([*header, "mean of the last five, points", "p (Holm)"], rows)


def difference_text(comparison):
    return interval_text(comparison.interval, sign="+")


def variance_table(record):
    """Where the variance between the runs of each experiment comes from."""
    rows = []
    for name, runs in groups(record).items():
        wrong = [wrong_images(run) for run in runs.values()]
        if len(wrong) < 2 or None in wrong:
            continue
        total = next(iter(runs.values()))["test_total"]
        split = stats.variance_split([[image not in errors for image in range(total)] for errors in wrong])
        rows.append(
            [
                f"`{name}`",
                len(runs),
                f"{split.between_runs:.1f}",
                f"{split.finite_test_set:.1f}",
                f"{100 * split.share:.0f} %",
                p_text(split.p_value),
            ]
        )
    header = ["experiment", "runs", "standard deviation between runs, images", "if all runs were equally good"]
    return markdown_table([*header, "share of the variance", "p"], rows)


def swings_table(record, identities):
    """How much the accuracy changes from epoch to epoch."""
    rows = []
    for identity in identities:
        runs = of_experiment(record, identity)
        if not runs:
            continue
        sizes = last_steps(runs)
        rows.append(
            [
                f"`{identity}` {row_of(identity).title.replace('_', ' ')}",
                len(runs),
                with_interval(map(last, runs.values())),
                with_interval(map(last_five, runs.values())),
                f"{statistics.median(sizes):.0f}",
                max(sizes),
                f"{100 * sum(size > 50 for size in sizes) / len(sizes):.0f} %",
                max(max(stats.steps(run["history"]["test_correct"][9:]), default=0) for run in runs.values()),
                f"{min(min(percentages(run)[5:], default=100) for run in runs.values()):.2f}",
            ]
        )
    header = ["", "runs", "accuracy %, last epoch", "mean of the last five", "step, images: median", "largest"]
    return markdown_table(
        [*header, "over 50", "largest since the tenth epoch", "lowest accuracy % after the fifth"], rows
    )


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


def transformers_table(record, identities, distorted):
    """What the transformers of some experiments do to the digits, and the accuracy or, if distorted, the error."""
    rows = []
    for identity in identities:
        runs = of_experiment(record, identity)
        if not runs:
            continue
        title = row_of(identity).title.removeprefix("perspective_").replace("_", " ")
        score = [100 - last(run) for run in runs.values()] if distorted else [last(run) for run in runs.values()]
        row = [f"`{identity}` {title}", len(runs), with_interval(score), max(last_steps(runs), default=0)]
        row += [before_and_after(runs, "corner_distance", 1), at_equal_size(runs)] if distorted else []
        row += [
            before_and_after(runs, "within_class_variance", 4),
            measured(runs, "ink_kept", 3),
            measured(runs, "ink_area", 2),
        ]
        rows.append(row)
    header = ["", "runs", f"{'error' if distorted else 'accuracy'} %, last epoch", "largest step, images"]
    header += ["corner distance, px", "at equal size"] if distorted else []
    return markdown_table([*header, "variance within a class", "ink kept", "ink area"], rows)


def comparison_document(record, pool=False):
    """All that can be said about the runs in a folder, as a Markdown document."""
    parts = ["# Comparison", "", results_table(record), ""]
    parts += ["Accuracy: mean over runs with its 95 % interval, by Student's t, from 50 runs on by the BCa bootstrap"]
    parts[-1] += one_run_note(record) + "."
    parts += ["", *(refused(record) if not pool else ()), ""]
    for name, pairs in FAMILIES.items():
        if comparisons(record, pairs, pool=pool):
            parts += [f"## Paired differences: {name}", "", family_text(record, pairs, pool), ""]
    parts += ["## Where the variance comes from", "", variance_table(record), ""]
    return "\n".join(parts)


def one_run_note(record):
    single = sum(len(runs) == 1 for runs in groups(record).values())
    return f"; {single} of the experiments have one run only, and therefore no interval" if single else ""


def few_pairs_note(found):
    """How to read the p-values of a family, and what they could be at best."""
    n = min(len(comparison.differences) for _, comparison, _ in found)
    notes = []
    if any(comparison.p_value is not None for _, comparison, _ in found):
        how = "exact sign flips" if n <= stats.EXACT_UP_TO else "9,999 random sign flips"
        notes += [f"p: two-sided, by {how} of the pairs, corrected by Holm within each measure of this table."]
    if n < stats.FEWEST_FOR_TEST:
        notes += ["With fewer than 6 pairs no p-value can fall under 0.05, so none is given."]
    elif (smallest := stats.smallest_p_value(n, len(found))) > 0.05:
        notes += [f"With {n} pairs and {len(found)} comparisons it cannot fall under {smallest:.3f}."]
    return " ".join(notes)


# ----------------------------------------------------------------------------------------------- the README's sentences


def change_text(pair, comparison, p):
    """One comparison as a sentence that can be relied on."""
    n = len(comparison.differences)
    mean, half = comparison.interval.mean, comparison.interval.half
    if half is None:
        return f"In one pair of runs the accuracy changes by {mean:+.2f} points with {pair[2]}: no evidence either way."
    size = f"{abs(mean):.2f} ± {half:.2f} points ({100 * abs(mean):.0f} of 10,000 images"
    if p is None:
        return (
            f"Over {n} pairs of runs, {pair[2]} changes the accuracy by {mean:+.2f} ± {half:.2f} points; {n} pairs "
            + ("are too few for a test.")
        )
    if p < 0.05:
        direction, often = ("raises", comparison.wins) if mean > 0 else ("lowers", comparison.losses)
        subject = pair[2][0].upper() + pair[2][1:]
        verb = direction.removesuffix("s") if subject.startswith(("Ten", "Three")) else direction
        return f"{subject} {verb} the accuracy by {size}, in {often} of {n} pairs of runs, {p_phrase(p)})."
    return (
        f"No effect of {pair[2]} is shown: {difference_text(comparison)} points, better in {comparison.wins} and worse "
        f"in {comparison.losses} of {n} pairs of runs, {p_phrase(p)}."
    )


def claim_text(values, claim=98.69):
    """Whether these runs reach the accuracy that the tutorial claims, in %."""
    interval, reached = mean_interval(values), sum(value >= claim for value in values)
    runs = f"{reached} of {len(values)} runs reach its {claim} %"
    if interval.low is None:
        return f"{runs}."
    if interval.low <= claim <= interval.high:
        return f"{runs}, which lie inside the interval of the mean."
    return (
        f"{runs}; the mean lies {abs(interval.mean - claim):.2f} points {'above' if interval.low > claim else 'below'}."
    )


def experiment_text(record, experiment, found=None):
    """The question of one of the seven and its answer."""
    runs = of_experiment(record, experiment.id)
    n, one = len(runs), next(iter(runs.values()))
    text = f"*{experiment.question}* **"
    if found:
        text += change_text(*found)
    else:
        text += claim_text([last(run) for run in runs.values()])
    text += (
        f"** The accuracy after {one['n_epochs']} epochs is {with_interval(map(last, runs.values()))} % over {n} runs"
    )
    five = f"{with_interval(map(last_five, runs.values()))} %"
    return f"{text} ({five} as the mean of the last five epochs), in the original {ORIGINAL[experiment.id]:.2f} %."


def original_text(record):
    """Which of the original's values lie inside our spread, and what becomes of its ranking."""
    runs = {identity: [last(run) for run in of_experiment(record, identity).values()] for identity in ORIGINAL}
    limits = {identity: stats.prediction_limits(values) for identity, values in runs.items()}
    inside = [identity for identity, (low, high) in limits.items() if low <= ORIGINAL[identity] <= high]
    rows = [
        [
            f"`{identity}`",
            f"{ORIGINAL[identity]:.2f}",
            f"{limits[identity][0]:.2f} to {limits[identity][1]:.2f}",
            f"{min(values):.2f} to {max(values):.2f}",
            "yes" if identity in inside else "no",
        ]
        for identity, values in runs.items()
    ]
    spread = [identity for identity, values in runs.items() if min(values) <= ORIGINAL[identity] <= max(values)]
    means = {identity: statistics.fmean(values) for identity, values in runs.items()}
    tau = kendalltau(list(ORIGINAL.values()), list(means.values()))
    header = ["", "original %", "where one more run of ours would lie (95 %)", "our runs", "inside the limits"]
    survives = "survives" if tau.pvalue < 0.05 else "does not survive"
    return (
        f"{markdown_table(header, rows)}\n\nThe original's values are exact for exp_02 and exp_06, the others are read "
        f"off its chart (± 0.02). {len(inside)} of the 7 lie inside the limits, which are those of normally "
        f"distributed runs and wide where one is far off; {len(spread)} lie between our lowest and our highest run. "
        f"Its ranking {survives}: it was {ranking(ORIGINAL)}; that of our means is {ranking(means)} (Kendall's tau "
        f"{tau.statistic:.2f}, {p_phrase(float(tau.pvalue))})."
    )


def ranking(values):
    """Experiments from the best to the worst, equal ones joined by an equals sign."""
    ordered = sorted(values, key=values.get, reverse=True)
    signs = (" = " if values[a] == values[b] else " > " for a, b in itertools.pairwise(ordered))
    return ordered[0] + "".join(sign + name for sign, name in zip(signs, ordered[1:], strict=True))


def deepest_text(record):
    """The largest fall of the accuracy from one epoch to the next, after the tenth."""
    falls = []
    for name, run in record.items():
        values = percentages(run)
        falls += [
            (before - after, name, epoch, before, after)
            for epoch, (before, after) in enumerate(itertools.pairwise(values), 2)
            if epoch > 10
        ]
    _, name, epoch, before, after = max(falls)
    return (
        f"The deepest fall in the {len(record)} runs: `{name}` went from {before:.2f} to {after:.2f} % in epoch "
        f"{epoch}, and ended at {percentages(record[name])[-1]:.2f} %."
    )


def swings_text(record):
    """Which change removes the swings, in one sentence with the numbers."""
    sizes = {identity: last_steps(of_experiment(record, identity)) for identity in ("exp_02", "exp_20", "exp_21")}
    runs = of_experiment(record, "exp_02")
    five = comparisons(record, STABILITY_PAIRS, last_five)[1]
    end = comparisons(record, STABILITY_PAIRS)[1]
    return (
        f"With a tenth of the learning rate for the localisation network the largest of the last {N_STEPS} steps of "
        f"{len(runs)} runs is {max(sizes['exp_21'])} images instead of {max(sizes['exp_02'])}, and the accuracy "
        f"changes by {difference_text(end[1])} points at the last epoch and by {difference_text(five[1])} in the mean "
        f"of the last five (better in {end[1].wins} and {five[1].wins} of {len(runs)} pairs, {p_phrase(end[2])}). "
        "Padding with the background alone leaves steps of "
        f"up to {max(sizes['exp_20'])} images."
    )


def answers(runs, transformers, perspective):
    """The answers to the questions of the study, as a list."""
    lines = [change_text(*found) for found in comparisons(runs, ORIGINAL_PAIRS)]
    lines += [swings_text(transformers), f"On MNIST as it is: {lower(homography_answer(transformers))}"]
    lines += [f"On MNIST in perspective: {lower(line)}" for line in perspective_answers(perspective)]
    return "\n".join(f"- {line}" for line in lines)


def homography_answer(record):
    """Whether a homography is better than an affine transform on MNIST as it is."""
    return change_text(*comparisons(record, HOMOGRAPHY_PAIRS)[1])


def perspective_answers(record):
    """Whether it is in perspective, alone and composed, and how good it is there."""
    four = of_experiment(record, "exp_16").values()
    return [
        *(change_text(*found) for found in comparisons(record, PERSPECTIVE_PAIRS)),
        f"A homography composed of four passes has an error of {with_interval(100 - last(run) for run in four)} % over "
        f"{len(four)} runs, where the paper's transformer has 4.94 % and its best 1.23 %.",
    ]


def lower(sentence):
    """A sentence as it goes on after a colon."""
    return sentence[0].lower() + sentence[1:]


def machine_text(record):
    """Where, with what and from which commit the runs of a record come."""
    run = next(iter(record.values()))
    return (
        f"{len(record)} runs, {run['device_name']}, torch {run['versions']['torch']}, commit "
        f"{(run['git_commit'] or 'unknown')[:7]}"
    )


def family_text(record, pairs, pool=False):
    """A family's table and how to read it."""
    return paragraphs(differences_table(record, pairs, pool), few_pairs_note(comparisons(record, pairs, pool=pool)))


def paragraphs(*parts):
    return "\n\n".join(parts)


def readme_blocks(folder):
    """{name of a block: its Markdown}, from the JSON files in `folder`."""

    def read(name):
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    runs, transformers, perspective = (read(name) for name in RECORDS)
    found = comparisons(runs, ORIGINAL_PAIRS)
    compared = zip(SEVEN, [None, *found], strict=True)  # the first with the tutorial's claim instead
    blocks = {experiment.id: experiment_text(runs, experiment, pair) for experiment, pair in compared}
    blocks["answers"] = answers(runs, transformers, perspective)
    blocks["results"] = f"{results_table(runs)}\n\n({machine_text(runs)}.)"
    blocks["differences"] = family_text(runs, ORIGINAL_PAIRS)
    blocks["variance"] = variance_table(runs)
    blocks["original"] = original_text(runs)
    blocks["stability"] = paragraphs(
        f"**{swings_text(transformers)}** {deepest_text(runs)}",
        swings_table(transformers, RECORDS["transformers"][:4]),
        family_text(transformers, STABILITY_PAIRS),
        f"({machine_text(transformers)}, those of the homographies below among them.)",
    )
    blocks["homography"] = paragraphs(
        f"**{homography_answer(transformers)}**",
        transformers_table(transformers, RECORDS["transformers"], False),
        swings_table(transformers, RECORDS["transformers"][4:]),
        family_text(transformers, HOMOGRAPHY_PAIRS),
    )
    families = PERSPECTIVE_PAIRS, PASSES_PAIRS, PERSPECTIVE_COORDCONV_PAIRS
    blocks["perspective"] = paragraphs(
        f"**{' '.join(perspective_answers(perspective))}**",
        transformers_table(perspective, RECORDS["perspective"], True),
        *(family_text(perspective, pairs) for pairs in families),
        f"({machine_text(perspective)}.)",
    )
    job, speed, memory, h100 = (read(name) for name in ("job", "benchmark", "memory", "h100"))
    blocks["job"] = (
        f"**`python run_experiments.py`, from the command to the summary: {job['minutes']:.1f} minutes**, "
        f"{job['at_a_time']} runs at a time. All its processes together need {memory['peak_megabytes']:,} MB of memory "
        f"at most (what they share counted once; in a job of two epochs each, commit {memory['git_commit'][:7]})."
    )
    blocks["parts"] = parts_table(read("parts"))
    blocks["logging"] = logging_text(read("parts"))
    blocks["speed"] = speed_table(speed)
    blocks["formulations"] = formulations_table(read("formulations"))
    blocks["h100"] = (
        f"On one {h100['device_name']} (torch {h100['versions']['torch']}, commit {h100['git_commit'][:7]}) the seven "
        f"runs took {' and '.join(f'{minutes:.2f}' for minutes in h100['minutes'])} minutes, "
        f"{h100['at_a_time']} at a time ({len(h100['minutes'])} jobs)."
    )
    blocks["faults"] = faults_table(read("faults"))
    return blocks


def faults_table(record):
    """What was tried to make runs fail, how often nothing was lost, and how soon it was told."""
    rows = [
        [kind, row["tried"], row["survived"], f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else "under 0.1"]
        for kind, row in record["faults"].items()
    ]
    machine = f"{record['device_name']}, torch {record['versions']['torch']}, commit {record['git_commit'][:7]}"
    table = markdown_table(["fault", "tried", "survived", "longest time until it was told, seconds"], rows)
    return f"{table}\n\nCommand: `{record['command']}` ({machine})."


def speed_table(speed):
    rows = [
        [
            r["experiment"],
            f"{r['tutorial_ms_per_step']:.1f}",
            f"{r['ours_ms_per_step']:.1f}",
            f"{r['tutorial_seconds_per_epoch']:.1f}",
            f"{r['ours_seconds_per_epoch']:.1f}",
            f"{r['ratio']:.1f} ({r['ratio_min']:.1f} to {r['ratio_max']:.1f})",
        ]
        for r in speed["rows"]
    ]
    header = ["", "ms a step: tutorial", "ours", "s an epoch: tutorial", "ours", "ratio (lowest to highest round)"]
    peak = max(row["ours_peak_mb"] for row in speed["rows"])
    return (
        f"{markdown_table(header, rows)}\n\nAll epochs of the seven: {speed['tutorial_minutes_whole_job']:.1f} minutes "
        f"with the tutorial's loop, {speed['ours_minutes_whole_job']:.1f} with ours, **{speed['ratio_whole_job']:.1f} "
        f"times as fast**, though a core waits for the last of seven runs; {speed['ours_minutes_all_cores_busy']:.1f}, "
        f"{speed['ratio_all_cores_busy']:.1f} times as fast, while all cores are busy, as with `--runs 10` (medians of "
        f"{speed['rounds']} rounds; {speed['device_name']}, {speed['cores']} cores, torch "
        f"{speed['versions']['torch']}, commit {speed['git_commit'][:7]}; at most {peak} MB resident in a process)."
    )


def parts_table(record):
    """What a run spends beside its training, by experiment."""
    runs = sorted((row for row in record["rows"] if row["log_images"]), key=lambda row: row["experiment"])
    parts = ("evaluation", "tensorboard", "rest")
    runs.append({"experiment": "all seven", **{key: sum(row[key] for row in runs) for key in ("seconds", *parts)}})
    rows = []
    for row in runs:
        shares = [100 * row[part] / row["seconds"] for part in parts]
        rows.append(
            [row["experiment"], f"{row['seconds']:.0f}", *(f"{share:.2f} %" for share in (*shares, sum(shares)))]
        )
    header = ["", "seconds", "evaluation", "TensorBoard", "measures, figures, checkpoints", "all three"]
    return (
        f"{markdown_table(header, rows)}\n\nWhat a run does beside its training, in % of its seconds, without the "
        f"start of its process and reading the data (one run each, {record['cores']} at a time; "
        f"{record['device_name']}, torch {record['versions']['torch']}, commit {record['git_commit'][:7]})."
    )


def logging_text(record):
    """What TensorBoard costs in a run of exp_02, with and without the heavy parts."""
    heavy, light = sorted(
        (row for row in record["rows"] if row["experiment"] == "exp_02"), key=lambda row: -row["log_images"]
    )
    return (
        f"Beyond the measures and figures that a run makes anyway, all of it takes {heavy['tensorboard']:.1f} seconds "
        f"in a run of exp_02, {100 * heavy['tensorboard'] / heavy['seconds']:.1f} % of its {heavy['seconds']:.0f}, and "
        f"{heavy['event_file_kb']:.0f} kB; with `--log-images 0` {light['tensorboard']:.2f} seconds and "
        f"{light['event_file_kb']:.0f} kB."
    )


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
    header = ["run", "epochs compared", "train loss of the first, fast against plain", "of the last"]
    header += ["test accuracy %, mean of the last five: plain", "fast"]
    return (
        f"{markdown_table(header, rows)}\n\nThe first epoch's losses differ by {max(map(abs, first)):.2f} % at most. "
        f"Over the {len(rows)} pairs the last loss changes by {with_interval(final, 1, '+')} % and the accuracy by "
        f"{with_interval(accuracy, sign='+')} points (mean and 95 % interval, Student's t; {record['device_name']}, "
        f"commit {record['git_commit'][:7]})."
    )


def fill_readme(text, blocks):
    """Replace what stands between `<!-- name -->` and `<!-- end -->`. Raises KeyError for an unknown name."""
    pattern = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[3]}", text)
