"""The repository as a whole: its rule of imports, what importing does, and what it needs."""

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT
from stress_kill import assert_same_run

import train
from lab import catalogue
from lab.settings import Experiment, RunError

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
# What a room may use of another: cards are looked for in image files as digits are, and drawn by compiled loops; what
# networks for users' pictures learn from is prepared as these pictures are.
SHARED = {"studies.cards": {"digits", "fast"}, "studies.pictures": {"digits"}, "tools": {*ROOMS, *SCRIPTS, "page"}}
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

    cards = {"cards", "straight cards", "held-out cards", "held-out straight cards"}
    papers = {"R", "RTS", "P", "E", "TC", "R held out", "TC held out"}
    perspective, pictures = {"perspective", "whole"}, {"weak perspective", "pictures"}
    everything = {"mnist", "cards or none", *cards, *papers, *perspective, *pictures}
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
        assert changed(name) == {"cards or none", *cards}, name
    for name in ("studies/cards/report.py", "studies/cards/detector.py", "digits/image_files.py"):
        assert changed(name) == set(), name
    assert changed("studies/perspective/data.py") == perspective | pictures
    assert changed("studies/paper/data.py") == papers
    assert changed("studies/pictures/drawing.py") == changed("digits/layout.py") == pictures
    assert changed("data/photographs/rocket.png") == {"cards or none", *pictures}


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
    if rooms and (ROOT / "fast" / "__pycache__").exists():  # what is compiled already
        shutil.copytree(ROOT / "fast" / "__pycache__", checkout / "fast" / "__pycache__")
    return checkout


def run_in(checkout, *command):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=checkout, capture_output=True, text=True, timeout=170
    )


def test_the_core_without_the_rooms_trains_and_compares(tmp_path, idx_folder):
    """Two of the seven, by the plain loop; what belongs to a room is not there."""
    checkout = copy_of_the_repository(tmp_path, rooms=False)
    assert not any((checkout / room).exists() for room in ROOMS)
    what = ("--epochs", 1, "--jobs", 1, "--data", idx_folder, "--only", "exp_03", "exp_07")
    process = run_in(checkout, "run_experiments.py", *what)
    assert process.returncode == 0, process.stderr
    assert len([*checkout.glob("experiments/*/results.json")]) == 2
    assert run_in(checkout, "plot.py").returncode == 0
    assert (checkout / "experiments" / "AccuracyComparison.png").exists()
    listed = run_in(checkout, "run_experiments.py", "--list").stdout
    assert re.findall("^exp_.*?(?= )", listed, re.MULTILINE) == [f"exp_0{n}" for n in range(1, 8)]


OWN_EXPERIMENTS = (ROOT / "docs" / "own_experiments.md").read_text(encoding="utf-8")
# {path: content} of the files that the page tells to add
FILES = dict(re.findall(r"complete\s+file\s+`(studies/[\w/.]+)`[^`]*?```python\n(.*?)```", OWN_EXPERIMENTS, re.DOTALL))


# Trains a run into the folder `undisturbed`, and then to the end of its first epoch where the options say.
BREAK_OFF = """
import os, sys
import run_experiments, train
from lab.settings import Job

save = train.save_checkpoint
def save_and_die(*what):
    save(*what)
    os._exit(9)
for more in (["--out", "undisturbed"], []):
    options = run_experiments.parse_arguments([*sys.argv[1:], *more])
    (row,) = run_experiments.selection(options)
    kind, (options, jobs, _) = run_experiments.prepare(options, [Job(row, 1, options.epochs)])
    run_experiments.train_job(jobs[0], options)
    train.save_checkpoint = save_and_die
"""


def test_a_new_transform_and_a_new_data_set_are_new_files_only(tmp_path, idx_folder):
    """Those of docs/own_experiments.md: digits rotated and of another size, and a transformer that only rotates.

    They are listed, trained, resumed after an epoch, tabled and drawn, and not beside the tutorial's claim.
    """
    checkout = copy_of_the_repository(tmp_path)
    assert {name.split("/")[1] for name in FILES} == {"rotation", "rotated.py", "padded.py"}
    for name, content in FILES.items():
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(content, encoding="utf-8")
    listed = run_in(checkout, "run_experiments.py", "--list").stdout
    for row in ("exp_91  rotation, 30 epochs", "exp_100  rotated, 2 epochs", "exp_110  padded, 2 epochs"):
        assert row in listed
    options = ("--data", idx_folder, "--plain", "--epochs", 2)
    died = run_in(checkout, "-c", BREAK_OFF, *options, "--set", "rotated")
    assert died.returncode == 9, died.stderr
    (begun,) = checkout.glob("experiments/*/checkpoint.pt")
    assert not begun.with_name("results.json").exists()
    rows = ("exp_03", "exp_91", "exp_100", "exp_110")
    process = run_in(checkout, "run_experiments.py", *options, "--jobs", 1, "--only", *rows)
    assert process.returncode == 0, process.stderr
    assert_same_run(begun.parent, checkout / "undisturbed" / begun.parent.name)
    content = json.loads(begun.with_name("results.json").read_text())
    assert content["data"]["degrees"] == 90
    assert not any(name.startswith("corner_distance") for name in content["transformer"])
    rotation, padded = (
        json.loads(next(checkout.glob(f"experiments/{row}_*/results.json")).read_text())
        for row in ("exp_91", "exp_110")
    )
    first = localiser_parameters(28, outputs=6) + classifier_parameters(28)
    assert (
        rotation["trainable_parameters"] == first - 5 * 33
    )  # one output instead of six, each with 32 weights and a bias
    assert padded["trainable_parameters"] == localiser_parameters(42, outputs=6) + classifier_parameters(42)
    assert (
        padded["transformer"]["within_class_variance_before"]
        < 0.6 * rotation["transformer"]["within_class_variance_before"]
    )
    process = run_in(checkout, "plot.py")
    assert process.returncode == 0, process.stderr
    comparison = (checkout / "experiments" / "comparison.md").read_text()
    digits = re.search(r"^## (.*)$", comparison, re.MULTILINE)[1]
    assert f"## {digits}, rotated" in comparison
    assert f"## {digits}, padded" in comparison
    assert {path.name for path in checkout.glob("experiments/*AccuracyComparison.png")} == {
        "AccuracyComparison.png",
        "PaddedAccuracyComparison.png",
        "RotatedAccuracyComparison.png",
    }


def localiser_parameters(side, outputs):
    left = ((side - 6) // 2 - 4) // 2
    return 8 * 49 + 8 + 10 * 8 * 25 + 10 + 10 * left**2 * 32 + 32 + 32 * outputs + outputs


def classifier_parameters(side):
    left = ((side - 4) // 2 - 4) // 2
    return 10 * 25 + 10 + 20 * 10 * 25 + 20 + 20 * left**2 * 50 + 50 + 50 * 10 + 10


ENLARGED = '''
"""MNIST, enlarged to 42×42, as it is and in perspective: images of another size, in a file of its own."""

from lab.catalogue import DatasetSpec, Study
from lab.settings import Experiment

ENLARGED, SIDE = {"side": 42}, 42
PERSPECTIVE = ENLARGED | {"perspective_sigma": 3.5}
STUDY = Study(
    sets={
        "enlarged": (
            Experiment("exp_100", "enlarged", "Net", 2, "Does it read large digits?", data="enlarged"),
            Experiment("exp_101", "enlarged_homography", "Net_CoordConv_Homography", 2, "And in perspective?",
                       {"padding": "background", "passes": 2}, data="enlarged in perspective"),
            Experiment("exp_102", "enlarged_canvas", "Net_CoordConv", 2, "And on a canvas?",
                       {"canvas": 2}, data="enlarged on a canvas"),
        ),
    },
    datasets=(
        DatasetSpec("enlarged", "{digits}, enlarged", "enlarged", "studies.enlarged:enlarged", ENLARGED,
                    image_size=(42, 42), figure_prefix="Enlarged"),
        DatasetSpec("enlarged in perspective", "{digits}, enlarged, in perspective", "enlarged in perspective",
                    "studies.enlarged:in_perspective", PERSPECTIVE, image_size=(42, 42),
                    metrics="studies.perspective.metrics", figure_prefix="EnlargedPerspective"),
        DatasetSpec("enlarged on a canvas", "{digits}, enlarged, on a canvas", "enlarged on a canvas",
                    "studies.enlarged:on_a_canvas", ENLARGED | {"canvas": 2}, image_size=(84, 84),
                    figure_prefix="EnlargedCanvas"),
    ),
)


def enlarged(clean):
    from torch.nn.functional import interpolate

    images = {
        name: interpolate(getattr(clean, name), (SIDE, SIDE), mode="bilinear")
        for name in ("train_images", "test_images")
    }
    return clean._replace(**images, description=clean.description | ENLARGED, clean=clean)


def in_perspective(clean):
    from studies.perspective.data import perspective

    return perspective(enlarged(clean))


def on_a_canvas(clean):
    from stn import warps

    large = enlarged(clean)
    images = {name: warps.pad_to_canvas(getattr(large, name), 2) for name in ("train_images", "test_images")}
    return large._replace(**images, description=large.description | {"canvas": 2}, canvas=2)
'''
LOOK_AT_IT = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
import plot
from digits import pretrained
from lab.settings import RunError
from lab.catalogue import datasets
from stn.data import load, metrics_of
from stn.checkpoint import load_tensors

digits, found = load(sys.argv[1]), {}
for folder, name in (("exp_101_run_01_enlarged_homography", "enlarged in perspective"),
                     ("exp_102_run_01_enlarged_canvas", "enlarged on a canvas")):
    place = Path("experiments") / folder
    network, data = pretrained.load(place), datasets()[name].built(digits)
    seen = network.model.transform(data.test_images[:2])
    transforms = load_tensors(place / "checkpoint.pt")["transforms"]
    settings = json.loads((place / "settings.json").read_text())
    plot.save_animation(Path(f"{name}.gif"), settings, transforms, data)
    figure = metrics_of(data).draw_transforms(network.model, data, "")
    (side,) = {axis.get_images()[0].get_array().shape for axis in figure.axes[1:]}
    frames = [patch.get_xy().tolist() for patch in figure.axes[0].patches]
    try:
        network.read(np.zeros((1, 28, 28)))
    except RunError as error:
        refused = str(error)
    found[name] = {"image_size": network.model.image_size, "seen": seen.shape, "frames": frames, "grid": side,
                   "refused": refused, "frames_in_gif": Image.open(f"{name}.gif").n_frames}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_images_of_another_size_are_a_new_file_only(tmp_path, idx_folder):
    """The rows do not repeat the size; measures, frames and figures are in pixels of it.

    Without --slow, networks of such sizes are tested in test_models.py, and a file of one's own above.
    """
    checkout = copy_of_the_repository(tmp_path)
    (checkout / "studies" / "enlarged.py").write_text(ENLARGED)
    assert "exp_101  enlarged_homography, 2 epochs" in run_in(checkout, "run_experiments.py", "--list").stdout
    what = ("--data", idx_folder, "--set", "enlarged", "--epochs", 1, "--jobs", 1)
    process = run_in(checkout, "run_experiments.py", *what)
    assert process.returncode == 0, process.stderr
    contents = {
        path.parent.name[:7]: json.loads(path.read_text()) for path in checkout.glob("experiments/*/results.json")
    }
    assert contents["exp_100"]["arguments"] == {}
    # Of 42×42 pixels both parts leave 7×7: 42 - 6 = 36, 18, 14, 7 in the localisation network, and 38, 19, 15, 7.
    expected = localiser_parameters(42, outputs=6) + classifier_parameters(42)
    assert contents["exp_100"]["trainable_parameters"] == expected
    assert contents["exp_100"]["transformer"].keys() == contents["exp_102"]["transformer"].keys()
    measured = contents["exp_101"]["transformer"]
    # A corner is moved by 3.5 pixels, and by 3.5 with the whole image, in x and in y: two copies are 7 pixels times
    # √(π/2) apart in the mean, 8.8, whatever the size.
    assert measured["corner_distance_before"] == pytest.approx(8.8, rel=0.15)
    process = run_in(checkout, "plot.py")
    assert process.returncode == 0, process.stderr
    comparison = (checkout / "experiments" / "comparison.md").read_text()
    assert len(re.findall(r"^## .*, enlarged(?:, in perspective|, on a canvas)?$", comparison, re.MULTILINE)) == 3
    assert {path.name for path in checkout.glob("experiments/*AccuracyComparison.png")} == {
        f"Enlarged{kind}AccuracyComparison.png" for kind in ("", "Perspective", "Canvas")
    }
    looked = run_in(checkout, "-c", LOOK_AT_IT, idx_folder)
    assert looked.returncode == 0, looked.stderr
    for found in json.loads(looked.stdout).values():
        assert (found["image_size"], found["seen"]) == ([42, 42], [2, 1, 42, 42])
        assert found["grid"] == [8 * 44 + 2] * 2  # eight digits, and two pixels around each
        first = found["frames"][0]
        xs, ys = zip(*first, strict=True)
        assert max(xs) - min(xs) > 30
        assert max(ys) - min(ys) > 30
        assert found["frames_in_gif"] == 2
        assert "42×42" in found["refused"]


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


def test_a_row_with_the_id_of_another_or_a_network_that_is_not_there_is_named():
    row = Experiment("exp_90", "one", "Net", 1, "?")
    with pytest.raises(ValueError, match="two experiments have the id exp_90: one and two"):
        catalogue.rows_by_id({"a": (row, "exp_02"), "b": (row, replace(row, title="two"))})
    with pytest.raises(RunError, match=r"exp_90: neither models\.py nor a study has a network Netz"):
        train.build(replace(row, model="Netz"), 1)
    rows = [replace(row, id=f"exp_{n}") for n in (100, 11, 10)]
    assert [*catalogue.rows_by_id({"a": rows})] == ["exp_10", "exp_11", "exp_100"]


ROTATED_SPEC = catalogue.DatasetSpec("rotated", "{digits}, rotated", "rotated", adds={"degrees": 90})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adds": {"degrees": 45}}, "two data sets have the name 'rotated'"),
        ({"name": "turned"}, r"the data sets 'rotated' and 'turned' add the same .*: {'degrees': 90}"),
        ({"name": "copied", "adds": {}}, "the data sets 'mnist' and 'copied' add the same"),
        ({"name": "a", "adds": {"a": 1}, "sources": ("models.py", "studies/a.py")}, r"'a': .* 'studies/a\.py'"),
    ],
)
def test_data_sets_that_could_be_taken_for_another_or_lack_their_files_are_named(monkeypatch, changes, message):
    study = catalogue.Study({}, datasets=(ROTATED_SPEC, replace(ROTATED_SPEC, **changes)))
    monkeypatch.setattr(catalogue, "studies", lambda: {"turns": study})
    with pytest.raises(ValueError, match=message) as error:
        catalogue.datasets.__wrapped__()
    assert "\n" not in str(error.value)


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
