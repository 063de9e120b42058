"""Which runs belong together, which experiments are compared, and how. A family is one question."""

import itertools
import json
import re
from collections import Counter

from lab.catalogue import spec_of, studies
from lab.results import MNIST, PARTS, is_mnist, last, percentages
from lab.settings import differences
from lab.stats import compare, corrected, steps

# Families of comparisons: (experiment, its partner, what the one has and the other has not). The p-values of a family
# are corrected together.
THE_SEVEN = {
    "The seven": (
        ("exp_02", "exp_01", "ten more epochs"),
        ("exp_02", "exp_03", "the transformer"),
        ("exp_04", "exp_03", "CoordConv in the classifier, without a transformer"),
        ("exp_05", "exp_02", "CoordConv in the classifier"),
        ("exp_06", "exp_02", "CoordConv in the localisation network"),
        ("exp_07", "exp_02", "CoordConv in both"),
    ),
}
N_STEPS = 10  # the last changes from epoch to epoch that are looked at
# What must be equal in runs that are compared: the code, the machine's kind, the form, the data.
PROVENANCE = ("code", "device", "device_name", "versions", "plain_convolutions", "batch_size", "threads", "data")
# What may differ between runs of one experiment, and what a run has measured.
OWN = {"run", "seed", "experiment_name", "weights_signature", "git_commit", "code", "cores"}
MEASURED = {"avg_test_loss", "test_correct", "seconds", *PARTS, "transformer", "history", "wrong"}


def families():
    """Return {name: family} of the seven and of every study."""
    return THE_SEVEN | {name: family for study in studies().values() for name, family in study.families.items()}


def split_name(name, run):
    """Split the name of a run into its experiment's and the number; without one in the name, the recorded number."""
    number = re.search(r"_run_(\d+)", name)
    return re.sub(r"_run_\d+", "", name, count=1), int(number[1]) if number else run["run"]


def groups(record):
    """Return {experiment, its directory's name without the number of the run: {run: condensed results}}."""
    found = {}
    for name, run in record.items():
        experiment, number = split_name(name, run)
        found.setdefault(experiment, {})[number] = run
    return found


def of_experiment(record, experiment):
    """Return {run: condensed results} of a row of the table, {} if there are none; another title is something else."""
    return groups(record).get(experiment.name, {})


def one_run_each(record):
    """Tell whether there are several experiments, of one run each."""
    return len(record) == len(groups(record)) > 1


def drop_duplicate_runs(record):
    """Return (the record with each run once, [a line about each that is left out]): by number or content."""
    chosen_names, seen, complaints = {}, {}, []
    for name in sorted(record, key=lambda name: ("_run_" not in name, name)):  # a number in the name decides
        number = split_name(name, record[name])
        content = number[0], json.dumps([record[name]["history"], record[name].get("wrong")])
        for key, why in ((number, "has the same number as"), (content, "is a copy of")):
            if key in seen:
                complaints.append(f"{name}: left out, it {why} {seen[key]}")
                break
        else:
            chosen_names[name] = record[name]
            seen |= {number: name, content: name}
    return {name: run for name, run in record.items() if name in chosen_names}, complaints


def code_of(run):
    """Identify the code of a run: its hash, of older runs the clean commit; one that is not known equals no other."""
    commit = run.get("git_commit") or "-dirty"
    return run.get("code") or (commit if not commit.endswith("-dirty") else f"unknown code of {run['experiment_name']}")


def provenance(run):
    return {key: code_of(run) if key == "code" else run.get(key) for key in PROVENANCE}


def drop_incompatible_runs(record):
    """Return (the record without runs that must not be pooled with others of their experiment, [a line about each]).

    The runs of an experiment belong together if they have the same settings, data, code and machine. Of several such
    sets the largest is kept, of equal ones that with more epochs.
    """
    chosen_names, complaints = set(), []
    for name, runs in groups(record).items():
        sets = {}
        for run in runs.values():
            settings = {key: value for key, value in run.items() if key not in OWN | MEASURED} | {"code": code_of(run)}
            sets.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
        (best, chosen), *others = sorted(sets.items(), key=lambda item: (-len(item[1]), -item[1][0]["n_epochs"]))
        chosen_names |= {run["experiment_name"] for run in chosen}
        for settings, left_out in others:
            what = ", ".join(differences(json.loads(settings), json.loads(best)))
            numbers = ", ".join(f"{split_name(run['experiment_name'], run)[1]:02d}" for run in left_out)
            complaints.append(f"{name}: run {numbers} left out, it has {what} (--pool keeps it)")
    return {name: run for name, run in record.items() if name in chosen_names}, complaints


def comparable(runs):
    """Tell whether runs come from the same code, the same kind of machine and the same digits.

    Images made of these may differ: the upper end of the cards reads straight ones.
    """
    parts = (provenance(run) | {"data": run["data"].get("md5")} for run in runs.values())
    return len({json.dumps(part, sort_keys=True) for part in parts}) <= 1


def obstacle(record, pair, table):
    """Say why two experiments must not be compared in pairs, or return None. The runs of each belong together.

    table: {id: Experiment}.
    """
    if not all(runs := [of_experiment(record, table[exp_id]) for exp_id in pair[:2]]):
        return None
    ours, others = (next(iter(of_one.values())) for of_one in runs)
    different = [key for key, value in provenance(ours).items() if value != provenance(others)[key]]
    if ours["n_epochs"] != others["n_epochs"]:
        intended = [table[exp_id].epochs for exp_id in pair[:2]]
        different += ["n_epochs"] * ([ours["n_epochs"], others["n_epochs"]] != intended)
    return f"{pair[0]} and {pair[1]} are not compared: they differ in {', '.join(different)}" if different else None


def why_incomparable(record, table):
    """List a line about each pair of experiments that is there and must not be compared."""
    pairs = dict.fromkeys(pair[:2] for family in families().values() for pair in family)
    return [f"{why} (--pool compares them)" for pair in pairs if (why := obstacle(record, pair, table))]


def by_seed(runs, value):
    """Return {seed: value of the run} of {number: run}, without runs that share a seed: pairs are of equal seeds."""
    seeds = Counter(run["seed"] for run in runs.values())
    return {run["seed"]: value(run) for run in runs.values() if seeds[run["seed"]] == 1}


def comparisons(record, family, table, value=last, pool=False):
    """Return {pair of the family: Comparison} of those pairs that can be made, the p-values corrected."""
    found = {}
    for pair in family:
        runs = (of_experiment(record, table[exp_id]) for exp_id in pair[:2])
        comparison = compare(*(by_seed(of_one, value) for of_one in runs))
        if comparison and (pool or not obstacle(record, pair, table)):
            found[pair] = comparison
    return corrected(found)


def is_plain_mnist(run):
    """Tell whether a run is on MNIST as it is, and may be shown beside what others have published on it."""
    return is_mnist(run["data"]) and spec_of(run["data"]).beside_published


def last_steps(runs):
    """List the changes of the number of correct test images between the last epochs, of all runs."""
    return [size for run in runs.values() for size in steps(run["history"]["test_correct"])[-N_STEPS:]]


def largest_drops(record, after=10):
    """List the largest fall of each run from an epoch to the next, after so many epochs, the deepest first.

    Each is (points, name, epoch, accuracy before, after, at the end). Shorter runs have none.
    """
    found = []
    for name, run in record.items():
        values = percentages(run)
        pairs = enumerate(itertools.pairwise(values[after - 1 :]), after + 1)
        found += [max(steps)] if (steps := [(a - b, name, epoch, a, b, values[-1]) for epoch, (a, b) in pairs]) else []
    return sorted(found, reverse=True)


def by_data(record):
    """Split a record by data set: {(title, prefix of file names): record}, those made of MNIST first.

    Digits are known by their checksum, whatever their name; those of a second checksum have a prefix of their own.
    """
    found = {}
    digests = sorted({run["data"].get("md5", "unknown") for run in record.values()}, key=lambda md5: md5 != MNIST)
    for name, run in record.items():
        data, spec = run["data"], spec_of(run["data"])
        md5 = data.get("md5", "unknown")
        digits = "MNIST" if md5 == MNIST else f"{data['name']!r} (MD5 {md5}), {run['test_total']:,} test images"
        prefix = "" if md5 == digests[0] else re.sub(r"\W", "_", data["name"]) + f"_{md5[:6]}_"
        key = spec.title.format(digits=digits), prefix + spec.figure_prefix
        found.setdefault(key, {})[name] = run
    return dict(sorted(found.items(), key=lambda item: ("MNIST" not in item[0][0], item[0][1])))
