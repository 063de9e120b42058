"""Figures and comparison: what is drawn, and what is named and passed over."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import records
import torch
from conftest import ROOT, record_of, write_results
from matplotlib.image import imread
from matplotlib.transforms import Bbox
from PIL import Image

import models
import plot
import train
from lab import comparison, figures, results
from lab.settings import TUTORIAL
from models import Net, Net_CoordConv_Homography
from run_experiments import ALL, EXPERIMENTS
from stn import data
from studies.perspective.data import perspective, whole
from studies.steady import recipes_figure

MNIST = {"name": "MNIST", "md5": results.MNIST_MD5}


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in [*axes.texts, *axes.get_yticklabels(), axes.xaxis.label]]


def test_every_run_is_a_point_and_a_few_have_no_interval(tmp_path):
    for run, correct in enumerate((985, 987, 989), 1):
        write_results(tmp_path, f"exp_01_run_0{run}_reproduce_baseline", [900, correct])
    write_results(tmp_path, "exp_03_run_01_bypass_localisation", [982])
    record = results.read_all(tmp_path)[0]
    unmarked = plot.accuracy_figure(record).axes[0].lines
    assert not any(line.get_marker() == "D" for line in unmarked)  # other data than the original's
    for run in record.values():
        run["data"]["md5"] = results.MNIST_MD5
    figure = plot.accuracy_figure(record)
    shown = texts(figure)
    assert {"exp_01 reproduce baseline", "exp_03 bypass localisation"} <= set(shown)
    assert "98.70 (no interval)" in shown
    assert "98.20" in shown
    points = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert points == [pytest.approx([98.5, 98.7, 98.9]), pytest.approx([98.2])]
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert marks == [98.70, 98.55]  # the original's


def test_runs_that_have_lost_their_digits_are_hollow():
    """In the figure of accuracies, and in that of differences if either run of the pair has."""
    runs = {("exp_02", run): ([990 - run], {}) for run in (1, 2, 3)} | {
        ("exp_03", run): ([980], {}) for run in (1, 2, 3)
    }
    record = record_of(runs)
    record[ALL["exp_02"].directory(2)]["history"]["seen"] = [0.1]
    for figure, full, hollow in (
        (plot.accuracy_figure(record), [[98.9, 98.7], [98.0] * 3], [[98.8]]),
        (plot.differences_figure(record, comparison.families()["The seven"]), [[0.9, 0.7]], [[0.8]]),
    ):
        dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        drawn = {is_hollow: [] for is_hollow in (False, True)}
        for line in dots:
            drawn[line.get_markerfacecolor() == "white"].append(pytest.approx(line.get_xdata().tolist()))
        assert drawn == {False: full, True: hollow}
        assert "a run that has lost its digits" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_differences_are_drawn_around_zero_in_points_and_images(tmp_path):
    for run, (with_it, without) in enumerate(((990, 980), (991, 985)), 1):
        write_results(tmp_path, f"exp_02_run_0{run}_reproduce_baseline", [with_it])
        write_results(tmp_path, f"exp_03_run_0{run}_bypass_localisation", [without])
    record = results.read_all(tmp_path)[0]
    figure = plot.differences_figure(record, comparison.families()["The seven"])
    assert "the transformer\n(exp_02 − exp_03)" in texts(figure)
    points = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert points == [pytest.approx([1.0, 0.6])]
    figure.draw_without_rendering()
    (images,) = (axis for axis in figure.axes[0].child_axes if axis.get_xlabel() == "in test images")
    assert images.get_xlim() == pytest.approx([10 * limit for limit in figure.axes[0].get_xlim()])  # of 1000
    assert plot.differences_figure({}, comparison.families()["The seven"]) is None


def test_both_recipes_stand_side_by_side_on_one_axis():
    """What lies far below the rest is told at the edge; without a run of the steady recipe there is no such figure.

    A network without a transformer is in both, each time with the runs beside which the others were made.
    """
    table = {("exp_03", 1): [986], ("exp_21", 1): [990], ("exp_21", 2): [991]}
    table |= {("exp_02", run): [988 + run % 3] for run in range(1, 20)} | {("exp_02", 20): [950]}
    record, later = (
        record_of({run: (correct, {"data": MNIST}) for run, correct in (table | changes).items()})
        for changes in ({}, {("exp_03", 1): [987]})
    )
    figure = recipes_figure(record, ALL, later)["RecipesComparison.png"]
    panels = figure.axes
    assert [[tick.get_text().split("\n")[1] for tick in axes.get_yticklabels()] for axes in panels] == [
        ["(exp_03)", "(exp_02)"],
        ["(exp_03)", "(exp_21)"],
    ]
    assert panels[0].get_xlim() == panels[1].get_xlim()
    assert panels[0].get_xlim()[0] == pytest.approx(98.49)  # the lowest of the original's is 98.54
    assert [text for text in texts(figure) if "below" in text] == ["◂ 1 below, to 95.00"]
    runs = [[line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"] for axes in panels]
    assert [of_exp_03 for of_exp_03, *_ in runs] == [[pytest.approx(98.6)], [pytest.approx(98.7)]]
    without = {name: run for name, run in record.items() if "21" not in name}
    assert recipes_figure(without, ALL) == {}
    assert "RecipesComparison.png" in plot.comparison_figures(record)
    assert "RecipesComparison.png" not in plot.comparison_figures(without)
    for run in record.values():
        run["data"] = {"name": "few"}
    assert not any("Recipes" in name for name in plot.comparison_figures(record))


def test_curves_show_all_runs_and_their_mean():
    figure = figures.run_curves([("a", [[1.0, 2.0], [3.0, 6.0]]), ("b", [[5.0, 5.0]])], "y")
    lines = [[line.get_ydata().tolist() for line in axes.lines] for axes in figure.axes]
    assert lines == [[[1, 2], [3, 6], [2, 4]], [[5, 5], [5, 5]]]


def test_confusion_comparison_writes_the_difference():
    first = np.diag([90.0] * 10)
    second = first.copy()
    first[2, 7], second[7, 2] = 4, 1.5
    shown = texts(figures.confusion_comparison(first, second, ["one", "two"]))
    assert {"4.0", "1.5", "+1.5", "-4.0", "90"} <= set(shown)


def test_no_results_is_a_clear_message(tmp_path, call_here):
    result = call_here("plot.py", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"plot.py: no results in {tmp_path}; run_experiments.py makes them\n"
    missing = call_here("plot.py", "--out", tmp_path / "nowhere")
    assert missing.returncode == 2
    assert "there is no such folder" in missing.stderr


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.id)
def test_diagrams_show_the_row(experiment):
    shown = " ".join(texts(plot.diagram(experiment)))
    bypass = "bypass" in experiment.title
    assert ("no localisation" in shown) == bypass
    assert ("affine" in shown) == (not bypass)
    in_classifier = "coordconf_classifier" in experiment.title
    assert ("classifier\n2 × CoordConv" in shown) == in_classifier
    assert ("localisation\n2 × CoordConv" in shown) == ("coordconf_localistation" in experiment.title)


@pytest.mark.parametrize(("numbers", "name"), [(6, "affine"), (8, "homography"), (5, "transform")])
def test_a_diagram_names_the_transform_by_its_numbers_and_not_by_the_name_of_the_class(monkeypatch, numbers, name):
    """A network of one's own may have any name; one that is not there any more has no transform that is known."""
    row = replace(ALL["exp_02"], model="Mine", arguments={})
    monkeypatch.setattr(models, "Mine", type("Mine", (Net,), {"transform_identity": (0.0,) * numbers}), raising=False)
    assert f"{name}\nwarp" in texts(plot.diagram(row))
    monkeypatch.delattr(models, "Mine")
    assert "transform\nwarp" in texts(plot.diagram(row))


def test_a_diagram_shows_transforms_of_studies_and_no_other_kind_of_network():
    assert "rotation\nwarp" in texts(plot.diagram(ALL["exp_205"]))
    assert "spline\nwarp" in texts(plot.diagram(ALL["exp_204"]))
    assert plot.diagram(ALL["exp_251"]) is None


@pytest.mark.parametrize("exp_id", ["exp_02", "exp_03", "exp_19", "exp_31", "exp_39", None])
def test_the_text_of_a_diagram_stays_in_its_boxes_and_these_fill_the_figure(exp_id):
    figure = plot.diagram(ALL[exp_id]) if exp_id else figures.network_diagram("")
    (axes,) = figure.axes
    figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in axes.patches]
    labels = [text.get_window_extent() for text in axes.texts if text.get_text()]
    for box, label in zip(boxes, labels, strict=True):
        assert (box.x0 < label.x0, label.x1 < box.x1, box.y0 < label.y0, label.y1 < box.y1) == (True,) * 4
    drawn, whole = Bbox.union(boxes), figure.bbox
    assert drawn.height > 0.85 * whole.height
    assert drawn.width > 0.9 * whole.width


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


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (whole, {"canvas": 2}),
        *(pytest.param(perspective, each, marks=pytest.mark.slow) for each in ({}, {"passes": 2})),
    ],
)
def test_animation_has_a_picture_for_the_start_and_each_epoch(tmp_path, made, arguments, monkeypatch, digits):
    monkeypatch.setattr(data, "load", lambda: digits)
    torch.manual_seed(0)
    model = Net_CoordConv_Homography(padding="background", **arguments)
    train.train(model, "mine", 2, data=made(digits), out=tmp_path)
    path = plot.animate(tmp_path, "mine")
    with Image.open(path) as animation:
        assert (animation.format, animation.n_frames) == ("GIF", 3)
        colours = np.asarray(animation.convert("RGB")).astype(int)
        assert (np.ptp(colours, axis=2) > 100).any()  # the frames are not grey


def test_what_cannot_be_animated_is_refused(tmp_path, monkeypatch, digits, call_here):
    monkeypatch.setattr(data, "load", lambda: digits)
    train.train(Net(bypass_localisation=True), "still", 1, data=digits, out=tmp_path)
    with pytest.raises(ValueError, match="no transformer to animate"):
        plot.animate(tmp_path, "still")
    with pytest.raises(ValueError, match="not a path"):
        plot.animate(tmp_path / "still", "../still")
    result = call_here("plot.py", "--out", tmp_path, "--animate", "nowhere")
    assert result.returncode == 2
    assert "--animate nowhere: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_record_has_the_same_runs_of_every_experiment():
    """Of one of the two, run 02 is missing and run 04 a short look."""
    runs = {}
    for exp_id, lengths in (("exp_02", [30, 30, 30, 30]), ("exp_03", [30, 0, 30, 20])):
        changes = {"arguments": ALL[exp_id].arguments, "data": {"name": "MNIST", "md5": results.MNIST_MD5}}
        changes |= TUTORIAL.as_settings()
        runs |= {(exp_id, run): ([980] * n_epochs, changes) for run, n_epochs in enumerate(lengths, 1) if n_epochs}
    record = record_of(runs)
    kept = records.complete("out", record, ("exp_02", "exp_03"))
    assert sorted(kept) == [ALL[exp_id].directory(number) for exp_id in ("exp_02", "exp_03") for number in (1, 3)]
    del record[ALL["exp_02"].directory(1)], record[ALL["exp_02"].directory(3)]
    with pytest.raises(ValueError, match="out has no number of which"):
        records.complete("out", record, ("exp_02", "exp_03"))
    with pytest.raises(ValueError, match="out has no full run of exp_05"):
        records.complete("out", record, ("exp_02", "exp_05"))


def test_a_record_grows_by_runs_of_the_same_code_and_machine(tmp_path):
    rows = records.RECORDS["swings"]

    def made(numbers, correct, machine, exp_ids, missing):
        runs = {}
        for exp_id in exp_ids:
            row = ALL[exp_id]
            changes = {"model": row.model, "arguments": row.arguments, "device_name": machine}
            changes |= {"data": {"name": "MNIST", "md5": results.MNIST_MD5}, **row.recipe.as_settings()}
            runs |= {(exp_id, run): ([correct] * (row.epochs - missing), changes) for run in numbers}
        return record_of(runs)

    def kept(numbers, correct, machine="a CPU", exp_ids=rows, missing=0):
        """Record runs that lack some epochs; return the correct images of each run kept of the first and last row."""
        records.record("out", "swings", made(numbers, correct, machine, exp_ids, missing), tmp_path)
        record = json.loads((tmp_path / "swings.json").read_text(encoding="utf-8"))
        found = (comparison.of_experiment(record, ALL[exp_id]) for exp_id in (rows[0], rows[-1]))
        return [{number: run["test_correct"] for number, run in runs.items()} for runs in found]

    assert kept((1, 2), 970) == [{1: 970, 2: 970}] * 2
    assert kept((2, 3), 980) == [{1: 970, 2: 980, 3: 980}] * 2
    one_row = [{1: 970, 2: 985, 3: 985}, {1: 970, 2: 980, 3: 980}]
    assert kept((2, 3), 985, exp_ids=rows[:1]) == one_row
    with pytest.raises(ValueError, match="out has no full run of exp_02"):
        kept((1, 2), 900, missing=1)  # short looks replace nothing
    assert kept((2, 3), 985) == [{1: 970, 2: 985, 3: 985}] * 2
    assert kept((3, 4), 990, "another") == [{3: 990, 4: 990}] * 2  # replaces what cannot be compared with it


def test_perspective_runs_are_drawn_by_themselves(tmp_path, call_here):
    write_results(tmp_path, "exp_03_run_01_bypass_localisation", [982])
    write_results(tmp_path, "exp_13_run_01_perspective_affine", [930], data={"name": "few", "perspective_sigma": 3.5})
    (tmp_path / "unfinished").mkdir()
    result = call_here("plot.py", "--out", tmp_path)
    assert result.returncode == 0
    assert result.stderr == f"{tmp_path / 'unfinished'}: passed over, it has no results.json (unfinished?)\n"
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"AccuracyComparison.png", "PerspectiveAccuracyComparison.png", "diagram_exp_13.png"} <= names
    assert {"diagram_exp_07.png", "AccuracyCurves.png", "TrainLossCurves.png", "comparison.md"} <= names
    assert not {"diagram_exp_14.png", "PerspectiveDifferences.png", "ConfusionComparison.png"} & names
    assert set(result.stdout.splitlines()) == {str(tmp_path / name) for name in names}
    document = (tmp_path / "comparison.md").read_text()
    assert document.count("1 of the experiments have fewer than 6 runs, and therefore no interval") == 2  # a table each


def test_a_closed_pipe_is_no_error(tmp_path):
    write_results(tmp_path, "exp_03_run_01_bypass_localisation", [982])
    command = f"{sys.executable} {ROOT / 'plot.py'} --out {tmp_path} | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stderr == ""
    assert result.returncode in (0, 128 + signal.SIGPIPE)  # the lines may fit into the pipe
    assert (tmp_path / "comparison.md").exists()


def test_a_run_that_fell_leaves_the_centre_and_the_interval_of_the_others(tmp_path):
    for run, correct in enumerate([988] * 5 + [989] * 6 + [850], 1):
        write_results(tmp_path, f"exp_07_run_{run:02d}_coordconf_localistation_coordconf_classifier", [correct])
    figure = plot.accuracy_figure(results.read_all(tmp_path)[0])
    assert "98.85 (98.80 to 98.90)" in texts(figure)
    assert {"centre", "its 95 % interval"} <= {text.get_text() for text in figure.legends[0].texts}
