"""95 % intervals: Wilson for one proportion, paired bootstrap for means, order statistics for medians, normal."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy import special, stats

from avbench.metrics import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0
NO_SPREAD = 1e-12  # a standard error below it is rounding

Name = tuple[str, str, str]  # metric, threat, attack: the first fields of a score


class Interval(NamedTuple):
    """Lower and upper end of a 95 % interval."""

    low: float
    high: float


def wilson(right: int, n: int) -> Interval:
    """Bound one proportion (Wilson 1927), because it stays sensible at 0 and at 1.

    >>> [round(end, 4) for end in wilson(0, 10)], [round(end, 4) for end in wilson(5, 10)]
    ([0.0, 0.2775], [0.2366, 0.7634])
    """
    p, z = right / n, float(special.ndtri(0.5 + 0.5 * LEVEL))
    center, scale = 2 * n * p + z**2, 2 * (n + z**2)
    reach = z / scale * math.sqrt(4 * n * p * (1 - p) + z**2)
    low = center / scale - reach if right else 0.0
    high = center / scale + reach if right < n else 1.0
    return Interval(min(low, p), max(high, p))


def bootstrap(values: NDArray[np.float64], lowest: float, highest: float) -> Interval:
    """Bound a mean by 2,000 resamples of the samples (percentile method, fixed seed).

    A figure made of several outcomes per sample, such as a difference of two models, is paired when `values` holds
    one figure per sample. Resampling n samples is drawing multinomial counts of the distinct values, of which
    outcomes have few: memory does not grow with n. Where all samples agree, resamples cannot differ and would claim
    certainty; then samples not met are bounded by Wilson's interval of 0 in n, each taken at the far end of the range.

    Args:
        values: (samples,), with few distinct values
        lowest: the least value a sample can have
        highest: the greatest

    >>> bootstrap(np.array([0.0, 0.0, 1.0, 1.0]), 0, 1)
    Interval(low=0.0, high=1.0)
    >>> [round(end, 4) for end in bootstrap(np.zeros(10), -1, 1)]
    [-0.2775, 0.2775]
    """
    value = _mean(values)
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) == 1:
        share = wilson(0, len(values)).high
        return Interval(value - share * (value - lowest), value + share * (highest - value))
    low, high = _resample(tuple(levels.tolist()), tuple(counts.tolist()))
    return Interval(min(low, value), max(high, value))


@lru_cache(maxsize=10_000)  # a site shows an interval on many pages, and is built again when a run comes in
def _resample(levels: tuple[float, ...], counts: tuple[int, ...]) -> Interval:
    n = sum(counts)
    draws = np.random.default_rng(SEED).multinomial(n, np.array(counts) / n, size=RESAMPLES)
    low, high = np.quantile(draws @ np.array(levels) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def normal(value: float, error: float) -> Interval:
    """Bound a figure whose standard error is known; NaN if that is 0, for samples without spread prove nothing.

    >>> [round(end, 2) for end in normal(1.5, 0.1)], normal(1.5, 0)
    ([1.3, 1.7], Interval(low=nan, high=nan))
    """
    if error < NO_SPREAD:
        return Interval(math.nan, math.nan)
    reach = float(stats.norm.isf((1 - LEVEL) / 2)) * error
    return Interval(value - reach, value + reach)


def share(value: float, error: float) -> Interval:
    """Bound a figure between 0 and 1 as `normal` does, on the scale of log-odds, where the ends cannot leave the range.

    >>> [round(end, 3) for end in share(0.5, 0.01)], [round(end, 3) for end in share(0.99, 0.01)]
    ([0.48, 0.52], [0.932, 0.999])
    """
    if error < NO_SPREAD:
        return Interval(math.nan, math.nan)
    low, high = normal(float(special.logit(value)), error / (value * (1 - value)))
    return Interval(float(special.expit(low)), float(special.expit(high)))


def proportion(name: Name, right: NDArray[np.bool_]) -> Score:
    """Score a share of samples in percent, with Wilson's interval."""
    hits, n = int(right.sum()), len(right)
    low, high = wilson(hits, n)
    return Score(*name, 100 * (hits / n), 100 * low, 100 * high, n, "%")


def mean(name: Name, values: NDArray[np.float64], span: float, unit: Literal["%", "points"]) -> Score:
    """Score a mean over samples with its bootstrap interval.

    Args:
        name: metric, threat and attack
        values: (samples,)
        span: the greatest value a sample can have; the least is 0 for percent, -span for points
        unit: of the values
    """
    low, high = bootstrap(values, 0 if unit == "%" else -span, span)
    return Score(*name, _mean(values), low, high, len(values), unit)


def median(values: NDArray[np.float64]) -> tuple[float, Interval]:
    """Find a median and its distribution-free interval from order statistics; NaN below six values.

    >>> median(np.array([1.0, 2.0, np.inf]))
    (2.0, Interval(low=nan, high=nan))
    >>> median(np.arange(6.0))
    (2.5, Interval(low=0.0, high=5.0))
    """
    ordered = np.sort(values)
    rank = _rank(len(values))
    ends = (float(ordered[rank - 1]), float(ordered[-rank])) if rank else (math.nan, math.nan)
    return float(np.median(values)), Interval(*ends)


@cache
def _rank(n: int) -> int:
    """Count the values that may lie below either end of a median's interval."""
    return int(stats.binom.ppf((1 - LEVEL) / 2, n, 0.5))


def _mean(values: NDArray[np.float64]) -> float:
    levels, counts = np.unique(values, return_counts=True)
    return round(float(counts @ levels / len(values)), 9)  # equal outcomes give equal figures, thirds and all
