"""A run on cards: what it writes and logs, that it goes on to the same bits, and which results are believed."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import prepared, write_results
from helpers import TRIAL, Interruption, interrupt, run
from PIL import Image, ImageSequence
from stress_kill import points, without_times
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import plot
import run_experiments
import train
from fast import conv2d
from lab import catalogue, comparison, results
from lab.settings import Recipe
from models import Net
from run_experiments import ALL
from stn import data, metrics, warps
from studies.cards import metrics as card_metrics
from studies.cards.networks import Net_Card, Net_Card_Homography

FILES = ("weights.pt", "confusion_matrix.png", "visualized_transformation.png")


# Its steps are not recorded: the same bits (a test of test_card_reader.py), and seconds less for each run.
def MODEL():
    network = Net_Card_Homography(passes=2)
    network.repeatable = False
    return network


OPTIONS = {"n_epochs": 2, "model": MODEL, "recipe": Recipe("adam", 0.002, 0.001, 1.0, decay=True), "log_images": 2}


@pytest.fixture(scope="module")
def finished(few_cards, tmp_path_factory):
    """A run of two epochs: (its folder, its results)."""
    out = tmp_path_factory.mktemp("finished")
    return out / TRIAL, run(few_cards(), out, **OPTIONS)


@pytest.fixture(scope="module")
def trained(finished):
    """Its network."""
    model = MODEL()
    model.load_state_dict(torch.load(finished[0] / "weights.pt", weights_only=True))
    return model.eval()


@pytest.fixture(scope="module")
def events(finished):
    sizes = dict.fromkeys(("images", "histograms", "scalars", "tensors"), 0)
    return EventAccumulator(str(finished[0]), sizes).Reload()


# ------------------------------------------------------------------------------------------------------ what it writes


def test_the_results_are_those_of_the_final_weights(finished, few_cards, trained):
    """A number is right if all of it is; the loss and the confusion matrix are those of digits."""
    folder, found = finished
    test = few_cards()
    with torch.no_grad(), conv2d.accelerated(trained):
        scores = trained(test.test_images)
        numbers = card_metrics.measure_transformer(trained, test).numbers
    read = scores.argmax(1)
    assert found["predictions"] == "".join(map(str, read.flatten().tolist()))
    assert (found["test_total"], len(found["predictions"])) == (60, 360)
    correct = sum(ours == label for ours, label in zip(read.tolist(), test.test_labels.tolist(), strict=True))
    assert found["test_correct"] == found["history"][-1]["test_correct"] == correct
    assert found["test_accuracy"] == pytest.approx(100 * correct / 60)
    loss = F.nll_loss(scores.transpose(1, 2).flatten(0, 1), test.test_labels.flatten())
    assert found["avg_test_loss"] == pytest.approx(loss.item(), rel=1e-5)
    truth = test.test_labels
    matrix = [[int(((truth == t) & (read == p)).sum()) for p in range(10)] for t in range(10)]
    assert found["confusion_matrix"] == matrix
    assert found["data"] == test.description
    assert found["transformer"] == numbers
    assert found["transformer"]["digits_read"] == pytest.approx(100 * sum(matrix[d][d] for d in range(10)) / 360)
    assert results.read(folder / "results.json") == found


def test_the_folder_has_the_figures_of_cards(finished):
    names = {path.name for path in finished[0].iterdir()}
    assert set(FILES) <= names
    assert "class_statistics.png" not in names


def test_a_network_of_digits_is_refused_before_training(few_cards, tmp_path):
    """And one of cards that gives one digit."""
    with pytest.raises(train.RunError, match=r"the network fails on images \(2, 1, 128, 128\)"):
        run(few_cards(), tmp_path, model=Net)

    class One(Net_Card):
        def classify(self, x):
            return super().classify(x)[:, :, 0]

    with pytest.raises(train.RunError, match=r"gives \(2, 10\) of 2 images, not log-probabilities \(2, 10, 6\)"):
        run(few_cards(), tmp_path, model=One)


def test_going_on_after_an_interruption_gives_the_same_bits(finished, few_cards, tmp_path, monkeypatch):
    folder, undisturbed = tmp_path / TRIAL, finished[0]
    with monkeypatch.context() as patch:
        interrupt(patch, train, "evaluate", at_call=2)
        with pytest.raises(Interruption):
            run(few_cards(), tmp_path, **OPTIONS)
    assert not (folder / "results.json").exists()
    torch.rand(7)
    resumed = run(few_cards(), tmp_path, **OPTIONS)
    assert without_times(resumed) == without_times(finished[1])
    assert points(folder) == points(undisturbed)
    for name in FILES:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


# -------------------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_has_scenes_at_the_start_and_the_end_and_no_mean_digits(events):
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {card_metrics.PICTURE: [0, 2], "Confusion matrix": [2]}
    first, last = (event.encoded_image_string for event in events.Images(card_metrics.PICTURE))
    assert first != last
    assert events.Tags()["graph"]


def test_tensorboards_pixels_are_those_of_scenes(events, few_cards, trained):
    factors = warps.decompose(metrics.homographies(trained, few_cards().test_images))
    for axis in "xy":
        histogram = events.Histograms(f"Transform/translation {axis} (pixels)")[-1].histogram_value
        assert histogram.num == 60
        assert histogram.sum == pytest.approx(64 * factors[f"translation {axis}"].double().sum().item(), rel=1e-3)


def test_tensorboards_accuracy_of_a_class_is_of_digits(events, finished, few_cards):
    labels = few_cards().test_labels.flatten()
    read = torch.tensor([int(digit) for digit in finished[1]["predictions"]])
    for digit in range(10):
        expected = 100 * (read[labels == digit] == digit).double().mean().item()
        assert events.Scalars(f"Class accuracy/{digit}")[-1].value == pytest.approx(expected)
    accuracy = [(event.step, event.value) for event in events.Scalars("Accuracy test")]
    assert accuracy == [(epoch["epoch"], pytest.approx(epoch["test_accuracy"])) for epoch in finished[1]["history"]]


def test_in_a_record_the_predictions_of_cards_are_left_out(finished):
    """The labels of MNIST's test images are not those of the cards."""
    for changes in ({}, {"data": finished[1]["data"] | {"md5": results.MNIST_MD5}}):
        small = results.condensed(finished[1] | changes)
        assert not {"wrong", "predictions", "confusion_matrix"} & small.keys()
        assert small["transformer"] is not None
        assert results.confusion_matrix(small) is None


def test_cards_are_compared_with_cards_and_with_nothing_else():
    mnist = {"name": "MNIST", "md5": results.MNIST_MD5}
    card = {**mnist, "digits": 6, "cards_strength": 1.0}
    kinds = {"a": mnist, "b": card, "c": {**mnist, "perspective_sigma": 3.5}, "d": {**card, "straight": True}}
    record = {name: {"data": kind, "test_total": 5000} for name, kind in kinds.items()}
    found = comparison.by_data(record)
    assert {prefix: list(part) for (_, prefix), part in found.items()} == {
        "": ["a"],
        "Card": ["b", "d"],
        "Perspective": ["c"],
    }
    assert next(iter(found)) == ("MNIST", "")
    assert [name for name, run in record.items() if comparison.is_plain_mnist(run)] == ["a"]


# --------------------------------------------------------------------------------------------------- what is drawn


def test_cards_are_drawn_by_themselves(tmp_path, finished, call_here):
    for exp_id in ("exp_31", "exp_33"):
        name = ALL[exp_id].directory(1)
        (tmp_path / name).mkdir()
        results.write(tmp_path / name / "results.json", {**finished[1], "experiment_name": name})
    name = ALL["exp_03"].directory(1)
    write_results(tmp_path, name, [982], data={"name": "few", "md5": finished[1]["data"]["md5"]})
    process = call_here("plot.py", "--out", tmp_path)
    assert process.returncode == 0, process.stderr
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"AccuracyComparison.png", "comparison.md", "diagram_exp_31.png", "diagram_exp_33.png"} <= names
    assert len([name for name in names if name.endswith("CardAccuracyComparison.png")]) == 1
    assert not any("Confusion" in name for name in names)


@pytest.mark.parametrize("exp_id", ["exp_02", "exp_26", "exp_31", "exp_35", "exp_41"])
def test_a_diagram_shows_what_a_network_is_given_and_how_much_it_reads(exp_id):
    row = ALL[exp_id]
    shown = [text.get_text() for axes in plot.diagram(row).axes for text in axes.texts]
    assert f"image\n{'×'.join(map(str, catalogue.datasets()[row.data].image_size))}" in shown
    assert ("6 digits\n0–9" if "cards" in row.data else "digit\n0–9") in shown


def test_a_run_on_cards_is_animated_with_its_scenes(finished, digits, monkeypatch):
    """One picture at the start and one after each of the two epochs, all different."""
    monkeypatch.setattr(data, "load", lambda: digits)
    with Image.open(plot.animate(finished[0].parent, TRIAL)) as animation:
        assert animation.n_frames == 3
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]
    assert len({frame.tobytes() for frame in frames}) == 3


# ------------------------------------------------------------------------------------------------------- the command


def test_rows_of_cards_are_trained_and_skipped_when_finished(few_cards, idx_folder, tmp_path):
    rows = [ALL["exp_33"], ALL["exp_41"]]
    arguments = ("--data", idx_folder, "--out", tmp_path, "--log-images", 0, "--plain")
    kind, (options, jobs, _) = prepared(rows, *arguments)
    assert kind == "prepared"
    for job in jobs:
        done, what = run_experiments.train_job(job, options)
        assert done == "finished", what
        assert what["test_total"] == 60
    found = {path.parent.name[:6]: json.loads(path.read_text()) for path in tmp_path.glob("*/results.json")}
    assert found["exp_33"]["data"] == {**few_cards().description}
    assert found["exp_41"]["data"] == {**few_cards().description, "straight": True}
    assert "iou" in found["exp_33"]["transformer"]
    assert set(found["exp_41"]["transformer"]) == {"digits_read", "by_strength"}
    assert (found["exp_33"]["optimizer"], found["exp_33"]["localisation_rate"]) == ("adam", 0.001)
    assert np.isfinite(found["exp_33"]["avg_test_loss"])
    _, (_, jobs, _) = prepared(rows, *arguments)
    assert [job.status for job in jobs] == ["skipped: already finished"] * 2
