"""Tensors and the state of a training on the disk."""

import hashlib
import io
import pickle
import sys

import torch

from lab.files import Damaged, read_sealed, write_sealed
from lab.folder import WAY_OUT
from lab.settings import RunError


def save_tensors(path, content, previous=None):
    """Write `content` by torch.save to a sealed file (see lab/files.py); the same content gives the same bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_sealed(path, buffer.getvalue(), previous)


def load_tensors(path, device="cpu"):
    """Return what `save_tensors` wrote. Raise OSError (Damaged if the file is), and RunError if it would run code."""
    content = read_sealed(path)
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"{path} holds more than tensors and plain values ({reason}); {WAY_OUT}") from None


def save_checkpoint(folder, model, optimizer_state, history, transforms):
    """Write the state after an epoch; the checkpoint before it is kept as checkpoint_previous.pt.

    history: an entry for each epoch, see `train.train`. transforms: those of the first test images after each epoch,
    [(N, 3, 3), ...], empty without a transformer.
    """
    state = {"model": model.state_dict(), "optimizer_state": optimizer_state}
    state |= {"history": history, "transforms": transforms}
    save_tensors(folder / "checkpoint.pt", state, previous=folder / "checkpoint_previous.pt")


def load_checkpoint(folder, model, optimizer_state, device):
    """Put the state after the last complete epoch into `model` and `optimizer_state`.

    Return the history and the transforms, both [] if there is no checkpoint. A damaged checkpoint is named on stderr
    and deleted, and the one before is used.
    """
    damaged = False
    for path in (folder / "checkpoint.pt", folder / "checkpoint_previous.pt"):
        try:
            state = load_tensors(path, device)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged = True
            print(f"{error}; it is deleted", file=sys.stderr)
            path.unlink()
            continue
        model.load_state_dict(state["model"])
        for name, tensor in optimizer_state.items():
            tensor.copy_(state["optimizer_state"][name])
        if damaged:
            print(f"{folder} goes on from {path.name}, after epoch {len(state['history'])}", file=sys.stderr)
        return state["history"], [homographies.cpu() for homographies in state["transforms"]]
    if damaged:
        print(f"{folder} has no good checkpoint and starts again from epoch 1", file=sys.stderr)
    return [], []


def weights_signature(model):
    """Return the MD5 of the names and shapes of a network's tensors: networks of equal signature may share weights."""
    tensors = repr([(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()])
    return hashlib.md5(tensors.encode(), usedforsecurity=False).hexdigest()
