"""What computes parts: a model, a split and what clips are crafted on, opened once in each process that computes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from avbench import adversarial, files
from avbench.attacks import Attack
from avbench.cells import Cell, make_parts
from avbench.checkpoint import Candidate
from avbench.crafting import Crafting
from avbench.datasets.splits import Split
from avbench.device import find_device
from avbench.judge import drawn_at_random
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.provenance import numerics
from avbench.rng import seeded
from avbench.store import Part
from avbench.types import AVInput, Batch

ANSWERS = 8  # samples whose answers are part of the numerics, so that changed code of a model shows


@dataclass(frozen=True)
class Work:
    """One micro-batch, with the cells that lack it."""

    positions: tuple[int, ...]  # of its samples in the split
    cells: Mapping[Cell, Attack | None]  # each with its attack, fitted if it has to be

    def split(self) -> list[Work]:
        """Give each cell work of its own; embeddings that cells share are then computed for each."""
        return [Work(self.positions, {cell: attack}) for cell, attack in self.cells.items()]


class Made(NamedTuple):
    """A finished part, not yet written."""

    positions: tuple[int, ...]
    cell: Cell
    part: Part
    clips: bytes | None  # file of its adversarial clips, if they are kept


class Bench:
    """Hold one model, one split and what the cells of a run need, ready to make parts.

    Raises:
        BadOption: if there is no such device, or a surrogate cannot serve.
        SubmissionError, CheckpointError, DatasetNotPrepared: and their kin, if something cannot be read.
    """

    def __init__(self, candidate: Candidate, split: Split, cells: Sequence[Cell], options: RunOptions) -> None:
        self.split, self.options = split, options
        self.victim = Victim(candidate.module, len(split.card.classes), find_device(options.device))
        self.crafting = Crafting(candidate, split, self.victim, cells, options.seed)
        self.crafting.look_in(options.precision)
        self._answers: list[list[float]] = []  # of surrogates

    def look(self) -> Batch:
        """Find out which models answer at random; return the first clean clips."""
        first = self.split.batch(self.split.present[:ANSWERS]).to(self.victim.device)
        self.victim.random = bool(drawn_at_random(self.victim, first).any())
        self._answers = self.crafting.prepare(first)
        return first

    def numerics(self, micro_batch: int, first: Batch) -> dict[str, Any]:
        """Record what decides the last bits of a result here, with what the models answer; begin to count passes."""
        found = numerics(self.victim.device, micro_batch, self.options.precision, self.crafting.quick)
        with torch.no_grad(), seeded(self.victim.device, "answer"):
            answer = self.victim.logits(first.inputs, {}, first.ids).cpu().tolist()
        found["answer"] = files.fingerprint(answer)[:16]
        if self._answers:
            found["surrogates"] = files.fingerprint(self._answers)[:16]
        self.victim.passes.clear()
        return found

    def compute(self, work: Iterable[Work]) -> Generator[Made, None, None]:
        """Make one micro-batch after the other, reading clips ahead.

        Raises:
            BudgetViolation, BadModel, NonFiniteOutput: as they say; parts yielded before are good.
        """
        pieces, copies = itertools.tee(work)
        batches = self.split.batches((piece.positions for piece in copies), pinned=self.victim.device.type == "cuda")
        for piece, batch in zip(pieces, batches, strict=True):
            yield from self._make(piece, batch)

    def _make(self, work: Work, batch: Batch) -> Iterator[Made]:
        shown = batch.to(self.victim.device)
        crafts = {cell: self.crafting.aim(cell)._replace(attack=one) for cell, one in work.cells.items() if one}
        packed: dict[Cell, bytes] = {}
        keep = partial(_pack, packed, shown) if self.options.save_adversarial else None
        for cell, part in make_parts(self.victim, shown, list(work.cells), self.options.seed, crafts, keep):
            yield Made(work.positions, cell, part, packed.pop(cell, None))


def _pack(packed: dict[Cell, bytes], batch: Batch, cell: Cell, clips: AVInput) -> str | None:
    if not cell.threat:
        return None
    packed[cell] = adversarial.pack_clips(cell.threat, batch, clips)
    return hashlib.sha256(packed[cell]).hexdigest()
