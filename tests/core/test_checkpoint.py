"""Tensors and the state of a training on the disk. (Damaged files are in test_faults.py.)"""

import pytest
import torch
from helpers import Linear
from torch import nn

import train
from fast.step import FastTraining
from lab.settings import Recipe
from stn.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors, weights_signature
from train import PlainTraining

FINGERPRINT = 64 * "a"  # the fingerprint of some settings
HISTORY = [{"epoch": 1, "train_loss": 0.5, "test_correct": 7}, {"epoch": 2, "train_loss": 0.25, "test_correct": 8}]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    content = {"weight": torch.arange(6.0).view(2, 3), "history": HISTORY}
    for name in ("one", "other"):
        save_tensors(tmp_path / name, content)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    found = load_tensors(tmp_path / "one")
    assert torch.equal(found["weight"], content["weight"])
    assert found["history"] == HISTORY


@pytest.mark.parametrize(
    "load", [load_tensors, lambda path: torch.load(path, weights_only=True)], ids=["ours", "torch"]
)
def test_torch_reads_the_files_as_they_are(tmp_path, load):
    save_tensors(tmp_path / "weights.pt", nn.Linear(3, 2).state_dict())
    model = nn.Linear(3, 2)
    model.load_state_dict(load(tmp_path / "weights.pt"))


FORMS = {"plain": PlainTraining, "fast": FastTraining}


def in_training(digits, optimizer, seed, form="plain"):
    """A network after a step of its training, and the latter."""
    torch.manual_seed(seed)
    model = Linear()
    training = FORMS[form](model, digits, Recipe(optimizer))
    training.step(torch.arange(20) + seed)
    return model, training


def tensors(training):
    return [tensor.clone() for tensor in train.tensors_in(training.state_dict())]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_checkpoint_brings_everything_back(digits, tmp_path, capsys, optimizer, form):
    """Weights, what the optimiser remembers, the history and the transforms; the next steps are the same."""
    model, training = in_training(digits, optimizer, 1, form)
    other, its_training = in_training(digits, optimizer, 2, form)
    transforms = [torch.rand(4, 3, 3), torch.rand(4, 3, 3)]
    save_checkpoint(tmp_path, FINGERPRINT, model, training, HISTORY, transforms)
    history, loaded = load_checkpoint(tmp_path, FINGERPRINT, other, its_training, "cpu")
    assert history == HISTORY
    assert torch.equal(torch.stack(loaded), torch.stack(transforms))
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(tensors(training), tensors(its_training), strict=True))
        assert len(tensors(training)) == (0 if optimizer == "sgd" else 5 if form == "fast" else 6)
        assert training.step(torch.arange(30)) == its_training.step(torch.arange(30))
    assert capsys.readouterr().err == ""


def test_without_a_checkpoint_nothing_changes(digits, tmp_path, capsys):
    model, training = in_training(digits, "adam", 1)
    before = [*(parameter.clone() for parameter in model.parameters()), *tensors(training)]
    assert load_checkpoint(tmp_path, FINGERPRINT, model, training, "cpu") == ([], [])
    assert all(torch.equal(a, b) for a, b in zip(before, [*model.parameters(), *tensors(training)], strict=True))
    assert capsys.readouterr().err == ""


def test_the_checkpoint_before_is_kept(digits, tmp_path):
    model, training = in_training(digits, "sgd", 1)
    for n_epochs in (1, 2):
        save_checkpoint(tmp_path, FINGERPRINT, model, training, HISTORY[:n_epochs], [])
    assert load_tensors(tmp_path / "checkpoint.pt")["history"] == HISTORY
    assert load_tensors(tmp_path / "checkpoint_previous.pt")["history"] == HISTORY[:1]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint_previous.pt"}


def test_a_signature_is_of_names_and_shapes_alone():
    torch.manual_seed(0)
    signature = weights_signature(nn.Linear(3, 2))
    assert signature == weights_signature(nn.Linear(3, 2))  # other weights
    others = [nn.Linear(2, 3), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))]
    assert len({signature, *map(weights_signature, others)}) == 4
    assert signature == "7d99ef762683f946bfbe7381807072e1"  # that of the folders that people have
