"""Table of candidates, and tables and figures of the first steps (see tools/lost_steps.py)."""

from textwrap import fill

import numpy as np

from lab import figures
from lab.results import SMALLEST_SHARE, is_lost_run, last
from lab.tables import RUNS, SPREAD, markdown_table, metric, n_lost, per_run

LOST_COLOUR = figures.PALETTE[3]
N_SCENES = 2  # of each run whose outlines are drawn


def share_text(n, total):
    """Return a number of runs, and the limits of its share in % with 95 % confidence (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest  # late, as all that needs an interval

    low, high = binomtest(n, total).proportion_ci(method="exact")
    return f"{n} ({100 * low:.0f} to {100 * high:.0f} %)"


def of_those_that_learnt(column):
    """Return a column without the runs that are lost."""
    return lambda runs: column({number: run for number, run in runs.items() if not is_lost_run(run)})


CANDIDATES = (
    RUNS,
    ("lost (95 % of the share)", lambda runs: share_text(n_lost(runs), len(runs))),
    ("numbers read whole, %", per_run(last)),
    SPREAD,
    ("without lost runs, %", of_those_that_learnt(per_run(last))),
    ("IoU without lost runs, %", of_those_that_learnt(metric("iou", 100))),
)


def is_lost_trace(trace):
    """Tell whether less than a fifth of the numbers is seen at the end of a trace."""
    return trace["seen"][-1] < SMALLEST_SHARE


def steps_table(record):
    """Tabulate the traces of each variant: how many go below a fifth of the numbers, and how many stay there."""
    rows = []
    for name, traces in record["variants"].items():
        below = [trace for trace in traces.values() if min(trace["seen"]) < SMALLEST_SHARE]
        lost = sum(map(is_lost_trace, traces.values()))
        lowest = np.median([min(trace["seen"]) for trace in traces.values()])
        rows.append([name, len(traces), len(below), share_text(lost, len(traces)), f"{100 * lowest:.0f}"])
    header = ["what is changed", "runs", "see less than a fifth at some step", "at step 300 (95 % of the share)"]
    return markdown_table([*header, "lowest share seen, %, median"], rows)


def seen_figure(record, columns=4):
    """Draw which share of the numbers is seen after each step: a panel a variant, a line a run."""
    variants = record["variants"]
    columns = min(columns, len(variants))
    rows = -(-len(variants) // columns)
    figure = figures.Figure(figsize=(2.8 * columns, 2.1 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(variants) :]:
        axes.axis("off")
    for axes, (name, traces) in zip(grid.flat, variants.items(), strict=False):
        for trace in sorted(traces.values(), key=is_lost_trace):
            colour = LOST_COLOUR if is_lost_trace(trace) else figures.BLUE
            axes.plot(record["steps"], [100 * share for share in trace["seen"]], color=colour, alpha=0.6, linewidth=0.9)
        axes.axhline(100 * SMALLEST_SHARE, color=figures.GREY, linestyle="--", linewidth=0.8)
        axes.set_title(fill(name, 32), fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=True, labelsize=8)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("% of the numbers seen", fontsize=9)
    return figure


def shown_runs(record):
    """Return {what becomes of it: run} of two runs without a remedy: the first that is lost, the first to find back."""
    traces = record["variants"]["as it is"]
    kinds = {"gets lost": is_lost_trace}
    kinds["finds back"] = lambda trace: min(trace["seen"]) < SMALLEST_SHARE and not is_lost_trace(trace)
    shown = {kind: next((run for run in traces if is_kind(traces[run])), None) for kind, is_kind in kinds.items()}
    return {kind: run for kind, run in shown.items() if run}


def outlines_figure(record, scenes):
    """Draw where the `shown_runs` look for the card, step by step; scenes: {run: (N_SCENES, 128, 128) of bytes}."""
    traces, steps = record["variants"]["as it is"], record["shown_at"]
    rows = [(kind, run, scene) for kind, run in shown_runs(record).items() for scene in range(N_SCENES)]
    figure = figures.Figure(figsize=(1.75 * len(steps), 1.8 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(steps), squeeze=False)
    for axes_of_row, (kind, run, scene) in zip(grid, rows, strict=True):
        for axes, step, outlines in zip(axes_of_row, steps, traces[run]["outlines"], strict=True):
            figures.show(axes, scenes[run][scene], f"run {run} {kind}, step {step}", white=255, fontsize=7)
            figures.draw_frame(axes, np.reshape(outlines, (-1, 4, 2))[scene], linewidth=1.5)
            axes.set(xlim=(-0.5, 127.5), ylim=(127.5, -0.5))
    return figure
