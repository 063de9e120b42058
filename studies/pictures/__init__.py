"""Networks for people's own pictures, taught more than the study's: drawn digits, and where there is nothing to read.

To MNIST, whose digits were written in the US, a 1 with a flag is a 7. Networks that have seen nothing but digits are as
sure of letters, and those that have seen nothing but cards find some on any background.
"""

from lab.catalogue import DatasetSpec, Study
from lab.settings import Experiment
from studies.cards import CARDS, FINDING
from studies.cards import MADE as OF_CARDS
from studies.perspective import BACKGROUND, HALF_RATE, SIGMA

NO_DIGIT = 10  # the label of what is no digit
# How many further training images there are, as shares of MNIST's: of drawn digits, and of what is no digit.
PERSPECTIVE = {"weak_perspective_sigma": SIGMA, "drawn": 0.0, "no_digits": 0.0}
PICTURES = PERSPECTIVE | {"drawn": 0.25, "no_digits": 0.25}
# Which of data/photographs are taught, choose a threshold, and measure. Cards are taught on the first two kinds.
PHOTOGRAPHS = {
    "taught": ("astronaut", "cell", "rocket"),
    "calibration": ("camera", "hopper"),
    "test": ("clock", "hubble", "text"),
}
CARDS_OR_NONE = CARDS | {"no_cards": 0.2}  # the share of training scenes without a card
NETWORK, CARD_NETWORK = "Net_Unsure", "Net_Card_Unsure"
FOUR_PASSES = {"passes": 4} | BACKGROUND

# fmt: off
ROWS = (
    Experiment("exp_301", "pictures_mnist_alone", NETWORK, 30,
               "How well does a network read people's pictures that has seen nothing but MNIST, in any perspective?",
               FOUR_PASSES, HALF_RATE, "weak perspective"),
    Experiment("exp_302", "pictures_drawn", NETWORK, 30,
               "And one that has also seen drawn digits, and what is no digit?",
               FOUR_PASSES, HALF_RATE, "pictures"),
    Experiment("exp_311", "pictures_cards_or_none", CARD_NETWORK, 20,
               "Does a reader of cards raise fewer false alarms that has seen more backgrounds, some without a card?",
               {"passes": 4, "taught_corners": 30.0}, FINDING, "cards or none"),
)
# fmt: on
MADE = {
    "metrics": "studies.perspective.metrics",
    "sources": (
        *(f"studies/pictures/{name}.py" for name in ("__init__", "data", "drawing", "networks")),
        *(f"studies/perspective/{name}.py" for name in ("__init__", "data", "metrics")),
        *(f"digits/{name}.py" for name in ("ink", "layout", "own_images")),
        "data/photographs/*.png",
    ),
}
STUDY = Study(
    rank=7,
    sets={"pictures": ROWS},
    datasets=(
        DatasetSpec(
            "weak perspective",
            "{digits} in weak or strong perspective",
            "in weak perspective",
            build="studies.pictures.data:perspective_only",
            adds=PERSPECTIVE,
            figure_prefix="WeakPerspective",
            **MADE,
        ),
        DatasetSpec(
            "pictures",
            "{digits} and drawn ones in weak or strong perspective",
            "with drawn digits",
            build="studies.pictures.data:pictures",
            adds=PICTURES,
            figure_prefix="Pictures",
            **MADE,
        ),
        DatasetSpec(
            "cards or none",
            "Cards with numbers of {digits} on many backgrounds",
            "cards on many backgrounds",
            build="studies.pictures.cards:cards_or_none",
            adds=CARDS_OR_NONE,
            image_size=(128, 128),
            figure_prefix="CardOrNone",
            **OF_CARDS
            | {
                "figure_families": (),
                "figure_omits": (),
                "sources": (
                    *OF_CARDS["sources"],
                    *(f"studies/pictures/{name}.py" for name in ("__init__", "cards", "networks")),
                    "data/photographs/*.png",
                ),
            },
        ),
    ),
    networks=dict.fromkeys((NETWORK, CARD_NETWORK), "studies.pictures.networks"),
)
