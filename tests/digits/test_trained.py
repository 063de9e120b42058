"""Trained networks, of weights/ and of run folders: they are what their records say, and what is damaged is refused."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import Linear, run
from records import as_in_the_table, keep

from digits import pretrained
from fast import conv2d
from lab import results
from lab.files import sha256
from lab.folder import processor_name, versions
from lab.settings import RunError
from plot import dataset_of
from run_experiments import ALL
from stn.data import MNIST_MEAN, MNIST_STD
from train import evaluate

NAMES = pretrained.names()
# Bytes; the weights of four passes carry the transforms of an animation, too.
LARGEST = {"digits": 400_000, "cards": 1_000_000}


OFTEN = ("exp_03", "exp_06", "exp_302")  # without a transformer, with an affine one, and the one for photographs


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_kept_network_reads_as_many_test_images_as_its_record_says(name):
    """Exactly on this kind of machine, within two elsewhere."""
    network = pretrained.load(name)
    digits = dataset_of(network.results)
    with conv2d.accelerated(network.model, not network.results["plain_convolutions"]):  # as in the run
        _, predictions = evaluate(network.model, digits.test_images, digits.test_labels)
    right = (predictions == digits.test_labels).view(len(predictions), -1).all(1)  # all digits of a card
    correct, run = int(right.sum()), network.results
    same = (run["device_name"], run["versions"]["torch"]) == (processor_name(), versions()["torch"])
    assert abs(correct - run["test_correct"]) <= (0 if same else 2)
    if same and (wrong := results.wrong_images(run)) is not None:  # of MNIST's images
        assert {n: int(predictions[n]) for n in (predictions != digits.test_labels).nonzero()[:, 0].tolist()} == wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_network_has_the_record_of_a_full_run_01(name):
    network, experiment = pretrained.load(name), ALL[name]
    run = network.results
    assert as_in_the_table(run)
    assert (run["experiment_name"], run["run"], run["seed"]) == (experiment.directory(1), 1, 123)
    assert len(run["git_commit"]) == 40  # of no changed code
    path = pretrained.WEIGHTS / f"{name}.pt"
    assert run["weights"] == sha256(path)
    assert path.stat().st_size < LARGEST[network.reads]


def test_the_networks_that_are_promised_are_there():
    """Those that docs/own_images.md makes, and nothing else."""
    page = (ROOT / "docs" / "own_images.md").read_text(encoding="utf-8")
    assert re.search(r"python tools/records\.py --keep (.*)", page)[1].split() == NAMES
    assert {path.name for path in pretrained.WEIGHTS.iterdir()} == {
        f"{n}.{end}" for n in NAMES for end in ("pt", "json")
    }


def test_a_reading_is_that_of_the_network_itself():
    network = pretrained.load("exp_16")
    images = dataset_of(network.results).test_images[:4]
    read = network.read((images[:, 0] * MNIST_STD + MNIST_MEAN).numpy())
    with torch.no_grad():
        expected = network.model(images).exp()
        corner = network.model.homography(images)[0] @ torch.tensor([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(read.probabilities, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(read.frames[0, 0], ((corner[:2] / corner[2] + 1) * 14 - 0.5).numpy(), atol=1e-3)
    assert read.straightened.shape == (4, 28, 28)
    assert pretrained.load("exp_03").read(np.zeros((1, 28, 28))).frames is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of two networks, in place of weights/."""
    for name in ("exp_02", "exp_03"):
        for end in ("pt", "json"):
            shutil.copy(ROOT / "weights" / f"{name}.{end}", tmp_path)
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    return tmp_path


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("end", ["pt", "json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_changed_bit_is_refused(folder, end, place):
    path = folder / f"exp_02.{end}"
    flip(path, int(path.stat().st_size * place))
    refused(f"{path} is damaged", "git checkout -- weights")


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff", None])
@pytest.mark.parametrize("end", ["pt", "json"])
def test_what_is_not_a_network_is_refused(folder, end, content):
    path = folder / f"exp_02.{end}"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        refused(f"{path} is damaged")
    elif end == "pt":
        refused(f"{path} is damaged")
    else:
        refused("exp_02 is neither a name in weights/ (exp_03) nor the folder of a run")


def test_another_networks_weights_are_refused(folder):
    shutil.copy(folder / "exp_03.pt", folder / "exp_02.pt")
    refused("not the file of its record")


@pytest.mark.parametrize(
    "change",
    [{"arguments": {"bypass_localisation": True}}, {"structure": "0" * 32}, {"arguments": {"pass": 2}}],
    ids=str,
)
def test_networks_that_are_put_together_otherwise_are_refused(folder, change):
    content = results.read_checksummed(folder / "exp_02.json")
    results.write(folder / "exp_02.json", content | change)
    refused("does not fit the networks of models.py any more", content["git_commit"])


def refused(*parts, which="exp_02"):
    with pytest.raises(RunError) as error:
        pretrained.load(which)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_run_is_loaded_from_its_folder_and_kept_by_its_id(undisturbed, tmp_path, monkeypatch):
    place = next(undisturbed.glob("exp_08*"))
    network = pretrained.load(place)
    saved = torch.load(place / "weights.pt", weights_only=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.model.state_dict().items())
    assert network.results["test_correct"] == json.loads((place / "results.json").read_text())["test_correct"]
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    assert pretrained.keep(place, n_transforms=3) == tmp_path / "exp_08.pt"
    kept = pretrained.load("exp_08")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in kept.model.state_dict().items())
    _, transforms = pretrained.load_from_weights("exp_08", "transforms")
    assert [tuple(epoch.shape) for epoch in transforms] == [(3, 3, 3)] * kept.results["n_epochs"]


def test_only_a_full_run_is_kept(undisturbed):
    found = results.read_all(undisturbed)[0]
    assert any(name.startswith("exp_08_run_01") for name in found)  # a short look on few images
    with pytest.raises(ValueError, match="has no full run 01 of exp_08"):
        keep(undisturbed, ["exp_08"], found)


def test_a_run_that_is_not_whole_is_refused(undisturbed, tmp_path):
    place = tmp_path / next(undisturbed.glob("exp_03*")).name
    shutil.copytree(next(undisturbed.glob("exp_03*")), place)
    flip(place / "weights.pt", 5000)
    refused(f"{place}: its weights cannot be read", "checksum", which=place)
    (place / "weights.pt").unlink()
    refused(f"{place}: its weights cannot be read", which=place)
    (place / "results.json").unlink()
    refused(f"{place} holds no finished run", which=place)


def test_a_network_of_ones_own_is_refused(digits, tmp_path):
    run(digits, tmp_path, "own", n_epochs=1, model=Linear)
    refused("own is a Linear, which neither models.py nor a study has", which=tmp_path / "own")
