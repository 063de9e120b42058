"""What many runs say: means with intervals, paired comparisons, and where the variance comes from.

An interval is over runs: where the mean of infinitely many runs like these would lie, on the same test images.
"""

import math
import statistics
from functools import cache
from itertools import pairwise
from typing import NamedTuple

# NumPy and SciPy are imported late: only whoever needs an interval or a test waits for them.

CONFIDENCE = 0.95
POWER = 0.8  # probability with which an effect is to be seen
MAX_SKEWNESS = 2.5  # skewness in standard errors (about the 1 % level); above it a mean with an interval misleads
OUTLIER_MADS = 8  # median absolute deviations, 5.4 standard deviations of normal values
MIN_PAIRS = 6  # pairs that a test needs: with five the smallest possible p-value is 2/32 = 0.0625
MAX_EXACT_PAIRS = 16  # 65,536 combinations of signs


class Interval(NamedTuple):
    """A mean and its 95 % interval; the limits are None for a single value."""

    mean: float
    low: float | None
    high: float | None


def mean_interval(values):
    """Return the `Interval` of the mean by Student's t."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    half = t_quantile(len(values)) * standard_error(values)
    return Interval(mean, mean - half, mean + half)


def standard_error(values):
    """Return the standard error of the mean of at least two values."""
    return statistics.stdev(values) / math.sqrt(len(values))


def t_quantile(n, tail=(1 - CONFIDENCE) / 2):
    """Return how many standard errors the interval of the mean of n values reaches to each side (Student's t).

    tail: the probability that is left out on each side.
    """
    from scipy.stats import t

    return float(t.ppf(1 - tail, n - 1))


def prediction_limits(values):
    """Return the limits between which one more value would lie with 95 % probability if all were normal."""
    half = t_quantile(len(values)) * statistics.stdev(values) * math.sqrt(1 + 1 / len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def runs_needed(values, half_width):
    """Return how many values it takes for an interval of ± half_width, if their spread is that of these values.

    With this many new values, the interval is that narrow in about half of the cases.
    """
    spread, n = statistics.stdev(values), 2
    while spread * t_quantile(n) > half_width * math.sqrt(n):
        n += max(1, n // 100)  # to one percent
    return n


def detectable(values, n_tests=1):
    """Return the true mean that a test of so many values with this spread would detect with a probability of 80 %.

    By the power of Student's t-test, at the level that Holm's method asks of the smallest of `n_tests` p-values.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct

    n = len(values)
    limit = t_quantile(n, (1 - CONFIDENCE) / n_tests / 2)
    # The shift is in standard errors; the tail on the other side adds nothing.
    shift = brentq(lambda shift: nct.cdf(limit, n - 1, shift) - (1 - POWER), 0, 10 * limit)
    return float(shift * standard_error(values))


def is_skewed(values):
    """Tell whether at least three values are so one-sided that their mean with an interval would mislead.

    The sample skewness is compared with its standard error under normality (Fisher 1930). Two groups of values need
    not be skewed, so at least eight values also count as skewed if the median absolute deviation shows an outlier.
    """
    n = len(values)
    if n < 3 or max(values) - min(values) < 1e-9:  # all equal but for rounding
        return False
    median, mean = statistics.median(values), statistics.fmean(values)
    distances = [abs(value - median) for value in values]
    if n >= 8 and max(distances) > OUTLIER_MADS * statistics.median(distances):
        return True
    squares, cubes = (statistics.fmean((value - mean) ** power for value in values) for power in (2, 3))
    skewness = cubes / squares**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    return abs(skewness) > MAX_SKEWNESS * math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))


def with_centres(rows):
    """Add the mean with its interval to each (label, [values], mark); if a row is skewed, the median to all."""
    skewed = any(is_skewed(values) for _, values, *_ in rows)
    centre = (lambda values: Interval(statistics.median(values), None, None)) if skewed else mean_interval
    return [(name, values, centre(values), *rest) for name, values, *rest in rows]


class Comparison(NamedTuple):
    """Paired differences: one experiment minus another, seed by seed."""

    differences: dict  # {seed: difference}
    interval: Interval  # interval of their mean
    p_value: float | None  # two-sided, by sign flips, corrected within its family; None where it could not be small
    wins: int  # runs in which the difference is above 0
    losses: int  # below 0


def compare(first, second):
    """Compare two experiments' values, {seed: value}, over the seeds that both have; return None without any."""
    differences = {run: first[run] - second[run] for run in sorted(first.keys() & second.keys())}
    if not differences:
        return None
    values = list(differences.values())
    wins, losses = sum(value > 0 for value in values), sum(value < 0 for value in values)
    return Comparison(differences, mean_interval(values), sign_flip_p_value(values), wins, losses)


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


def sign_flip_p_value(differences):
    """Return the two-sided p-value of the mean of paired differences, None with fewer than six pairs.

    If nothing distinguished the two, each difference could as well have had the other sign. Exact up to 16 pairs, by
    9,999 random choices of signs beyond.
    """
    return None if len(differences) < MIN_PAIRS else sign_flip_test(tuple(map(float, differences)))


@cache  # figures, tables and power ask for the same differences
def sign_flip_test(differences):
    import numpy as np
    from scipy.stats import permutation_test

    result = permutation_test(
        (np.asarray(differences),),
        lambda values, axis: np.mean(values, axis=axis).round(9),  # sums that are equal but for rounding are ties
        permutation_type="samples",
        n_resamples=2**MAX_EXACT_PAIRS if len(differences) <= MAX_EXACT_PAIRS else 9999,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


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
