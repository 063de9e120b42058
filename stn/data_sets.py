"""The data sets that are made of MNIST, or of digits of one's own, by the name that an `Experiment` has for them."""

from functools import partial

from stn import card_measures, measures
from stn.card_data import CARDS, cards
from stn.cards import SCENE, STRIP
from stn.data import Dataset
from stn.perspective import PERSPECTIVE, WHOLE, perspective, whole

# {name: (function of the Dataset of digits, what it adds to that one's description)}
KINDS = {
    "mnist": (lambda digits: digits, {}),
    "perspective": (perspective, PERSPECTIVE),
    "cards": (cards, CARDS),
    "straight cards": (partial(cards, straight=True), CARDS | {"straight": True}),
    "whole": (whole, WHOLE),
}


def of_kind(kind, digits: Dataset) -> Dataset:
    """Return the data set of that name, made of `digits`."""
    return KINDS[kind][0](digits)


def described(kind, description):
    """Return the description that `of_kind` gives a set made of digits of this description."""
    return description | KINDS[kind][1]


def image_size(kind):
    """Return the height and width of the images of a kind of data set."""
    description = KINDS[kind][1]
    if "digits" in description:
        return STRIP if "straight" in description else (SCENE, SCENE)
    return 2 * (28 * description.get("canvas", 1),)


def measures_of(data):
    """Return the module that measures and draws what a transformer does to images of this data set."""
    return card_measures if "digits" in data.description else measures
