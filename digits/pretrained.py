"""Trained networks with the settings they belong to: those kept in weights/, by name, or a finished run, by its folder.

    weights/exp_16.pt      the weights of run 01 of exp_16
    weights/exp_16.json    the record of that run: settings, seed, commit, machine, accuracy, the SHA-256 of its weights

`python tools/records.py --keep exp_16` makes both from the run's folder. Loading refuses what is damaged or does not
fit.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lab import results
from lab.catalogue import MNIST, build_network, find_network, spec_of
from lab.files import Damaged, sha256
from lab.folder import ROOT, read_settings
from lab.settings import RunError, fingerprint
from stn import warps
from stn.checkpoint import load_finished, load_tensors, save_tensors, structure, weights_signature

WEIGHTS = ROOT / "weights"


class Reading(NamedTuple):
    """What a network makes of N images."""

    probabilities: np.ndarray  # (N, 10)
    straightened: np.ndarray  # (N, 28, 28) in [0, 1]: what the classifier sees
    frames: np.ndarray | None  # (N, 4, 2): where the corners of that lie in the image, (x, y) in pixels; None without


class Trained(NamedTuple):
    """A network in evaluation mode, and what is known of the run that trained it."""

    name: str
    model: torch.nn.Module
    results: dict  # see lab/results.py; `condensed` for one in weights/

    @property
    def description(self):
        """The network in a few words."""
        arguments, passes = self.results["arguments"], self.results["arguments"].get("passes", 1)
        words = "homography" if "Homography" in self.results["model"] else "affine"
        words += f", {passes} passes" if passes > 1 else ""
        words += ", CoordConv" if arguments.get("use_coordconf_localisation") else ""
        slow = self.results["optimizer"] == "sgd" and self.results["localisation_rate"] < self.results["learning_rate"]
        words += ", learns slowly" if slow else ""
        words = "no transformer" if arguments.get("bypass_localisation") else words
        words += ", taught corners" if arguments.get("taught_corners") else ""
        spec = spec_of(self.results["data"])
        return words + (f", taught {spec.summary}" if spec.name != "mnist" else "")

    @property
    def reads(self):
        """What the network reads: "digits", the numbers on "cards", or images of a size that no script makes."""
        if spec_of(self.results["data"]).n_digits > 1:
            return "cards"
        height, width = self.model.image_size
        return "digits" if (height, width) == MNIST.image_size else f"images of {height}×{width} pixels"

    def that_reads(self, what):
        """Return this network if it reads "digits", or "cards", as it should. Raise RunError if it does not."""
        if self.reads != what:
            script = {"digits": "predict.py", "cards": "extract_id.py"}.get(self.reads, "train.py and plot.py alone")
            raise RunError(f"{self.name} reads {self.reads}, not {what}: it is for {script}")
        return self

    @torch.inference_mode()
    def read(self, images):
        """Read images (N, 28, 28) in [0, 1], light ink on black; return a `Reading`. Raise RunError for cards."""
        from stn import metrics  # late, since it imports matplotlib

        self.that_reads("digits")
        mean, std = self.results["data"]["mean"], self.results["data"]["std"]
        x = torch.as_tensor(np.asarray(images, np.float32)).unsqueeze(1).sub(mean).div(std)
        x = warps.pad_to_canvas(x, self.model.canvas)
        seen = self.model.transform(x)
        frames = None
        if metrics.has_transformer(self.model):
            frames = metrics.frames(self.model.homography(x), seen.shape[2:]).numpy()
        straightened = seen[:, 0].mul(std).add(mean).clamp(0, 1)
        return Reading(self.model.classify(seen).exp().numpy(), straightened.numpy(), frames)


def names():
    """List the names of the networks in weights/."""
    return sorted(path.stem for path in WEIGHTS.glob("*.json"))


def load(name_or_folder):
    """Return the `Trained` network of a name in weights/, or else of the finished run in a folder.

    Raise RunError, in one line, for what is not there, is damaged, or does not fit the networks of models.py.
    """
    if str(name_or_folder) in names():
        return built(str(name_or_folder), *load_from_weights(str(name_or_folder)))
    run_dir = Path(name_or_folder)
    if not run_dir.is_dir():
        raise RunError(f"{name_or_folder} is neither a name in weights/ ({', '.join(names())}) nor the folder of a run")
    if not (run_dir / "results.json").exists():
        raise RunError(f"{run_dir} holds no finished run: it has no results.json")
    try:
        return built(run_dir.name, *load_finished(run_dir.resolve()))
    except OSError as error:
        raise RunError(f"{run_dir}: its weights cannot be read ({error})") from None


def built(name, run, weights):
    """Return the `Trained` network that `run`, a results.json, describes, with its weights."""
    kind = find_network(run["model"])
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise RunError(f"{name} is a {run['model']}, which neither models.py nor a study has")
    try:
        model = build_network(kind, run["arguments"], spec_of(run["data"])).eval()
        recorded = {"structure": structure(model)} | run  # earlier versions have not told it
        fits = (weights_signature(model), structure(model)) == (recorded["weights_signature"], recorded["structure"])
    except (TypeError, ValueError):  # arguments that it does not take
        fits = False
    if not fits:
        raise RunError(f"{name} does not fit the networks of models.py any more; check out {run['git_commit']}")
    model.load_state_dict(weights)
    return Trained(name, model, run)


def load_from_weights(name, part="model"):
    """Return (results, state_dict) of a network in weights/, or another part of its file. Raise RunError."""
    path = WEIGHTS / f"{name}.json"
    try:
        run = results.read_checksummed(path)
        path = path.with_suffix(".pt")
        if sha256(path) != run["weights"]:
            raise Damaged("not the file of its record")
        return run, load_tensors(path)[part]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it with `git checkout -- weights`") from None


def keep(run_dir, n_transforms=0):
    """Keep the finished run in the folder `run_dir` under the id of its experiment; return the path of its weights.

    n_transforms: of how many test images the transforms after each epoch are kept, too, for an animation.
    Raise RunError or OSError if the run is not whole.
    """
    run, weights = load_finished(run_dir)
    transforms = []
    if n_transforms:
        checkpoint = load_tensors(run_dir / "checkpoint.pt", fingerprint=fingerprint(read_settings(run_dir)))
        transforms = [homographies[:n_transforms].clone() for homographies in checkpoint["transforms"]]
    path = WEIGHTS / f"{run_dir.name.partition('_run_')[0]}.pt"
    WEIGHTS.mkdir(exist_ok=True)
    save_tensors(path, {"model": weights, "transforms": transforms})
    results.write(path.with_suffix(".json"), results.condensed(run) | {"weights": sha256(path)})
    return path
