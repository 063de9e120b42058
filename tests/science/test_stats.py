"""Statistics by hand, against SciPy, and by simulation."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats as scipy_stats

from lab import stats


def half(values):
    _, low, high = stats.mean_interval(values)
    return (high - low) / 2


def test_interval_is_students():
    assert stats.mean_interval([98.0]) == (98.0, None, None)
    assert stats.mean_interval([1.0, 2.0, 3.0]).mean == 2
    assert half([1.0, 2.0, 3.0]) == pytest.approx(4.3026527 / 3**0.5)  # t(2, 0.975) = 4.30265, standard error 1/√3
    assert stats.mean_interval([5.0] * 30) == (5, 5, 5)


def test_interval_against_scipy():
    rng = np.random.default_rng(0)
    for n in (2, 5, 10, 19, 60):
        values = rng.normal(3, 2, n)
        ours = stats.mean_interval(values)
        expected = scipy_stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy_stats.sem(values))
        assert (ours.low, ours.high) == pytest.approx(expected)
        assert ours[1:3] == pytest.approx(scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95))


@pytest.mark.parametrize(("spread", "wanted"), [(0.1, 0.05), (0.1, 0.1), (0.4, 0.05)])
def test_the_runs_that_are_needed_give_so_narrow_an_interval_and_fewer_do_not(spread, wanted):
    """By simulation: with so many values at least two of five intervals are so narrow, with three quarters fewer."""
    values = np.random.default_rng(1).normal(98, 1, 50)
    needed = stats.runs_needed((values - values.mean()) / values.std(ddof=1) * spread, wanted)
    rng = np.random.default_rng(2)
    shares = [
        np.mean([half(rng.normal(0, spread, n).tolist()) <= wanted for _ in range(1000)])
        for n in (needed, max(2, round(0.75 * needed)))
    ]
    assert 0.4 < shares[0] < 0.85
    assert shares[1] < 0.4
    assert stats.runs_needed([5.0, 5.0], wanted) == 2


@pytest.mark.parametrize(("n", "n_tests"), [(6, 1), (20, 5), (12, 6)])
def test_a_detectable_difference_is_found_four_times_of_five(n, n_tests):
    """By simulation, with t-tests; the standard error of the share is 0.9 %."""
    values = np.random.default_rng(n).normal(0, 1, n)
    shift = stats.detectable(values / values.std(ddof=1), n_tests)
    samples = np.random.default_rng(1).normal(shift, 1, (2000, n))
    p_values = scipy_stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert np.mean(p_values <= 0.05 / n_tests) == pytest.approx(0.8, abs=0.03)
    assert stats.detectable([1.0] * n) == 0


@pytest.mark.parametrize("n", [3, 10, 60])
def test_coverage_of_the_interval(n):
    """Of 2,000 intervals 95 % contain the true mean; the standard error of that share is 0.5 %."""
    samples = np.random.default_rng(n).normal(98.8, 0.1, (2000, n))
    intervals = [stats.mean_interval(sample) for sample in samples]
    share = np.mean([interval.low <= 98.8 <= interval.high for interval in intervals])
    assert share == pytest.approx(0.95, abs=0.015)


def test_comparison_pairs_runs_by_number():
    comparison = stats.compare({1: 99.0, 2: 98.5, 4: 98.0, 5: 90.0}, {1: 98.0, 2: 98.5, 3: 10.0, 4: 98.2})
    assert comparison.differences == pytest.approx({1: 1.0, 2: 0.0, 4: -0.2})
    assert (comparison.wins, comparison.losses) == (1, 1)
    assert comparison.interval.mean == pytest.approx(0.8 / 3)
    assert comparison.p_value is None  # three pairs
    assert stats.compare({1: 1.0}, {2: 1.0}) is None


def test_sign_flips_by_hand():
    assert stats.sign_flip_p_value([1.0] * 5) is None
    assert stats.sign_flip_p_value([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 64)
    assert stats.sign_flip_p_value([-1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(4 / 64)
    assert stats.sign_flip_p_value([1.0, -1.0] * 3) == 1


@given(st.lists(st.integers(-20, 20), min_size=6, max_size=9))
def test_sign_flips_against_all_combinations(differences):
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([total >= abs(sum(differences)) for total in sums])
    assert stats.sign_flip_p_value(differences) == pytest.approx(expected)
    percentages = [98.0 + difference / 100 - 98.0 for difference in differences]  # the same but for rounding
    assert stats.sign_flip_p_value(percentages) == pytest.approx(expected)


def test_the_smallest_p_value():
    assert stats.smallest_p_value(6, 1) == stats.sign_flip_p_value([1.0] * 6)
    assert stats.smallest_p_value(6, 3) == stats.holm([stats.sign_flip_p_value([1.0] * 6)] * 3)[0]
    assert stats.smallest_p_value(2, 9) == 1


def test_many_pairs_are_tested_by_random_signs():
    differences = np.random.default_rng(0).normal(0.3, 1, 40)
    assert stats.sign_flip_p_value(differences) == stats.sign_flip_p_value(differences)
    assert stats.sign_flip_p_value(differences) == pytest.approx(
        scipy_stats.ttest_1samp(differences, 0).pvalue, abs=0.02
    )


@given(st.lists(st.none() | st.floats(0.001, 1), max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """A hypothesis is rejected if every set of hypotheses with it in it is rejected by Bonferroni's test.

    One that was not tested, None, counts as one whose p-value is 1.
    """
    adjusted = stats.holm(p_values)
    for index, p in enumerate(p_values):
        if p is None:
            assert adjusted[index] is None
            continue
        others = [other for other in range(len(p_values)) if other != index]
        sets = (chosen for size in range(len(others) + 1) for chosen in itertools.combinations(others, size))
        expected = max(min(1, (len(s) + 1) * min(p, *(p_values[i] or 1 for i in s), 1)) for s in sets)
        assert adjusted[index] == pytest.approx(expected)


def test_variance_split_by_hand():
    """Two runs that disagree on four images, two each way: as good as each other, all is the finite test set."""
    correct = np.ones((2, 100), bool)
    correct[0, :2] = correct[1, 2:4] = False
    split = stats.variance_split(correct)
    assert split.between_runs == 0
    assert split.finite_test_set == pytest.approx(math.sqrt(4 * 0.5))  # a variance of 1/2 in each of the four
    assert (split.share, split.p_value) == (1, 1)
    assert stats.variance_split(np.ones((3, 10), bool)) == (0, 0, 1, 1)


def test_variance_split_by_simulation():
    rng = np.random.default_rng(0)
    chances = rng.choice([1.0, 0.5, 0.9], p=[0.97, 0.01, 0.02], size=10_000)
    equal = stats.variance_split(rng.random((40, 10_000)) < chances)
    expected = math.sqrt((chances * (1 - chances)).sum())
    assert equal.finite_test_set == pytest.approx(expected, rel=0.05)
    assert equal.between_runs == pytest.approx(expected, rel=0.35)
    assert equal.p_value > 0.01
    worse = np.linspace(0, 0.01, 40)[:, None]  # up to 100 images
    unequal = stats.variance_split(rng.random((40, 10_000)) < chances - worse)
    assert unequal.p_value < 0.001
    assert unequal.between_runs == pytest.approx(math.hypot(expected, 100 / math.sqrt(12)), rel=0.2)
    assert unequal.share < 0.5


def test_steps_between_neighbouring_epochs():
    assert stats.steps([900, 905, 903, 903]) == [5, 2, 0]
    assert stats.steps([900]) == []


def test_prediction_limits_contain_the_next_run():
    rng = np.random.default_rng(0)
    inside = []
    for sample in rng.normal(98.8, 0.1, (2000, 11)):
        low, high = stats.prediction_limits(sample[:10])
        inside.append(low <= sample[10] <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_skewed_values_are_found_and_symmetric_ones_are_not():
    """Of normal samples about one in a hundred is called skewed; one far value of ten is."""
    samples = np.random.default_rng(0).normal(98.8, 0.1, (1000, 10))
    assert 0.003 < np.mean([stats.is_skewed(sample) for sample in samples]) < 0.04
    assert stats.is_skewed([98.8 + 0.01 * n for n in range(9)] + [85.0])
    assert stats.is_skewed([-70.0, -69.0, -54.0, -3.0, 0.0, 6.0, 8.0, 8.5, 9.0, 12.0])  # two groups, little skewness
    assert not stats.is_skewed([98.8, 98.8])
    assert not stats.is_skewed([5.0] * 10)
    assert not stats.is_skewed([98.1 + n - (96.3 + n) for n in range(7)])  # equal but for rounding


def test_a_family_is_corrected_together_and_only_if_it_can_be_significant():
    def comparison(n):
        return stats.compare({run: 1.0 + run for run in range(n)}, dict.fromkeys(range(n), 0.5))

    family = stats.correct_family({"a": comparison(8), "b": comparison(8)})
    assert [c.p_value for c in family.values()] == [pytest.approx(2 * 2 / 256)] * 2
    assert stats.correct_family({"a": comparison(6)})["a"].p_value == pytest.approx(2 / 64)
    assert stats.correct_family({"a": comparison(6), "b": comparison(6)})["a"].p_value is None  # at best 0.0625
    for other in (comparison(3), None):  # with too few pairs, or without any
        family = stats.correct_family({"a": comparison(8), "b": other})
        assert family["a"].p_value == pytest.approx(2 * 2 / 256)
        assert stats.correct_family({"a": comparison(6), "b": other})["a"].p_value is None
    assert list(family) == ["a"]  # of those that could be made
    assert stats.correct_family({}) == {}
