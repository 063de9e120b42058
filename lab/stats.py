"""What many runs say: centres with intervals, paired comparisons, and where the variance comes from.

The centre, its interval and the p-value are one thing, Wilcoxon's signed ranks (1945), seen from three sides. All three
are read off the averages of any two values (each value also with itself): a shift is rejected if too few averages lie
on one side of it, the interval holds the shifts that are not rejected, and the centre is the shift that has as many
averages on one side as on the other (Hodges and Lehmann 1963). So an interval excludes 0 exactly if p is at most 0.05
before it is corrected. One value, however far off, moves the centre little, and with twelve or more the interval, too.

An interval is over runs: where the centre of infinitely many runs like these would lie, on the same test images.
"""

import math
import statistics
from functools import cache
from itertools import combinations_with_replacement, pairwise
from typing import NamedTuple

# NumPy and SciPy are imported late: only whoever needs an interval or a test waits for them.

CONFIDENCE = 0.95
POWER = 0.8  # probability with which an effect is to be seen
MIN_VALUES = 6  # for an interval or a test: with five the smallest possible p-value is 2/32 = 0.0625
DIGITS = 9  # decimals that values are rounded to, so that those that are equal but for rounding are equal


class Interval(NamedTuple):
    """The centre of n values and its 95 % interval; the limits are None for fewer than six values, which have none."""

    n: int
    centre: float
    low: float | None
    high: float | None


def averages_of_two(values):
    """Return the n (n + 1) / 2 averages of any two of n values, each value also with itself, in ascending order."""
    rounded = [round(float(value), DIGITS) for value in values]
    return sorted((one + other) / 2 for one, other in combinations_with_replacement(rounded, 2))


def centre(values):
    """Return the Hodges–Lehmann estimate of where at least one value lies: the median of the averages of any two."""
    return statistics.median(averages_of_two(values))


def centre_interval(values):
    """Return the `Interval` of the centre of at least one value, by inversion of `signed_rank_p_value`.

    If the values are symmetric around their centre, as differences between exchangeable runs are, it covers the centre
    with a probability of at least 95 %, whatever their distribution is.
    """
    averages, rank = averages_of_two(values), limit_rank(len(values))
    limits = (averages[rank - 1], averages[-rank]) if rank else (None, None)
    return Interval(len(values), statistics.median(averages), *limits)


def limit_rank(n):
    """Return the rank of the interval's lower limit among the averages of n values, 0 if there is no interval."""
    return int((2 * signed_rank_distribution(n) <= 1 - CONFIDENCE).sum())


@cache  # tables ask for the same few n
def signed_rank_distribution(n):
    """Return P(V <= v) for v = 0 … n (n + 1) / 2 as an array, V the sum of those ranks 1 … n that flipped coins choose.

    So many averages of two lie below 0 if each of n values, no two of equal size, could as well have the other sign.
    """
    import numpy as np

    chances = np.ones(1)
    for rank in range(1, n + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return chances.cumsum()


def standard_error(values):
    """Return the standard error of the centre of at least six values, from the width of its interval (Lehmann 1963)."""
    n, _, low, high = centre_interval(values)
    outside = float(signed_rank_distribution(n)[limit_rank(n) - 1])
    return (high - low) / 2 / t_quantile(n, outside)


def t_quantile(n, tail=(1 - CONFIDENCE) / 2):
    """Return how many standard errors an interval of n values reaches to each side (Student's t).

    tail: the probability that is left out on each side.
    """
    from scipy.stats import t

    return float(t.ppf(1 - tail, n - 1))


def prediction_limits(values):
    """Return the limits between which one more value would lie with 95 % probability if all were normal."""
    half = t_quantile(len(values)) * statistics.stdev(values) * math.sqrt(1 + 1 / len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def runs_needed(values, half_width):
    """Return how many values it takes for an interval of ± half_width, if they lie like these (at least six).

    With this many new values, the interval is that narrow in about half of the cases.
    """
    spread, n = standard_error(values) * math.sqrt(len(values)), MIN_VALUES
    while spread * t_quantile(n) > half_width * math.sqrt(n):
        n += max(1, n // 100)  # to one percent
    return n


def detectable(values, n_tests=1):
    """Return the true shift that a test of so many values that lie like these would detect with a probability of 80 %.

    At the level that Holm's method asks of the smallest of `n_tests` p-values. The power is that of Student's t-test
    with the `standard_error` of the centre, of at least six values.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct

    n = len(values)
    limit = t_quantile(n, (1 - CONFIDENCE) / n_tests / 2)
    # The shift is in standard errors; the tail on the other side adds nothing.
    shift = brentq(lambda shift: nct.cdf(limit, n - 1, shift) - (1 - POWER), 0, 10 * limit)
    return float(shift * standard_error(values))


class Comparison(NamedTuple):
    """Paired differences: one experiment minus another, seed by seed."""

    differences: dict  # {seed: difference}
    interval: Interval  # interval of their centre, not corrected
    p_value: float | None  # two-sided, by signed ranks, corrected within its family; None where it could not be small
    wins: int  # runs in which the difference is above 0
    losses: int  # below 0


def compare(first, second):
    """Compare two experiments' values, {seed: value}, over the seeds that both have; return None without any."""
    differences = {run: first[run] - second[run] for run in sorted(first.keys() & second.keys())}
    if not differences:
        return None
    values = list(differences.values())
    wins, losses = sum(value > 0 for value in values), sum(value < 0 for value in values)
    return Comparison(differences, centre_interval(values), signed_rank_p_value(values), wins, losses)


def correct_family(family):
    """Correct the p-values of a family by Holm's method, and return the comparisons that could be made.

    family: {key: Comparison, or None if it could not be made}, with all that were declared: those without a p-value
    count too. All p-values are None if the family has too few pairs to reach significance at all.
    """
    made = {key: comparison for key, comparison in family.items() if comparison}
    p_values = holm([comparison and comparison.p_value for comparison in family.values()])
    most_pairs = max((len(comparison.differences) for comparison in made.values()), default=0)
    if smallest_p_value(most_pairs, len(family)) > 1 - CONFIDENCE:
        p_values = [None] * len(family)
    return {key: made[key]._replace(p_value=p) for key, p in zip(family, p_values, strict=True) if key in made}


def signed_rank_p_value(differences):
    """Return the two-sided p-value of paired differences by Wilcoxon's signed ranks, None with fewer than six pairs.

    If nothing distinguished the two, each difference could as well have had the other sign. The p-value is exact for
    any number of pairs, and on the safe side where differences are 0 or opposite to each other: averages of two that
    are 0 count against a difference. (Were such ties broken at random, no more averages would.)
    """
    if len(differences) < MIN_VALUES:
        return None
    averages = averages_of_two(differences)
    against = min(sum(average <= 0 for average in averages), sum(average >= 0 for average in averages))
    return min(1.0, 2 * float(signed_rank_distribution(len(differences))[against]))


def smallest_p_value(n_pairs, n_comparisons):
    """Return the smallest p-value that so many pairs can give after Holm's correction of so many comparisons."""
    return min(1.0, n_comparisons * 2 ** (1 - n_pairs))


def holm(p_values):
    """Correct p-values by Holm's method (1979); None, of a comparison without a test, stays None and counts as 1."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted, largest = list(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        largest = adjusted[index] = max(largest, min(1.0, (len(p_values) - rank) * p))
    return adjusted


class Variance(NamedTuple):
    """Where the differences between runs of one experiment come from; standard deviations in test images."""

    between_runs: float  # deviation of the number of correct images
    finite_test_set: float  # what it would be if all runs were equally good, and each image a draw of its own
    share: float  # share of the variance between runs that the finite test set explains, at most 1
    p_value: float  # probability of at least this variance if all runs are equally good


def variance_split(correct):
    """Split the variance between at least two runs. correct: (runs, images), whether a run recognised an image.

    If an image i is recognised with probability p_i in every run, independently, the number of correct images has the
    variance Σ p_i (1 - p_i), which is estimated from how often runs disagree on each image (Jordan, arXiv 2304.01910).
    What exceeds it is real differences between runs. The test compares it with a chi-squared distribution.
    """
    import numpy as np
    from scipy.stats import chi2

    correct = np.asarray(correct, dtype=float)
    n_runs = len(correct)
    between = correct.sum(1).var(ddof=1)
    finite = correct.var(0, ddof=1).sum()
    if finite == 0:
        return Variance(0.0, 0.0, 1.0, 1.0)  # runs that agree on every image are equal
    p_value = chi2.sf((n_runs - 1) * between / finite, n_runs - 1)
    share = 1.0 if between == 0 else min(1.0, finite / between)
    return Variance(math.sqrt(between), math.sqrt(finite), float(share), float(p_value))


def steps(correct):
    """Return the sizes of the changes from one epoch to the next."""
    return [abs(after - before) for before, after in pairwise(correct)]
