"""Load trained networks with the results of their runs: from weights/, by name, or a finished run, by its folder.

    weights/exp_16.pt      the weights of run 01 of exp_16
    weights/exp_16.json    the record of that run: settings, seed, commit, machine, accuracy, the SHA-256 of its weights

`python tools/records.py --keep exp_16` makes both from the run's folder.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from digits.doubt import CALIBRATIONS, soften
from lab import results
from lab.catalogue import MNIST, build_network, find_network, spec_of
from lab.files import Damaged, sha256
from lab.folder import ROOT, read_settings
from lab.settings import RunError, fingerprint
from stn import warps
from stn.checkpoint import load_finished, load_tensors, save_tensors, structure

WEIGHTS = ROOT / "weights"


class Predictions(NamedTuple):
    """The output of a network for N images."""

    probabilities: np.ndarray  # (N, 10)
    doubtful: np.ndarray | None  # (N,) bool: whether a digit is in doubt; None if the network knows no doubt
    straightened: np.ndarray  # (N, 28, 28) in [0, 1]: what the classifier sees
    frames: np.ndarray | None  # (N, 4, 2): the corners of that in the image, (x, y) in pixels; None without transformer


class Trained(NamedTuple):
    """A network in evaluation mode, and the results of the run that trained it."""

    name: str
    model: torch.nn.Module
    results: dict  # see lab/results.py; `condensed` for one in weights/

    @property
    def description(self):
        """The network in a few words."""
        run, arguments, spec = self.results, self.results["arguments"], spec_of(self.results["data"])
        numbers = len(getattr(self.model, "transform_identity", ()))
        transform = arguments.get("kind") or {8: "homography", 32: "spline"}.get(numbers, "affine")
        words = {
            "no transformer" if arguments.get("bypass_localisation") else transform: True,
            f"{arguments.get('passes')} passes": arguments.get("passes", 1) > 1,
            "CoordConv": arguments.get("use_coordconf_localisation"),
            "learns slowly": run["optimizer"] == "sgd" and run["localisation_rate"] < run["learning_rate"],
            "taught corners": arguments.get("taught_corners"),
            f"taught {spec.summary}": spec.name != MNIST.name,
        }
        return ", ".join(text for text, applies in words.items() if applies)

    @property
    def calibration(self):
        """The `doubt.Calibration` of the network; None if it has none, as a user's run."""
        return CALIBRATIONS.get(self.name)

    @property
    def reads(self):
        """What the network reads: "digits", the numbers on "cards", or images of a size that no script makes."""
        if spec_of(self.results["data"]).n_digits > 1:
            return "cards"
        size = getattr(self.model, "image_size", None)  # of networks derived from `models.Net`
        if size == MNIST.image_size:
            return "digits"
        return "images of {}×{} pixels".format(*size) if size else "digits in a form of its own"

    def require(self, what):
        """Return this network if it reads `what`, "digits" or "cards". Raise RunError if it does not."""
        if self.reads != what:
            script = {"digits": "predict.py", "cards": "extract_id.py"}.get(self.reads, "train.py and plot.py alone")
            raise RunError(f"{self.name} reads {self.reads}, not {what}: it is for {script}")
        return self

    @torch.inference_mode()
    def read(self, images):
        """Read images (N, 28, 28) in [0, 1], light ink on black; return `Predictions`. Raise RunError for cards."""
        scores, straightened, frames = self.look(images)
        if self.calibration is None:
            return Predictions(soften(scores), None, straightened, frames)
        probabilities = soften(scores, self.calibration.temperature)
        return Predictions(probabilities, probabilities.max(1) < self.calibration.threshold, straightened, frames)

    @torch.inference_mode()
    def look(self, images):
        """Return the log-probabilities (N, 10) of images, as `read` takes them, without calibration, a tensor; and what
        the classifier sees and its frames, as in `Predictions`. Raise RunError for cards.
        """
        from stn import metrics  # late, since it imports matplotlib

        self.require("digits")
        mean, std = self.results["data"]["mean"], self.results["data"]["std"]
        x = torch.as_tensor(np.asarray(images, np.float32)).unsqueeze(1).sub(mean).div(std)
        x = warps.pad_to_canvas(x, self.model.canvas)
        seen = self.model.transform(x)
        frames = None
        if metrics.has_transformer(self.model):
            frames = metrics.frames(self.model.homography(x), seen.shape[2:]).numpy()
        straightened = seen[:, 0].mul(std).add(mean).clamp(0, 1)
        return self.model.classify(seen), straightened.numpy(), frames


def names():
    """List the names of the networks in weights/."""
    return sorted(path.stem for path in WEIGHTS.glob("*.json"))


def load(name_or_folder):
    """Return the `Trained` network of a name in weights/, or else of the finished run in a folder.

    Raise RunError if it is missing or damaged, or does not fit the networks of models.py.
    """
    if str(name_or_folder) in names():
        return build(str(name_or_folder), *load_from_weights(str(name_or_folder)))
    run_dir = Path(name_or_folder)
    if not run_dir.is_dir():
        raise RunError(f"{name_or_folder} is neither a name in weights/ ({', '.join(names())}) nor the folder of a run")
    if not (run_dir / "results.json").exists():
        raise RunError(f"{run_dir} holds no finished run: it has no results.json")
    try:
        return build(run_dir.name, *load_finished(run_dir.resolve()))
    except OSError as error:
        raise RunError(f"{run_dir}: its weights cannot be read ({error})") from None


def build(name, run, weights):
    """Return the `Trained` network of `run`, a results.json, with its weights. Raise RunError if they do not fit."""
    network_class = find_network(run["model"])
    if not (isinstance(network_class, type) and issubclass(network_class, torch.nn.Module)):
        raise RunError(f"{name} is a {run['model']}, which neither models.py nor a study has")
    try:
        model = build_network(network_class, run["arguments"], spec_of(run["data"])).eval()
        if structure(model) != run.get("structure", structure(model)):  # earlier versions did not record it
            raise ValueError
        model.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError):  # other arguments, layers or shapes
        message = f"{name} does not fit the networks of models.py any more; check out {run['git_commit']}"
        raise RunError(message) from None
    return Trained(name, model, run)


def load_from_weights(name, part="model"):
    """Return (results, state_dict) of a network in weights/, or another part of its file.

    Raise RunError if a file is damaged.
    """
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
    """Copy the finished run in the folder `run_dir` into weights/, under the id of its experiment; return the path.

    n_transforms: the number of test images whose transforms after each epoch are copied, too, for an animation.
    Raise RunError or OSError if the run is not complete.
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
