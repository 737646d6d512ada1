"""Mean average precision."""

from __future__ import annotations

from avbench.metrics import METRICS, Rows, Score
from avbench.metrics.intervals import share
from avbench.metrics.multilabel import macro


@METRICS.register("mean-average-precision")
def mean_average_precision(rows: Rows) -> list[Score]:
    """Judge clips with several labels: precision at each true label, averaged within and then over classes ([L22]).

    Per attack and for the worst case, over the classes with a positive and a negative sample. The interval is that of
    drawing the samples anew; that AP is a little too high where a class has few positives is not in it.

    >>> from avbench.metrics.sketch import sketch_scores
    >>> run = sketch_scores({"clean none": [[2, 0], [1, 3], [0, 1]]}, labels=[[0], [1], [0, 1]])
    >>> [(score.threat, score.attack, round(score.value, 4)) for score in mean_average_precision(run)]
    [('clean', 'none', 0.9167)]
    """
    return macro(
        rows, "mean-average-precision", lambda c: c.mean("ap"), lambda c: share(c.mean("ap"), c.errors["ap"]), "1"
    )
