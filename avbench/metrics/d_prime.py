"""d', the AUC on a scale without ends."""

from __future__ import annotations

from avbench.metrics import METRICS, Rows, Score
from avbench.metrics.intervals import Interval, normal, share
from avbench.metrics.multilabel import Classes, macro
from avbench.metrics.multilabel import d_prime as of_auc


@METRICS.register("d-prime")
def d_prime(rows: Rows) -> list[Score]:
    """Tell good AUCs apart: d' = sqrt(2) * PPF(AUC), the distance of two normal distributions with that AUC ([L22]).

    - `d-prime`: of the mean AUC; its interval is that of the mean AUC, end by end.
    - `mean-class-d-prime`: mean of the d' of each class, which a few easy classes can lift.

    Both are infinite for an AUC of 0 or 1, so that an AUC is kept half a pair of samples away from these.

    >>> from avbench.metrics.sketch import sketch_scores
    >>> run = sketch_scores({"clean none": [[2, 0], [1, 3], [0, 1]]}, labels=[[0], [1], [0, 1]])
    >>> [(score.metric, round(score.value, 4)) for score in d_prime(run)]
    [('d-prime', 0.9539), ('mean-class-d-prime', 0.4769)]
    """

    def interval(classes: Classes) -> Interval:
        ends = share(classes.mean("auc"), classes.errors["auc"])
        return Interval(*(of_auc(end, classes.pairs) for end in ends))

    return [
        *macro(rows, "d-prime", lambda c: of_auc(c.mean("auc"), c.pairs), interval, "sd"),
        *macro(
            rows,
            "mean-class-d-prime",
            lambda c: c.mean("d_prime"),
            lambda c: normal(c.mean("d_prime"), c.errors["d_prime"]),
            "sd",
        ),
    ]
