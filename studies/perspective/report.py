"""Tables of digits in perspective, and their section of docs/results.md."""

import statistics

from lab.results import last
from lab.tables import INK, LARGEST, RUNS, chosen_table, measured, of_runs, shared
from studies.perspective import FAMILIES, STUDY

IC_STN_ERROR = {"exp_12": 6.60, "exp_14": 4.94, "exp_29": 1.23}  # in %, of that paper's networks that are like ours


def paper_error(runs):
    """Return the error of the corresponding network in the IC-STN paper, "" if there is none."""
    exp_id = next(iter(runs.values()))["experiment_name"].partition("_run_")[0]
    return f"{IC_STN_ERROR[exp_id]:.2f}" if exp_id in IC_STN_ERROR else ""


def at_equal_size(runs):
    """Return the mean corner distance after the transformer, scaled as if it left the size of the digits unchanged.

    Runs whose transformer has moved the digits out of the image are left out.
    """
    measures = [run["transformer"] for run in runs.values() if run["transformer"] and run["transformer"]["ink_area"]]
    distances = [numbers["corner_distance_after"] / numbers["ink_area"] ** 0.5 for numbers in measures]
    return f"{statistics.fmean(distances):.1f}" if distances else ""


RECTIFYING = (
    *(RUNS, ("error %, last epoch", of_runs(lambda run: 100 - last(run))), ("the paper's", paper_error), LARGEST),
    ("corner distance, px", measured("corner_distance", 1)),
    ("at equal size", at_equal_size),
    *INK,
)


def section(page):
    """Write the section of docs/results.md; page: see tools/page.py."""
    perspective, whole, long = map(page.read, STUDY.records)
    cropped, uncropped, more_images = STUDY.records.values()
    *cropped_families, whole_family = FAMILIES
    figures = {
        "Accuracy of every transformer on MNIST in perspective": "PerspectiveAccuracyComparison.png",
        "Paired differences in perspective": "PerspectiveDifferences.png",
        "exp_14: the frame that one pass reads, and what it yields": "visualized_transformation_exp_14.png",
        "exp_16: the same after four passes": "visualized_transformation_exp_16.png",
        "exp_16, epoch by epoch": "transformation_exp_16.gif",
        "Mean and variance of each class before and after exp_16": "class_statistics_exp_16.png",
    }
    return [
        "## MNIST in perspective",
        chosen_table(perspective, cropped, page.table, RECTIFYING, "perspective_"),
        *(page.differences(perspective, name) for name in cropped_families),
        page.source(perspective, page.only(cropped), "perspective"),
        *(page.figure(title, name) for title, name in figures.items()),
        "### Whole images",
        chosen_table(whole, uncropped, page.table, RECTIFYING, "perspective_"),
        page.differences(whole, whole_family),
        page.source(whole, page.only(uncropped), "whole"),
        page.figure("Accuracy of every transformer on whole images", "PerspectiveWholeAccuracyComparison.png"),
        page.figure("Paired differences on whole images", "PerspectiveWholeDifferences.png"),
        "### More images",
        chosen_table(long, more_images, page.table, (("epochs", shared("n_epochs")), *RECTIFYING), "perspective_"),
        page.source(long, "--set long", "long"),
        page.figure("Train loss of both runs by epoch", "LongCurves.png"),
    ]
