"""Tensors and the state of a training on the disk."""

import hashlib
import inspect
import io
import pickle
import sys

import torch

from lab.catalogue import spec_of
from lab.files import Damaged, read_sealed, write_sealed
from lab.folder import WAY_OUT, code_files, code_hash, read_results
from lab.settings import RunError

NO_RUN = 64 * "0"  # the fingerprint in a file that belongs to no run


def save_tensors(path, state, fingerprint=NO_RUN, previous=None):
    """Write `state` by torch.save to a sealed file (see lab/files.py), and return its checksum.

    The same state with the same fingerprint gives the same bytes.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_sealed(path, buffer.getvalue(), fingerprint, previous)


def load_tensors(path, device="cpu", fingerprint=None, checksum=None):
    """Return what `save_tensors` wrote.

    Raise OSError (Damaged if the checksum does not fit), and RunError if the file contains code, or has another
    fingerprint or checksum than is asked for.
    """
    data, its_fingerprint, its_checksum = read_sealed(path)
    if fingerprint not in (None, its_fingerprint):
        raise RunError(f"{path} belongs to another run, or to the same with other settings or code; {WAY_OUT}")
    if checksum not in (None, its_checksum):
        raise RunError(f"{path} is not the file that the run has written; {WAY_OUT}")
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"{path} holds more than tensors and plain values ({reason}); {WAY_OUT}") from None


def save_checkpoint(run_dir, fingerprint, model, training, history, transforms):
    """Write the state after an epoch; the checkpoint before it is kept as checkpoint_previous.pt.

    fingerprint: of the run's settings. history: an entry for each epoch, see `train.epochs`. transforms: those of the
    first test images after each epoch, [(N, 3, 3), ...], empty without a transformer.
    """
    state = {"model": model.state_dict(), "optimizer_state": training.state_dict()}
    state |= {"history": history, "transforms": transforms}
    save_tensors(run_dir / "checkpoint.pt", state, fingerprint, previous=run_dir / "checkpoint_previous.pt")


def load_checkpoint(run_dir, fingerprint, model, training, device):
    """Put the state after the last complete epoch into `model` and its `training` (see `train.PlainTraining`).

    Return the history and the transforms, both [] if there is no checkpoint. A damaged checkpoint is named on stderr
    and deleted, and the one before is used. Raise RunError for one with another fingerprint.
    """
    damaged = False
    for path in (run_dir / "checkpoint.pt", run_dir / "checkpoint_previous.pt"):
        try:
            state = load_tensors(path, device, fingerprint)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged = True
            print(f"{error}; it is deleted", file=sys.stderr)
            path.unlink()
            continue
        model.load_state_dict(state["model"])
        training.load_state_dict(state["optimizer_state"])
        if damaged:
            print(f"{run_dir} goes on from {path.name}, after epoch {len(state['history'])}", file=sys.stderr)
        return state["history"], [homographies.cpu() for homographies in state["transforms"]]
    if damaged:
        print(f"{run_dir} has no good checkpoint and starts again from epoch 1", file=sys.stderr)
    return [], []


def load_finished(run_dir, device="cpu"):
    """Return (results, state_dict) of a finished run. Raise RunError or OSError if they do not belong together."""
    results = read_results(run_dir)
    return results, load_tensors(run_dir / "weights.pt", device, checksum=results["weights"])


def code_of(model, data):
    """Return the SHA-256 of all code that the result of training `model` depends on, None if it is not known.

    It covers the core, the files of the data set with the description `data`, and any other file that defines a class
    used in the network. (How modules are put together is in `structure`.)
    """
    sources = spec_of(data).sources
    kinds = {kind for module in model.modules() for kind in type(module).__mro__} - {object}
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "torchvision", "kornia")]
    try:
        files = {inspect.getsourcefile(kind) for kind in own}
    except (TypeError, OSError):  # defined interactively
        return None
    return None if None in files else code_hash(sources, sorted(files - {*map(str, code_files(sources))}))


def weights_signature(model):
    """Return the MD5 of the names and shapes of a network's tensors: networks of equal signature may share weights."""
    tensors = repr([(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()])
    return hashlib.md5(tensors.encode(), usedforsecurity=False).hexdigest()


def structure(model):
    """Return the MD5 of how a network is put together, as torch prints it: layers without weights count, too."""
    return hashlib.md5(str(model).encode(), usedforsecurity=False).hexdigest()
