"""The scripts where Python, or the notebook that starts them, is set up in its own way."""

import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from pictures import printed
from PIL import Image

import lab

SCRIPTS = ("run_experiments", "plot", "train", "predict", "extract_id", "demo")
INLINE = "module://matplotlib_inline.backend_inline"  # as Jupyter and Colab set it for all that a notebook starts


def test_every_script_starts_and_a_digit_is_read_and_drawn(monkeypatch, tmp_path):
    """Without docstrings, and by a notebook whose drawing package is not installed here; all in one process."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("MPLBACKEND", INLINE)
    Image.fromarray(((1 - printed("7")) * 255).astype("uint8")).save(tmp_path / "seven.png")
    program = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    sys.argv = [f"{name}.py", "--help"]
    with contextlib.suppress(SystemExit):
        importlib.import_module(name).main()
sys.argv = ["predict.py", "seven.png"]
sys.exit(sys.modules["predict"].main())
"""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-c", program, *SCRIPTS]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    usages = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("usage: ")]
    assert usages == [f"{name}.py" for name in SCRIPTS]
    assert "\nseven.png: 7  (" in process.stdout
    assert (tmp_path / "seven.png.read.png").exists()


@pytest.mark.parametrize(
    ("backend", "is_left"),
    [
        (INLINE, False),
        ("module://", False),
        ("module://matplotlib.backends.backend_svg", True),  # its package is there, and whoever set it may need it
        ("agg", True),
    ],
)
def test_only_a_backend_that_is_not_installed_is_forgotten(monkeypatch, backend, is_left):
    monkeypatch.setattr(lab, "find_spec", lambda name: name != "matplotlib_inline" and importlib.util.find_spec(name))
    monkeypatch.setenv("MPLBACKEND", backend)
    lab.forget_missing_backend()
    assert os.environ.get("MPLBACKEND") == (backend if is_left else None)
