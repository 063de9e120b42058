"""A small part of the real MNIST, and a way to call the scripts as a user does."""

import gzip
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


@pytest.fixture(scope="session")
def call():
    """Run a script of the repository in a process of its own: call("plot.py", "--out", folder, cwd=folder)."""

    def run(script, *arguments, **options):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = os.environ | {"PYTHONWARNINGS": "error::UserWarning"}
        return subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment, **options)

    return run
