"""Mean area under the ROC curve."""

from __future__ import annotations

from avbench.metrics import METRICS, Rows, Score
from avbench.metrics.intervals import share
from avbench.metrics.multilabel import macro


@METRICS.register("mean-auc")
def mean_auc(rows: Rows) -> list[Score]:
    """Judge clips with several labels whatever their number: area under the ROC curve, mean over classes ([L22]).

    Per attack and for the worst case, over the classes with a positive and a negative sample.

    >>> from avbench.metrics.sketch import sketch_scores
    >>> run = sketch_scores({"clean none": [[2, 0], [1, 3], [0, 1]]}, labels=[[0], [1], [0, 1]])
    >>> [score.value for score in mean_auc(run)]  # one of the two pairs of class 0 is in the wrong order
    [0.75]
    """
    return macro(rows, "mean-auc", lambda c: c.mean("auc"), lambda c: share(c.mean("auc"), c.errors["auc"]), "1")
