"""Figures and comparison: what is drawn, and what is named and passed over."""

import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image

import data
import figures
import plot
import report
import train
from models import Net, Net_CoordConv_Homography
from run_experiments import EXPERIMENTS
from stats import mean_and_half_width


def write(out, name, accuracy, run=1, **changes):
    folder = out / name
    folder.mkdir(parents=True)
    results = {"experiment_name": name, "test_accuracy": accuracy, "run": run, "n_epochs": 2, "history": []} | changes
    (folder / "results.json").write_text(json.dumps(results))


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in [*axes.texts, *axes.get_yticklabels(), axes.xaxis.label]]


def test_interval_is_students():
    assert mean_and_half_width([98.0]) == (98.0, None)
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])  # t(2, 0.975) = 4.30265, standard error 1/sqrt(3)
    assert mean == 2
    assert half == pytest.approx(4.3026527 / 3**0.5)


def test_bars_start_with_the_baseline_and_name_the_cut(tmp_path):
    for run, accuracy in enumerate((98.5, 98.7, 98.9), 1):
        write(tmp_path, f"exp_01_run_0{run}_reproduce_baseline", accuracy, run)
    write(tmp_path, "exp_03_run_01_bypass_localisation", 98.2)
    found, complaints = plot.read_results(tmp_path)
    assert complaints == []
    rows = [plot.BASELINE, *plot.accuracy_rows(found)]
    assert [row[0] for row in rows] == [
        "baseline (tutorial's claim)",
        "exp_01_reproduce_baseline",
        "exp_03_bypass_localisation",
    ]
    assert rows[0][1:] == (98.69, None, 0)
    assert rows[1][1] == pytest.approx(98.7)
    assert rows[2][2:] == (None, 1)
    shown = texts(figures.accuracy_bars(rows))
    assert "test accuracy in % (the axis is cut: it starts at 97.5)" in shown
    assert any("98.70 ± 0.50 (3 runs)" in text for text in shown)
    assert any(text.strip() == "98.20" for text in shown)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"experiment_name": "x"}',
        '{"experiment_name": 3, "test_accuracy": 98, "run": 1}',
        "\x00",
    ],
)
def test_broken_results_are_named_and_passed_over(tmp_path, content):
    write(tmp_path, "exp_03_run_01_bypass_localisation", 98.2)
    write(tmp_path, "test", 50.0)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text(content)
    found, complaints = plot.read_results(tmp_path)
    assert list(found) == ["exp_03_bypass_localisation"]
    assert len(complaints) == 2
    assert f"{tmp_path / 'broken' / 'results.json'}: passed over, it is broken" in complaints[0]
    assert complaints[1] == f"{tmp_path / 'unfinished'}: passed over, it has no results.json (unfinished?)"


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1", "101", '"98"', "true", "null"])
def test_an_accuracy_that_is_none_is_refused(tmp_path, value):
    write(tmp_path, "exp_01_run_01_reproduce_baseline", 98)
    path = tmp_path / "exp_01_run_01_reproduce_baseline" / "results.json"
    path.write_text(path.read_text().replace("98", value))
    assert plot.read_results(tmp_path)[0] == {}


def test_no_results_is_a_clear_message(tmp_path, call):
    result = call("plot.py", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"plot.py: no results in {tmp_path}; run_experiments.py makes them\n"
    missing = call("plot.py", "--out", tmp_path / "nowhere")
    assert missing.returncode == 2
    assert "there is no such folder" in missing.stderr


def test_a_copied_folder_is_not_a_second_run(tmp_path):
    write(tmp_path, "exp_03_run_01_bypass_localisation", 98.2)
    shutil.copytree(tmp_path / "exp_03_run_01_bypass_localisation", tmp_path / "copy of exp_03")
    found, complaints = plot.read_results(tmp_path)
    assert [len(runs) for runs in found.values()] == [1]
    assert "a copied or renamed folder?" in complaints[0]


def test_largest_step_looks_at_neighbouring_epochs_of_the_last_ten():
    correct = [0, 900, 905, 903, 903, 903, 903, 903, 903, 903, 896, 899]
    assert report.largest_step(correct) == 7


def test_formulations_are_compared_over_the_epochs_that_both_have():
    def form(losses, correct):
        return {
            "run_a": {"train_loss": losses, "test_correct": correct},
            "run_b": {"train_loss": [1, 1], "test_correct": [0, 0]},
        }

    plain = form([2.0, 1.0, 0.5], [9000, 9900, 10])
    fast = form([2.02, 0.9], [9000, 9950])
    text = report.formulations_table({"plain": plain, "fast": fast, "device_name": "a machine", "git_commit": 40 * "a"})
    assert "| run_a | 2 | +1.00 % | -10.00 % | 37.80 | 37.90 |" in text
    assert "differ by 1.00 % at most" in text
    assert "the last loss changes by -5.0 ± 63.5 %" in text  # t(1, 0.975) = 12.706, standard error 5


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.id)
def test_diagrams_show_the_row(experiment):
    shown = " ".join(texts(plot.diagram(experiment)))
    bypass = "bypass" in experiment.title
    assert ("no localisation" in shown) == bypass
    assert ("affine" in shown) == (not bypass)
    in_classifier = "coordconf_classifier" in experiment.title
    assert ("classifier\n2 × CoordConv" in shown) == in_classifier
    assert ("localisation\n2 × CoordConv" in shown) == ("coordconf_localistation" in experiment.title)


def test_confusion_matrix_writes_every_count():
    counts = np.arange(100).reshape(10, 10)
    shown = texts(figures.confusion_matrix(counts, "title"))
    assert [t for t in shown[:100] if t] == ["·", *map(str, range(1, 100))]


def test_grid_places_images_row_by_row():
    images = np.arange(10)[:, None, None] * np.ones((10, 4, 5)) / 10
    grid = figures.grid_of(images, columns=8, gap=1)
    assert grid.shape == (2 * 5 + 1, 8 * 6 + 1)
    assert [grid[2, 2 + 6 * i] for i in range(8)] == pytest.approx([i / 10 for i in range(8)])
    assert [grid[7, 2], grid[7, 8]] == pytest.approx([0.8, 0.9])


def test_saved_figures_are_whole_and_reproducible(tmp_path):
    for name in ("a.png", "b.png"):
        figures.save(figures.loss_curves([("x", [2, 1])], "loss"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def condensed_run(name, run, correct, transformer=None):
    columns = {"train_loss": [0.1] * len(correct), "test_loss": [0.1] * len(correct), "test_correct": correct}
    return {
        "experiment_name": name.replace("run_01", f"run_{run:02d}"),
        "run": run,
        "test_total": 1000,
        "seconds": 90.0,
        "transformer": transformer,
        "history": columns,
    }


def test_perspective_table_by_hand():
    """Errors 10 and 12 % without a transformer, 5 and 6 % affine: the pairs differ by 5 and 6 points."""
    measures = {
        **{f"corner_distance_{when}": value for when, value in (("before", 8.0), ("after", 2.5))},
        **{f"within_class_variance_{when}": value for when, value in (("before", 0.08), ("after", 0.05))},
        **{"ink_kept": 0.99, "ink_area": 0.25},
    }
    none, affine = "exp_12_run_01_perspective_bypass_localisation", "exp_13_run_01_perspective_affine"
    runs = [
        *(condensed_run(none, run, [500, correct]) for run, correct in ((1, 900), (2, 880))),
        *(condensed_run(affine, run, [500, correct], measures) for run, correct in ((1, 950), (2, 940), (3, 100))),
    ]
    table = report.perspective_table({run["experiment_name"]: run for run in runs}).splitlines()
    half = 12.7062047 * 0.5  # t(1, 0.975) times the standard error of two values that differ by 1
    start = f"| `exp_12` bypass localisation | 2 | 11.00 ± {2 * half:.2f} | +5.50 ± {half:.2f} (2) | 400 |"
    assert table[2] == start + 5 * "  |" + " 1.5 |"
    assert table[3].startswith("| `exp_13` affine | 3 |")
    assert table[3].endswith(" |  | 450 | 8.0 → 2.5 | 5.0 | 0.0800 → 0.0500 | 0.990 | 0.25 | 1.5 |")


def test_homography_table_by_hand():
    """The mean of the last five epochs: 98.0 % affine and 98.2 % with a homography."""
    affine = condensed_run("exp_02_run_01_reproduce_baseline", 1, [900, 970, 975, 980, 985, 990])
    homography = condensed_run("exp_08_run_01_homography", 1, [900, 982, 982, 982, 982, 982])
    table = report.homography_table({run["experiment_name"]: run for run in (affine, homography)}).splitlines()
    assert table[2].startswith("| `exp_02` reproduce baseline | 1 | 99.00 | 98.00 |  |  | 70 |")
    assert table[3].startswith("| `exp_08` homography | 1 | 98.20 | 98.20 | +0.20 (1) |  | 82 |")


def test_condensed_results_hold_what_the_tables_need(tmp_path, digits):
    torch.manual_seed(0)
    results = train.train(Net(), "exp_02_run_01_reproduce_baseline", 2, data=digits, out=tmp_path)
    small = report.condensed(results)
    assert small["history"]["test_correct"] == [epoch["test_correct"] for epoch in results["history"]]
    assert report.percentages(small)[-1] == results["test_accuracy"]
    assert report.homography_table({small["experiment_name"]: small})


@pytest.mark.parametrize("passes", [1, 2])
def test_animation_has_a_picture_for_the_start_and_each_epoch(tmp_path, passes, monkeypatch, digits):
    monkeypatch.setattr(data, "load", lambda: digits)
    torch.manual_seed(0)
    model = Net_CoordConv_Homography(padding="background", passes=passes)
    train.train(model, "mine", 3, data=data.perspective(digits), out=tmp_path)
    path = plot.animate(tmp_path, "mine")
    with Image.open(path) as animation:
        assert (animation.format, animation.n_frames) == ("GIF", 4)
        colours = np.asarray(animation.convert("RGB")).astype(int)
        assert (np.ptp(colours, axis=2) > 100).any()  # the frames are not grey


def test_what_cannot_be_animated_is_refused(tmp_path, monkeypatch, digits, call):
    monkeypatch.setattr(data, "load", lambda: digits)
    train.train(Net(bypass_localisation=True), "still", 1, data=digits, out=tmp_path)
    with pytest.raises(ValueError, match="no transformer to animate"):
        plot.animate(tmp_path, "still")
    result = call("plot.py", "--out", tmp_path, "--animate", "nowhere")
    assert result.returncode == 2
    assert "--animate nowhere: " in result.stderr
    assert "Traceback" not in result.stderr


def test_perspective_runs_are_drawn_by_themselves(tmp_path, capsys):
    write(tmp_path, "exp_03_run_01_bypass_localisation", 98.2)
    write(tmp_path, "exp_13_run_01_perspective_affine", 93.0, data={"perspective_sigma": 3.5})
    plot.draw_comparison(plot.read_results(tmp_path)[0], tmp_path)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert {"AccuracyComparison.png", "PerspectiveComparison.png", "diagram_exp_13.png", "diagram_exp_07.png"} <= names
    assert "diagram_exp_14.png" not in names
