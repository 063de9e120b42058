"""Statistics by hand, against SciPy, and by simulation."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats as scipy_stats
from scipy.optimize import brentq

from lab import stats

# Two-sided critical values at 5 % of Wilcoxon's signed-rank statistic, as statistical tables print them.
CRITICAL = {6: 0, 7: 2, 8: 3, 9: 5, 10: 8, 11: 10, 12: 13, 13: 17, 14: 21, 15: 25, 16: 29, 17: 34, 20: 52, 25: 89}
# Normal differences, but in a seventh of the pairs a run is lost: share, mean, standard deviation.
WITH_LOST_RUNS = ((0.85, 2, 4), (0.15, -60, 8))


def lost_runs_centre():
    """Find the median of the average of two values of which each is from one of two normal distributions."""

    def cdf(x):
        two = itertools.product(WITH_LOST_RUNS, repeat=2)
        return sum(p * q * scipy_stats.norm.cdf(2 * x, a + b, math.hypot(s, t)) for (p, a, s), (q, b, t) in two)

    return brentq(lambda x: cdf(x) - 0.5, -60, 10)


def draw_lost_runs(rng, size):
    (_, mean, sd), (share, far, far_sd) = WITH_LOST_RUNS
    return np.where(rng.random(size) < share, rng.normal(far, far_sd, size), rng.normal(mean, sd, size))


# What differences between runs may look like: {name: (function that draws them, where their centre is)}. The centre is
# the median of the average of two: of two exponential values, half the median of a gamma distribution.
SHAPES = {
    "normal": (lambda rng, size: rng.normal(0, 1, size), 0.0),
    "heavy tails": (lambda rng, size: rng.standard_t(2, size), 0.0),
    "lost runs of both": (lambda rng, size: draw_lost_runs(rng, size) - draw_lost_runs(rng, size), 0.0),
    "skewed": (lambda rng, size: rng.exponential(1, size), scipy_stats.gamma.ppf(0.5, 2) / 2),
    "lost runs of one": (draw_lost_runs, lost_runs_centre()),
}


def half(values):
    _, _, low, high = stats.centre_interval(values)
    return (high - low) / 2


def normal_scores(n):
    """Return n values that lie as those of a standard normal distribution do."""
    scores = scipy_stats.norm.ppf((np.arange(n) + 0.5) / n)
    return scores / scores.std(ddof=1)


def test_the_centre_by_hand():
    assert stats.centre([98.0]) == 98
    assert stats.centre([1.0, 2.0, 6.0]) == 2.75  # of 1, 1.5, 2, 3.5, 4 and 6
    assert stats.centre([1.0, 2.0, 3.0, 4.0, 1000.0]) == 3  # one far value counts as one beyond the others
    assert stats.centre_interval([98.0]) == (1, 98.0, None, None)
    assert stats.centre_interval([1.0, 2.0, 3.0, 4.0, 5.0])[2:] == (None, None)  # all five: 93.75 % at most
    assert stats.centre_interval([5.0, 1.0, 9.0, 2.0, 3.0, 4.0])[2:] == (1, 9)  # all six: 96.9 %
    assert stats.centre_interval([5.0] * 30) == (30, 5, 5, 5)


def test_the_limits_are_those_of_printed_tables():
    """For a critical value c, the interval is from the (c + 1)-th smallest average of two to the (c + 1)-th largest."""
    for n, critical in CRITICAL.items():
        values = np.random.default_rng(n).normal(3, 2, n)
        averages = np.sort([values[i : i + 1] + values[j] for i in range(n) for j in range(i, n)], axis=None) / 2
        interval = stats.centre_interval(values)
        assert interval[2:] == pytest.approx((averages[critical], averages[-1 - critical]))
        assert interval.centre == pytest.approx(np.median(averages))


@pytest.mark.parametrize("n", [6, 8, 12, 20, 40])
def test_the_interval_is_where_scipys_test_does_not_reject_and_the_centre_where_it_is_most_indifferent(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    _, centre, low, high = stats.centre_interval(values)

    def p_value(shift):
        return scipy_stats.wilcoxon(values - shift, method="exact").pvalue

    assert stats.signed_rank_p_value(values) == pytest.approx(p_value(0), rel=1e-9)
    for limit, outwards in ((low, -1e-6), (high, 1e-6)):
        assert p_value(limit + outwards) <= 0.05 < p_value(limit - outwards)
    assert p_value(centre) == pytest.approx(1, abs=0.07)


@given(st.lists(st.integers(-12, 12), min_size=6, max_size=14))
def test_the_interval_excludes_zero_exactly_if_the_test_rejects(differences):
    """Also with ties and zeros, as differences of a few images have them."""
    percentages = [98.0 + difference / 100 - 98.0 for difference in differences]
    interval = stats.centre_interval(percentages)
    assert (interval.low > 0 or interval.high < 0) == (stats.signed_rank_p_value(percentages) <= 0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_of_the_interval(shape):
    check_coverage(shape, n=10, n_samples=1500)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 10, 12, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_of_the_interval_with_any_number_of_pairs(shape, n):
    check_coverage(shape, n, n_samples=20_000)


def check_coverage(shape, n, n_samples):
    """The share of intervals that contain the centre is exactly known for symmetric values, and at least 94 % else.

    (Three and a half standard errors are left to chance.)
    """
    draw, centre = SHAPES[shape]
    intervals = map(stats.centre_interval, draw(np.random.default_rng(n), (n_samples, n)))
    share = np.mean([interval.low <= centre <= interval.high for interval in intervals])
    error = 3.5 * math.sqrt(0.05 * 0.95 / n_samples)
    if centre == 0:
        assert share == pytest.approx(1 - rejected_by_tables(n), abs=error)
    else:
        assert share > 0.94 - error


def rejected_by_tables(n):
    """Return SciPy's exact p-value of n differences whose statistic is the critical value."""
    signed, left = [], CRITICAL[n]
    for rank in range(n, 0, -1):
        signed.append(-rank if rank <= left else rank)
        left -= rank if rank <= left else 0
    return scipy_stats.wilcoxon(signed, method="exact").pvalue


@pytest.mark.parametrize("images", [1, 20])
def test_networks_that_differ_in_nothing_seldom_seem_to(images):
    """Runs of both are lost alike, and accuracies are whole numbers of images: few ties or many."""
    rng = np.random.default_rng(images)
    runs = np.round(draw_lost_runs(rng, (2, 3000, 12)) * images)
    share = np.mean([stats.signed_rank_p_value(pairs) <= 0.05 for pairs in runs[0] - runs[1]])
    assert share <= rejected_by_tables(12) + 3.5 * math.sqrt(0.05 * 0.95 / 3000)


@pytest.mark.parametrize(("spread", "wanted"), [(0.1, 0.05), (0.1, 0.08), (0.2, 0.05)])
def test_the_runs_that_are_needed_give_so_narrow_an_interval_and_fewer_do_not(spread, wanted):
    """By simulation: with so many values at least two of five intervals are so narrow, with three quarters fewer."""
    needed = stats.runs_needed(spread * normal_scores(20), wanted)
    rng = np.random.default_rng(2)
    shares = [
        np.mean([half(rng.normal(0, spread, n)) <= wanted for _ in range(200)])
        for n in (needed, max(stats.MIN_VALUES, round(0.75 * needed)))
    ]
    assert 0.4 < shares[0] < 0.85
    assert shares[1] < 0.4
    assert stats.runs_needed([5.0] * 6, wanted) == 6


@pytest.mark.parametrize(("n", "n_tests"), [(12, 1), (20, 5), (12, 6)])
def test_a_detectable_difference_is_found_four_times_of_five(n, n_tests):
    """By simulation; the standard error of the share is 0.9 %."""
    shift = stats.detectable(normal_scores(n), n_tests)
    samples = np.random.default_rng(1).normal(shift, 1, (2000, n))
    p_values = [stats.signed_rank_p_value(sample) for sample in samples]
    assert np.mean(np.array(p_values) <= 0.05 / n_tests) == pytest.approx(0.8, abs=0.05)
    assert stats.detectable([1.0] * n) == 0


def test_comparison_pairs_runs_by_number():
    comparison = stats.compare({1: 99.0, 2: 98.5, 4: 98.0, 5: 90.0}, {1: 98.0, 2: 98.5, 3: 10.0, 4: 98.2})
    assert comparison.differences == pytest.approx({1: 1.0, 2: 0.0, 4: -0.2})
    assert (comparison.wins, comparison.losses) == (1, 1)
    assert comparison.interval.centre == pytest.approx(0.2)  # of -0.2, -0.1, 0, 0.4, 0.5 and 1
    assert comparison.p_value is None  # three pairs
    assert stats.compare({1: 1.0}, {2: 1.0}) is None


def test_signed_ranks_by_hand():
    assert stats.signed_rank_p_value([1.0] * 5) is None
    assert stats.signed_rank_p_value([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 2 / 64
    assert stats.signed_rank_p_value([-1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 4 / 64
    assert stats.signed_rank_p_value([-1.0, 2.0, 3.0, 4.0, 5.0, 600.0]) == 4 / 64  # ranks, not sizes
    assert stats.signed_rank_p_value([0.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 4 / 64  # as if it were against the others
    assert stats.signed_rank_p_value([1.0, -1.0] * 3) == 1
    assert stats.signed_rank_p_value([0.0] * 8) == 1


@given(st.lists(st.integers(1, 40), min_size=6, max_size=9, unique=True), st.integers(0, 511))
def test_signed_ranks_against_all_combinations_of_signs(sizes, signs):
    differences = [-size if signs >> index & 1 else size for index, size in enumerate(sizes)]
    ranks = scipy_stats.rankdata(sizes)
    sums = [abs(ranks @ flips) for flips in itertools.product((1, -1), repeat=len(sizes))]
    expected = np.mean([total >= abs(ranks @ np.sign(differences)) for total in sums])
    assert stats.signed_rank_p_value(differences) == pytest.approx(expected)


@given(st.lists(st.integers(-5, 5), min_size=6, max_size=9), st.integers(0, 9999))
def test_ties_and_zeros_never_make_a_difference_more_significant_than_without_them(differences, seed):
    percentages = [98.0 + difference / 100 - 98.0 for difference in differences]  # equal but for rounding
    broken = differences + np.random.default_rng(seed).uniform(-0.1, 0.1, len(differences))
    assert stats.signed_rank_p_value(percentages) == stats.signed_rank_p_value(differences)
    assert stats.signed_rank_p_value(differences) >= scipy_stats.wilcoxon(broken, method="exact").pvalue - 1e-12


def test_the_smallest_p_value():
    assert stats.smallest_p_value(6, 1) == stats.signed_rank_p_value([1.0] * 6)
    assert stats.smallest_p_value(6, 3) == stats.holm([stats.signed_rank_p_value([1.0] * 6)] * 3)[0]
    assert stats.smallest_p_value(2, 9) == 1


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
