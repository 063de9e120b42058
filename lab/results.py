"""Results of runs as files: results.json is checked whenever it is read, and many runs are kept in one small file.

Nothing here imports torch, so that what only reads need not wait for it.
"""

import gzip
import json
import math
import os
import re
from functools import lru_cache
from pathlib import Path

ARCHIVED_LABELS = Path(__file__).resolve().parent / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
LARGEST = 20_000_000  # bytes; a run of a thousand epochs has one
N_CLASSES = 10
COLUMNS = ("train_loss", "test_loss", "test_correct")  # of the history, in the small file
FOLLOWS = ("confusion_matrix", "test_accuracy", "predictions")  # from the rest, with the labels of the test images


def read(path):
    """The content of a results.json. Raises ValueError, in one line, if it is not what `train` writes.

    One that is copied or renamed is found out, too: it lies in the folder of its name.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ValueError("not a file")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number)
        check(results, path.parent.name)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (OSError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return results


def no_number(text):
    raise ValueError(f"{text} is not a result")


def check(results, name):
    """Raise ValueError (or LookupError, TypeError, AttributeError) if this is not what the run `name` has written."""
    if not isinstance(results, dict):
        raise ValueError("not a JSON object")
    if results["experiment_name"] != name:
        raise ValueError(f"it is of {results['experiment_name']!r}; a copied or renamed folder?")
    n_epochs, correct, total = (number(results, key, 0) for key in ("n_epochs", "test_correct", "test_total"))
    number(results, "run", 1)
    for key in ("arguments", "data", "versions"):
        if not isinstance(results[key], dict):
            raise ValueError(f"{key!r} is not an object")
    if not math.isfinite(results["seconds"]) or not isinstance(results["transformer"], dict | None):
        raise ValueError("'seconds' or 'transformer' is of the wrong type")
    matrix, history, predicted = (results[key] for key in ("confusion_matrix", "history", "predictions"))
    if [len(row) for row in matrix] != [N_CLASSES] * N_CLASSES or any(
        type(count) is not int or count < 0 for row in matrix for count in row
    ):
        raise ValueError("'confusion_matrix' is not one of ten classes")
    if sum(map(sum, matrix)) != total or len(predicted) != total or not re.fullmatch("[0-9]*", predicted):
        raise ValueError(f"'confusion_matrix' or 'predictions' is not of {total} images")
    if len(history) != n_epochs or any(epoch["epoch"] != place for place, epoch in enumerate(history, 1)):
        raise ValueError(f"'history' has not the epochs 1 to {n_epochs}")
    for epoch in history:
        if number(epoch, "test_correct", 0) > total or not all(
            type(epoch[key]) is float and math.isfinite(epoch[key])
            for key in ("train_loss", "test_loss", "train_seconds", "seconds")
        ):
            raise ValueError(f"'history' is not plausible in epoch {epoch['epoch']}")
    counts = {correct, sum(matrix[digit][digit] for digit in range(N_CLASSES))}
    counts |= {epoch["test_correct"] for epoch in history[-1:]}
    if len(counts) != 1 or total == 0 or results["test_accuracy"] != 100 * correct / total:
        raise ValueError("'test_accuracy', 'test_correct', 'history' and 'confusion_matrix' do not agree")


def number(results, key, smallest):
    """The whole number results[key]."""
    value = results[key]
    if type(value) is not int or value < smallest:  # isinstance would let True pass for a number
        raise ValueError(f"{key!r} is not a whole number from {smallest}")
    return value


def read_all(out):
    """All finished runs in the folders of `out`: ({name: condensed results}, [complaint about what is passed over]).

    The run `test` of train.py, which is always another one, is left out.
    """
    record, complaints = {}, []
    folders = (path for path in Path(out).iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in sorted(path for path in folders if path.name != "test"):
        path = folder / "results.json"
        try:
            if not os.path.lexists(path):
                complaints.append(f"{folder}: passed over, it has no results.json (unfinished?)")
                continue
            record[folder.name] = condensed(read(path))
        except ValueError as error:
            complaints.append(f"{path}: passed over, it is broken ({error})")
    return record, complaints


def condensed(results):
    """The content of one results.json without what follows from the rest: the history as columns, and of the
    predictions only the wrong ones, if the images are MNIST's: "index:class index:class ..."."""
    history = {key: [epoch[key] for epoch in results["history"]] for key in COLUMNS}
    predicted = results["predictions"]
    small = {key: value for key, value in results.items() if key not in FOLLOWS} | {"history": history}
    small["train_seconds"] = round(sum(epoch["train_seconds"] for epoch in results["history"]), 1)
    labels = mnist_labels() if results["data"].get("name") == "MNIST" else ""
    if len(labels) == len(predicted):
        wrong = (f"{i}:{ours}" for i, (ours, label) in enumerate(zip(predicted, labels, strict=True)) if ours != label)
        small["wrong"] = " ".join(wrong)
    return small


@lru_cache
def mnist_labels():
    """The labels of MNIST's test images, as a string of 10,000 digits."""
    return "".join(map(str, gzip.decompress(ARCHIVED_LABELS.read_bytes())[8:]))


def wrong_images(run):
    """{number of a test image: the class that it was taken for} of a condensed run, or None if that is not known."""
    if "wrong" not in run:
        return None
    return {int(image): int(label) for image, label in (pair.split(":") for pair in run["wrong"].split())}


def confusion_matrix(run):
    """Counts (10, 10) as lists, row = true digit, column = predicted digit; None if they are not known."""
    wrong = wrong_images(run)
    if wrong is None:
        return None
    counts = [[0] * N_CLASSES for _ in range(N_CLASSES)]
    for image, label in enumerate(map(int, mnist_labels())):
        counts[label][wrong.get(image, label)] += 1
    return counts
