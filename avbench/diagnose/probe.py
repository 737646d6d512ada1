"""Flags that need the model: its gradients, its randomness, and what attacks of growing strength do to few samples."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch

from avbench.attacks import Attack
from avbench.attacks.noise import Noise
from avbench.attacks.pgd import PGD
from avbench.attacks.square import Square
from avbench.cells import REFERENCES, Cell, make_parts
from avbench.datasets.splits import Split
from avbench.device import probe_micro_batch
from avbench.diagnose import Flag
from avbench.diagnose.rows import HUGE, WHERE, flags_of_rows, needs_gradients, share
from avbench.errors import BadBudget, NoGradient
from avbench.judge import drawn_at_random
from avbench.metrics import CLEAN, NONE, Rows
from avbench.objectives import ascent_objective, classification_loss
from avbench.oracle import Oracle, Victim
from avbench.threats import ThreatModel, parse_threat
from avbench.threats.budget import Budget
from avbench.threats.linf import Linf
from avbench.types import Batch, Modality, modalities_of

DRAWN = 3  # passes by which it is found out whether a model answers at random
SAMPLES = 64  # the first of the canonical order that are there
FEW = 8  # samples at a time before it is known how many fit
FLAT = 1e-12  # of the spread of the logits: a gradient whose l1 norm is below it is rounding
TINY = torch.finfo(torch.float32).tiny  # the least number that no processor takes for zero
QUICK = PGD()  # far outside of the threat set, where every step counts
BASE = PGD(steps=40)  # ten steps are too few for honest models, too; these are enough: see docs/protocol.md
HARDER = PGD(steps=80, random_start=True)
WEAK = (Noise(), Square(queries=200))


class Plan(NamedTuple):
    """What the probe runs under one threat: the weak attacks where the hard ones fail, `doubled` where some succeed."""

    huge: ThreatModel  # met by every sample that is right
    doubled: ThreatModel | None  # None: there is no room for twice the radius
    base: Attack = BASE
    harder: Attack = HARDER
    weak: tuple[Attack, ...] = WEAK
    quick: Attack = QUICK  # under `huge` and `doubled`

    @classmethod
    def of(cls, threat: ThreatModel) -> Plan:
        """Make the plan of a threat."""
        doubled = None
        with contextlib.suppress(BadBudget):
            doubled = _with(threat, lambda budget: dataclasses.replace(budget, radius=2 * budget.radius))
        return cls(_with(threat, lambda budget: Linf(HUGE)), doubled)


def looks(modalities: int, draws: int) -> tuple[int, int]:
    """Count forward and backward passes a sample before any attack: of a model that reads so many modalities."""
    return DRAWN + modalities * (2 * draws + 1), modalities * 2 * draws


def probe(
    victim: Victim,
    split: Split,
    threats: Sequence[ThreatModel],
    stored: pd.DataFrame | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    samples: int = SAMPLES,
) -> Iterator[Flag]:
    """Look for flags on a few samples, under the largest threat of each kind (XA, XV, XAV).

    Args:
        victim: the model; `random` is set here.
        split: where the samples come from.
        threats: of the suite; only white-box ones are probed.
        stored: rows of a finished run; what they hold is not computed again.
        seed: of the attacks.
        micro_batch: samples at a time; by default what memory allows.
        samples: at most so many, the first that are there.
    """
    known = None if stored is None else set(stored["sample"])
    chosen = [position for position in split.present[:samples] if known is None or split.ids[position] in known]
    batch = split.batch(chosen).to(victim.device)
    n = len(batch.ids)
    drawn = sum(int(drawn_at_random(victim, part).sum()) for part in _chunks(batch, FEW))
    victim.random = drawn > 0
    yield share("random-outputs", "both", drawn, n, threshold=0.0)
    flat = {m: [_flat(victim, part, m) for part in _chunks(batch, FEW)] for m in modalities_of(victim.model)}
    for modality, hits in flat.items():
        yield share("zero-gradients", modality, n if None in hits else sum(filter(None, hits)), n)
    if split.card.task == "multilabel":
        return
    reached = {modality for modality, hits in flat.items() if None not in hits}
    size = micro_batch or (probe_micro_batch(victim, batch) if len(reached) == len(flat) else FEW)
    lab = _Lab(victim, batch, stored, seed, size)
    for threat in largest(threats):
        attacked = set(threat.budgets)
        if attacked & set(flat) and attacked & set(flat) <= reached:
            yield lab.probe(threat)
    yield from flags_of_rows(lab.rows)


def _flat(victim: Victim, part: Batch, modality: Modality) -> int | None:
    """Count the samples whose gradient is no more than rounding, or zero if of cross-entropy; None if there is none.

    Attacks here climb the log-odds, which a sure model cannot hide. Others climb cross-entropy, and stand still there.
    """
    oracle = Oracle(victim, part, (modality,), {})
    try:
        of_odds, of_loss = (
            oracle.gradient(part.inputs, objective).inputs[modality].flatten(1).abs()
            for objective in (ascent_objective, classification_loss)
        )
    except NoGradient:
        return None
    logits = oracle.logits(part.inputs)
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    return int(((of_odds.sum(dim=1) <= FLAT * spread) | (of_loss.amax(dim=1) < TINY)).sum())


def largest(threats: Sequence[ThreatModel]) -> list[ThreatModel]:
    """Of each kind the white-box threat with the largest radii; those of radius 0 attack nothing."""
    found: dict[str, ThreatModel] = {}
    for threat in threats:
        radii = [budget.radius for budget in threat.budgets.values()]
        if threat.access == "white-box" and min(radii) > 0:
            before = found.get(threat.label)
            if before is None or radii > [budget.radius for budget in before.budgets.values()]:
                found[threat.label] = threat
    return list(found.values())


def _with(threat: ThreatModel, change: Callable[[Budget], Budget]) -> ThreatModel:
    audio, video = (budget and change(budget) for budget in (threat.audio, threat.video))
    return ThreatModel(audio, video)


def _chunks(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.ids), size):
        yield _pick(batch, range(start, min(start + size, len(batch.ids))))


def _pick(batch: Batch, index: Sequence[int]) -> Batch:
    chosen = torch.tensor(index, device=batch.labels.device)
    return Batch(tuple(batch.ids[i] for i in index), batch.inputs.pick(chosen), batch.labels[chosen])


class _Lab:
    """Run attacks on the samples where they can tell something, and keep the rows."""

    def __init__(self, victim: Victim, batch: Batch, stored: pd.DataFrame | None, seed: int, size: int) -> None:
        self.victim, self.batch, self.seed, self.size = victim, batch, seed, size
        self.cells: list[tuple[str, str]] = []
        if stored is None:
            self.frame = pd.concat([self._made(cell, range(len(batch.ids))) for cell in REFERENCES], ignore_index=True)
        else:
            self.frame = stored[stored["sample"].isin(batch.ids)].reset_index(drop=True)
        self.right = set(batch.ids) - self._wrong(CLEAN, NONE)

    @property
    def rows(self) -> Rows:
        """Rows stored and made; also of cells that nothing survived to meet."""
        return Rows(self.frame, cells=tuple(self.cells))

    def probe(self, threat: ThreatModel) -> Flag:
        """Attack where the suite failed, harder where that fails too, and far outside of the threat set."""
        inside = [text for text in self.frame["threat"].unique() if text != CLEAN]
        alive = self.right.difference(*(self._fallen(text) for text in inside if threat.contains(parse_threat(text))))
        plan = Plan.of(threat)
        alive -= self.broken(threat, plan.base, alive)
        helped = self.broken(threat, plan.harder, alive)
        for weak in plan.weak:
            self.broken(threat, weak, alive - helped)
        self.broken(plan.huge, plan.quick, self.right)
        if plan.doubled:
            self.broken(plan.doubled, plan.quick, self.right & self._fallen(str(threat)))
        return share("more-steps-help", WHERE[threat.label], len(helped), len(self.batch.ids))

    def broken(self, threat: ThreatModel, attack: Attack, samples: set[str]) -> set[str]:
        """Attack those of the samples that have no row yet; return those that are broken."""
        cell = Cell(threat, attack)
        self.cells.append(cell.columns)
        frame = self.frame
        there = set(frame["sample"][(frame["threat"] == cell.columns[0]) & (frame["attack"] == cell.columns[1])])
        index = [i for i, sample in enumerate(self.batch.ids) if sample in samples - there]
        if index:
            self.frame = pd.concat([frame, self._made(cell, index)], ignore_index=True)
        return samples & self._wrong(*cell.columns)

    def _made(self, cell: Cell, index: Sequence[int]) -> pd.DataFrame:
        chunks = (_pick(self.batch, index[start : start + self.size]) for start in range(0, len(index), self.size))
        parts = (part for chunk in chunks for _, part in make_parts(self.victim, chunk, [cell], self.seed))
        return pd.concat([part.rows for part in parts])

    def _wrong(self, threat: str, attack: str) -> set[str]:
        frame = self.frame
        return set(frame["sample"][(frame["threat"] == threat) & (frame["attack"] == attack) & ~frame["correct"]])

    def _fallen(self, threat: str) -> set[str]:
        """Find the samples that a gradient attack broke under a threat."""
        attacks = self.frame["attack"][self.frame["threat"] == threat].unique()
        return set().union(*(self._wrong(threat, attack) for attack in attacks if needs_gradients(attack)))
