"""Columns of the table of candidates."""

from lab.results import is_lost_run, last
from lab.tables import RUNS, metric, n_lost, per_run


def lost_share(runs):
    """Return how many runs are lost, and between which shares that number lies with 95 % (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest  # late, as all that needs an interval

    low, high = binomtest(n_lost(runs), len(runs)).proportion_ci(method="exact")
    return f"{n_lost(runs)} ({100 * low:.0f} to {100 * high:.0f} %)"


def of_those_that_learnt(column):
    """Return a column without the runs that are lost."""
    return lambda runs: column({number: run for number, run in runs.items() if not is_lost_run(run)})


CANDIDATES = (
    RUNS,
    ("lost (95 % of the share)", lost_share),
    ("numbers read whole, %", per_run(last)),
    ("without lost runs, %", of_those_that_learnt(per_run(last))),
    ("IoU without lost runs, %", of_those_that_learnt(metric("iou", 100))),
)
