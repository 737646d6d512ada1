"""Accuracy under one attack."""

from __future__ import annotations

from avbench.metrics import METRICS, Rows, Score
from avbench.metrics.intervals import proportion
from avbench.metrics.outcomes import read


@METRICS.register("attack-accuracy")
def attack_accuracy(rows: Rows) -> list[Score]:
    """Report what the papers' tables report: share of all samples right under one attack ([T21] tables 1-6).

    An attack that did not run on every sample, as the later ones of a worst-case suite, has no such figure.

    >>> from avbench.metrics.sketch import sketch
    >>> cells = {"clean none": "1110", "XA:linf:0.1 fgsm": "1101", "XA:linf:0.1 square": "1..."}
    >>> [(score.threat, score.attack, score.value) for score in attack_accuracy(sketch(cells))]
    [('XA:linf:0.1', 'fgsm', 75.0)]
    """
    if rows.multilabel:
        return []
    outcomes = read(rows)
    return [
        proportion(("attack-accuracy", threat, attack), right)
        for threat in outcomes.threats
        for attack in outcomes.attacks(threat)
        if (right := outcomes.attacked(threat, attack)) is not None
    ]
