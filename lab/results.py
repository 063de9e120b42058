"""Results of runs as files: results.json carries a checksum, and many runs are kept in one small file, a record.

A *record* is {name of a run: its condensed results}; some files in results/ are records.
"""

import gzip
import hashlib
import json
import math
import os
import re
from collections import Counter
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from lab.catalogue import spec_of
from lab.files import write_json

ARCHIVED_LABELS = Path(__file__).resolve().parent.parent / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
LARGEST = 20_000_000  # bytes; a run of a thousand epochs has one
N_CLASSES = 10
DIGITS = "0123456789"  # the classes in `predictions`
MNIST = "bd3808b2414328cf71cc2764408ae4c5"  # MD5 of its four arrays: the data that has it is MNIST, whatever its name
COLUMNS = ("train_loss", "test_loss", "test_correct")  # of the history, in the small file
PARTS = ("train_seconds", "test_seconds", "log_seconds", "other_seconds")  # of an epoch, summed up there
# What follows from the rest, with the labels of the test images, or identifies files of the run's folder.
FOLLOWS = ("confusion_matrix", "test_accuracy", "predictions", "weights", "events")

# For whoever has one run of each experiment.
ONE_RUN_EACH = (
    "One run of each says little: runs that differ in nothing but the seed can lie further apart than experiments do, "
    "under the tutorial's recipe by more than a point. Ten of each (--runs 10) show what is not luck, and more sharply "
    "with a localisation network that learns slowly (--set steady --runs 10)."
)


def write(path, content):
    """Write a results.json: `content`, and a checksum of it."""
    write_json(path, {**content, "checksum": checksum(content)})


def checksum(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@contextmanager
def in_one_line():
    """Raise ValueError, in one line, for whatever goes wrong with the content of a file."""
    try:
        yield
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (OSError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


@in_one_line()
def read(path):
    """Return the content of a results.json. Raise ValueError, in one line, if it is not as `write` has left it.

    One that is copied or renamed is found out, too: it lies in the folder of its name.
    """
    path = Path(path)
    content = read_checksummed(path)
    if content["experiment_name"] != path.parent.name:
        raise ValueError(f"it is of {content['experiment_name']!r}; a copied or renamed folder?")
    check(content)
    return content


@in_one_line()
def read_checksummed(path):
    """Return the content of a file of any name that `write` has written. Raise ValueError, in one line."""
    if not path.is_file():
        raise ValueError("not a file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.stat().st_size:,} bytes are too many")
    content = json.loads(path.read_text(encoding="utf-8"))
    if "checksum" not in content:
        raise ValueError("no checksum; made by an earlier version of this program?")
    if content.pop("checksum") != checksum(content):
        raise ValueError("its checksum does not fit")
    return content


NUMBER = int | float
KINDS = {  # what a results.json must have
    **dict.fromkeys(("experiment_name", "model", "device_name", "predictions"), str),
    **dict.fromkeys(("run", "seed", "n_epochs", "test_correct", "test_total", "trainable_parameters"), int),
    **dict.fromkeys(("seconds", "avg_test_loss", "test_accuracy"), NUMBER),
    **dict.fromkeys(("arguments", "data", "versions"), dict),
    **dict.fromkeys(("history", "confusion_matrix"), list),
    **dict.fromkeys(("code", "git_commit", "weights"), str | None),
    **dict.fromkeys(("transformer", "events"), dict | None),
}
DATA_KINDS = {"name": str, "md5": str | None}


def is_mnist(data):
    """Tell whether the description of a data set is MNIST's, as it is or distorted, or of cards made of it."""
    return data.get("md5") == MNIST


def has_mnist_labels(data):
    """Tell whether the test images of a data set have the labels of MNIST's, one after the other."""
    return is_mnist(data) and spec_of(data).labels_of_digits


def check_kinds(content):
    """Raise ValueError if something of a results.json is missing or of another kind."""
    kinds = [(content, KINDS), (content.get("data"), DATA_KINDS)]
    if wrong := [key for part, ours in kinds for key, kind in ours.items() if not isinstance(part.get(key), kind)]:
        raise ValueError(f"{', '.join(wrong)} is missing or of another kind")


def check(content):
    """Raise ValueError if figures of a results.json contradict each other: somebody may have sealed it anew."""
    check_kinds(content)
    history, matrix, predicted = content["history"], content["confusion_matrix"], content["predictions"]
    correct, total, last_epoch = content["test_correct"], content["test_total"], history[-1]
    n_digits = spec_of(content["data"]).n_digits  # of each image
    if not all(0 <= epoch[key] < math.inf for epoch in history for key in ("train_loss", "test_loss", *PARTS)):
        raise ValueError("a loss or a time is negative or not finite")
    numbers = [epoch["epoch"] for epoch in history]
    if numbers != [*range(1, content["n_epochs"] + 1)] or len(predicted) != total * n_digits:
        raise ValueError("the numbers of epochs or images do not agree")
    if has_mnist_labels(content["data"]):
        counts = Counter(zip(mnist_labels(), predicted, strict=True))
        agree = [matrix == [[counts[label, ours] for ours in DIGITS] for label in DIGITS]]
    else:  # the labels are not known
        agree = [[*map(sum, zip(*matrix, strict=True))] == [*map(predicted.count, DIGITS)]]
    for epoch in history:
        agree.append(epoch["test_correct"] in range(total + 1))
        agree.append(epoch["test_accuracy"] == 100 * epoch["test_correct"] / total)
    right = sum(row[digit] for digit, row in enumerate(matrix))
    agree.append(last_epoch["test_correct"] == correct)
    # An image that is read has all its digits right, any other at most all but one; with one digit that is equality.
    agree.append(n_digits * correct <= right <= correct + (n_digits - 1) * total)
    agree.append(content["test_accuracy"] == last_epoch["test_accuracy"])
    agree.append(content["avg_test_loss"] == last_epoch["test_loss"])
    if not all(agree):
        raise ValueError("accuracy, loss, history, confusion matrix and predictions do not agree")


def read_all(out):
    """Read all finished runs in the folders of `out` as a record: (record, [complaint about what is passed over])."""
    contents, complaints = read_whole(out)
    return {name: condensed(content) for name, content in contents.items()}, complaints


def read_whole(out):
    """Read all finished runs in the folders of `out`: ({name: content of results.json}, [complaints]).

    The run `test` of train.py, which is always another one, is left out.
    """
    contents, complaints = {}, []
    for folder in sorted(path for path in Path(out).iterdir() if path.is_dir()):
        path = folder / "results.json"
        if folder.name == "test" or folder.name.startswith("."):
            continue
        if not re.fullmatch(r"\w[\w.-]*", folder.name):
            complaints.append(f"{out}: passed over, {folder.name!a} is not the name of a run")
            continue
        if not os.path.lexists(path):
            complaints.append(f"{folder}: passed over, it has no results.json (unfinished?)")
            continue
        try:
            contents[folder.name] = read(path)
        except ValueError as error:
            complaints.append(f"{path}: passed over, it is broken ({error})")
    return contents, complaints


def condensed(results):
    """Leave out of one run's results what follows from the rest, see `without_predictions`.

    Of the predictions only the wrong ones are kept, if the images are MNIST's: "index:class index:class ...".
    """
    small, predicted = without_predictions(results), results["predictions"]
    labels = mnist_labels() if has_mnist_labels(results["data"]) else ""
    if len(labels) == len(predicted):
        pairs = enumerate(zip(predicted, labels, strict=True))
        small["wrong"] = " ".join(f"{image}:{ours}" for image, (ours, label) in pairs if ours != label)
    return small


def without_predictions(results):
    """Leave out of one run's results what follows from the rest, and the predictions; the history becomes columns."""
    history = {key: [epoch[key] for epoch in results["history"]] for key in COLUMNS}
    small = {key: value for key, value in results.items() if key not in FOLLOWS} | {"history": history}
    return small | {part: round(sum(epoch[part] for epoch in results["history"]), 2) for part in PARTS}


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


def percentages(run):
    """Return the test accuracy of a condensed run in %, after each epoch."""
    return [100 * correct / run["test_total"] for correct in run["history"]["test_correct"]]


def last(run):
    """Return the accuracy in % after the last epoch."""
    return percentages(run)[-1]


def last_five(run):
    """Return the mean accuracy in % after the last five epochs: a measure that a single swing does not decide."""
    values = percentages(run)[-5:]
    return sum(values) / len(values)
