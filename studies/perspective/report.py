"""Columns of the tables of digits in perspective."""

from lab import stats
from lab.tables import ERROR, INK, LARGEST_STEP, LOST, RUNS, centre_metric, common, transformer_metrics

# In %, of those networks in the IC-STN paper that are like ours.
IC_STN_ERROR = {"exp_12": 6.60, "exp_14": 4.94, "exp_27": 3.69, "exp_29": 1.23, "exp_256": 1.91, "exp_257": 6.60}


def paper_error(runs):
    """Return the error of the corresponding network in the IC-STN paper, "" if there is none."""
    exp_id = next(iter(runs.values()))["experiment_name"].partition("_run_")[0]
    return f"{IC_STN_ERROR[exp_id]:.2f}" if exp_id in IC_STN_ERROR else ""


def at_equal_size(runs):
    """Return the corner distance after the transformer, scaled as if it left the size of the digits unchanged.

    It is the centre of all runs. Runs whose transformer has moved the digits out of the image are left out.
    """
    measured = [metrics for metrics in transformer_metrics(runs) if metrics["ink_area"]]
    distances = [metrics["corner_distance_after"] / metrics["ink_area"] ** 0.5 for metrics in measured]
    return f"{stats.centre(distances):.1f}" if distances else ""


RECTIFYING = (
    RUNS,
    LOST,
    *ERROR,
    ("the paper's", paper_error),
    LARGEST_STEP,
    ("corner distance, px", centre_metric("corner_distance", 1)),
    ("at equal size", at_equal_size),
    *INK,
)
LONG = (("epochs", common("n_epochs")), *RECTIFYING)
