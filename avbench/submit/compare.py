"""Compare what was measured with what an author claims, and the split that is scored with one that is not."""

from __future__ import annotations

from collections.abc import Iterable
from math import hypot

from scipy import stats

from avbench.datasets.splits import Split
from avbench.form import Claim
from avbench.metrics import WORST_CASE, Rows, Score
from avbench.metrics.avg import avg
from avbench.metrics.clean_accuracy import clean_accuracy
from avbench.metrics.robust_accuracy import robust_accuracy
from avbench.objectives import margin
from avbench.oracle import Victim
from avbench.submit.probes import ask
from avbench.submit.report import Finding

PIECE = 16  # samples of one question
# Of the interval of the difference; an honest model is above it in one check of 2000, and in one of 40.
LEVELS = {"fail": 0.999, "warn": 0.95}


def evaluated(rows: Rows) -> Finding:
    """Say what a run measured."""
    if rows.multilabel:
        n = rows.frame["sample"].nunique()
        return Finding("quick", "pass", f"{n} samples were attacked; clips with several labels have no accuracy here")
    figures = [f"{score.threat.partition(':')[0]} {_text(score)}" for score in robust_accuracy(rows)]
    [clean] = clean_accuracy(rows)
    what = f"{clean.n} samples, right when clean {_text(clean)}; under attack {', '.join(figures)}"
    return Finding("quick", "pass", what)


def claims(rows: Rows, made: Iterable[Claim], split: str, suite: str) -> Finding:
    """Compare clean accuracy with every claim on the split, and worst-case Avg with those under the same suite."""
    made = list(made)
    here = [claim for claim in made if claim.split == split]
    if rows.multilabel or not here:
        reason = "clips have several labels" if rows.multilabel else f"no claim is made on the split {split}"
        return Finding("claims", "skip", f"there is no claim to compare: {reason}")
    [clean] = clean_accuracy(rows)
    pairs = [(f"clean accuracy of {claim.clean:g} %", claim.clean, clean) for claim in here]
    average = [score for score in avg(rows) if score.attack == WORST_CASE]
    for claim in here:
        if claim.robust is not None and claim.suite == suite:
            pairs += [(f"robust accuracy of {claim.robust:g} %", claim.robust, score) for score in average]
    wrong = [f"a {what} is claimed, it is {_text(score)}" for what, said, score in pairs if not _holds(said, score)]
    other = sum(claim.robust is not None and claim.suite != suite for claim in here)
    left = f"; {other} of robust accuracy under other suites not compared" if other else ""
    if wrong:
        return Finding("claims", "fail", f"on {clean.n} samples {'; '.join(wrong)}{left}")
    return Finding("claims", "pass", f"{len(pairs)} figures claimed lie in the interval of {clean.n} samples{left}")


def memorization(victim: Victim, scored: Split, sibling: Split, n: int) -> Finding:
    """Compare accuracy on the split that is scored with that on its sibling: a model that has seen the first excels."""
    counts = [_right(victim, split, n) for split in (scored, sibling)]
    figures = [f"{100 * right / asked:.1f} % of {asked} on {split.name}" for (right, asked), split in
               zip(counts, (scored, sibling), strict=True)]  # fmt: skip
    what = f"right are {' and '.join(figures)}"
    for status, level in LEVELS.items():
        low = lead(*counts[0], *counts[1], level)
        if low > 0:
            more = f"at least {100 * low:.1f} points more, as of a model that knows the clips of {scored.name}"
            return Finding("memorization", status, f"{what}: {more}")  # type: ignore[arg-type]
    return Finding("memorization", "pass", what)


def lead(right: int, n: int, other_right: int, other_n: int, level: float) -> float:
    """Lower end of the interval of a difference of two proportions (Newcombe 1998, method 10, from Wilson's).

    >>> round(lead(56, 70, 48, 80, 0.95), 4)  # his example (a)
    0.0524
    """
    one, other = right / n, other_right / other_n
    low = stats.binomtest(right, n).proportion_ci(level, method="wilson").low
    high = stats.binomtest(other_right, other_n).proportion_ci(level, method="wilson").high
    return one - other - hypot(one - low, high - other)


def _right(victim: Victim, split: Split, n: int) -> tuple[int, int]:
    """Count the first n samples that are there, and of them the right ones: all labels, where there are several."""
    chosen = split.present[:n]
    right = 0
    for start in range(0, len(chosen), PIECE):
        batch = split.batch(chosen[start : start + PIECE])
        right += int((margin(ask(victim, batch), batch.labels) > 0).sum())
    return right, len(chosen)


def _holds(said: float, score: Score) -> bool:
    return score.low <= said <= score.high


def _text(score: Score) -> str:
    return f"{score.value:.1f} % ({score.low:.1f} to {score.high:.1f})"
