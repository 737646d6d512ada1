"""How many classes have no figure."""

from __future__ import annotations

import math

from avbench.metrics import CLEAN, METRICS, NONE, Rows, Score
from avbench.metrics.multilabel import by_cell


@METRICS.register("classes-left-out")
def classes_left_out(rows: Rows) -> list[Score]:
    """Say what a mean over classes does not cover: those without a positive or without a negative sample.

    >>> from avbench.metrics.sketch import sketch_scores
    >>> run = sketch_scores({"clean none": [[2, 0, 1], [1, 3, 1]]}, labels=[[0], [1, 0]])
    >>> [(score.value, score.unit) for score in classes_left_out(run)]  # class 0 is always there, class 2 never
    [(2.0, 'classes')]
    """
    found = by_cell(rows)
    if not found:
        return []
    classes = found[CLEAN, NONE]
    left = float(classes.table["auc"].isna().sum())
    return [Score("classes-left-out", CLEAN, NONE, left, math.nan, math.nan, classes.samples, "classes")]
