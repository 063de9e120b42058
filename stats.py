"""Means and intervals over runs."""

import math

from scipy import stats


def mean_and_half_width(values, confidence=0.95):
    """Mean, and half the width of its confidence interval by Student's t; None for the latter with a single value.

    The interval is over runs: how well the mean of infinitely many runs is known, were they like these.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    return mean, float(stats.t.ppf(0.5 + confidence / 2, n - 1) * stats.sem(values))
