"""Columns and figures of the papers' benchmarks."""

from lab import figures
from lab.tables import ERROR, INK, LOST, PARAMETERS, RUNS, centre_metric, common, markdown_table
from studies.paper.protocol import SIDES
from studies.perspective.report import paper_error

EXAMPLES = 8  # in a row and in a column of the figure

BENCHMARK = (
    *(RUNS, LOST, PARAMETERS, *ERROR),
    ("spread of angles in a class, degrees", centre_metric("angle_spread", 1)),
    *INK,
)
IC_STN = (RUNS, LOST, PARAMETERS, *ERROR, ("the paper's", paper_error), *INK)
RECIPES = (RUNS, LOST, *ERROR)
LIKE_FOR_LIKE = (("epochs", common("n_epochs")), *BENCHMARK)


def passes_table(record):
    """Tabulate the errors in %, by the number of passes, of results/passes.json; bold: as many as in training."""
    rows = []
    for row in record["rows"]:
        errors = [f"{100 - share:.2f}" for share in row["read"]]
        place = record["passes"].index(row["trained_with"])
        errors[place] = f"**{errors[place]}**"
        rows.append([f"`{row['network']}`", *errors])
    return markdown_table(["error % with this many passes", *record["passes"]], rows)


def examples_figure(images):
    """Draw 8×8 test images of each data set side by side; images: {name: (64, H, W) of pixels from 0 to 1}."""
    figure = figures.Figure(figsize=(2.6 * len(SIDES), 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SIDES)), SIDES, strict=True):
        figures.show(axes, figures.grid_of(images[name], EXAMPLES), name, fontsize=11)
    return figure
