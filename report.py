"""What the README says about runs: the small files in results/ and the tables made from them, and from nothing else.

A table stands in the README between two comments, `<!-- name -->` and `<!-- end -->`; `plot.py --readme` fills it.
"""

import itertools
import json
import re

from run_experiments import ALL, EXPERIMENTS, SETS
from stats import mean_and_half_width

# The original's test accuracies in %: exp_02 and exp_06 exact, the others read off its bar chart (± 0.02).
ORIGINAL = dict(zip((e.id for e in EXPERIMENTS), (98.70, 98.84, 98.55, 98.54, 98.86, 99.06, 98.84), strict=True))
# The files in results/ that hold all runs of several experiments.
CONDENSED = {
    "homography": ("exp_02", "exp_22", "exp_08", "exp_09", "exp_10", "exp_11"),
    "perspective": tuple(experiment.id for experiment in SETS["perspective"]),
}


def condensed(results):
    """The content of one results.json without what follows from the rest, the history as columns."""
    history = {key: [epoch[key] for epoch in results["history"]] for key in ("train_loss", "test_loss", "test_correct")}
    follows = ("confusion_matrix", "test_accuracy")
    return {key: value for key, value in results.items() if key not in follows} | {"history": history}


def markdown_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def readme_blocks(folder):
    """{name of a block: its Markdown}, from the JSON files in `folder`."""

    def read(name):
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    runs = {experiment.id: read(experiment.directory(1)) for experiment in EXPERIMENTS}
    job, speed = read("job"), read("benchmark")
    peak = max(row["ours_peak_mb"] for row in speed["rows"])
    blocks = {}
    for experiment in EXPERIMENTS:
        run = runs[experiment.id]
        blocks[experiment.id] = (
            f"*{experiment.question}* Here {run['test_accuracy']:.2f} % after {run['n_epochs']} epochs "
            f"({run['test_correct']} of {run['test_total']} test images), in the original "
            f"{ORIGINAL[experiment.id]:.2f} %."
        )
    blocks["results"] = markdown_table(
        [
            "directory in experiments/",
            "epochs",
            "live parameters",
            "accuracy %",
            "original %",
            "largest step, images",
            "minutes",
        ],
        [
            [
                f"`{run['experiment_name']}`",
                run["n_epochs"],
                f"{run['live_parameters']:,}",
                f"{run['test_accuracy']:.2f}",
                f"{ORIGINAL[name]:.2f}",
                largest_step([epoch["test_correct"] for epoch in run["history"]]),
                f"{run['seconds'] / 60:.1f}",
            ]
            for name, run in runs.items()
        ],
    )
    run = runs["exp_01"]
    machine = f"{run['device_name']}, Python {run['versions']['python']}, torch {run['versions']['torch']}"
    blocks["job"] = (
        f"{job['runs']} runs trained in {job['minutes']:.1f} minutes, {job['at_a_time']} at a time ({machine}; "
        f"one run each, seed {run['seed']})."
    )
    blocks["speed"] = (
        markdown_table(
            ["", "ms a step: tutorial", "ours", "s an epoch: tutorial", "ours", "ratio (lowest to highest round)"],
            [
                [
                    r["experiment"],
                    f"{r['tutorial_ms_per_step']:.1f}",
                    f"{r['ours_ms_per_step']:.1f}",
                    f"{r['tutorial_seconds_per_epoch']:.1f}",
                    f"{r['ours_seconds_per_epoch']:.1f}",
                    f"{r['ratio']:.1f} ({r['ratio_min']:.1f} to {r['ratio_max']:.1f})",
                ]
                for r in speed["rows"]
            ],
        )
        + f"\n\nThe whole job: {speed['tutorial_minutes_whole_job']:.1f} minutes with the tutorial's loop, "
        + f"{speed['ours_minutes_whole_job']:.1f} with ours, **{speed['ratio_whole_job']:.1f} times as fast** "
        + f"(medians of {speed['rounds']} rounds; {speed['device_name']}, {speed['cores']} cores, "
        + f"torch {speed['versions']['torch']}; peak memory {peak} MB a process, two at a time). "
        + "With the starts of the processes and "
        + f"the end, when one core has nothing left to do, ours took {job['minutes']:.1f} minutes as measured above."
    )
    blocks["formulations"] = formulations_table(read("formulations"))
    blocks["homography"] = homography_table(read("homography"))
    blocks["perspective"] = perspective_table(read("perspective"))
    h100 = read("h100")
    seconds = sum(run["seconds"] for run in h100["runs"])
    one, seven = h100["minutes"]["1 at a time"], h100["minutes"]["7 at a time"]
    blocks["h100"] = (
        f"On one {h100['device_name']} (torch {h100['versions']['torch']}, commit {h100['git_commit'][:7]}) the seven "
        f"runs took {one:.1f} minutes one at a time, of which {seconds:.0f} seconds were training and testing, and "
        f"{seven:.1f} minutes seven at a time, with the same bits. The aim, all seven in under a minute, is not "
        "reached; the present code is unmeasured on a GPU."
    )
    blocks["faults"] = faults_table(read("faults"))
    return blocks


def formulations_table(record):
    """Plain against fast convolutions, run by run, over the epochs that both completed."""
    rows, first, last, accuracy = [], [], [], []
    for name, plain in record["plain"].items():
        fast = record["fast"][name]
        n = min(len(plain["train_loss"]), len(fast["train_loss"]))
        first.append(100 * (fast["train_loss"][0] / plain["train_loss"][0] - 1))
        last.append(100 * (fast["train_loss"][n - 1] / plain["train_loss"][n - 1] - 1))
        means = [sum(form["test_correct"][n - 5 : n]) / 500 for form in (plain, fast)]
        accuracy.append(means[1] - means[0])
        rows.append([name[:13], n, f"{first[-1]:+.2f} %", f"{last[-1]:+.2f} %", *(f"{mean:.2f}" for mean in means)])
    header = ["run", "epochs compared", "train loss of the first, fast against plain", "of the last"]
    header += ["test accuracy %, mean of the last five: plain", "fast"]
    (mean, half), (loss, loss_half) = mean_and_half_width(accuracy), mean_and_half_width(last)
    return (
        f"{markdown_table(header, rows)}\n\nThe first epoch's losses differ by {max(map(abs, first)):.2f} % at most. "
        f"Over the {len(rows)} pairs the last loss changes by {loss:+.1f} ± {loss_half:.1f} % and the accuracy by "
        f"{mean:+.2f} ± {half:.2f} points (mean and 95 % interval, Student's t; {record['device_name']}, commit "
        f"{record['git_commit'][:7]})."
    )


def by_experiment(record):
    """[(experiment of the table, {run: its condensed results})] of a file in results/ with several runs."""
    pairs = [
        (experiment, {run["run"]: run for name, run in record.items() if name == experiment.directory(run["run"])})
        for experiment in ALL
    ]
    return [(experiment, runs) for experiment, runs in pairs if runs]


def named(experiments, identity):
    """The runs of one of these experiments by its id; {} if it is not among them."""
    return next((runs for experiment, runs in experiments if experiment.id == identity), {})


def percentages(run):
    """Test accuracy in % after each epoch."""
    return [100 * correct / run["test_total"] for correct in run["history"]["test_correct"]]


def error(run):
    """Of the last epoch, in %."""
    return 100 - percentages(run)[-1]


def last_five(run):
    return mean_and_half_width(percentages(run)[-5:])[0]


def with_interval(values, digits=2, sign=""):
    """Mean and half of the 95 % interval of several runs, as text."""
    mean, half = mean_and_half_width(values)
    return f"{mean:{sign}.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")


def measured(runs, name, digits):
    """The mean over runs of a measure of their transformers, as text; empty without a transformer."""
    values = [run["transformer"][name] for run in runs.values() if run["transformer"]]
    return f"{mean_and_half_width(values)[0]:.{digits}f}" if values else ""


def before_and_after(runs, name, digits):
    parts = (measured(runs, f"{name}_{when}", digits) for when in ("before", "after"))
    return " → ".join(filter(None, parts))


def at_equal_size(runs):
    """The mean corner distance after the transformer if that left the digits as large as they were, as text."""
    transformers = [run["transformer"] for run in runs.values() if run["transformer"]]
    distances = [measures["corner_distance_after"] / measures["ink_area"] ** 0.5 for measures in transformers]
    return f"{mean_and_half_width(distances)[0]:.1f}" if distances else ""


def differences(runs, others, value):
    """`value` of each run minus that of the other experiment's run of the same number, as text."""
    pairs = [value(runs[run]) - value(others[run]) for run in sorted(runs.keys() & others.keys())]
    return f"{with_interval(pairs, sign='+')} ({len(pairs)})" if pairs and runs is not others else ""


def homography_table(record):
    """The affine network, the same with the changes that a homography needs, and four with a homography."""
    experiments = by_experiment(record)
    affine, changed = (named(experiments, identity) for identity in ("exp_02", "exp_22"))
    rows = [
        [
            f"`{experiment.id}` {experiment.title.replace('_', ' ')}",
            len(runs),
            with_interval([percentages(run)[-1] for run in runs.values()]),
            with_interval([last_five(run) for run in runs.values()]),
            differences(runs, affine, last_five),
            differences(runs, changed, last_five),
            max(largest_step(run["history"]["test_correct"]) for run in runs.values()),
            before_and_after(runs, "within_class_variance", 4),
            measured(runs, "ink_kept", 3),
            measured(runs, "ink_area", 2),
        ]
        for experiment, runs in experiments
    ]
    header = [
        "",
        "runs",
        "accuracy %, last epoch",
        "mean of the last five epochs",
        "against exp_02, points (pairs)",
        "against exp_22",
    ]
    header += ["largest step, images", "variance within a class", "ink kept", "ink area"]
    return markdown_table(header, rows)


def perspective_table(record):
    """Every transformer on MNIST in perspective."""
    experiments = by_experiment(record)
    affine = named(experiments, "exp_13")
    rows = [
        [
            f"`{experiment.id}` {experiment.title.removeprefix('perspective_').replace('_', ' ')}",
            len(runs),
            with_interval([error(run) for run in runs.values()]),
            differences(runs, affine, error),
            max(largest_step(run["history"]["test_correct"]) for run in runs.values()),
            before_and_after(runs, "corner_distance", 1),
            at_equal_size(runs),
            before_and_after(runs, "within_class_variance", 4),
            measured(runs, "ink_kept", 3),
            measured(runs, "ink_area", 2),
            f"{mean_and_half_width([run['seconds'] / 60 for run in runs.values()])[0]:.1f}",
        ]
        for experiment, runs in experiments
    ]
    header = ["", "runs", "error %, last epoch", "against affine, points (pairs)", "largest step, images"]
    header += [
        "corner distance, px",
        "at equal size",
        "variance within a class",
        "ink kept",
        "ink area",
        "minutes a run",
    ]
    alone, four = (differences(named(experiments, identity), affine, error) for identity in ("exp_14", "exp_16"))
    return (
        f"{markdown_table(header, rows)}\n\nIn pairs of runs with the same seed, the error of one homography minus "
        f"that of one affine transform is {alone} points, that of four composed homographies minus it {four} (mean, "
        "half of its 95 % interval by Student's t, number of pairs)."
    )


def largest_step(correct, n_last=10):
    """The largest change of the number of correct test images between neighbouring epochs, in the last `n_last`."""
    return max((abs(after - before) for before, after in itertools.pairwise(correct[-n_last - 1 :])), default=0)


def fill_readme(text, blocks):
    """Replace what stands between `<!-- name -->` and `<!-- end -->`. Raises KeyError for an unknown name."""
    pattern = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[3]}", text)


def faults_table(record):
    """What was tried to make runs fail, how often nothing was lost, and how soon it was told."""
    rows = [
        [kind, row["tried"], row["survived"], f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else "under 0.1"]
        for kind, row in record["faults"].items()
    ]
    machine = f"{record['device_name']}, torch {record['versions']['torch']}, commit {record['git_commit'][:7]}"
    note = f"; {record['note']}" if "note" in record else ""
    table = markdown_table(["fault", "tried", "survived", "longest time until it was told, seconds"], rows)
    return f"{table}\n\nCommand: `{record['command']}` ({machine}{note})."
