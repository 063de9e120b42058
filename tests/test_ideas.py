"""The worked examples of the README's "Try your own idea", taken from its text: they work as they stand there."""

import json
import re
import shutil
import struct
import subprocess
import sys

import pytest
from conftest import ROOT

import train
from stn import data

SECTION = re.search(r"## Try your own idea\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
ROW = re.search(r"^    (Experiment\(.*\),\n)", SECTION, re.MULTILINE)[1]
(PROGRAM,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = [line.split()[1:] for line in re.findall(r"^    (python .*)$", SECTION, re.MULTILINE)]


def test_an_eighth_experiment_is_a_row(idx_folder, tmp_path):
    """In a copy of the scripts, trained for one epoch on few images, and drawn."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    source = (tmp_path / "run_experiments.py").read_text()
    table = re.search(r"^EXPERIMENTS = \(\n.*?^\)", source, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "run_experiments.py").write_text(source.replace(table, table[:-1] + ROW + ")"))
    train_it, draw = COMMANDS[:2]
    for command in ([*train_it, "--data", idx_folder, "--epochs", "1"], draw):
        process = subprocess.run(
            [sys.executable, *map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=170
        )
        assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "experiments" / "exp_23_run_01_two_looks" / "results.json").read_text())
    assert results["arguments"] == {"passes": 2}
    assert (tmp_path / "experiments" / "diagram_exp_23.png").exists()


def test_a_network_of_ones_own(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load", lambda: digits)
    exec(PROGRAM, {})
    results = json.loads((tmp_path / "experiments" / "two_layers" / "results.json").read_text())
    assert (results["n_epochs"], results["live_parameters"]) == (20, 784 * 100 + 100 + 100 * 10 + 10)
    assert capsys.readouterr().out == f"{results['test_accuracy']:.2f} %\n"


@pytest.fixture
def fashion(idx_folder, tmp_path):
    """Other images than MNIST's under the name that the README uses: the same, brighter where they were dark."""
    folder = tmp_path / COMMANDS[2][COMMANDS[2].index("--data") + 1]
    shutil.copytree(idx_folder, folder)
    for path in folder.glob("*images*"):
        content = path.read_bytes()
        path.write_bytes(content[:16] + bytes(255 - byte // 2 for byte in content[16:]))
    return folder


def test_other_images_have_a_normalisation_of_their_own(fashion, call, tmp_path):
    pixels = data.read_idx(fashion, "train-images-idx3-ubyte")
    process = call(*COMMANDS[2], "--epochs", "1", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    mean, std = pixels.mean() / 255, pixels.std() / 255
    said = (
        f"{fashion.name}: normalised with the mean {mean:.4f} and standard deviation {std:.4f} of its training images"
    )
    assert process.stdout.splitlines()[1] == said
    runs = sorted((tmp_path / "experiments_fashion").glob("exp_0*"))
    assert [path.name[:6] for path in runs] == ["exp_02", "exp_03"]
    described = json.loads((runs[0] / "results.json").read_text())["data"]
    assert (described["name"], described["mean"], described["std"]) == ("fashion", round(mean, 4), round(std, 4))


def test_images_of_another_size_are_refused_before_training(fashion, call, tmp_path):
    for split, n in (("train", 640), ("t10k", 500)):
        (fashion / f"{split}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + struct.pack(">III", n, 32, 30) + bytes(range(240)) * 4 * n
        )
    process = call(*COMMANDS[2], cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "run_experiments.py: fashion: the train images are 32×30; the networks read 28×28\n"
    assert not (tmp_path / "experiments_fashion").exists()
