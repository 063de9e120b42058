"""Which runs belong together, which experiments are compared, and how. A family is one question."""

import json
import re
from collections import Counter
from itertools import pairwise

from lab.catalogue import spec_of, studies
from lab.results import MNIST_MD5, PARTS, is_mnist, last, percentages
from lab.settings import differences
from lab.stats import compare, correct_family

# Families of comparisons: (experiment, baseline, what the experiment adds). The p-values of a family are corrected
# together.
SEVEN_FAMILIES = {
    "The seven": (
        ("exp_02", "exp_01", "ten more epochs"),
        ("exp_02", "exp_03", "the transformer"),
        ("exp_04", "exp_03", "CoordConv in the classifier, without a transformer"),
        ("exp_05", "exp_02", "CoordConv in the classifier"),
        ("exp_06", "exp_02", "CoordConv in the localisation network"),
        ("exp_07", "exp_02", "CoordConv in both"),
    ),
}
# What must be equal in runs that are compared: the code, the kind of machine, the data and how they were trained on.
CONDITIONS = ("code", "device", "device_name", "versions", "plain_convolutions", "batch_size", "threads", "data")
# Fields that may differ between pooled runs: identity and results.
RUN_KEYS = {"run", "seed", "experiment_name", "weights_signature", "git_commit", "code", "cores"}
OUTCOME_KEYS = {"avg_test_loss", "test_correct", "seconds", *PARTS, "transformer", "history", "wrong"}


def families():
    """Return {name: family} of the seven and of every study."""
    return SEVEN_FAMILIES | {name: family for study in studies().values() for name, family in study.families.items()}


def split_name(name, run):
    """Split the name of a run into its experiment's and the number; without one in the name, the recorded number."""
    number = re.search(r"_run_(\d+)", name)
    return re.sub(r"_run_\d+", "", name, count=1), int(number[1]) if number else run["run"]


def groups(record):
    """Return {experiment, its directory's name without the number of the run: {run: condensed results}}."""
    experiments = {}
    for name, run in record.items():
        experiment, number = split_name(name, run)
        experiments.setdefault(experiment, {})[number] = run
    return experiments


def of_experiment(record, experiment):
    """Return {run: condensed results} of a row of the table, {} if there are none; another title is something else."""
    return groups(record).get(experiment.name, {})


def one_run_each(record):
    """Tell whether there are several experiments, of one run each."""
    return len(record) == len(groups(record)) > 1


def drop_duplicate_runs(record):
    """Return (the record without copies, [a line about each]): runs of equal number, or of equal outcomes."""
    names, complaints = {}, []  # names: of each key
    for name in sorted(record, key=lambda name: ("_run_" not in name, name)):  # a number in the name decides
        number = split_name(name, record[name])
        outcome = number[0], json.dumps([record[name]["history"], record[name].get("wrong")])
        if number in names:
            complaints.append(f"{name}: left out, it has the same number as {names[number]}")
        elif outcome in names:
            complaints.append(f"{name}: left out, it is a copy of {names[outcome]}")
        else:
            names |= {number: name, outcome: name}
    return {name: run for name, run in record.items() if name in names.values()}, complaints


def code_of(run):
    """Identify the code of a run: its hash, of older runs the clean commit; one that is not known equals no other."""
    commit = run.get("git_commit") or "-dirty"
    return run.get("code") or (commit if not commit.endswith("-dirty") else f"unknown code of {run['experiment_name']}")


def conditions_of(run):
    return {key: code_of(run) if key == "code" else run.get(key) for key in CONDITIONS}


def drop_incompatible_runs(record):
    """Keep, per experiment, the largest group of runs with equal settings, data, code and machine.

    Of groups of equal size the one with more epochs is kept. Return (the record, [a line about each other group]).
    """
    chosen_names, complaints = set(), []
    for name, runs in groups(record).items():
        sets = {}
        for run in runs.values():
            settings = {key: value for key, value in run.items() if key not in RUN_KEYS | OUTCOME_KEYS}
            sets.setdefault(json.dumps(settings | {"code": code_of(run)}, sort_keys=True), []).append(run)
        (best, chosen), *others = sorted(sets.items(), key=lambda item: (-len(item[1]), -item[1][0]["n_epochs"]))
        chosen_names |= {run["experiment_name"] for run in chosen}
        for settings, left_out in others:
            different = ", ".join(differences(json.loads(settings), json.loads(best)))
            numbers = ", ".join(f"{split_name(run['experiment_name'], run)[1]:02d}" for run in left_out)
            complaints.append(f"{name}: run {numbers} left out, it has {different} (--pool keeps it)")
    return {name: run for name, run in record.items() if name in chosen_names}, complaints


def comparable(runs):
    """Tell whether runs come from the same code, the same kind of machine and the same digits.

    The kind of image may differ: exp_41 reads cards that are straight already.
    """
    conditions = (conditions_of(run) | {"data": run["data"].get("md5")} for run in runs.values())
    return len({json.dumps(part, sort_keys=True) for part in conditions}) <= 1


def differences_from_row(run, row):
    """List how the network and the recipe of a run differ from those of its row of the table, an `Experiment`."""
    settings = json.loads(json.dumps({"model": row.model, "arguments": row.arguments, **row.recipe.as_settings()}))
    return differences({key: run.get(key) for key in settings}, settings)


def why_not_compared(record, pair, table):
    """Say why two experiments must not be compared in pairs, or return None. The runs of each belong together.

    table: {id: Experiment}. A comparison shows what its family declares only if both were trained as their rows say.
    """
    runs = [next(iter(of_experiment(record, table[exp_id]).values()), None) for exp_id in pair[:2]]
    if None in runs:
        return None
    ours, others = map(conditions_of, runs)
    different = [key for key in CONDITIONS if ours[key] != others[key]]
    n_epochs = [run["n_epochs"] for run in runs]
    if n_epochs[0] != n_epochs[1] and n_epochs != [table[exp_id].epochs for exp_id in pair[:2]]:
        different.append("n_epochs")
    reasons = [f"they differ in {', '.join(different)}"] if different else []
    for exp_id, run in zip(pair, runs, strict=False):
        if changes := differences_from_row(run, table[exp_id]):
            reasons.append(f"{exp_id} was trained with {', '.join(changes)}")
    return f"{pair[0]} and {pair[1]} are not compared: {'; '.join(reasons)}" if reasons else None


def list_incomparable(record, table):
    """List a line about each pair of experiments that is there and must not be compared."""
    pairs = dict.fromkeys(pair[:2] for family in families().values() for pair in family)
    return [f"{why} (--pool compares them)" for pair in pairs if (why := why_not_compared(record, pair, table))]


def by_seed(runs, value):
    """Return {seed: value of the run} of {number: run}: pairs are of equal seeds.

    Runs that share a seed, and those whose value is None, are left out.
    """
    seeds = Counter(run["seed"] for run in runs.values())
    values = {run["seed"]: value(run) for run in runs.values() if seeds[run["seed"]] == 1}
    return {seed: of_one for seed, of_one in values.items() if of_one is not None}


def comparisons(record, family, table, value=last, pool=False):
    """Return {pair: Comparison} of the pairs of a family that can be compared, the p-values corrected."""
    made = dict.fromkeys(family)
    for pair in family:
        if pool or not why_not_compared(record, pair, table):
            runs = (of_experiment(record, table[exp_id]) for exp_id in pair[:2])
            made[pair] = compare(*(by_seed(of_one, value) for of_one in runs))
    return correct_family(made)


def is_plain_mnist(run):
    """Tell whether a run is on MNIST as it is, and may be shown beside what others have published on it."""
    return is_mnist(run["data"]) and spec_of(run["data"]).beside_published


def largest_drops(record, after=10):
    """List the largest drop of each run from an epoch to the next, after so many epochs, the largest first.

    Each is (points, name, epoch, accuracy before, after, at the end). Shorter runs have none.
    """
    drops = []
    for name, run in record.items():
        values = percentages(run)
        pairs = enumerate(pairwise(values[after - 1 :]), after + 1)
        drops += sorted((a - b, name, epoch, a, b, values[-1]) for epoch, (a, b) in pairs)[-1:]
    return sorted(drops, reverse=True)


def by_data(record):
    """Split a record by data set: {(title, prefix of file names): record}, those made of MNIST first.

    Digits are known by their checksum, whatever their name; those of a second checksum have a prefix of their own.
    """
    parts = {}
    digests = sorted({run["data"].get("md5", "unknown") for run in record.values()}, key=lambda md5: md5 != MNIST_MD5)
    for name, run in record.items():
        data, spec = run["data"], spec_of(run["data"])
        md5 = data.get("md5", "unknown")
        digits = "MNIST" if md5 == MNIST_MD5 else f"{data['name']!r} (MD5 {md5}), {run['test_total']:,} test images"
        prefix = "" if md5 == digests[0] else re.sub(r"\W", "_", data["name"]) + f"_{md5[:6]}_"
        key = spec.title.format(digits=digits), prefix + spec.figure_prefix
        parts.setdefault(key, {})[name] = run
    return dict(sorted(parts.items(), key=lambda item: ("MNIST" not in item[0][0], item[0][1])))
