"""The repository as a whole: its rule of imports, what importing does, and what it needs."""

import ast
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

CORE = {"lab", "stn"}
ROOMS = {"studies", "fast", "digits", "tools"}
SCRIPTS = {"train", "run_experiments", "plot", "predict", "extract_id", "demo"}
NETWORKS = {"models", "coordconv"}
MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for pattern in ("*.py", "lab/*.py", "stn/*.py", "fast/*.py", "digits/*.py", "studies/**/*.py", "tools/*.py")
    for path in sorted(ROOT.glob(pattern))
]
# A room is reached by name, late, at one place each.
LATE = {"train": {"fast"}, "lab.catalogue": {"studies"}}
# The scripts over the rooms: thin command lines.
OVER = {"predict": {"digits"}, "extract_id": {"digits", "studies"}, "demo": {"digits"}}
# What a room may use of another: cards are looked for in image files as digits are, and drawn by compiled loops.
SHARED = {"studies.cards": {"digits", "fast"}, "tools": {*ROOMS, *SCRIPTS, "page"}}
TORCH = {"torch", "torchvision", "kornia"}


def imports(module):
    """The modules of this repository and torch that a module imports, at its top or late."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in MODULES or name.partition(".")[0] in ("torch", "torchvision", "kornia")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_rule_of_the_house(module):
    """The core never imports a room, but by name and late; a room imports the core and no other room; lab/ no torch."""
    packages = {name.partition(".")[0] for name in imports(module)}
    here = module.partition(".")[0]
    if here in ROOMS:
        shared = set().union(*(names for prefix, names in SHARED.items() if module.startswith(prefix)))
        assert packages <= {here, *CORE, *TORCH, *NETWORKS} | shared
    else:
        assert packages & ROOMS <= LATE.get(module, set()) | OVER.get(module, set())
    if here == "lab":
        assert not packages & TORCH
    if here in CORE:
        assert not packages & SCRIPTS
    scripts = packages & SCRIPTS
    if here in SCRIPTS:
        assert scripts <= {"run_experiments": {"train"}, "plot": {"run_experiments"}}.get(module, set())


CODES = """
import importlib, json, sys
sys.path.insert(0, ".")
from lab import catalogue, folder
for _ in sys.stdin:
    importlib.reload(folder)
    print(json.dumps({spec.name: folder.code_hash(spec.sources) for spec in catalogue.datasets().values()}), flush=True)
"""


def test_the_code_of_a_run_is_all_that_decides_its_result_and_nothing_else(tmp_path, start):
    """A changed line in what logs, draws and compares, or in another study, makes no run another one."""
    checkout = copy_of_the_repository(tmp_path)
    process = start([sys.executable, "-c", CODES], cwd=checkout, stdin=subprocess.PIPE)

    def codes():
        process.stdin.write("look again\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def changed(name):
        path, before = checkout / name, codes()
        content = path.read_bytes()
        path.write_bytes(content + b"# changed\n")
        after = codes()
        path.write_bytes(content)
        return {data for data in before if before[data] != after[data]}

    everything = {"mnist", "perspective", "whole", "cards", "straight cards"}
    assert codes().keys() == everything
    for name in (
        "models.py",
        "coordconv.py",
        "train.py",
        "stn/warps.py",
        "stn/data.py",
        "fast/step.py",
        "lab/settings.py",
    ):
        assert changed(name) == everything, name
    for name in (
        "stn/tensorboard.py",
        "lab/figures.py",
        "lab/tables.py",
        "plot.py",
        "studies/steady.py",
        "tools/page.py",
    ):
        assert changed(name) == set(), name
    for name in ("studies/cards/rendering.py", "studies/cards/networks.py", "data/backgrounds/brick.png"):
        assert changed(name) == {"cards", "straight cards"}, name
    for name in ("studies/cards/report.py", "studies/cards/detector.py", "digits/own_images.py"):
        assert changed(name) == set(), name
    assert changed("studies/perspective/data.py") == {"perspective", "whole"}


def copy_of_the_repository(folder, rooms=True):
    """Copy what git tracks, as it is now, without the rooms if they are not wanted."""
    checkout = folder / "checkout"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not names:  # an exported copy, not a repository: all but what tools leave in it
        skipped = {".venv", "__pycache__", "experiments"}
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [path.as_posix() for path in paths if not skipped & {*path.parts}]
    for name in names:
        room = name.split("/")[0] if "/" in name else ""
        left_out = {"tests", "docs", "results", "weights", ".readme_figures"} | (set() if rooms else ROOMS)
        if (ROOT / name).exists() and room not in left_out:
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    return checkout


def run_in(checkout, *command):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=checkout, capture_output=True, text=True, timeout=170
    )


def test_the_core_without_the_rooms_trains_the_seven(tmp_path, idx_folder):
    """By the plain loop, and compares them; what belongs to a room is not there."""
    checkout = copy_of_the_repository(tmp_path, rooms=False)
    assert not any((checkout / room).exists() for room in ROOMS)
    process = run_in(checkout, "run_experiments.py", "--epochs", 1, "--jobs", 1, "--data", idx_folder)
    assert process.returncode == 0, process.stderr
    assert len([*checkout.glob("experiments/*/results.json")]) == 7
    assert run_in(checkout, "plot.py").returncode == 0
    assert (checkout / "experiments" / "AccuracyComparison.png").exists()
    listed = run_in(checkout, "run_experiments.py", "--list").stdout
    assert re.findall("^exp_.*?(?= )", listed, re.MULTILINE) == [f"exp_0{n}" for n in range(1, 8)]


PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own_experiments.md").read_text(), re.DOTALL)
ROTATED = next(program for program in PROGRAMS if "DatasetSpec(" in program)  # studies/rotated.py of that page


def test_a_new_data_set_is_a_new_file_only(tmp_path, idx_folder):
    """It is listed, trained, resumed, tabled and drawn, and not beside the tutorial's claim."""
    checkout = copy_of_the_repository(tmp_path)
    (checkout / "studies" / "rotated.py").write_text(ROTATED)
    assert "exp_100  rotated, 2 epochs" in run_in(checkout, "run_experiments.py", "--list").stdout
    command = "run_experiments.py", "--data", idx_folder, "--plain", "--set", "rotated"
    for _ in range(2):
        process = run_in(checkout, *command)
        assert process.returncode == 0, process.stderr
    assert "skipped: already finished" in process.stdout
    process = run_in(checkout, "run_experiments.py", "--data", idx_folder, "--plain", "--epochs", 1, "--only", "exp_03")
    assert process.returncode == 0, process.stderr
    content = json.loads((checkout / "experiments" / "exp_100_run_01_rotated" / "results.json").read_text())
    assert content["data"]["degrees"] == 90
    assert not any(name.startswith("corner_distance") for name in content["transformer"])
    process = run_in(checkout, "plot.py")
    assert process.returncode == 0, process.stderr
    comparison = (checkout / "experiments" / "comparison.md").read_text()
    digits = re.search(r"^## (.*)$", comparison, re.MULTILINE)[1]
    assert f"## {digits}, rotated" in comparison
    assert {path.name for path in checkout.glob("experiments/*AccuracyComparison.png")} == {
        "AccuracyComparison.png",
        "RotatedAccuracyComparison.png",
    }


def test_what_only_reads_does_not_wait_for_torch():
    """No module of lab/, no study and no script imports torch; one process imports them one after another."""
    studies = ("studies.steady", "studies.cards", "studies.perspective")
    names = [name for name in MODULES if name.startswith("lab.") or name in studies]
    names += ["run_experiments", "plot", "predict", "extract_id", "demo"]
    program = (
        f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_a_module_does_nothing_when_imported(tmp_path):
    names = [name for name in MODULES if not name.startswith("tools")]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import torch; state = torch.get_rng_state(); "
        f"import {', '.join(names)}; assert torch.equal(state, torch.get_rng_state()); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def requirements(lines):
    return {
        match[1]: match[2]
        for line in lines
        if (match := re.match(r"([a-z-]+) ?(>=[\d.]+)", line.strip().removeprefix("- ")))
    }


def test_conda_environment_is_in_step_with_requirements():
    pip = requirements((ROOT / "requirements.txt").read_text().splitlines())
    conda = requirements((ROOT / "stn.cpu.yml").read_text().splitlines())
    del conda["python"]
    conda["torch"] = conda.pop("pytorch")
    assert conda == pip
    assert {"torch", "torchvision", "kornia", "matplotlib", "tensorboard", "numpy", "tqdm"} <= pip.keys()
