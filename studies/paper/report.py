"""Columns and figures of the papers' benchmarks."""

from lab import figures
from lab.tables import ERROR, INK, LOST, RUNS, centre_metric, common
from studies.paper.protocol import SIDES

EXAMPLES = 8  # in a row and in a column of the figure

BENCHMARK = (
    *(RUNS, LOST),
    ("parameters", lambda runs: f"{common('trainable_parameters')(runs):,}"),
    *ERROR,
    ("spread of angles in a class, degrees", centre_metric("angle_spread", 1)),
    *INK,
)
LIKE_FOR_LIKE = (("epochs", common("n_epochs")), *BENCHMARK)


def examples_figure(images):
    """Draw 8×8 test images of each data set side by side; images: {name: (64, H, W) of pixels from 0 to 1}."""
    figure = figures.Figure(figsize=(2.6 * len(SIDES), 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SIDES)), SIDES, strict=True):
        figures.show(axes, figures.grid_of(images[name], EXAMPLES), name, fontsize=11)
    return figure
