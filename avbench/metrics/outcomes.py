"""Right or wrong per sample and cell: the one place that knows the lattice, worst cases and missing rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from avbench.errors import IncompleteRun, ProtocolMismatch, RunConflict
from avbench.metrics import CLEAN, NONE, WORST_CASE, Rows
from avbench.threats import ThreatModel, parse_threat

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cell = tuple[str, str]  # threat, attack
KEY = ["sample", "threat", "attack"]
TRIPLE = ("XA", "XV", "XAV")
FINISH = "run `avbench evaluate` again, it completes the run"


@dataclass(frozen=True)
class Outcomes:
    """Hold one mark per sample for each cell, so that every accuracy is a mean over the same samples."""

    samples: pd.Index[str]
    marks: dict[Cell, NDArray[np.float64]]  # (samples,): 1.0 right, 0.0 wrong, NaN no row
    threats: dict[str, ThreatModel]  # by text, in the order XA, XV, XAV, then by radius

    def at(self, samples: pd.Index[str]) -> Outcomes:
        """Keep some of the samples."""
        kept = self.samples.get_indexer(samples)
        return Outcomes(samples, {cell: marks[kept] for cell, marks in self.marks.items()}, self.threats)

    def attacks(self, threat: str) -> list[str]:
        """Names of the attacks of a threat, sorted."""
        return sorted(attack for other, attack in self.marks if other == threat)

    def unattacked(self, attack: str = NONE) -> NDArray[np.bool_] | None:
        """Right or wrong without an attack, perhaps with a modality silenced; None where that was not measured.

        Raises:
            IncompleteRun: if only some samples have it.
        """
        marks = self.marks.get((CLEAN, attack))
        if marks is not None:
            self._refuse(np.isnan(marks), f"no row for {CLEAN}, {attack}")
        return None if marks is None else marks.astype(bool)

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Right or wrong on clean clips, (samples,)."""
        right = self.unattacked()
        assert right is not None  # `read` builds no table without it
        return right

    def attacked(self, threat: str, attack: str) -> NDArray[np.bool_] | None:
        """Right or wrong under one attack; None unless it ran on every sample."""
        marks = self.marks[threat, attack]
        return None if np.isnan(marks).any() else marks.astype(bool)

    def robust(self, threat: str) -> NDArray[np.bool_]:
        """Right when clean and under every attack of the threat and of the threats it contains (spec section 2).

        Raises:
            IncompleteRun: naming a sample that nothing broke and that lacks a row.
        """
        inside = {name for name, other in self.threats.items() if self.threats[threat].contains(other)}
        cells = {cell: marks for cell, marks in self.marks.items() if cell[0] in inside}
        survives = self.clean
        for marks in cells.values():
            survives &= marks != 0
        for (name, attack), marks in cells.items():
            self._refuse(survives & np.isnan(marks), f"no row for {name}, {attack}, and nothing broke it")
        return survives

    def by_attack(self, labels: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
        """Right or wrong under the one threat of each label, (samples, labels): per attack, and worst case.

        Attacks that did not run on every sample under each of them are left out; all are, unless each label
        (XA, XV, XAV) has exactly one threat.
        """
        chosen = [[name for name, threat in self.threats.items() if threat.label == label] for label in labels]
        if any(len(names) != 1 for names in chosen):
            return {}
        names = [name for [name] in chosen]
        found = {}
        for attack in sorted(set.intersection(*(set(self.attacks(name)) for name in names))):
            right = [self.attacked(name, attack) for name in names]
            complete = [column for column in right if column is not None]
            if len(complete) == len(names):
                found[attack] = np.stack(complete, axis=1)
        return found | {WORST_CASE: np.stack([self.robust(name) for name in names], axis=1)}

    def _refuse(self, gaps: NDArray[np.bool_], what: str) -> None:
        if gaps.any():
            sample = self.samples[int(gaps.argmax())]
            more = f" ({int(gaps.sum())} samples)" if gaps.sum() > 1 else ""
            raise IncompleteRun(f"sample {sample} has {what}{more}; {FINISH}")


_KNOWN: WeakKeyDictionary[Rows, Outcomes] = WeakKeyDictionary()  # so that every metric need not read again


def read(rows: Rows) -> Outcomes:
    """Turn stored rows into one table of outcomes, once.

    Raises:
        IncompleteRun: if there are no clean rows, or a sample was attacked but has none.
        RunConflict: if a sample has two rows in one cell.
    """
    if rows not in _KNOWN:
        _KNOWN[rows] = _read(rows)
    return _KNOWN[rows]


def _read(rows: Rows) -> Outcomes:
    factors = (pd.factorize(rows.frame[name].astype(str), sort=True, use_na_sentinel=False) for name in KEY)
    (sample, ids), (threat, threats), (attack, attacks) = factors  # of each row a code, and what it stands for
    codes, cell = np.unique(threat * len(attacks) + attack, return_inverse=True)
    places = cell * len(ids) + sample
    if len(np.unique(places)) < len(places):
        twice = pd.Series(places).duplicated().argmax()
        about = ids[sample[twice]], threats[threat[twice]], attacks[attack[twice]]
        raise RunConflict("sample {} has two rows for {}, {}; score one run at a time".format(*about))
    marks = np.full((len(codes), len(ids)), np.nan)
    marks.flat[places] = rows.frame["correct"].to_numpy(dtype=np.float64, na_value=np.nan)
    found = {(threats[i], attacks[j]): own for i, j, own in zip(*divmod(codes, len(attacks)), marks, strict=True)}
    if (CLEAN, NONE) not in {*found, *rows.cells}:
        raise IncompleteRun(f"there are no rows with threat {CLEAN!r} and attack {NONE!r}; {FINISH}")
    outcomes = _arrange(pd.Index(ids), found, rows.cells)
    outcomes.unattacked()  # refuses samples without a clean row
    return outcomes


def _arrange(samples: pd.Index[str], found: dict[Cell, NDArray[np.float64]], cells: Iterable[Cell]) -> Outcomes:
    """Put marks in order, with those cells too that have none."""
    marks = {cell: found.get(cell, np.full(len(samples), np.nan)) for cell in sorted({*found, *cells})}
    parsed = {
        threat: parse_threat(threat) for threat in dict.fromkeys(threat for threat, _ in marks if threat != CLEAN)
    }
    return Outcomes(samples, marks, dict(sorted(parsed.items(), key=lambda item: _order(item[1]))))


def align(runs: Sequence[Rows]) -> list[Outcomes]:
    """Read several runs of one track on the samples and cells that they share, to compare them sample by sample.

    Raises:
        IncompleteRun: if they have no sample in common.
        ProtocolMismatch: if they were attacked under different threats.
    """
    every = [read(rows) for rows in runs]
    suites = [{cell for cell in outcomes.marks if cell[0] != CLEAN} for outcomes in every]
    suite = sorted(set.union(*suites))
    for cells in suites:
        own = {threat for threat, _ in cells}
        labels = {threat.partition(":")[0] for threat in own}
        other = [threat for threat, _ in suite if threat.partition(":")[0] in labels and threat not in own]
        if other:
            known = ", ".join(sorted(own))
            raise ProtocolMismatch(f"one run has {other[0]}, another {known}; compare runs of one suite only")
    common = pd.Index(sorted(set.intersection(*(set(outcomes.samples) for outcomes in every))))
    if common.empty:
        raise IncompleteRun("these runs have no sample in common; evaluate them on the same split")
    return [_arrange(one.samples, one.marks, suite).at(common) for one in every]


def _order(threat: ThreatModel) -> tuple[int, str, list[float], str]:
    return len(threat.label), threat.label, [budget.radius for budget in threat.budgets.values()], str(threat)
