"""The repository as a whole: its rule of imports, what importing does, and what it needs."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from lab import folder

TRAINING = {"train", "run_experiments"}
SCRIPTS = {*TRAINING, "plot", "predict", "extract_id", "demo"}
MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("lab/*.py"), *ROOT.glob("stn/*.py")])
]


def imports(module):
    """The modules of this repository and torch that a module imports, at its top or late."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in MODULES or name.partition(".")[0] in ("torch", "torchvision", "kornia")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_rule_of_the_house(module):
    """lab/ never imports torch; stn/ may import lab/; the scripts import both, and nothing imports a script."""
    found = imports(module)
    packages = {name.partition(".")[0] for name in found}
    if module.startswith("lab"):
        assert packages <= {"lab"}
    elif module.startswith("stn"):
        allowed = {"lab", "stn", "torch", "torchvision", "kornia"}
        known = {"stn.fast_conv": {"coordconv"}, "stn.trained": {"models"}}  # a layer, and the networks by their names
        assert packages <= allowed | known.get(module, set())
    scripts = found & SCRIPTS
    assert scripts <= {"run_experiments": {"train"}, "plot": {"run_experiments", "train"}}.get(module, set())


def test_the_code_that_counts_for_a_run_is_all_that_training_imports():
    """At the top or late; what only uses finished runs is not among it, nor in a process that has imported the rest."""
    reached, new = set(), TRAINING
    while new:
        reached |= new
        new = {name for module in new for name in imports(module) & set(MODULES)} - reached
    counted = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in folder.code_files()}
    afterwards = {name.removesuffix(".py").replace("/", ".") for name in folder.AFTERWARDS}
    assert afterwards <= set(MODULES)
    assert not afterwards & (reached | counted)
    assert {name for name in reached if name.startswith("stn.")} <= counted
    program = f"import sys; import {', '.join(TRAINING)}; sys.exit(bool({afterwards} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name.startswith("lab.")]
    + ["run_experiments", "plot", "predict", "extract_id", "demo"],
)
def test_what_only_reads_does_not_wait_for_torch(module):
    program = f"import sys; import {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_module_does_nothing_when_imported(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import torch; state = torch.get_rng_state(); "
        f"import {', '.join(MODULES)}; assert torch.equal(state, torch.get_rng_state()); "
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
