"""Metrics: functions from stored rows to scores, one file each, found by `METRICS`; none needs the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from avbench.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

CLEAN = "clean"  # the threat column of rows that nobody attacked
NONE, SILENCE_AUDIO, SILENCE_VIDEO = "none", "silence-audio", "silence-video"  # their attack column
WORST_CASE = "worst case"  # the attack column of a score over all attacks of a threat

Unit = Literal["%", "points", "dB", "input units", "1", "sd", "classes"]  # sd: standard deviations, of d'
DIGITS: dict[str, int] = {"%": 2, "points": 2, "dB": 2, "input units": 4, "1": 4, "sd": 4, "classes": 0}  # to show


class Score(NamedTuple):
    """One figure with its sample size and 95 % interval."""

    metric: str
    threat: str  # "clean", a threat model as text, "mean of XA, XV, XAV" or "XV - XA"
    attack: str  # an attack, "none", or "worst case"
    value: float
    low: float  # 95 % interval; NaN where none is defined
    high: float
    n: int  # samples it rests on
    unit: Unit


@dataclass(frozen=True, eq=False)
class Rows:
    """The stored rows of one run and, where the dataset names one, of its undefended baseline on the same track.

    Columns: sample, threat, attack, label, prediction, correct, margin, loss, and the perceptibility columns; where
    clips have several labels, labels and scores instead of label and prediction: see avbench.store.columns. Rows that
    nobody attacked have threat "clean" and attack "none", "silence-audio" or "silence-video". In a worst-case suite a
    sample has no row for an attack when an earlier one broke it; an attack that nothing survived to meet has no row at
    all, so `cells` names every (threat, attack) of the suite.
    """

    frame: pd.DataFrame
    baseline: pd.DataFrame | None = None
    cells: tuple[tuple[str, str], ...] = ()  # empty: those that have rows

    @property
    def multilabel(self) -> bool:
        """Tell whether clips have several labels; then right and wrong say little, and accuracies are not reported."""
        return "scores" in self.frame


METRICS: Registry[Callable[[Rows], list[Score]]] = Registry("avbench.metrics", "metric")
