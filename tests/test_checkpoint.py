"""Tensors and the state of a training on the disk. (Damaged files are in test_faults.py.)"""

import pytest
import torch
from helpers import Linear
from torch import nn

from lab.settings import Recipe
from stn.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors, weights_signature
from stn.step import new_optimizer_state

OWNER = 64 * "a"  # the fingerprint of some settings
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


def in_training(optimizer, seed):
    """A network and the state of its optimiser, both with random numbers."""
    torch.manual_seed(seed)
    model = Linear()
    state = {name: torch.rand_like(tensor) for name, tensor in new_optimizer_state(model, Recipe(optimizer)).items()}
    return model, state


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_checkpoint_brings_everything_back(tmp_path, capsys, optimizer):
    """Weights, the optimiser's state in the tensors that are there, the history and the transforms."""
    (model, state), (other, other_state) = in_training(optimizer, 1), in_training(optimizer, 2)
    transforms = [torch.rand(4, 3, 3), torch.rand(4, 3, 3)]
    save_checkpoint(tmp_path, OWNER, model, state, HISTORY, transforms)
    places = {name: tensor.data_ptr() for name, tensor in other_state.items()}
    history, found = load_checkpoint(tmp_path, OWNER, other, other_state, "cpu")
    assert history == HISTORY
    assert torch.equal(torch.stack(found), torch.stack(transforms))
    for ours, theirs in ((other.state_dict(), model.state_dict()), (other_state, state)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {name: tensor.data_ptr() for name, tensor in other_state.items()} == places
    assert capsys.readouterr().err == ""


def test_without_a_checkpoint_nothing_changes(tmp_path, capsys):
    model, state = in_training("adam", 1)
    before = {name: tensor.clone() for name, tensor in (model.state_dict() | state).items()}
    assert load_checkpoint(tmp_path, OWNER, model, state, "cpu") == ([], [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in (model.state_dict() | state).items())
    assert capsys.readouterr().err == ""


def test_the_checkpoint_before_is_kept(tmp_path):
    model, state = in_training("sgd", 1)
    for n_epochs in (1, 2):
        save_checkpoint(tmp_path, OWNER, model, state, HISTORY[:n_epochs], [])
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
