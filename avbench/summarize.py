"""Summaries: all scores of one run, and the ranking of several on one track."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avbench.errors import IncompleteRun, ProtocolMismatch
from avbench.metrics import CLEAN, METRICS, WORST_CASE, Rows, Score
from avbench.metrics.avg import MEAN_OF_THREATS, average
from avbench.metrics.intervals import LEVEL, mean
from avbench.metrics.outcomes import TRIPLE, Outcomes, align
from avbench.metrics.significance import holm, sign_flip_test

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKING = ["run", "rank", "tie_group", "value", "low", "high", "n", "p"]


def score(rows: Rows) -> pd.DataFrame:
    """Compute every registered metric over one run; columns are the fields of `Score`.

    Raises:
        IncompleteRun: if rows are missing that a figure needs.
    """
    scores = [entry for name in METRICS.names() for entry in METRICS.get(name)(rows)]
    return pd.DataFrame(scores, columns=list(Score._fields))


def rank(runs: Mapping[str, Rows], level: float = 1 - LEVEL) -> pd.DataFrame:
    """Order the runs of one track by worst-case Avg and say which differences the data support.

    Everything rests on the samples that all runs share. Two runs are compared by the exact sign-flip test on each
    sample's number of threats survived (0 to 3): it tests the very figure that ranks, which McNemar's test on XAV
    alone would not, and is McNemar's where the figure is one outcome. Holm's correction covers all pairs. A tie
    group starts at its best run and ends before the first one that differs significantly from that best.

    Returns:
        Columns `run`, `rank` (equal figures share one), `tie_group` (1 is the best), `value`, `low`, `high`, `n`, and
        `p`, the corrected p-value against the best run of the group (1 for itself).

    Raises:
        IncompleteRun: if there is nothing to rank, no common sample, or rows are missing.
        ProtocolMismatch: if the runs do not share exactly one XA, one XV and one XAV threat, or are multi-label.
    """
    if not runs:
        raise IncompleteRun("there are no runs to rank; run `avbench evaluate` first")
    if any(rows.multilabel for rows in runs.values()):
        raise ProtocolMismatch("runs on clips with several labels are not ranked; compare their scores")
    robust = dict(zip(runs, map(_robust, align(list(runs.values()))), strict=True))
    order = sorted(robust, key=lambda name: (-int(robust[name].sum()), name))
    p_values = _compare(robust, order)
    table: list[tuple[str, int, int, float, float, float, int, float]] = []
    best, group = order[0], 1
    for position, name in enumerate(order):
        if p_values[best, name] < level:
            best, group = name, group + 1
        figure = mean(("avg", MEAN_OF_THREATS, WORST_CASE), average(*100.0 * robust[name].T), 100, "%")
        shared = position and robust[name].sum() == robust[order[position - 1]].sum()
        place = table[-1][1] if shared else position + 1
        table.append((name, place, group, figure.value, figure.low, figure.high, figure.n, p_values[best, name]))
    return pd.DataFrame(table, columns=RANKING)


def compare(one: Rows, other: Rows) -> pd.DataFrame:
    """Compare two runs sample by sample, on the samples that both have: right when clean, and in the worst case.

    Returns:
        A row for clean clips, one for each threat, and one for the mean of XA, XV, XAV where each is one threat, with
        the columns `threat`, `one` and `other` (accuracy, %), `difference` (one - other, points), `low` and `high`
        (its 95 % interval), `n`, and `p` of the exact sign-flip test (McNemar's where the figure is one outcome).

    Raises:
        IncompleteRun: if there is no common sample, or rows are missing.
        ProtocolMismatch: if the runs were attacked under different threats, or are multi-label.
    """
    if one.multilabel or other.multilabel:
        raise ProtocolMismatch("runs on clips with several labels have no outcome per sample; compare their scores")
    both = align([one, other])
    outcomes = {CLEAN: [found.clean for found in both]}
    outcomes |= {threat: [found.robust(threat) for found in both] for threat in both[0].threats}
    right = {threat: [found.astype(int) for found in pair] for threat, pair in outcomes.items()}
    if all(found.by_attack(TRIPLE) for found in both):
        right[MEAN_OF_THREATS] = [_robust(found).sum(axis=1) for found in both]
    table = []
    for threat, (mine, theirs) in right.items():
        parts = 3 if threat == MEAN_OF_THREATS else 1
        figure = mean(("difference", threat, WORST_CASE), 100.0 * (mine - theirs) / parts, 100, "points")
        accuracies = (100 * float(found.mean()) / parts for found in (mine, theirs))
        p = sign_flip_test(mine - theirs)
        table.append((threat, *accuracies, figure.value, figure.low, figure.high, figure.n, p))
    return pd.DataFrame(table, columns=["threat", "one", "other", "difference", "low", "high", "n", "p"])


def _robust(outcomes: Outcomes) -> NDArray[np.bool_]:
    found = outcomes.by_attack(TRIPLE)
    if not found:
        threats = ", ".join(outcomes.threats) or "none"
        raise ProtocolMismatch(f"a ranking needs exactly one XA, one XV and one XAV threat; these runs have {threats}")
    return found[WORST_CASE]


def _compare(robust: Mapping[str, NDArray[np.bool_]], order: list[str]) -> dict[tuple[str, str], float]:
    survived = {name: right.sum(axis=1) for name, right in robust.items()}
    pairs = list(itertools.combinations(order, 2))
    p_values = holm(np.array([sign_flip_test(survived[one] - survived[other]) for one, other in pairs]))
    return dict(zip(pairs, p_values.tolist(), strict=True)) | {(name, name): 1.0 for name in order}
