"""MNIST in strong perspective, where a homography could help; all networks are trained by one recipe."""

from lab.catalogue import DatasetSpec, Study
from lab.settings import Experiment, Recipe

SIGMA = 3.5  # pixels, the standard deviation of the noise that moves corners (see data.py)
CROPPED = {"perspective_sigma": SIGMA}
CANVAS = 2  # the side of an uncropped image, as a multiple of the digit image's
WHOLE_IMAGES = CROPPED | {"canvas": CANVAS}
# The gradient is clipped because some gradients of the localisation network are a hundred times larger than most, and a
# single one can move the digits out of the image. docs/log.md explains how the numbers were chosen.
ADAM = Recipe("adam", learning_rate=0.002, localisation_rate=0.0004, localisation_norm=1.0, decay=True)
BACKGROUND = {"padding": "background"}  # outside the image is background, not grey (see stn/warps.py)
LOCALISATION = {"use_coordconf_localisation": True}
AFFINE, PROJECTIVE = "Net_CoordConv", "Net_CoordConv_Homography"

# fmt: off
PERSPECTIVE = tuple(
    Experiment(exp_id, f"perspective_{title}", model, 30, question, arguments, ADAM, "perspective")
    for exp_id, title, model, question, arguments in (
        ("exp_12", "bypass_localisation", AFFINE,
         "On digits in perspective, what does the classifier reach alone?", {"bypass_localisation": True}),
        ("exp_13", "affine", AFFINE,
         "On digits in perspective, how much does the affine transformer help?", BACKGROUND),
        ("exp_14", "homography", PROJECTIVE,
         "On digits in perspective, is a homography the better transform?", BACKGROUND),
        ("exp_15", "homography_2_passes", PROJECTIVE,
         "Does it help to look a second time, at the image as it is warped so far?", {"passes": 2} | BACKGROUND),
        ("exp_16", "homography_4_passes", PROJECTIVE,
         "Do four looks help more than two?", {"passes": 4} | BACKGROUND),
        ("exp_17", "affine_4_passes", AFFINE,
         "Is it the homography or the repeated looking that helps?", {"passes": 4} | BACKGROUND),
        ("exp_18", "homography_coordconf_localistation", PROJECTIVE,
         "On digits in perspective, do CoordConv layers help the localisation network?", LOCALISATION | BACKGROUND),
        ("exp_19", "homography_4_passes_coordconf_localistation", PROJECTIVE,
         "And when it looks four times?", LOCALISATION | {"passes": 4} | BACKGROUND),
    )
)

# The same digits, not cropped at the frame: a warp reads from a canvas (see stn/warps.py).
ON_CANVAS = BACKGROUND | {"canvas": CANVAS}
WHOLE = tuple(
    Experiment(exp_id, f"perspective_whole_{title}", model, 30, question, arguments, ADAM, "whole")
    for exp_id, title, model, question, arguments in (
        ("exp_26", "affine", AFFINE,
         "With nothing cut off at the frame, what does one affine pass reach?", ON_CANVAS),
        ("exp_27", "homography", PROJECTIVE,
         "With nothing cut off, is a homography the better transform?", ON_CANVAS),
        ("exp_28", "affine_4_passes", AFFINE,
         "With nothing cut off, what do three more affine passes add?", {"passes": 4} | ON_CANVAS),
        ("exp_29", "homography_4_passes", PROJECTIVE,
         "Does that reach the error of the IC-STN paper, whose transformers read whole images?",
         {"passes": 4} | ON_CANVAS),
    )
)

LONG = (  # 18 and 12 million images; an epoch takes 21 to 24 seconds on one core
    Experiment("exp_30", "perspective_whole_homography_4_passes_long", PROJECTIVE, 300,
               "With ten times as many images, nearly as many as the paper's, how much lower is the error?",
               {"passes": 4} | ON_CANVAS, ADAM, "whole"),
    Experiment("exp_42", "perspective_whole_homography_4_passes_long_slow", PROJECTIVE, 200,
               "And where the localisation network learns at a quarter of the rate?",
               {"passes": 4} | ON_CANVAS, ADAM._replace(localisation_rate=0.0001), "whole"),
)

# What keeps readers of cards from losing them (see docs/lost.md), on these digits.
HALF_RATE = ADAM._replace(localisation_rate=ADAM.localisation_rate / 2)
KEEPING = (
    Experiment("exp_43", "perspective_whole_homography_4_passes_half_rate", PROJECTIVE, 30,
               "Does half of the localisation network's rate, which keeps cards from being lost, cost accuracy here?",
               {"passes": 4} | ON_CANVAS, HALF_RATE, "whole"),
    Experiment("exp_44", "perspective_whole_homography_4_passes_long_half_rate", PROJECTIVE, 300,
               "And does it keep the digits through 300 epochs?", {"passes": 4} | ON_CANVAS, HALF_RATE, "whole"),
)
# fmt: on

FAMILIES = {
    "In perspective, homography against affine": (
        ("exp_14", "exp_13", "a homography instead of an affine transform"),
        ("exp_16", "exp_17", "with four passes, a homography instead of an affine transform"),
    ),
    "In perspective, passes": (
        ("exp_13", "exp_12", "one affine pass"),
        ("exp_15", "exp_14", "a second pass of a homography"),
        ("exp_16", "exp_15", "a third and a fourth pass"),
        ("exp_17", "exp_13", "three more affine passes"),
    ),
    "In perspective, CoordConv": (
        ("exp_18", "exp_14", "CoordConv in the localisation network"),
        ("exp_19", "exp_16", "with four passes, CoordConv in the localisation network"),
    ),
    "In perspective, whole images": (
        ("exp_27", "exp_26", "a homography instead of an affine transform"),
        ("exp_29", "exp_28", "with four passes, a homography instead of an affine transform"),
        ("exp_28", "exp_26", "three more affine passes"),
        ("exp_29", "exp_27", "three more passes of a homography"),
    ),
}
SOURCES = ("studies/perspective/__init__.py", "studies/perspective/data.py", "studies/perspective/metrics.py")
MADE = {"metrics": "studies.perspective.metrics", "figure_families": tuple(FAMILIES), "sources": SOURCES}
RECORDS = {"perspective": PERSPECTIVE, "whole": WHOLE, "long": LONG}
RECORDS |= {"half_rate": KEEPING[:1], "long_half_rate": KEEPING[1:]}
STUDY = Study(
    rank=3,
    sets={"perspective": PERSPECTIVE + WHOLE, "long": LONG, "half_rate": KEEPING},
    datasets=(
        DatasetSpec(
            "perspective",
            f"{{digits}} in perspective, {SIGMA} pixels",
            "in perspective",
            build="studies.perspective.data:perspective",
            adds=CROPPED,
            figure_prefix="Perspective",
            figure_omits=("exp_12",),
            **MADE,
        ),
        DatasetSpec(
            "whole",
            f"{{digits}} in perspective, {SIGMA} pixels, whole images",
            "in perspective, whole",
            build="studies.perspective.data:whole",
            adds=WHOLE_IMAGES,
            image_size=(56, 56),
            figure_prefix="PerspectiveWhole",
            **MADE,
        ),
    ),
    families=FAMILIES,
    records={name: tuple(row.id for row in rows) for name, rows in RECORDS.items()},
    section="studies/perspective/results.md.jinja",
)
