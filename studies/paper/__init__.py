"""The benchmarks of the papers on spatial transformers: digits that are rotated, scattered, elastic, among clutter.

The rows ask on each of five data sets (see data.py) whether a transformer helps, whether a richer or a poorer transform
is better, and whether CoordConv layers help where a digit's place differs from image to image. Further rows repeat what
papers published as closely as is known; docs/papers.md sets their numbers beside ours.
"""

from itertools import chain, product

from lab.catalogue import DatasetSpec, Study
from lab.settings import Experiment, Recipe
from studies.paper.protocol import SIDES
from studies.perspective import ADAM, ON_CANVAS

DIGITS = {"R": "Rotated", "RTS": "Scattered", "P": "Projective", "E": "Elastic", "TC": "Cluttered"}
EPOCHS = 20
BACKGROUND, EDGE = {"padding": "background"}, {"padding": "border"}
BYPASS, LOCALISATION, CLASSIFIER = (
    {name: True} for name in ("bypass_localisation", "use_coordconf_localisation", "use_coordconf_classifier")
)
AFFINE, PROJECTIVE, SPLINE, RESTRICTED = "Net_CoordConv", "Net_CoordConv_Homography", "Net_Spline", "Net_Restricted"
LARGE_KERNELS, IC_STN = "Net_Large_Kernels", "Net_IC_STN_Classifier"

# Each kind of network: its class, its arguments, and what it asks.
# fmt: off
KINDS = {
    "none": (AFFINE, BYPASS, "how well does the classifier read alone?"),
    "affine": (AFFINE, BACKGROUND, "does an affine transformer help?"),
    "homography": (PROJECTIVE, BACKGROUND, "is a homography the better transform?"),
    "spline": (SPLINE, BACKGROUND, "is a thin-plate spline the better transform?"),
    "rotation": (RESTRICTED, {"kind": "rotation"} | BACKGROUND, "is a rotation enough?"),
    "similarity": (RESTRICTED, {"kind": "similarity"} | BACKGROUND, "is a similarity enough?"),
    "attention": (RESTRICTED, {"kind": "attention"} | BACKGROUND, "is it enough to scale and move?"),
    "affine_2_passes": (AFFINE, {"passes": 2} | BACKGROUND, "does a second look help?"),
    "affine_coordconv_localisation": (AFFINE, LOCALISATION | BACKGROUND,
                                       "do CoordConv layers help the localisation network?"),
    "none_coordconv_classifier": (AFFINE, CLASSIFIER | BYPASS,
                                  "do CoordConv layers help a classifier without a transformer?"),
}
IDS = {  # of each kind on each data set, ten ids for each
    "R": {"none": "exp_201", "affine": "exp_202", "homography": "exp_203", "spline": "exp_204", "rotation": "exp_205",
          "similarity": "exp_206", "affine_coordconv_localisation": "exp_207", "none_coordconv_classifier": "exp_208"},
    "RTS": {"none": "exp_211", "affine": "exp_212", "homography": "exp_213", "spline": "exp_214",
            "affine_coordconv_localisation": "exp_215", "none_coordconv_classifier": "exp_216"},
    "P": {"none": "exp_221", "affine": "exp_222", "homography": "exp_223", "spline": "exp_224",
          "affine_coordconv_localisation": "exp_225", "none_coordconv_classifier": "exp_226"},
    "E": {"none": "exp_231", "affine": "exp_232", "homography": "exp_233", "spline": "exp_234",
          "affine_coordconv_localisation": "exp_235", "none_coordconv_classifier": "exp_236"},
    "TC": {"none": "exp_241", "affine": "exp_242", "affine_2_passes": "exp_243", "attention": "exp_244",
           "affine_coordconv_localisation": "exp_245", "none_coordconv_classifier": "exp_246"},
}
# fmt: on


def row(exp_id, data, kind, recipe, epochs=EPOCHS, held_out="", of_recipe=""):
    """Return the row of one kind of network on one data set."""
    model, arguments, asks = KINDS[kind]
    title, question = f"{data}_{kind}{of_recipe}", f"{DIGITS[data]} digits: {asks}"
    return Experiment(exp_id, title, model, epochs, question, arguments, recipe, data + held_out)


ROWS = {data: tuple(row(exp_id, data, kind, ADAM) for kind, exp_id in ids.items()) for data, ids in IDS.items()}

# Recipes that are tried on held-out digits: plain SGD at the steady rates, and Adam as in the perspective study, with
# its rate for the localisation network and with a quarter of it. All fall along a half cosine.
RECIPES = {
    "sgd": Recipe(localisation_rate=0.001, decay=True),
    "adam": ADAM,
    "adam_quarter_rate": ADAM._replace(localisation_rate=ADAM.localisation_rate / 4),
}
TRIED = (  # data set, network, recipe
    *product(("R", "TC"), ("none",), ("sgd", "adam")),
    *product(("R", "TC"), ("affine",), RECIPES),
    *product(("R",), ("spline",), RECIPES),
)
TRIAL = tuple(
    row(f"exp_{261 + number}", data, kind, RECIPES[recipe], epochs=10, held_out=" held out", of_recipe=f"_{recipe}")
    for number, (data, kind, recipe) in enumerate(TRIED)
)

# 297 epochs of 235 batches are 69,795 steps, as in their code; the rates drop after 49,820 (theirs: 50,000).
FINNVEDEN = Recipe(learning_rate=0.02, drop_after=5 / 7, batch_size=256)
# fmt: off
LIKE_FOR_LIKE = tuple(
    Experiment(*head, LARGE_KERNELS, epochs, question, arguments, recipe, "R")
    for *head, epochs, question, arguments, recipe in (
        ("exp_251", "R_finnveden_cnn", 297,
         "What does the classifier of Finnveden et al. reach on rotated digits?", {}, FINNVEDEN),
        ("exp_252", "R_finnveden_stn", 297,
         "And with their transformer (STN-C0)?", {"channels": (16, 32), "hidden": (32, 16, 16)} | EDGE, FINNVEDEN),
        ("exp_253", "R_finnveden_stn_shared", 297,
         "And with one that shares the classifier's first layer (STN-SL1)?",
         {"channels": (16, 32), "hidden": (16, 16, 16), "localiser": "shared"} | EDGE, FINNVEDEN),
        ("exp_254", "R_400k_cnn", 30,
         "What does a classifier of 400,000 parameters reach on rotated digits?", {"channels": (64, 124)}, ADAM),
        ("exp_255", "R_400k_stn", 30,
         "And a transformer with a classifier, of 400,000 together?",
         {"channels": (64, 119), "hidden": (20,), "localiser": "convolutions"} | EDGE, ADAM),
    )
)
PERSPECTIVE = (
    Experiment("exp_256", "perspective_whole_homography_2_passes", PROJECTIVE, 30,
               "On whole images in perspective, what do two passes reach?", {"passes": 2} | ON_CANVAS, ADAM, "whole"),
    Experiment("exp_257", "perspective_ic_stn_classifier", IC_STN, 30,
               "What does IC-STN's own classifier reach on digits in perspective?", {}, ADAM, "perspective"),
)
# fmt: on


def pairs(one, other, added, chosen=tuple(IDS)):
    """Return the comparisons of two kinds of network, on each of the data sets that are chosen."""
    return tuple((IDS[data][one], IDS[data][other], f"{data}: {added}") for data in chosen)


IN_ALL_BUT_CLUTTER = ("R", "RTS", "P", "E")
ON_EACH_SET = {  # families that are told of each data set
    "The papers' digits, a transformer": pairs("affine", "none", "an affine transformer"),
    "The papers' digits, other transforms": (
        *pairs("homography", "affine", "a homography instead", IN_ALL_BUT_CLUTTER),
        *pairs("spline", "affine", "a thin-plate spline instead", IN_ALL_BUT_CLUTTER),
        *pairs("rotation", "affine", "a rotation instead", ("R",)),
        *pairs("similarity", "affine", "a similarity instead", ("R",)),
        *pairs("attention", "affine", "scale and place only", ("TC",)),
        *pairs("affine_2_passes", "affine", "a second pass", ("TC",)),
    ),
    "The papers' digits, CoordConv": (
        *pairs("affine_coordconv_localisation", "affine", "CoordConv in the localisation network"),
        *pairs("none_coordconv_classifier", "none", "CoordConv in the classifier, without a transformer"),
    ),
}
FAMILIES = ON_EACH_SET | {
    "Finnveden et al.": (
        ("exp_252", "exp_251", "their transformer"),
        ("exp_253", "exp_251", "one that shares the first layer"),
        ("exp_253", "exp_252", "sharing the first layer"),
    ),
    "Networks of 400,000 parameters": (("exp_255", "exp_254", "a transformer"),),
}


def distorted_digits(data, held_out=False):
    """Return the `DatasetSpec` of one kind of distorted digits."""
    words = ", held out" if held_out else ""
    return DatasetSpec(
        name=data + " held out" * held_out,
        title=f"{{digits}}, {DIGITS[data].lower()} ({data}{words})",
        summary=f"{DIGITS[data].lower()} ({data}){words}",
        build=f"studies.paper.data:{data.lower()}{'_held_out' * held_out}",
        adds={"distorted": data} | ({"held_out": True} if held_out else {}),
        image_size=(SIDES[data], SIDES[data]),
        held_out=held_out,
        labels_of_digits=False,
        metrics="studies.paper.metrics",
        figure_prefix=f"Paper{data}" + "HeldOut" * held_out,
        figure_families=() if held_out else tuple(ON_EACH_SET),
        sources=tuple(f"studies/paper/{name}.py" for name in ("data", "metrics", "networks", "protocol", "splines")),
    )


STUDY = Study(
    rank=6,
    sets={"paper": (*chain(*ROWS.values()), *LIKE_FOR_LIKE, *PERSPECTIVE), "paper_recipe": TRIAL},
    datasets=(*map(distorted_digits, IDS), *(distorted_digits(data, held_out=True) for data in ("R", "TC"))),
    networks=dict.fromkeys((SPLINE, RESTRICTED, LARGE_KERNELS, IC_STN), "studies.paper.networks"),
    families=FAMILIES,
    records={f"paper_{data}": tuple(ids.values()) for data, ids in IDS.items()}
    | {"finnveden": ("exp_251", "exp_252", "exp_253"), "large_networks": ("exp_254", "exp_255")}
    | {"two_passes": ("exp_256",), "ic_stn_classifier": ("exp_257",)}
    | {f"recipe_{data}": tuple(row.id for row in TRIAL if row.data == f"{data} held out") for data in ("R", "TC")},
    section="studies/paper/results.md.jinja",
)
