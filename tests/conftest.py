"""A small part of the real MNIST, and a way to call the scripts as a user does."""

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

import data

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)  # machines here are noisy
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"train": 640, "t10k": 500}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory):
    """The first few hundred images of MNIST as a folder of four IDX files."""
    folder = tmp_path_factory.mktemp("few_digits")
    for name in data.MNIST_MD5:
        content = gzip.decompress((ROOT / "data" / "MNIST" / "raw" / f"{name}.gz").read_bytes())
        n = SIZES[name.partition("-")[0]]
        header, item = (16, 784) if "images" in name else (8, 1)
        (folder / name).write_bytes(content[:4] + struct.pack(">I", n) + content[8 : header + n * item])
    return folder


@pytest.fixture(scope="session")
def digits(idx_folder):
    return data.load(idx_folder)


def results_of(name, correct, total=1000, **changes):
    """A results.json as `train` writes it, of a run with these numbers of correct test images by epoch."""
    epoch = {"train_loss": 0.1, "test_loss": 0.1, "train_seconds": 10.0, "seconds": 12.0}
    history = [
        {"epoch": number, **epoch, "test_correct": n, "test_accuracy": 100 * n / total}
        for number, n in enumerate(correct, 1)
    ]
    matrix = [[0] * 10 for _ in range(10)]
    matrix[0][0], matrix[0][1] = correct[-1], total - correct[-1]
    return {
        **{"experiment_name": name, "avg_test_loss": 0.1, "test_accuracy": 100 * correct[-1] / total},
        **{"test_correct": correct[-1], "test_total": total, "n_epochs": len(correct), "run": int(name[11:13])},
        **{"arguments": {}, "data": {"name": "few"}, "device_name": "a machine", "live_parameters": 27360},
        **{"versions": {"torch": "2"}, "git_commit": "a" * 40, "seconds": 12.0 * len(correct), "transformer": None},
        **{"plain_convolutions": False, "history": history, "confusion_matrix": matrix},
        "predictions": "0" * correct[-1] + "1" * (total - correct[-1]),
        **changes,
    }


def write_results(out, name, correct, **changes):
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results_of(name, correct, **changes)))
    return folder / "results.json"


@pytest.fixture(scope="session")
def call():
    """Run a script of the repository in a process of its own: call("plot.py", "--out", folder, cwd=folder)."""

    def run(script, *arguments, **options):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = os.environ | {"PYTHONWARNINGS": "error::UserWarning"}
        return subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment, **options)

    return run
