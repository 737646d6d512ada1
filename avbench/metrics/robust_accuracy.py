"""Robust accuracy: the worst case over attacks."""

from __future__ import annotations

from avbench.metrics import METRICS, WORST_CASE, Rows, Score
from avbench.metrics.intervals import proportion
from avbench.metrics.outcomes import read


@METRICS.register("robust-accuracy")
def robust_accuracy(rows: Rows) -> list[Score]:
    """Rank by what survives everything: share of all samples right when clean and under every attack of a threat.

    Per sample, as in AutoAttack ([CH20]); and by the lattice (spec section 2) under the attacks of every threat
    inside it too, so that XAV is never above an XA or XV whose budget it holds.

    Raises:
        IncompleteRun: naming a sample that nothing broke and that lacks a row.

    >>> from avbench.metrics.sketch import sketch
    >>> cells = {"clean none": "1110", "XA:linf:0.1 pgd": "110.", "XAV:linf:0.1:linf:0.1 pgd": "01.."}
    >>> [(score.threat, score.value) for score in robust_accuracy(sketch(cells))]
    [('XA:linf:0.1', 50.0), ('XAV:linf:0.1:linf:0.1', 25.0)]
    """
    if rows.multilabel:
        return []
    outcomes = read(rows)
    return [proportion(("robust-accuracy", name, WORST_CASE), outcomes.robust(name)) for name in outcomes.threats]
