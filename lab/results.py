"""Results of runs as files: results.json carries a checksum, and many runs are kept in one small file, a record.

A *record* is {name of a run: its condensed results}; some files in results/ are records.
"""

import gzip
import hashlib
import json
import math
import re
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from lab.catalogue import spec_of
from lab.files import ROOT, write_json

ARCHIVED_LABELS = ROOT / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
N_CLASSES = 10
MNIST_MD5 = "bd3808b2414328cf71cc2764408ae4c5"  # of the four arrays: data that have it are MNIST, whatever their name
COLUMNS = ("train_loss", "test_loss", "test_correct", "test_total", "seen")  # of the history, in a record, if there
PARTS = ("train_seconds", "test_seconds", "log_seconds", "other_seconds")  # of an epoch; a record has their sums
# What a record leaves out: it follows from the rest and the labels of the test images, or is a checksum of a file.
LEFT_OUT = ("confusion_matrix", "test_accuracy", "predictions", "weights", "events")

SMALLEST_SHARE = 0.2  # of the digits; a classifier that sees less of them has lost them
GUESSING = 0.995 * math.log(N_CLASSES)  # nats per digit: a loss from here on is that of guessing
EPOCHS_TO_LEARN = 3  # from then on the loss is looked at

# For whoever has one run of each experiment.
ONE_RUN_EACH = (
    "One run of each says little: runs that differ in nothing but the seed can lie further apart than experiments do, "
    "under the tutorial's recipe by more than a point. Ten of each (--runs 10) show what is not luck, and more sharply "
    "with a localisation network that learns slowly (--set steady --runs 10)."
)


def write(path, results):
    """Write a results.json: the results of a run, and a checksum of them."""
    write_json(path, {**results, "checksum": checksum(results)})


def checksum(results):
    return hashlib.sha256(json.dumps(results).encode()).hexdigest()


def read(path):
    """Return the results of a run from its results.json. Raise ValueError, in one line, if it is damaged or copied.

    A run lies in the folder of its name.
    """
    results = read_checksummed(path)
    if results["experiment_name"] != Path(path).parent.name:
        raise ValueError(f"it is of {results['experiment_name']!r}; a copied or renamed folder?")
    return results


def read_checksummed(path):
    """Return what `write` has written into a file of any name. Raise ValueError, in one line."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(results, dict) or "checksum" not in results:
        raise ValueError("no checksum; made by an earlier version of this program?")
    if results.pop("checksum") != checksum(results):
        raise ValueError("its checksum does not fit")
    return results


def is_mnist(data):
    """Tell whether the description of a data set is that of MNIST, or of images made of it."""
    return data.get("md5") == MNIST_MD5


def read_all(out):
    """Read all finished runs in the folders of `out` as a record: (record, [complaint about what is passed over])."""
    runs, complaints = read_whole(out)
    return {name: condensed(results) for name, results in runs.items()}, complaints


def read_whole(out):
    """Read all finished runs in the folders of `out`: ({name: results}, [complaint about what is passed over]).

    The run `test` of train.py, which is always another one, is left out.
    """
    paths, complaints = [], []
    for run_dir in sorted(path for path in Path(out).iterdir() if path.is_dir()):
        if run_dir.name == "test" or run_dir.name.startswith("."):
            continue
        if not re.fullmatch(r"\w[\w.-]*", run_dir.name):
            complaints.append(f"{out}: passed over, {run_dir.name!a} is not the name of a run")
        elif not (run_dir / "results.json").exists():
            complaints.append(f"{run_dir}: passed over, it has no results.json (unfinished?)")
        else:
            paths.append(run_dir / "results.json")
    runs, broken = read_files(paths)
    return runs, complaints + broken


def read_files(paths):
    """Read the results.json of runs: ({name: results}, [complaint about each that is broken])."""
    runs, complaints = {}, []
    for path in paths:
        try:
            runs[path.parent.name] = read(path)
        except ValueError as error:
            complaints.append(f"{path}: passed over, it is broken ({error})")
    return runs, complaints


def condensed(results):
    """Leave out of one run's results what follows from the rest; the history becomes columns.

    Of the predictions only the wrong ones are kept, if the images are MNIST's: "index:class index:class ...".
    """
    columns = [key for key in COLUMNS if all(key in epoch for epoch in results["history"])]
    history = {key: [epoch[key] for epoch in results["history"]] for key in columns}
    small = {key: value for key, value in results.items() if key not in LEFT_OUT} | {"history": history}
    small |= {part: round(sum(epoch[part] for epoch in results["history"]), 2) for part in PARTS}
    labels = mnist_labels() if is_mnist(results["data"]) and spec_of(results["data"]).labels_of_digits else ""
    if len(labels) == len(results["predictions"]):
        images = enumerate(zip(results["predictions"], labels, strict=True))
        small["wrong"] = " ".join(f"{image}:{predicted}" for image, (predicted, label) in images if predicted != label)
    return small


def is_lost(entry):
    """Tell whether a transformer has lost its digits, from the entry of an epoch in a run's history.

    Either the classifier sees less than a fifth of them, or after three epochs both losses are those of guessing. (The
    train loss alone may have other parts.)
    """
    guesses = min(entry["train_loss"], entry["test_loss"]) >= GUESSING
    return entry.get("seen", 1.0) < SMALLEST_SHARE or (guesses and entry["epoch"] >= EPOCHS_TO_LEARN)


def lost_epoch(run):
    """Return the epoch from which on a run, condensed or not, is lost to its end; None if it is not, see `is_lost`."""
    history = run["history"]
    if isinstance(history, dict):
        columns = {"epoch": range(1, len(history["train_loss"]) + 1)} | history
        history = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    lost = [*takewhile(is_lost, reversed(history))]
    return lost[-1]["epoch"] if lost else None


def is_lost_run(run):
    """Tell whether a run, condensed or not, has lost its digits at the end."""
    return lost_epoch(run) is not None


def lost_runs(record):
    """Return {name of a run: since when it is lost, as text} of those runs of a record that are."""
    return {name: lost_text(lost_epoch(run)) for name, run in record.items() if is_lost_run(run)}


def lost_text(epoch):
    """Return what is said of a run with this `lost_epoch`, "" if it is None."""
    return "" if epoch is None else f"lost the digits in epoch {epoch}"


@lru_cache
def mnist_labels():
    """Return the labels of MNIST's test images, as a string of 10,000 digits."""
    return "".join(map(str, gzip.decompress(ARCHIVED_LABELS.read_bytes())[8:]))


def wrong_images(run):
    """Return {number of a test image: the class that it was taken for} of a condensed run, None if it is not known."""
    if "wrong" not in run:
        return None
    return {int(image): int(label) for image, label in (pair.split(":") for pair in run["wrong"].split())}


def confusion_matrix(run):
    """Return counts (10, 10) as lists, row = true digit, column = predicted digit; None if they are not known."""
    if (wrong := wrong_images(run)) is None:
        return None
    counts = [[0] * N_CLASSES for _ in range(N_CLASSES)]
    for image, label in enumerate(map(int, mnist_labels())):
        counts[label][wrong.get(image, label)] += 1
    return counts


def commit(run):
    """Return the first seven digits of the commit that made it and whether it was changed; "unknown" without one."""
    digits, *changed = (run["git_commit"] or "unknown").split("-")
    return "-".join([digits[:7], *changed])


def correct_images(run):
    """Return the numbers of correct test images after those epochs that are tested on as many images as the first."""
    history = run["history"]
    totals = history.get("test_total", [run["test_total"]] * len(history["test_correct"]))
    return [n for n, total in zip(history["test_correct"], totals, strict=True) if total == totals[0]]


def percentages(run):
    """Return the test accuracy of a condensed run in %, after each epoch."""
    correct = run["history"]["test_correct"]
    totals = run["history"].get("test_total") or len(correct) * [run["test_total"]]  # older runs have one for all
    return [100 * n / total for n, total in zip(correct, totals, strict=True)]


def last(run):
    """Return the accuracy in % after the last epoch."""
    return percentages(run)[-1]


def log_loss(run):
    """Return the logarithm of the test loss after the last epoch, None for a record that has no such loss.

    Differences between logarithms are relative changes that have the same size in both directions.
    """
    *_, loss = [0.0, *run["history"].get("test_loss", ())]
    return math.log(loss) if loss > 0 else None


def last_five(run):
    """Return the mean accuracy in % after the last five epochs: a measure that a single swing does not decide."""
    values = percentages(run)[-5:]
    return sum(values) / len(values)
