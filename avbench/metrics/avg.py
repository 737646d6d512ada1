"""Avg: the mean over the three threats."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from avbench.metrics import METRICS, Rows, Score
from avbench.metrics.intervals import mean
from avbench.metrics.outcomes import TRIPLE, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Number = TypeVar("Number", float, "NDArray[np.float64]")
MEAN_OF_THREATS = "mean of XA, XV, XAV"


def average(xa: Number, xv: Number, xav: Number) -> Number:
    """Average accuracy under the three threats ([T21] tables 1, 3-6; table 2 has clean accuracy in it as well).

    >>> average(51.0, 45.0, 15.0)
    37.0
    """
    return (xa + xv + xav) / 3


@METRICS.register("avg")
def avg(rows: Rows) -> list[Score]:
    """Sum up three threats in the papers' one figure: (XA + XV + XAV) / 3, per attack and for the worst case.

    Only where a run has exactly one threat of each kind.

    >>> from avbench.metrics.sketch import sketch
    >>> cells = {"XA:linf:0.1 pgd": "11", "XV:linf:0.1 pgd": "10", "XAV:linf:0.1:linf:0.1 pgd": "00"}
    >>> [(score.attack, score.value) for score in avg(sketch({"clean none": "11"} | cells))]
    [('pgd', 50.0), ('worst case', 50.0)]
    """
    if rows.multilabel:
        return []
    return [
        mean(("avg", MEAN_OF_THREATS, attack), average(*100.0 * right.T), 100, "%")
        for attack, right in read(rows).by_attack(TRIPLE).items()
    ]
