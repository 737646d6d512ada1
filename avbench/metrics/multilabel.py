"""Figures of clips with several labels: average precision, AUC and d' of every class, and how sure their means are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from scipy import special

from avbench.errors import IncompleteRun
from avbench.metrics import CLEAN, NONE, WORST_CASE, Rows, Score, Unit
from avbench.metrics.intervals import Interval
from avbench.metrics.outcomes import KEY, Cell, Outcomes, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


class Curve(NamedTuple):
    """One class: its figures, and their derivatives by the weight of each sample."""

    ap: float
    auc: float
    ap_by: Numbers  # (samples,)
    auc_by: Numbers  # (samples,)


class Classes(NamedTuple):
    """All classes under one cell."""

    table: pd.DataFrame  # (classes,): class, positives, ap, auc, d_prime; the last three NaN where they are not defined
    errors: dict[str, float]  # standard error of the mean of each figure over the classes that have it
    samples: int

    @property
    def pairs(self) -> int:
        """Pairs of a positive and a negative sample in all classes together."""
        positives = self.table["positives"]
        return int((positives * (self.samples - positives)).sum())

    def mean(self, figure: str) -> float:
        """Mean of a figure over the classes that have it."""
        return float(self.table[figure].mean())


_KNOWN: WeakKeyDictionary[Rows, dict[Cell, Classes]] = WeakKeyDictionary()  # so that every metric need not sort again


def per_class(rows: Rows) -> pd.DataFrame:
    """Break the figures of a multi-label run down: one row for each class under each cell, and in each worst case.

    Returns:
        Columns `threat`, `attack`, `class` (index), `positives` (samples), `n` (samples), `ap`, `auc` and `d_prime`,
        which are NaN of a class without a positive or without a negative sample.

    Raises:
        IncompleteRun: if rows are missing.
    """
    tables = [
        classes.table.assign(threat=threat, attack=attack, n=classes.samples)
        for (threat, attack), classes in by_cell(rows).items()
    ]
    order = ["threat", "attack", "class", "positives", "n", "ap", "auc", "d_prime"]
    return pd.concat(tables, ignore_index=True)[order]


def by_cell(rows: Rows) -> dict[Cell, Classes]:
    """Rank the samples of every class, once, under every cell that has all samples, and in the worst case of a threat.

    The worst case takes of each sample the row with the largest loss under any attack of the threat or of the threats
    inside it; a figure over all samples can still be a little lower under one attack. Nothing for rows with one label
    a clip.

    Raises:
        IncompleteRun: if a threat lacks rows, or the rows are malformed.
    """
    if not rows.multilabel:
        return {}
    if rows not in _KNOWN:
        cells = _choose(rows)
        try:
            truth = _truth(rows.frame, cells[CLEAN, NONE])
            _KNOWN[rows] = {cell: rank_classes(_scores(rows.frame, row, truth), truth) for cell, row in cells.items()}
        except (IndexError, ValueError, TypeError) as error:
            raise IncompleteRun(f"the labels and scores are malformed ({error}); repeat `avbench evaluate`") from error
    return _KNOWN[rows]


def macro(
    rows: Rows, metric: str, figure: Callable[[Classes], float], interval: Callable[[Classes], Interval], unit: Unit
) -> list[Score]:
    """Score a mean over classes in every cell; nothing if no class has a positive and a negative sample."""
    return [
        Score(metric, *cell, figure(classes), *interval(classes), classes.samples, unit)
        for cell, classes in by_cell(rows).items()
        if classes.pairs
    ]


def rank_classes(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> Classes:
    """Compute the figures of every class and the standard errors of their means.

    Samples are the unit and classes share them, so what a sample does to a mean is summed over classes first, and its
    square over samples after (infinitesimal jackknife, Efron 1982): all covariances between classes are in it. It is
    DeLong's variance for one class, but for factors n / (n - 1).

    Args:
        scores: (samples, classes), larger for a class that is more likely there
        truth: (samples, classes)
    """
    samples, classes = truth.shape
    positives = truth.sum(axis=0)
    figures = np.full((3, classes), np.nan)
    moves = np.zeros((3, samples))
    scored = np.flatnonzero((positives > 0) & (positives < samples))
    for one, right, column in zip(scored, truth.T[scored], scores.T[scored], strict=True):
        ap, auc, ap_by, auc_by = rank_class(column, right)
        d = d_prime(auc, int(positives[one] * (samples - positives[one])))
        figures[:, one] = ap, auc, d
        slope = 2 * np.sqrt(np.pi) * np.exp(d**2 / 4)  # of d' at this AUC
        moves += ap_by, auc_by, slope * auc_by
    table = pd.DataFrame({"class": range(classes), "positives": positives})
    names = ["ap", "auc", "d_prime"]
    table[names] = figures.T
    errors = np.sqrt(np.square(moves).sum(axis=1)) / max(len(scored), 1)
    return Classes(table, dict(zip(names, errors.tolist(), strict=True)), samples)


def rank_class(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> Curve:
    """Compute average precision and AUC of one class, exact with ties.

    AP is the precision at the score of each positive, averaged (scikit-learn's average_precision_score); AUC the share
    of pairs in the right order, a tie counting half (mid-ranks).

    Args:
        scores: (samples,)
        truth: (samples,), some true and some false

    >>> curve = rank_class(np.array([3, 2, 2, 1]), np.array([True, True, False, False]))
    >>> round(curve.ap, 4), curve.auc  # (1 + 2/3) / 2; of four pairs one is tied
    (0.8333, 0.875)
    """
    _, group = np.unique(-scores, return_inverse=True)  # (samples,): 0 is the highest score
    positives = np.bincount(group, weights=truth)  # (groups,)
    negatives = np.bincount(group) - positives
    hits, misses = positives.cumsum(), negatives.cumsum()  # with this score or a higher one
    precision = hits / (hits + misses)
    ap = float((positives * precision).sum() / hits[-1])
    right = 1 - (misses - negatives / 2) / misses[-1]  # share of negatives that a positive here is above
    wrong = (hits - positives / 2) / hits[-1]  # share of positives that are above a negative here
    auc = float((positives * right).sum() / hits[-1])
    # A sample raises the count of all, and as a positive that of hits, at its own score and every lower one.
    rise = _from_below(positives / (hits + misses))
    fall = _from_below(positives * precision / (hits + misses))
    ap_by = np.where(truth, (precision - ap + rise - fall)[group], -fall[group]) / hits[-1]
    auc_by = np.where(truth, ((right - auc) / hits[-1])[group], ((wrong - auc) / misses[-1])[group])
    return Curve(ap, auc, ap_by, auc_by)


def d_prime(auc: float, pairs: int) -> float:
    """Turn an AUC into the distance of two normal distributions that would have it, in standard deviations.

    Infinite at 0 and 1, so an AUC is kept half a pair away from both ends, as is customary (Macmillan & Kaplan 1985).

    >>> round(d_prime(0.963, 10**6), 3), round(d_prime(1, 100), 3), d_prime(0.5, 100)
    (2.527, 3.643, 0.0)
    """
    end = 0.5 / pairs
    return float(np.sqrt(2) * special.ndtri(np.clip(auc, end, 1 - end)))


def _from_below(values: Numbers) -> Numbers:
    return values[::-1].cumsum()[::-1]


def _choose(rows: Rows) -> dict[Cell, NDArray[np.intp]]:
    """Find for each figure the row of every sample, (samples,), samples in the order of their ids."""
    outcomes = read(rows)
    keys = rows.frame[KEY].astype(str)
    ids = outcomes.samples.get_indexer(pd.Index(keys["sample"]))
    found: dict[Cell, NDArray[np.intp]] = dict(keys.groupby(KEY[1:]).indices)  # type: ignore[arg-type]
    whole = {cell: at[np.argsort(ids[at])] for cell, at in found.items() if len(at) == len(outcomes.samples)}
    loss = rows.frame["loss"].to_numpy()
    chosen = {(CLEAN, attack): whole[CLEAN, attack] for attack in outcomes.attacks(CLEAN) if (CLEAN, attack) in whole}
    for threat in outcomes.threats:
        chosen |= {(threat, a): whole[threat, a] for a in outcomes.attacks(threat) if (threat, a) in whole}
        offered = np.stack([_whole(whole, cell) for cell in _inside(outcomes, threat)])  # (cells, samples)
        chosen[threat, WORST_CASE] = np.take_along_axis(offered, loss[offered].argmax(axis=0)[None], axis=0)[0]
    return chosen


def _inside(outcomes: Outcomes, threat: str) -> list[Cell]:
    return [c for c in outcomes.marks if c[0] != CLEAN and outcomes.threats[threat].contains(outcomes.threats[c[0]])]


def _whole(whole: dict[Cell, NDArray[np.intp]], cell: Cell) -> NDArray[np.intp]:
    if cell not in whole:
        raise IncompleteRun(
            f"some samples have no row for {', '.join(cell)}, and multi-label figures rest on all samples; finish "
            "the run, or choose a suite that runs every attack on every sample"
        )
    return whole[cell]


def _truth(frame: pd.DataFrame, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    labels = list(frame["labels"].to_numpy()[rows])
    truth = np.zeros((len(rows), len(frame["scores"].to_numpy()[rows[0]])), dtype=bool)
    classes = np.concatenate(labels).astype(np.intp)
    if classes.min(initial=0) < 0:
        raise ValueError(f"class {classes.min()} is negative")
    truth[np.repeat(np.arange(len(rows)), list(map(len, labels))), classes] = True
    return truth


def _scores(frame: pd.DataFrame, rows: NDArray[np.intp], truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = np.stack(list(frame["scores"].to_numpy()[rows])).astype(np.float32)
    if scores.shape != truth.shape or not np.isfinite(scores).all():
        raise ValueError(f"each row has {truth.shape[1]} finite scores")
    return scores
