"""Plain values: an experiment, the recipe of its training, one run, and all that the result of a run depends on."""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

SEED = 123  # the original's; of run 01
BATCH_SIZE = 64  # the tutorial's
THREADS = 1  # results differ between thread counts, so it is pinned; the cores are used by running side by side
FORMAT = 2  # version of a run's folder: raise it when old ones can no longer be read or continued
OPTIMIZERS = ("sgd", "adam")


def printable(text):
    """Return text in one line, with escape sequences in place of what is not printable."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class RunError(Exception):
    """Runs cannot be made or went wrong; the message says which, why and what to do, in one line."""

    def __init__(self, message):
        super().__init__(printable(message))


class Recipe(NamedTuple):
    """How the weights move; by default as in the tutorial."""

    optimizer: str = "sgd"  # plain, or "adam" with torch.optim.Adam's betas and eps
    learning_rate: float = 0.01
    localisation_rate: float | None = None  # rate of the parameters named "loc_..."; None: as the others
    localisation_norm: float | None = None  # clip the gradient of these parameters to this norm
    decay: bool = False  # let both rates fall to 0 along a half cosine, from epoch to epoch
    drop_after: float | None = None  # divide both rates by ten after this share of the epochs
    batch_size: int = BATCH_SIZE

    def lr_scale(self, epoch, n_epochs):
        """Return the factor of both rates in an epoch, 1 to n_epochs."""
        scale = (1 + math.cos(math.pi * (epoch - 1) / n_epochs)) / 2 if self.decay else 1.0
        return scale / 10 if self.drop_after and epoch > self.drop_after * n_epochs else scale

    def as_settings(self):
        """Return the settings of a run as a dict, with both rates as numbers."""
        local = self.learning_rate if self.localisation_rate is None else self.localisation_rate
        return self._asdict() | {"localisation_rate": local}

    def check(self):
        """Raise ValueError if there is no such optimiser, or a rate, a norm, the drop or the batch size cannot be."""
        norm = 1.0 if self.localisation_norm is None else self.localisation_norm
        rates = self.learning_rate, self.as_settings()["localisation_rate"], norm
        numbers = all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in rates)
        numbers = numbers and type(self.batch_size) is int and self.batch_size > 0
        numbers = numbers and (self.drop_after is None or 0 < self.drop_after < 1)
        if self.optimizer not in OPTIMIZERS or not numbers:
            raise ValueError(f"a recipe has positive numbers and one of {OPTIMIZERS}, not {self}")


TUTORIAL = Recipe()


@dataclass(frozen=True)
class Experiment:
    """One row of a table of experiments; run `r` of it lives in <out>/<id>_run_<r>_<title>."""

    id: str
    title: str
    model: str  # the name of a class in models.py, or of a study
    epochs: int
    question: str
    arguments: dict = field(default_factory=dict)  # arguments of that class
    recipe: Recipe = TUTORIAL
    data: str = "mnist"  # the name of a `DatasetSpec`: MNIST as it is, or what a study makes of it

    @property
    def name(self):
        return f"{self.id}_{self.title}"

    def directory(self, run):
        return f"{self.id}_run_{run:02d}_{self.title}"


@dataclass
class Settings:
    """What the result of a run depends on. A run is only continued with the same."""

    experiment_name: str
    model: str  # the name of its class
    arguments: dict  # the arguments that made it
    weights_signature: str  # see `stn.checkpoint.weights_signature`
    n_epochs: int
    data: dict  # see `stn.data.Dataset.description`
    structure: str | None = None  # see `stn.checkpoint.structure`
    code: str | None = None  # see `stn.checkpoint.code_of`; None where it is not known
    versions: dict = field(default_factory=dict)  # versions of the packages
    git_commit: str | None = None  # informational: a commit may change what the result does not depend on
    run: int = 1
    seed: int = SEED
    recipe: Recipe = TUTORIAL
    device: str = "cpu"  # kind of device: "cpu" or "cuda"
    plain_convolutions: bool = False  # see `plain` of `train.train`
    threads: int = THREADS

    def __post_init__(self):
        """Raise RunError for what cannot be, or cannot be recorded as JSON."""
        if not re.fullmatch(r"\w[\w.-]*", self.experiment_name):
            raise RunError(f"an experiment's name is letters, digits, '_', '-' and '.', not {self.experiment_name!r}")
        if type(self.n_epochs) is not int or self.n_epochs < 1:
            raise RunError(f"{self.experiment_name}: at least one epoch is needed, not {self.n_epochs!r}")
        if type(self.run) is not int or self.run < 1 or type(self.seed) is not int or not 0 <= self.seed < 2**63:
            numbers = f"run {self.run!r} and seed {self.seed!r}"
            raise RunError(f"{self.experiment_name}: run is a whole number from 1, seed one from 0, not {numbers}")
        try:
            self.recipe.check()
            json.dumps(dict(self.arguments), allow_nan=False)
        except (ValueError, TypeError) as error:
            raise RunError(f"{self.experiment_name}: {error}; arguments are a dict of plain values") from None

    def as_json(self):
        """Return the content of settings.json: a flat dict, the recipe's fields among the others."""
        settings = {"format": FORMAT, **asdict(self), **self.recipe.as_settings()}
        del settings["recipe"]
        return json.loads(json.dumps(settings))  # as it will be read again: a tuple is a list there


INFORMATIONAL = ("git_commit", "device_name")  # settings that are not part of the fingerprint


def fingerprint(settings):
    """Return the SHA-256 of settings as JSON, which the checkpoints and weights of a run carry."""
    decisive = {key: value for key, value in settings.items() if key not in INFORMATIONAL}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def differences(recorded, asked):
    """List how settings that were recorded differ from those asked for: ["n_epochs 2 instead of 3", ...]."""
    return [
        f"{key} {brief(recorded.get(key, 'unknown'))} instead of {brief(asked.get(key, 'unknown'))}"
        for key in asked | recorded
        if recorded.get(key) != asked.get(key)
    ]


def brief(value):
    """A value as text, cut short where it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:50]} …"


@dataclass
class Job:
    """One run of one experiment, and what became of it."""

    experiment: Experiment
    run: int
    n_epochs: int
    settings: Settings | None = None  # known when the network has been built once
    status: str = "not started"  # later: skipped, finished, failed: why, interrupted
    results: dict | None = None

    @property
    def name(self):
        return self.experiment.directory(self.run)

    @property
    def seed(self):
        """Run 01 has the original's. All experiments share the seed of a run, and so the order of its images."""
        return SEED - 1 + self.run

    @property
    def cost(self):
        """Relative time: a classification costs 10, each localisation with its warp 8."""
        arguments = self.experiment.arguments
        looks = 0 if arguments.get("bypass_localisation") else arguments.get("passes", 1)
        return self.n_epochs * (10 + 8 * looks)

    def conclude(self, kind, outcome):
        """Set the status from "finished" and the results, or from "failed" and why."""
        if kind == "finished":
            self.status, self.results = kind, outcome
        else:
            self.status = f"{kind}: {outcome}"


def longest_first(jobs):
    """Sort jobs by decreasing cost, which keeps all processes busy for the longest. Equal ones keep their order."""
    return sorted(jobs, key=lambda job: job.cost, reverse=True)
