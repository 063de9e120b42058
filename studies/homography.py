"""The four experiments with a homography that the original wrote down and never ran."""

from lab.catalogue import Study
from lab.settings import Experiment
from studies.steady import BACKGROUND, CLASSIFIER, LOCALISATION, SLOW

# fmt: off
HOMOGRAPHY = (
    Experiment("exp_08", "homography", "Net_CoordConv_Homography", 30,
               "Is a homography as good a transform as an affine one?", BACKGROUND, SLOW),
    Experiment("exp_09", "homography_coordconf_classifier", "Net_CoordConv_Homography", 30,
               "With a homography, do CoordConv layers help in the classifier?", CLASSIFIER | BACKGROUND, SLOW),
    Experiment("exp_10", "homography_coordconf_localistation", "Net_CoordConv_Homography", 30,
               "With a homography, do CoordConv layers help in the localisation network?",
               LOCALISATION | BACKGROUND, SLOW),
    Experiment("exp_11", "homography_coordconf_localistation_coordconf_classifier", "Net_CoordConv_Homography", 30,
               "With a homography, do CoordConv layers help in both parts together?",
               LOCALISATION | CLASSIFIER | BACKGROUND, SLOW),
)
# fmt: on

STUDY = Study(
    rank=2,
    sets={"homography": HOMOGRAPHY},
    families={
        "A homography on MNIST as it is": (
            ("exp_08", "exp_02", "a homography, background and slow localisation"),
            ("exp_08", "exp_22", "a homography alone"),
            ("exp_09", "exp_08", "CoordConv in the classifier"),
            ("exp_10", "exp_08", "CoordConv in the localisation network"),
            ("exp_11", "exp_08", "CoordConv in both"),
        ),
    },
    records={"homography": ("exp_02", "exp_22", "exp_08", "exp_09", "exp_10", "exp_11")},
    section="studies/homography.md.jinja",
)
