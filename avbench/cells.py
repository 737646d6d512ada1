"""A cell: one threat with one attack, the unit of work, of resume and of a folder; and how its rows are made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avbench.attacks import Attack
from avbench.errors import BadModel
from avbench.judge import judge
from avbench.metrics import CLEAN, NONE, SILENCE_AUDIO, SILENCE_VIDEO
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.store import Part
from avbench.threats import ThreatModel
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch, Modality, modalities_of

_SILENCED: dict[str, Modality] = {SILENCE_AUDIO: "audio", SILENCE_VIDEO: "video"}


@dataclass(frozen=True)
class Cell:
    """One threat with one attack, or clean clips (`attack` is then "none" or what is silenced)."""

    threat: ThreatModel | None
    attack: Attack | str

    @property
    def columns(self) -> tuple[str, str]:
        """The threat and attack columns of its rows."""
        return (str(self.threat) if self.threat else CLEAN, str(self.attack))

    @property
    def attacked(self) -> tuple[Modality, ...]:
        """Modalities in which its clips differ from the clean ones."""
        if self.threat:
            return tuple(self.threat.budgets)
        return tuple(m for name, m in _SILENCED.items() if name == self.attack)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data for the fingerprint; type names are part of it."""
        attack = self.attack.identity if isinstance(self.attack, Attack) else {"name": self.attack}
        return {"threat": self.columns[0], "attack": attack}


# Rows that nobody attacked: they belong to every run.
REFERENCES = tuple(Cell(None, name) for name in (NONE, *_SILENCED))


def make_parts(victim: Victim, batch: Batch, cells: Sequence[Cell], seed: int) -> Iterator[tuple[Cell, Part]]:
    """Attack and judge one micro-batch in several cells, which share the embeddings of what is not attacked.

    Raises:
        BudgetViolation, BadModel, NonFiniteOutput: as they say; parts yielded before are good.
    """
    with torch.no_grad():
        embeddings = {
            modality: victim.embed(batch.inputs, modality)
            for modality in MODALITIES
            if victim.two_stage and any(modality not in cell.attacked for cell in cells)
        }
    for cell in cells:
        start, before = time.perf_counter(), victim.passes.copy()
        fixed = {m: f for m, f in embeddings.items() if m not in cell.attacked}
        rows = judge(victim, batch, _clips(victim, batch, cell, fixed, seed), fixed)
        rows.insert(1, "threat", cell.columns[0])
        rows.insert(2, "attack", cell.columns[1])
        made = victim.passes - before
        forward, backward = (
            max((n for (part, way), n in made.items() if way == direction and part != "fuse"), default=0)
            for direction in ("forward", "backward")
        )
        yield cell, Part(rows, forward, backward, time.perf_counter() - start)


def _clips(victim: Victim, batch: Batch, cell: Cell, fixed: Mapping[Modality, Tensor], seed: int) -> AVInput:
    if cell.threat is None:
        silent = {m: torch.zeros_like(getattr(batch.inputs, m)) for m in cell.attacked}
        clips = batch.inputs._replace(**silent)
        _check_modalities(victim, batch, cell, clips)
        return clips
    assert isinstance(cell.attack, Attack)
    # The attack plays with copies; the judge's clips, labels and threat set are out of its reach.
    shown = Batch(batch.ids, AVInput(*(clip.clone() for clip in batch.inputs)), batch.labels.clone())
    oracle = Oracle(victim, shown, cell.attacked, fixed, cell.attack.needs)
    rng = Rng(seed, cell.attack.identity["name"], batch.ids)
    clips = cell.attack.run(oracle, shown, Region(cell.threat, shown.inputs), rng)
    clips = AVInput(*(clip.detach().clone() for clip in clips))
    Region(cell.threat, batch.inputs).check(clips, batch.ids, str(cell.attack))
    return clips


def _check_modalities(victim: Victim, batch: Batch, cell: Cell, silenced: AVInput) -> None:
    """Check that silencing a modality that the model says it does not read changes no answer."""
    for modality in set(cell.attacked) - set(modalities_of(victim.model)):
        with torch.no_grad():
            answers = [victim.logits(clips, {}, batch.ids) for clips in (batch.inputs, silenced)]
        if not torch.equal(*answers):
            raise BadModel(f"the model declares that it does not read {modality}, but its answers depend on it")
