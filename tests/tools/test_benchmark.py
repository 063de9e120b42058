"""The benchmark's arithmetic, on made-up seconds, and what it makes: no test measures a time."""

import benchmark
import page
import pytest
import torch

from coordconv import CoordConv2d
from run_experiments import ALL, EXPERIMENTS
from stn import data, warps
from train import build


def test_a_row_takes_medians_and_forms_ratios_within_rounds():
    # (seconds of training, of testing, MB) of the tutorial, the same of two processes side by side
    rounds = [
        ((9.38, 0.62, 50), (2.814, 1.186, 70)),
        ((11.256, 0.744, 50), (1.876, 2.124, 90)),
        ((18.76, 1.24, 50), (3.752, 1.248, 60)),
    ]
    row = benchmark.row(EXPERIMENTS[2], rounds, 2)
    assert row == {
        "experiment": "exp_03",
        "epochs": 30,
        "tutorial_ms_per_step": 12.0,  # of 938 steps
        "ours_ms_per_step": 3.0,
        "tutorial_seconds_per_epoch": 12.0,
        "ours_seconds_per_epoch": 2.0,
        "ratio": 6.0,
        "ratio_min": 5.0,
        "ratio_max": 8.0,
        "ours_peak_mb": 90,
    }


def test_one_core_is_told_by_medians_of_calls_in_turn():
    """A product of 2^31 operations in 20 ms, but for one slow moment, in which all is slow."""
    seconds = {"product": [0.02, 0.2, 0.02], "a": [0.001, 0.01, 0.001], "b": [0.002, 0.02, 0.004]}
    seconds |= {("exp_02", "plain"): [0.012, 0.12, 0.012], ("exp_02", "fast"): [0.004, 0.03, 0.004]}
    found = benchmark.core_table(seconds, {"a": 2**26, "b": 2**26}, ["exp_02"])
    assert found["peak_gflops"] == 107.4
    rates = {row["convolution"]: (row["gflops"], row["share_of_peak"]) for row in found["convolutions"]}
    assert rates == {"a": (67.1, 0.625), "b": (16.8, 0.312), "all four": (26.8, 0.417)}
    assert found["floor_ms_exp_02"] == 1.25
    step = {"plain_ms": 12.0, "fast_ms": 4.0, "ratio": 3.0, "ratio_min": 3.0, "ratio_max": 4.0}
    assert found["steps"] == [{"experiment": "exp_02", **step}]


def test_the_steps_of_any_experiment_are_timed_in_both_forms(few_cards, digits, monkeypatch):
    """One that reads digits and one that reads cards."""
    monkeypatch.setattr(data, "load", lambda: digits)
    in_turn = benchmark.in_turn
    monkeypatch.setattr(benchmark, "in_turn", lambda calls, times, repeats: in_turn(calls, 1, 1))
    core = benchmark.one_core(1, ["exp_02", "exp_41"])
    assert [row["experiment"] for row in core["steps"]] == ["exp_02", "exp_41"]
    assert all(min(row["plain_ms"], row["fast_ms"]) > 0 for row in core["steps"])
    assert "| exp_41 | " in page.measurement_tables().core({"core": core})


def test_one_core_is_timed_alone(call_here):
    process = call_here("tools/benchmark.py", "--core", "exp_33", "--only", "exp_02")
    assert process.returncode == 2
    assert "--core: not with --device cuda, --only or --jobs" in process.stderr


def test_the_four_convolutions_are_those_of_the_network():
    """Their operations by hand: 2 · channels · kernel · pixels · 64 images, three times, the first one's twice."""
    calls = benchmark.convolution_calls(build(ALL["exp_02"], 123))
    expected = {
        "1 → 8, k 7": 2 * 8 * 49 * 22**2 * 64 * 2,
        "8 → 10, k 5": 2 * 80 * 25 * 6**2 * 64 * 3,
        "1 → 10, k 5": 2 * 10 * 25 * 24**2 * 64 * 3,
        "10 → 20, k 5": 2 * 200 * 25 * 8**2 * 64 * 3,
    }
    assert {name: operations for name, (_, operations) in calls.items()} == expected
    for call, _ in calls.values():
        call()


def test_the_whole_job_ends_with_its_last_run():
    def row(identity, epochs, tutorial, ours):
        seconds = {"tutorial_seconds_per_epoch": tutorial, "ours_seconds_per_epoch": ours}
        return {"experiment": identity, "epochs": epochs, **seconds}

    # In two processes side by side the runs take 120, 120 and 60 s: two end after 120, then one core waits.
    rows = [row("exp_03", 30, 10.0, 1.0), row("exp_02", 30, 20.0, 2.0), row("exp_07", 30, 20.0, 2.0)]
    assert benchmark.whole_job(rows, 2) == {
        "tutorial_minutes_whole_job": 25.0,
        "ours_minutes_all_cores_busy": 2.5,
        "ours_minutes_whole_job": 3.0,
        "ratio_all_cores_busy": 10.0,
        "ratio_whole_job": 8.33,
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.id)
def test_the_tutorials_model_is_ours_computed_as_usual(experiment, digits, monkeypatch):
    tutorial, ours = benchmark.tutorial_model(experiment), build(experiment, 123)
    for model in (tutorial, ours):
        if not model.bypass_localisation:
            torch.manual_seed(5)
            torch.nn.init.normal_(model.loc_fc2.weight, std=0.05)
    images = digits.test_images[:50]
    expected = ours.eval()(images)

    def not_ours(*arguments):
        raise AssertionError("the tutorial has no such function")

    monkeypatch.setattr(warps, "affine_warp", not_ours)
    monkeypatch.setattr(CoordConv2d, "forward", not_ours)
    torch.testing.assert_close(tutorial.eval()(images), expected, rtol=1e-4, atol=1e-4)


def test_only_the_seven_have_a_tutorial_to_be_compared_with(call_here):
    process = call_here("tools/benchmark.py", "--only", "exp_08")
    assert process.returncode == 2
    assert "argument --only: invalid choice: 'exp_08' (choose from " in process.stderr
