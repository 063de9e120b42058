"""README and docs: what they say is so. Their programs run, their numbers and links are there, no sentence is twice."""

import json
import re
import struct

import onnxruntime
import page
import pytest
import records
import torch
from conftest import ROOT, prepared
from helpers import write_idx

import run_experiments
import train
from lab.settings import Experiment
from run_experiments import ALL, EXPERIMENTS
from stn import mnist

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
RESULTS = PAGES.pop("results.md")
BY_HAND = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), **PAGES}
OWN = PAGES["own_experiments.md"]
SCRIPTS = (
    "run_experiments.py",
    "plot.py",
    "predict.py",
    "extract_id.py",
    "demo.py",
    "tools/benchmark.py",
    "tools/own_pictures.py",
    "tools/records.py",
)
BY_HAND_TOO = {"demo.png"}  # figures that plot.py does not draw: the page, by a test of tests/digits/test_demo.py


def programs(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def commands(text):
    return [line.split()[1:] for line in re.findall(r"^    (python .*)$", text, re.MULTILINE)]


def test_the_results_page_is_what_plot_makes_of_the_records():
    assert page.results_document(ROOT / "results", ALL) == RESULTS


def numbers(text):
    return re.findall(r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])", text)


def test_every_number_of_the_findings_stands_in_the_results():
    findings = re.search(r"## What came out\n(.*?)\nEvery number measured here", README, re.DOTALL)[1]
    findings = re.sub(r"exp_\d\d|AVX-512|\(https:[^)]*\)", "", findings)
    found = {number.lstrip("+−-") for number in numbers(RESULTS)} | {"10,000"}  # the test images
    quoted = [number.lstrip("+−-") for number in numbers(findings)]
    assert len(quoted) > 20
    common = {"6", "8", "7"}  # pairs, told in the table as "7, 1"
    missing = [number for number in quoted if number not in found and number not in common | {"0.05", "512"}]
    assert missing == []


def test_the_readme_is_one_screen_and_some():
    assert len(README.splitlines()) <= 200


def test_links_lead_somewhere():
    """Files and headings that a page names exist."""
    for name, text in {**BY_HAND, "results.md": RESULTS}.items():
        folder = ROOT if name in ("README.md", "CONTRIBUTING.md") else ROOT / "docs"
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            path = folder / target if target else folder / name
            assert path.exists(), (name, target)
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, (name, anchor)


def test_every_figure_is_shown_and_every_shown_figure_is_there():
    shown = set(re.findall(r"\.readme_figures/([\w.]+)", "".join(BY_HAND.values()) + RESULTS))
    assert {path.name for path in (ROOT / ".readme_figures").iterdir()} == shown


def test_no_sentence_stands_twice():
    seen = {}
    for name, text in BY_HAND.items():
        text = re.sub(r"```.*?```|^    .*$|^\|.*$", "", text, flags=re.DOTALL | re.MULTILINE)
        for sentence in re.split(r"(?<=[.:?!])\s+|\n\n", text):
            words = " ".join(re.sub(r"[*`#>-]", " ", sentence).split())
            if len(words.split()) > 6:
                assert words not in seen, (name, seen[words], words)
                seen[words] = name


def test_flags_that_the_pages_name_exist(call_here):
    known = "".join(call_here(script, "--help").stdout for script in SCRIPTS)
    own = "--slow --kills --save-faults --save-measurements --check --logdir"  # the tests', ruff's, TensorBoard's
    for name, text in BY_HAND.items():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            assert flag in known or flag in own, (name, flag)


def test_the_readmes_program_runs():
    names = {}
    exec(programs(README)[0], names)
    torch.testing.assert_close(names["back"], names["corner"], atol=1e-4, rtol=1e-4)
    assert (names["source"].abs().amax((1, 2)) > 0.1).all()
    assert names["rectified"].shape == (5, 1, 28, 28)


def test_the_program_that_takes_a_network_elsewhere_writes_a_file_that_reads_as_it_does(tmp_path, monkeypatch, digits):
    """By onnxruntime, on digits, and more of them than were exported with."""
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(programs(BY_HAND["elsewhere.md"])[0], names)
    session = onnxruntime.InferenceSession("exp_16.onnx")
    images = digits.test_images[:50]
    (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(scores), names["network"](images), rtol=1e-3, atol=1e-3)


def test_the_program_that_passes_a_homography_to_kornia_runs():
    """It asserts that kornia's warp in pixels is ours; a homography that does nothing would show nothing."""
    names = {}
    exec(programs(BY_HAND["elsewhere.md"])[1], names)
    assert not torch.allclose(names["by_kornia"], names["images"], atol=0.5)


def test_an_eighth_experiment_is_a_row(idx_folder, tmp_path, call_here, monkeypatch):
    """The row of the page in the table: the commands of the page train and draw it, here by their own functions."""
    text = re.search(r"^    (Experiment\(.*\)),\n", OWN, re.MULTILINE)[1]
    names = vars(run_experiments)  # of the file in which rows stand
    row = eval(text, names)
    assert isinstance(row, Experiment)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ALL, row.id, row)
    words = [*commands(OWN)[0][1:], "--data", str(idx_folder)]
    rows = run_experiments.selection(run_experiments.parse_arguments(words))
    assert rows == [row]
    _, (options, (job,), _) = prepared(rows, *words)
    assert run_experiments.train_job(job, options)[0] == "finished"
    process = call_here(*commands(OWN)[1], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "experiments" / "exp_90_run_01_two_looks" / "results.json").read_text())
    assert results["arguments"] == {"passes": 2}
    assert (tmp_path / "experiments" / "diagram_exp_90.png").exists()
    recipe = eval(re.search(r"`(Recipe\(.*?\))`", OWN)[1], names).as_settings()
    assert (recipe["learning_rate"], recipe["localisation_rate"]) == (0.02, 0.02)


def test_a_network_of_ones_own(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load", lambda: digits)
    exec(programs(OWN)[0], {})
    results = json.loads((tmp_path / "experiments" / "two_layers" / "results.json").read_text())
    assert (results["n_epochs"], results["trainable_parameters"]) == (20, 784 * 100 + 100 + 100 * 10 + 10)
    assert capsys.readouterr().out == f"{results['test_accuracy']:.2f} %\n"


@pytest.fixture
def fashion(idx_folder, tmp_path):
    """Other images than MNIST's under the name that the page uses: the same, brighter where they were dark."""
    arrays = [mnist.read_idx(idx_folder / name) for name in mnist.MD5]
    folder = tmp_path / commands(OWN)[2][commands(OWN)[2].index("--data") + 1]
    folder.mkdir()
    write_idx(folder, [255 - array // 2 if array.ndim == 3 else array for array in arrays])
    return folder


def test_other_images_have_a_normalisation_of_their_own(fashion, tmp_path, monkeypatch):
    """The command of the page, by its own functions."""
    monkeypatch.chdir(tmp_path)
    pixels = mnist.read_idx(fashion / "train-images-idx3-ubyte")
    words = [*commands(OWN)[2][1:], "--epochs", "1", "--device", "cpu"]
    rows = run_experiments.selection(run_experiments.parse_arguments(words))
    _, (options, jobs, announcement) = prepared(rows, *words)
    for job in jobs:
        assert run_experiments.train_job(job, options)[0] == "finished"
    mean, std = pixels.mean() / 255, pixels.std() / 255
    said = f"fashion: normalised with the mean {mean:.4f} and standard deviation {std:.4f} of its training images"
    assert announcement == [said]
    runs = sorted((tmp_path / "experiments_fashion").glob("exp_0*"))
    assert [path.name[:6] for path in runs] == ["exp_02", "exp_03"]
    described = json.loads((runs[0] / "results.json").read_text())["data"]
    assert (described["name"], described["mean"], described["std"]) == ("fashion", round(mean, 4), round(std, 4))


def test_images_of_another_size_are_refused_before_training(fashion, tmp_path, monkeypatch):
    for split, n in (("train", 640), ("t10k", 500)):
        (fashion / f"{split}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + struct.pack(">III", n, 32, 30) + bytes(range(240)) * 4 * n
        )
    monkeypatch.chdir(tmp_path)
    why = "a folder must hold images of 28×28, of which a study can make other sizes (docs/own_experiments.md)"
    failed = "failed", f"fashion: the train images are 32×30; {why}"
    assert prepared([ALL["exp_03"]], *commands(OWN)[2][1:]) == failed
    assert not (tmp_path / "experiments_fashion").exists()


def test_the_readmes_table_is_that_of_the_experiments():
    for experiment in EXPERIMENTS:
        row = next(line for line in README.splitlines() if line.startswith(f"| {experiment.id} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        arguments = experiment.arguments
        bypass = arguments.get("bypass_localisation", False)
        assert cells[1] == ("none" if bypass else "affine")
        assert cells[2] == ("yes" if arguments.get("use_coordconf_classifier") else "no")
        assert cells[3] == ("" if bypass else "yes" if arguments.get("use_coordconf_localisation") else "no")
        assert cells[4:] == [str(experiment.epochs), f"`{experiment.directory(1)}`"]


@pytest.mark.slow
def test_the_figures_are_drawn_from_the_records_alone(tmp_path):
    """Into an empty folder, with the names of those in the repository; and the page beside them."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "figures").mkdir()
    records.write_docs(ROOT / "results", tmp_path / "docs", tmp_path / "figures")
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn | BY_HAND_TOO == {path.name for path in (ROOT / ".readme_figures").iterdir()}
    assert (tmp_path / "docs" / "results.md").read_text(encoding="utf-8") == RESULTS
    assert run_experiments.ALL is ALL
