"""Networks that find a card in a drawn scene, straighten it and read its number.

All are trained by one recipe, but a localisation network that serves several passes learns at half of the rate.
"""

from lab.catalogue import DatasetSpec, Study
from lab.settings import Experiment, Recipe

N_DIGITS = 6  # of a number
CARDS = {"cards_strength": 1.0, "digits": N_DIGITS}
# Chosen on held-out training cards, see docs/log.md and, for the rates of the localisation network, docs/lost.md.
FINDING = Recipe("adam", learning_rate=0.002, localisation_rate=0.0005, localisation_norm=1.0, decay=True)
ONE_PASS = FINDING._replace(localisation_rate=0.001)
LOCALISATION = {"use_coordconf_localisation": True}
CARD_AFFINE, CARD_PROJECTIVE = "Net_Card", "Net_Card_Homography"

# fmt: off
CARD = tuple(
    Experiment(exp_id, f"card_{title}", model, 20, question, arguments, recipe, data)
    for exp_id, title, model, question, arguments, recipe, data in (
        ("exp_31", "fixed_window", CARD_AFFINE,
         "How often is a number read where cards lie on average?", {"bypass_localisation": True}, FINDING, "cards"),
        ("exp_32", "affine", CARD_AFFINE,
         "Does an affine transformer find the number, taught by nothing but numbers?", {}, ONE_PASS, "cards"),
        ("exp_33", "homography", CARD_PROJECTIVE,
         "Does a homography find it better?", {}, ONE_PASS, "cards"),
        ("exp_34", "homography_2_passes", CARD_PROJECTIVE,
         "Does a second look help, from nearer?", {"passes": 2}, FINDING, "cards"),
        ("exp_35", "homography_4_passes", CARD_PROJECTIVE,
         "And four?", {"passes": 4}, FINDING, "cards"),
        ("exp_36", "affine_coordconf_localistation", CARD_AFFINE,
         "Do CoordConv layers help an affine transformer to find the card?", LOCALISATION, ONE_PASS, "cards"),
        ("exp_37", "homography_coordconf_localistation", CARD_PROJECTIVE,
         "Do they help a homography?", LOCALISATION, ONE_PASS, "cards"),
        ("exp_38", "homography_2_passes_coordconf_localistation", CARD_PROJECTIVE,
         "And with two looks?", LOCALISATION | {"passes": 2}, FINDING, "cards"),
        ("exp_39", "homography_4_passes_coordconf_localistation", CARD_PROJECTIVE,
         "And with four?", LOCALISATION | {"passes": 4}, FINDING, "cards"),
        ("exp_40", "homography_4_passes_taught_corners", CARD_PROJECTIVE,
         "What is it worth to be told where the corners are?", {"passes": 4, "taught_corners": 30.0}, FINDING, "cards"),
        ("exp_41", "true_homography", CARD_AFFINE,
         "How often is a number read if the card is straightened perfectly?", {"bypass_localisation": True}, FINDING,
         "straight cards"),
    )
)
# fmt: on

FAMILIES = {
    "Cards, finding": (
        ("exp_32", "exp_31", "an affine transformer"),
        ("exp_33", "exp_32", "a homography instead of an affine transform"),
        ("exp_34", "exp_33", "a second pass at half of the rate"),
        ("exp_35", "exp_34", "a third and a fourth pass"),
        ("exp_40", "exp_35", "with four passes, corners that are taught"),
    ),
    "Cards, CoordConv in the localisation network": (
        ("exp_36", "exp_32", "with an affine transform, CoordConv"),
        ("exp_37", "exp_33", "with a homography, CoordConv"),
        ("exp_38", "exp_34", "with two passes, CoordConv"),
        ("exp_39", "exp_35", "with four passes, CoordConv"),
    ),
}
MADE = {
    "n_digits": N_DIGITS,
    "labels_of_digits": False,
    "metrics": "studies.cards.metrics",
    "figure_families": tuple(FAMILIES),
    "figure_omits": ("exp_31",),
    "extra_table": "studies.cards.report:card_table",
    "extra_figures": "studies.cards.report:strength_figure",
    "sources": (
        *(
            f"studies/cards/{name}.py"
            for name in ("__init__", "data", "geometry", "kernels", "metrics", "networks", "rendering")
        ),
        "data/backgrounds/*.png",
    ),
}


def card_data(straight=False, held_out=False):
    """Return the `DatasetSpec` of cards: scenes or, straight, the strips that a reader could see at best."""
    words = [word for word, said in (("held-out", held_out), ("straight", straight)) if said]
    return DatasetSpec(
        name=" ".join([*words, "cards"]),
        title=f"Cards with numbers of {{digits}}{', held out' if held_out else ''}",
        summary=" ".join([*words, "cards"]),
        build=f"studies.cards.data:{'_'.join([*words, 'cards']).replace('-', '_')}",
        adds=CARDS | {word.replace("-", "_"): True for word in words},
        image_size=(28, 133) if straight else (128, 128),
        held_out=held_out,
        figure_prefix="CardHeldOut" if held_out else "Card",
        **MADE,
    )


STUDY = Study(
    rank=4,
    sets={"card": CARD},
    datasets=tuple(card_data(straight, held_out) for held_out in (False, True) for straight in (False, True)),
    networks=dict.fromkeys((CARD_AFFINE, CARD_PROJECTIVE), "studies.cards.networks"),
    families=FAMILIES,
    records={"card": tuple(row.id for row in CARD)},
    section="studies/cards/results.md.jinja",
)
