"""What there is to train beside the seven: the studies of the folder studies/, their experiments and their data sets.

A study is a module or a package of that folder with a `STUDY`. No registration is needed: a new study, or a new
data set, is new files only.
"""

import importlib
import inspect
import itertools
import pkgutil
from dataclasses import dataclass, field
from functools import lru_cache

from lab.files import ROOT

DIGITS = ("name", "mean", "std", "md5")  # fields of a description that are about the digits a data set is made of


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set is: how it is made of digits, and what that means for those who measure and show it."""

    name: str  # the name by which an `Experiment` asks for it
    title: str  # the title in tables; {digits} stands for the title of the digits it is made of
    summary: str  # the same in a few words: "in perspective"
    # 'module:function' that takes the digits' `Dataset` and returns this one; None: the digits unchanged
    build: str | None = None
    adds: dict = field(default_factory=dict)  # what its description has and that of the digits has not; unique
    image_size: tuple = (28, 28)  # height and width, in pixels
    n_digits: int = 1  # digits in an image
    held_out: bool = False  # True: test on training digits held out from training (used to choose a recipe)
    labels_of_digits: bool = True  # its test images have the labels of the digits' test images, one after the other
    metrics: str = "stn.metrics"  # the module that measures and draws what a transformer does
    beside_published: bool = False  # whether numbers published on these digits may stand beside its own
    figure_prefix: str = ""
    figure_families: tuple = ()  # families whose differences its figure shows
    figure_omits: tuple = ()  # baselines of differences too large to be shown beside the others
    extra_table: str | None = None  # "module:function" of (record, {id: Experiment}) for comparison.md: Markdown
    extra_figures: str | None = None  # "module:function" of the same two: {name: Figure}
    sources: tuple = ()  # patterns of files that its images and their measures depend on

    def built(self, digits):
        """Return the `Dataset`, made of the `Dataset` of digits."""
        return load_object(self.build)(digits) if self.build else digits

    def describe(self, digits):
        """Return its description, from that of the digits."""
        return digits | self.adds


MNIST = DatasetSpec("mnist", "{digits}", "as it is", beside_published=True, figure_families=("The seven",))


@dataclass(frozen=True)
class Study:
    """What a study adds. Rows of a set are `Experiment`s, or ids of other rows."""

    sets: dict  # {name for --set: rows}
    rank: int = 100  # place among the studies, in lists and in docs/results.md
    datasets: tuple = ()  # `DatasetSpec`s
    networks: dict = field(default_factory=dict)  # {name of a class: the module that has it}
    families: dict = field(default_factory=dict)  # families of comparisons, see lab/comparison.py
    extra_figures: str | None = None  # "module:function" of (record of a data set, {id: Experiment}): {name: Figure}
    records: dict = field(default_factory=dict)  # {name of a file in results/: ids of its experiments}
    section: str | None = None  # the path of the template of its section of docs/results.md, see tools/page.py


@lru_cache
def studies():
    """Return {name: Study} of the folder studies/, {} without it, by their rank."""
    try:
        import studies as folder
    except ImportError:
        return {}
    names = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    found = {name: importlib.import_module(f"studies.{name}").STUDY for name in names}
    return dict(sorted(found.items(), key=lambda item: (item[1].rank, item[0])))


def load_object(path):
    """Return the object of "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@lru_cache
def datasets():
    """Return {name: DatasetSpec}. Raise ValueError if one looks like another, or lacks files that it depends on."""
    specs = [MNIST, *(spec for study in studies().values() for spec in study.datasets)]
    for one, other in itertools.combinations(specs, 2):
        if one.name == other.name:
            raise ValueError(f"two data sets have the name {one.name!r}: {one.title} and {other.title}")
        if one.adds == other.adds:
            raise ValueError(f"the data sets {one.name!r} and {other.name!r} add the same to a description: {one.adds}")
    for spec in specs:
        for pattern in spec.sources:
            if not any(ROOT.glob(pattern)):
                raise ValueError(f"the data set {spec.name!r}: no file matches {pattern!r}, one of its sources")
    return {spec.name: spec for spec in specs}


def spec_of(description):
    """Return the spec of the data set with this description; of one that nobody knows, one that says so."""
    extra = {key: value for key, value in description.items() if key not in DIGITS}
    for spec in datasets().values():
        if spec.adds == extra:
            return spec
    text = ", ".join(f"{key} {value}" for key, value in extra.items())
    prefix = "".join(letter for letter in text.title() if letter.isalnum())
    return DatasetSpec("unknown", f"{{digits}}, {text}", text, labels_of_digits=False, adds=extra, figure_prefix=prefix)


def rows_by_id(sets):
    """Return {id: row} of all sets, in the order of the ids. Raise ValueError if two rows have one id."""
    rows = {}
    for row in (row for rows_of_set in sets.values() for row in rows_of_set if not isinstance(row, str)):
        if rows.setdefault(row.id, row) is not row:
            raise ValueError(f"two experiments have the id {row.id}: {rows[row.id].title} and {row.title}")
    return dict(sorted(rows.items(), key=lambda item: (len(item[0]), item[0])))


def build_network(kind, arguments, spec):
    """Return a new network of a class, for the images of a data set.

    It is given their size, by the argument `image_size`, if it takes one and they are not 28×28: rows need not.
    """
    size = tuple(side // arguments.get("canvas", 1) for side in spec.image_size)
    if size != MNIST.image_size and "image_size" in inspect.signature(kind).parameters:
        arguments = {"image_size": size} | arguments
    return kind(**arguments)


def find_network(name):
    """Return the class of a network by its name, None if there is none. (It imports torch.)"""
    module = next((study.networks[name] for study in studies().values() if name in study.networks), "models")
    return getattr(importlib.import_module(module), name, None)
