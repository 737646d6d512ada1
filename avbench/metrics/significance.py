"""Exact paired tests between two models and Holm's correction over many."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sign_flip_test(differences: NDArray[np.int_]) -> float:
    """Test whether two models are equally good, exactly and two-sided, from integer differences per sample.

    If they are, each sample's difference is as likely to have either sign; with k_w samples that differ by w, the
    sum of the differences is sum over w of w (2 B_w - k_w), B_w ~ Binomial(k_w, 1/2), whose distribution is one
    convolution per w. With differences of -1, 0 and 1 this is the exact McNemar test; it also takes sums of
    correlated outcomes, such as XA + XV + XAV, which McNemar's cannot.

    Args:
        differences: (samples,)

    >>> sign_flip_test(np.array([1, 1, 1, 1, 1, 0]))  # 2 / 2**5
    0.0625
    >>> sign_flip_test(np.array([3, 2, -1]))  # 3 + 2 - 1 or more, either way: 4 of 8
    0.5
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of each sum of the sizes that come out positive
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = _chances(count)
        chances = np.convolve(chances, spread)
    total, observed = int(sizes @ counts), abs(int(differences.sum()))
    return min(1.0, 2 * float(chances[(total + observed) // 2 :].sum()))


@lru_cache(maxsize=10_000)
def _chances(count: int) -> NDArray[np.float64]:
    """Binomial chances of 0 to `count` at one half."""
    return np.asarray(stats.binom.pmf(np.arange(count + 1), count, 0.5))


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number (Holm 1979): the chance of any false difference stays below the level.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
