"""Intervals against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from avbench.metrics.intervals import bootstrap, median, wilson


def test_wilson_is_the_published_formula() -> None:
    right, n, z = 81, 263, stats.norm.ppf(0.975)  # Newcombe 1998, table I: 0.2553 to 0.3662
    center, half = (right + z**2 / 2) / (n + z**2), z / (n + z**2) * math.sqrt(right * (n - right) / n + z**2 / 4)
    assert wilson(right, n) == pytest.approx((center - half, center + half))
    assert [round(end, 4) for end in wilson(right, n)] == [0.2553, 0.3662]


@pytest.mark.parametrize("n", [1, 2, 3, 26, 256, 500, 1999])
def test_wilson_is_that_of_scipy_to_the_last_bit(n: int) -> None:
    for right in range(0, n + 1, max(1, n // 50)):
        low, high = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson(right, n) == (min(low, right / n), max(high, right / n))


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_samples() -> None:
    values = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=5000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert bootstrap(values, -1, 1) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


def test_agreeing_samples_do_not_make_a_figure_certain() -> None:
    assert bootstrap(np.full(100, 30.0), 0, 100) == pytest.approx((30 - 30 * 0.0370, 30 + 70 * 0.0370), abs=0.01)


@pytest.mark.parametrize("n", [6, 7, 20, 101])
def test_the_interval_of_a_median_covers_it_19_times_in_20_and_is_the_tightest_that_does(n: int) -> None:
    low, high = median(np.arange(float(n)))[1]
    below = int(low) + 1  # the interval misses if fewer than this many of n values lie below the true median
    assert low + high == n - 1
    assert 2 * stats.binom.cdf(below - 1, n, 0.5) <= 0.05 < 2 * stats.binom.cdf(below, n, 0.5)
