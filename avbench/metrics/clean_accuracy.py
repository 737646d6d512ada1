"""Clean accuracy."""

from __future__ import annotations

from avbench.metrics import CLEAN, METRICS, NONE, Rows, Score
from avbench.metrics.intervals import proportion
from avbench.metrics.outcomes import read


@METRICS.register("clean-accuracy")
def clean_accuracy(rows: Rows) -> list[Score]:
    """Show what a defense costs: share of samples right without an attack ([T21] tables 1-6, column "AV").

    >>> from avbench.metrics.sketch import sketch
    >>> [score] = clean_accuracy(sketch({"clean none": "1110"}))
    >>> score.value, score.n, score.unit
    (75.0, 4, '%')
    """
    if rows.multilabel:
        return []
    return [proportion(("clean-accuracy", CLEAN, NONE), read(rows).clean)]
