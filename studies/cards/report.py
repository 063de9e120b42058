"""Tables and figures of cards."""

import statistics

from lab import figures
from lab.comparison import by_seed, of_experiment
from lab.results import last
from lab.tables import LOST, RUNS, SPREAD, chosen_table, metric, per_run, transformer_metrics
from studies.cards import CARD

IDS = tuple(row.id for row in CARD)
UPPER_END = "exp_41"  # reads cards that are straightened by the true homography
READING = (
    *(RUNS, LOST, ("numbers read whole, %", per_run(last)), SPREAD, ("digits read, %", metric("digits_read"))),
    *(("IoU, %", metric("iou", 100)), ("IoU of 95 % or more, % of the cards", metric("iou_95", 100))),
    ("corner error, % of the diagonal, median card", metric("corner_error")),
    ("95th percentile", metric("corner_error_p95")),
)


def card_table(record, table):
    """Tabulate every experiment with cards, and the numbers that it reads in % of those that `UPPER_END` reads."""
    upper = by_seed(of_experiment(record, table[UPPER_END]), last)

    def of_upper_end(runs):
        return [100 * ours / upper[seed] for seed, ours in by_seed(runs, last).items() if seed in upper]

    return chosen_table(record, IDS, table, (*READING, ("numbers read, % of exp_41's", of_upper_end)), "card_")


def strength_curves(record, table):
    """List each measure over the strength, as medians over runs: (title, [(exp_id, strengths, values)])."""
    titles = {"numbers_read": "numbers read whole, %", "digits_read": "digits read, %", "iou": "IoU"}
    titles["corner_error"] = "corner error, % of the diagonal"
    panels = {title: [] for title in titles.values()}
    for exp_id in IDS:
        curves = [metrics["by_strength"] for metrics in transformer_metrics(of_experiment(record, table[exp_id]))]
        if "coordconf" not in table[exp_id].title and curves:
            for name, title in titles.items():
                if name in curves[0]:
                    by_strength = zip(*(curve[name] for curve in curves), strict=True)
                    medians = [statistics.median(values) for values in by_strength]
                    panels[title].append((exp_id, curves[0]["strength"], medians))
    return list(panels.items()) if any(panels.values()) else []


def strength_figure(record, table):
    """Draw `strength_curves`: {"Strength.png": Figure}, {} without any."""
    panels = strength_curves(record, table)
    return {"Strength.png": figures.strength_curves(panels, "strength of the distortion")} if panels else {}
