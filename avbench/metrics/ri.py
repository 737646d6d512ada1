"""RI, the robustness improvement over the undefended baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avbench.metrics import METRICS, Rows, Score
from avbench.metrics.avg import MEAN_OF_THREATS, Number, average
from avbench.metrics.intervals import mean
from avbench.metrics.outcomes import TRIPLE, Outcomes, align

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def improvement(clean: Number, avg: Number, baseline_clean: Number, baseline_avg: Number) -> Number:
    """Add up what a defense gains under attack and loses without: (clean + Avg) - (clean + Avg of the baseline).

    [T21] section 5.3; their RI is computed from their rounded Avg.

    >>> round(improvement(91.35, 50.96, 88.46, 37.5), 2)
    16.35
    """
    return (clean + avg) - (baseline_clean + baseline_avg)


@METRICS.register("ri")
def ri(rows: Rows) -> list[Score]:
    """Compare a defense with its undefended baseline, per attack and for the worst case, on their common samples.

    Raises:
        IncompleteRun: if there are no common samples, or one lacks rows for the worst case.
        ProtocolMismatch: if the baseline was attacked under other threats.

    >>> from avbench.metrics.sketch import sketch
    >>> attacked = ["XA:linf:0.1 pgd", "XV:linf:0.1 pgd", "XAV:linf:0.1:linf:0.1 pgd"]
    >>> run = {"clean none": "1110", attacked[0]: "1100", attacked[1]: "1000", attacked[2]: "1000"}
    >>> baseline = {"clean none": "1111"} | dict.fromkeys(attacked, "0000")
    >>> [(score.attack, round(score.value, 2)) for score in ri(sketch(run, baseline))]
    [('pgd', 8.33), ('worst case', 8.33)]
    """
    if rows.baseline is None or rows.multilabel:
        return []
    mine, theirs = align([rows, Rows(rows.baseline, cells=rows.cells)])
    baseline = theirs.by_attack(TRIPLE)
    scores = [
        mean(("ri", MEAN_OF_THREATS, attack), improvement(*own, *_parts(theirs, baseline[attack])), 200, "points")
        for attack, right in mine.by_attack(TRIPLE).items()
        if attack in baseline and (own := _parts(mine, right))
    ]
    if rows.frame.equals(rows.baseline):  # the baseline itself, where 0 is no estimate
        return [score._replace(low=0.0, high=0.0) for score in scores]
    return scores


def _parts(outcomes: Outcomes, right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return 100 * outcomes.clean.astype(float), average(*100.0 * right.T)
