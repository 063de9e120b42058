"""What TensorBoard gets of a run, read back with its own EventAccumulator."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from helpers import TRIAL, Interruption, Linear, Unrecorded, interrupt, run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import train
from lab import figures
from models import Net_CoordConv, Net_CoordConv_Homography
from stn import metrics, warps

QUESTION = "Does it help?"
DIGITS = "Test digits, and the same transformed"
MEANS = "Mean of each class, before and after"


ARGUMENTS = {"use_coordconf_localisation": True, "padding": "background"}


# Its steps are not recorded: the same bits (a test of test_step.py), and a second less for each run.
def HOMOGRAPHY():
    network = Net_CoordConv_Homography(**ARGUMENTS)
    network.repeatable = False
    return network


def events_of(folder):
    return EventAccumulator(str(folder), dict.fromkeys(("images", "histograms", "tensors", "scalars"), 0)).Reload()


def picture(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("L")) / 255


def trained(folder):
    """The network of `logged` with the weights in a folder."""
    model = HOMOGRAPHY()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model.eval()


@pytest.fixture(scope="module")
def logged(digits, tmp_path_factory):
    """A run of three epochs with a heavy part in every second: (its network, its results, its events)."""
    out = tmp_path_factory.mktemp("logged")
    options = {"arguments": ARGUMENTS, "question": QUESTION, "log_images": 2}
    results = run(digits, out, model=HOMOGRAPHY, **options)
    return trained(out / TRIAL), results, events_of(out / TRIAL)


def test_the_heavy_parts_come_at_the_start_every_few_epochs_and_at_the_end(logged):
    _, _, events = logged
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {DIGITS: [0, 2, 3], MEANS: [3], "Confusion matrix": [3]}
    for tag in events.Tags()["histograms"]:
        assert [event.step for event in events.Histograms(tag)] == [2, 3]
    for name in ("translation", "rotation", "scale", "shear", "perspective"):
        assert [event.step for event in events.Scalars(f"Transform share/{name}")] == [2, 3]


def test_the_digits_stand_beside_what_the_network_makes_of_them(logged, digits):
    model, _, events = logged
    images = digits.test_images[: metrics.N_DIGITS]
    with torch.no_grad():
        transformed = model.transform(images)
    first, *_, last = (picture(event) for event in events.Images(DIGITS))
    half = first.shape[1] // 2
    expected = [np.kron(figures.grid_of(digits.pixels(x)[:, 0]), np.ones((2, 2))) for x in (images, transformed)]
    assert np.abs(last - np.hstack(expected)).max() < 0.005  # half a grey value of 255, and rounding
    assert np.abs(first - np.hstack([expected[0]] * 2)).max() < 0.005  # the transform starts as the identity
    assert np.abs(last[:, half:] - last[:, :half]).max() > 0.05


def test_the_mean_of_each_class(logged, digits):
    model, _, events = logged
    before = digits.pixels(digits.test_images)
    with torch.no_grad():
        after = warps.homography_warp(before, model.homography(digits.test_images), "background")
    means = [images[digits.test_labels == digit].mean((0, 1)) for images in (before, after) for digit in range(10)]
    expected = np.kron(figures.grid_of(torch.stack(means), columns=10), np.ones((2, 2)))
    assert np.abs(picture(events.Images(MEANS)[0]) - expected).max() < 0.005


def test_scalars_of_classes_and_speed(logged, digits):
    _, results, events = logged
    predictions = torch.tensor([int(digit) for digit in results["predictions"]])
    for digit in range(10):
        of_class = digits.test_labels == digit
        expected = (predictions[of_class] == digit).double().mean().item() * 100
        assert events.Scalars(f"Class accuracy/{digit}")[-1].value == pytest.approx(expected)
    speeds = [(event.step, event.value) for event in events.Scalars("Images per second")]
    expected = [(e["epoch"], pytest.approx(640 / e["train_seconds"])) for e in results["history"]]
    assert speeds == expected


def test_the_transforms_parameters(logged, digits):
    model, _, events = logged
    factors = warps.decompose(metrics.homographies(model, digits.test_images))
    assert sorted(events.Tags()["histograms"]) == sorted(
        [
            *("Transform/rotation (degrees)", "Transform/scale x", "Transform/scale y", "Transform/shear"),
            *("Transform/translation x (pixels)", "Transform/translation y (pixels)"),
            *("Transform/perspective x", "Transform/perspective y"),
        ]
    )
    histogram = events.Histograms("Transform/rotation (degrees)")[-1].histogram_value
    degrees = factors["rotation"].double() * 180 / np.pi
    assert histogram.num == 500
    assert histogram.sum == pytest.approx(degrees.sum().item(), rel=1e-4)
    assert events.Histograms("Transform/translation x (pixels)")[-1].histogram_value.max == pytest.approx(
        14 * factors["translation x"].max().item(), rel=1e-5
    )
    total = 0
    for name, share in warps.component_shares(factors).items():
        value = events.Scalars(f"Transform share/{name}")[-1].value
        assert value == pytest.approx(100 * share.mean().item(), rel=1e-3)
        total += value
    assert total == pytest.approx(100, rel=1e-4)


def test_text_layout_graph_and_hyperparameters(logged):
    _, _, events = logged
    text = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"][:2]}
    assert text["Question/text_summary"] == QUESTION
    assert "| use_coordconf_localisation | True |" in text["Settings/text_summary"].splitlines()
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [chart.multiline.tag[0] for chart in layout.category[0].chart] == [
        "Accuracy test$",
        "Average loss test$",
        "Average loss train$",
    ]
    scopes = {node.name.split("/")[1] for node in events.Graph().node if node.name.count("/") > 1}
    assert {"Conv2d[conv1]", "CoordConv2d[loc_conv1]", "Linear[loc_fc2]", "Linear[fc2]"} <= scopes
    start = HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info.hparams
    assert start["learning_rate"].number_value == 0.01
    assert start["use_coordconf_localisation"].string_value == "True"
    assert start["bypass_localisation"].string_value == "False"  # not given: the default
    assert start["data_name"].string_value.startswith("few_digits")
    assert "_hparams_/session_end_info" in events.summary_metadata


def test_without_the_heavy_parts_the_same_run(logged, digits, tmp_path):
    """And its weights are the same to the bit: logging draws no random numbers and changes no weight."""
    model, results, _ = logged
    light = run(digits, tmp_path, model=HOMOGRAPHY, arguments=ARGUMENTS, log_images=0)
    assert light["predictions"] == results["predictions"]
    assert [e["train_loss"] for e in light["history"]] == [e["train_loss"] for e in results["history"]]
    other = trained(tmp_path / TRIAL)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    events = events_of(tmp_path / TRIAL)
    tags = events.Tags()
    assert (tags["images"], tags["histograms"], tags["graph"]) == ([], [], False)
    assert not any("share" in tag for tag in tags["scalars"])
    assert {"Accuracy test", "Class accuracy/3", "Images per second"} <= set(tags["scalars"])


def test_affine_transforms_have_no_perspective_and_none_has_nothing(digits, tmp_path):
    run(digits, tmp_path, "affine", 1, Unrecorded)
    tags = events_of(tmp_path / "affine").Tags()
    assert not any("perspective" in tag for tag in tags["scalars"] + tags["histograms"])
    assert "Transform share/shear" in tags["scalars"]
    run(digits, tmp_path, "none", 1, partial(Net_CoordConv, bypass_localisation=True))
    tags = events_of(tmp_path / "none").Tags()
    assert (tags["histograms"], MEANS in tags["images"], "Confusion matrix" in tags["images"]) == ([], False, True)


def test_a_network_that_cannot_be_traced_says_so_and_is_trained(digits, tmp_path, capsys):
    class Odd(Linear):
        def forward(self, x):
            if len(x) == 1:
                raise ArithmeticError("not for me")
            return super().forward(x)

    assert run(digits, tmp_path, n_epochs=1, model=Odd)["n_epochs"] == 1
    tensors = events_of(tmp_path / TRIAL).Tensors("Graph/text_summary")
    assert tensors[0].tensor_proto.string_val[0] == b"This network cannot be traced (ArithmeticError)."
    assert capsys.readouterr() == ("", "")


def test_an_interruption_before_the_first_complete_epoch_leaves_nothing_twice(digits, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, train, "evaluate")
        with pytest.raises(Interruption):
            run(digits, tmp_path, n_epochs=1, model=Unrecorded)
    assert events_of(tmp_path / TRIAL).Tags()["images"] == [DIGITS]  # it had logged something
    run(digits, tmp_path, n_epochs=1, model=Unrecorded)
    events = events_of(tmp_path / TRIAL)
    assert [event.step for event in events.Images(DIGITS)] == [0, 1]
    assert len(events.Tensors("Question/text_summary")) == 1
    assert (tmp_path / TRIAL / "results.json").exists()
