"""Attack success rate."""

from __future__ import annotations

import numpy as np

from avbench.metrics import METRICS, WORST_CASE, Rows, Score
from avbench.metrics.intervals import proportion
from avbench.metrics.outcomes import read


@METRICS.register("attack-success-rate")
def attack_success_rate(rows: Rows) -> list[Score]:
    """Measure attacks apart from clean accuracy: share of samples right when clean that become wrong ([Z25]).

    Per attack that ran on all of those samples, and for the worst case. Nothing where no sample is right when clean.

    >>> from avbench.metrics.sketch import sketch
    >>> cells = {"clean none": "1110", "XA:linf:0.1 fgsm": "110.", "XA:linf:0.1 pgd": "10.."}
    >>> [(score.attack, round(score.value, 2), score.n) for score in attack_success_rate(sketch(cells))]
    [('fgsm', 33.33, 3), ('worst case', 66.67, 3)]
    """
    if rows.multilabel:
        return []
    outcomes = read(rows)
    clean = outcomes.clean
    scores: list[Score] = []
    if not clean.any():
        return scores
    for threat in outcomes.threats:
        for attack in outcomes.attacks(threat):
            marks = outcomes.marks[threat, attack][clean]
            if not np.isnan(marks).any():
                scores.append(proportion(("attack-success-rate", threat, attack), marks == 0))
        scores.append(proportion(("attack-success-rate", threat, WORST_CASE), ~outcomes.robust(threat)[clean]))
    return scores
