"""The benchmark's arithmetic, on made-up seconds: no test measures a time."""

import benchmark
from run_experiments import EXPERIMENTS


def test_a_row_takes_medians_and_forms_ratios_within_rounds():
    # (seconds of training, of testing, MB) of the tutorial, the same of two processes side by side, their number
    rounds = [
        ((9.0, 1.0, 50), (3.0, 1.0, 70), 2),
        ((11.0, 1.0, 50), (2.0, 2.0, 90), 2),
        ((19.0, 1.0, 50), (4.0, 1.0, 60), 2),
    ]
    row = benchmark.row(EXPERIMENTS[2], rounds, n_batches=1000)
    assert row == {
        "experiment": "exp_03",
        "epochs": 30,
        "tutorial_ms_per_step": 11.0,
        "ours_ms_per_step": 3.0,
        "tutorial_seconds_per_epoch": 12.0,
        "ours_seconds_per_epoch": 2.0,
        "ratio": 6.0,
        "ratio_min": 5.0,
        "ratio_max": 8.0,
        "ours_peak_mb": 90,
    }
