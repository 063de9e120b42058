"""Tables of digits in perspective, and their section of docs/results.md."""

import statistics

from lab.results import last
from lab.tables import INK, LARGEST_STEP, RUNS, chosen_table, common, mean_metric, per_run
from studies.perspective import FAMILIES, STUDY

IC_STN_ERROR = {"exp_12": 6.60, "exp_14": 4.94, "exp_29": 1.23}  # in %, of that paper's networks that are like ours


def of_paper(runs):
    """Return the error of the corresponding network in the IC-STN paper, "" if there is none."""
    error = IC_STN_ERROR.get(next(iter(runs.values()))["experiment_name"].partition("_run_")[0])
    return f"{error:.2f}" if error else ""


def at_equal_size(runs):
    """Return the mean corner distance after the transformer, scaled as if it left the size of the digits unchanged.

    Runs whose transformer has moved the digits out of the image are left out.
    """
    measures = [run["transformer"] for run in runs.values() if run["transformer"] and run["transformer"]["ink_area"]]
    distances = [found["corner_distance_after"] / found["ink_area"] ** 0.5 for found in measures]
    return f"{statistics.fmean(distances):.1f}" if distances else ""


RECTIFYING = (
    *(RUNS, ("error %, last epoch", per_run(lambda run: 100 - last(run))), ("the paper's", of_paper), LARGEST_STEP),
    ("corner distance, px", mean_metric("corner_distance", 1)),
    ("at equal size", at_equal_size),
    *INK,
)


def section(page):
    """Write the section of docs/results.md; page: see tools/page.py."""
    perspective, whole, long = map(page.read, STUDY.records)
    cropped, uncropped, more_images = STUDY.records.values()
    whole_family = "In perspective, whole images"
    return [
        "## MNIST in perspective",
        chosen_table(perspective, cropped, page.table, RECTIFYING, "perspective_"),
        *(page.differences(perspective, name) for name in FAMILIES if name != whole_family),
        page.source(perspective, page.only(cropped), "perspective"),
        page.figure("Accuracy of every transformer on MNIST in perspective", "PerspectiveAccuracyComparison.png"),
        page.figure("Paired differences in perspective", "PerspectiveDifferences.png"),
        page.figure(
            "exp_14: the frame that one pass reads, and what it yields", "visualized_transformation_exp_14.png"
        ),
        page.figure("exp_16: the same after four passes", "visualized_transformation_exp_16.png"),
        page.figure("exp_16, epoch by epoch", "transformation_exp_16.gif"),
        page.figure("Mean and variance of each class before and after exp_16", "class_statistics_exp_16.png"),
        "### Whole images",
        chosen_table(whole, uncropped, page.table, RECTIFYING, "perspective_"),
        page.differences(whole, whole_family),
        page.source(whole, page.only(uncropped), "whole"),
        page.figure("Accuracy of every transformer on whole images", "PerspectiveWholeAccuracyComparison.png"),
        page.figure("Paired differences on whole images", "PerspectiveWholeDifferences.png"),
        "### More images",
        chosen_table(long, more_images, page.table, (("epochs", common("n_epochs")), *RECTIFYING), "perspective_"),
        page.source(long, "--set long", "long"),
        page.figure("Train loss of both runs by epoch", "LongCurves.png"),
    ]
