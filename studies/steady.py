"""Why accuracies swing from epoch to epoch, and the seven questions asked again where they do not.

The steady recipe is the tutorial's with a tenth of its learning rate for the localisation network.
"""

from lab.catalogue import Study
from lab.settings import Experiment, Recipe

BACKGROUND = {"padding": "background"}  # what lies outside of an image is background, not grey (see stn/warps.py)
SLOW = Recipe(localisation_rate=0.001)
CLASSIFIER, LOCALISATION = {"use_coordconf_classifier": True}, {"use_coordconf_localisation": True}

# fmt: off
STABILITY = (  # exp_02 with one of the two changes that the homographies have, with the other, and with both
    Experiment("exp_20", "background_padding", "Net_CoordConv", 30,
               "Are the swings due to the grey that the transformer reads outside of an image?", BACKGROUND),
    Experiment("exp_21", "slow_localisation", "Net_CoordConv", 30,
               "Are the swings due to a localisation network that learns too fast?", {}, SLOW),
    Experiment("exp_22", "background_padding_slow_localisation", "Net_CoordConv", 30,
               "Does it take both?", BACKGROUND, SLOW),
)

STEADY = (  # exp_05 to exp_07 with a slow localisation network, beside exp_21
    Experiment("exp_23", "slow_localisation_coordconf_classifier", "Net_CoordConv", 30,
               "With a transformer that learns slowly, do CoordConv layers help in the classifier?", CLASSIFIER, SLOW),
    Experiment("exp_24", "slow_localisation_coordconf_localistation", "Net_CoordConv", 30,
               "Do CoordConv layers help in a localisation network that learns slowly?", LOCALISATION, SLOW),
    Experiment("exp_25", "slow_localisation_coordconf_localistation_coordconf_classifier", "Net_CoordConv", 30,
               "With a transformer that learns slowly, do CoordConv layers help in both parts together?",
               LOCALISATION | CLASSIFIER, SLOW),
)
# fmt: on

SWINGS = ("exp_02", "exp_20", "exp_21", "exp_22")
# The seven's questions under two recipes. Networks without a transformer have no localisation rate, so both recipes
# share those runs (exp_03, exp_04).
QUESTIONS = ("no transformer", "no transformer, CoordConv", "transformer", "CoordConv in the classifier")
QUESTIONS += ("in the localisation network", "in both")
ASKED = ("exp_03", "exp_04", "exp_21", "exp_23", "exp_24", "exp_25")
RECIPES = {
    "the tutorial's recipe": ("exp_03", "exp_04", "exp_02", "exp_05", "exp_06", "exp_07"),
    "the steady recipe": ASKED,
}
STUDY = Study(
    rank=1,
    # exp_03 and exp_04 have no transformer, see RECIPES.
    sets={"steady": ("exp_03", "exp_04", "exp_21", *STEADY), "stability": STABILITY},
    families={
        "The steady recipe": (
            ("exp_21", "exp_03", "the transformer"),
            ("exp_04", "exp_03", "CoordConv in the classifier, without a transformer"),
            ("exp_23", "exp_21", "CoordConv in the classifier"),
            ("exp_24", "exp_21", "CoordConv in the localisation network"),
            ("exp_25", "exp_21", "CoordConv in both"),
        ),
        "The swings": (
            ("exp_20", "exp_02", "padding with the background"),
            ("exp_21", "exp_02", "a slow localisation network"),
            ("exp_22", "exp_02", "both"),
        ),
    },
    extra_figures="studies.steady:recipes_figure",
    records={"steady": ASKED, "swings": SWINGS},
    section="studies/steady.md.jinja",
)


def recipes_figure(record, table, steady=None):
    """Draw the runs of the seven's questions under both recipes: {"RecipesComparison.png": Figure}.

    {} unless there are runs of both, all on MNIST as it is. The axis is cut below the 10th percentile of the tutorial's
    recipe, and the runs below are counted at the edge. table: {id: Experiment}; steady: the record of the steady
    recipe, if it is another one; networks without a transformer then have runs in both.
    """
    import numpy as np  # late, as all that draws

    from lab import figures
    from lab.comparison import is_plain_mnist, of_experiment
    from lab.published import CLAIM, ORIGINAL_ACCURACY
    from lab.results import is_lost_run, last

    steady = record if steady is None else steady
    if not all(is_plain_mnist(run) for part in (record, steady) for run in part.values()):
        return {}
    panels, originals = [], {exp_id: ORIGINAL_ACCURACY.get(row.name) for exp_id, row in table.items()}
    for part, (recipe, exp_ids) in zip((record, steady), RECIPES.items(), strict=True):
        runs = {exp_id: of_experiment(part, table[exp_id]).values() for exp_id in exp_ids}
        if not any(runs[exp_id] for exp_id in exp_ids[2:]):
            return {}
        rows = [
            (f"{question}\n({exp_id})", [*map(last, of_one)], originals.get(exp_id), [*map(is_lost_run, of_one)])
            for question, (exp_id, of_one) in zip(QUESTIONS, runs.items(), strict=True)
            if of_one
        ]
        panels.append((rows, f"test accuracy in %, last epoch, {recipe}", CLAIM))
    tutorials, steadies = ([value for _, values, *_ in rows for value in values] for rows, _, _ in panels)
    least = min(*steadies, *ORIGINAL_ACCURACY.values(), float(np.quantile(tutorials, 0.1))) - 0.05
    return {"RecipesComparison.png": figures.values_by_row(*panels, least=least)}
