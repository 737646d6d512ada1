"""What a run will cost before it starts: exact passes, and seconds extrapolated from one measured micro-batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from avbench.attacks import Setting
from avbench.cells import Cell, embed
from avbench.crafting import fitted
from avbench.device import deterministic
from avbench.oracle import Oracle, Victim
from avbench.runner import ANSWERS, Run
from avbench.types import MODALITIES, Batch, Modality


class Estimate(NamedTuple):
    """Cost of one cell, or of fitting its attack first; in a worst-case suite the most it can be.

    There broken samples are left out.
    """

    threat: str
    attack: str
    samples: int
    forward: int  # samples through the attacked part of the model, the final judgment included
    backward: int
    seconds: float


def estimate(run: Run) -> list[Estimate]:
    """Measure one forward and one backward pass for each model and set of attacked modalities, and multiply.

    Nothing is written: the run's folder is not touched.
    """
    with deterministic(run.victim.device):
        first = run.split.batch(run.split.present[:ANSWERS]).to(run.victim.device)
        size = min(run.choose_micro_batch(first, None), len(run.positions))
        batch = run.split.batch(run.positions[:size]).to(run.victim.device)
        clock = _Clock(batch)
        return [one for cell in run.cells for one in _of_cell(run, cell, clock)]


def _of_cell(run: Run, cell: Cell, clock: _Clock) -> Iterator[Estimate]:
    attack, model, members = run.crafting.aim(cell)
    n, attacked = len(run.positions), cell.attacked
    universal, split = fitted(cell), run.crafting.fit_split
    if universal and split:
        passes = universal.epochs * len(split.present)
        seconds = passes * clock.seconds(model, attacked)[1]
        name = f"fit {universal} on {split.name}"
        yield Estimate(cell.columns[0], name, len(split.present), members * passes, members * passes, seconds)
    setting = Setting(attacked, model.two_stage, run.split.card.spec.frames, model.classes, clock.alike(model))
    cost = attack.cost(setting)
    judgment, _ = clock.seconds(run.victim, attacked, gradients=False)
    forward, pair = clock.seconds(model, attacked, gradients=cost.backward > 0)
    seconds = judgment + (cost.forward - cost.backward) * forward + cost.backward * pair
    yield Estimate(*cell.columns, n, (members * cost.forward + 1) * n, members * cost.backward * n, seconds * n)


class _Clock:
    """Measure passes of one micro-batch, each kind once."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._known: dict[tuple[Victim, tuple[Modality, ...], bool], tuple[float, float]] = {}

    def seconds(self, model: Victim, attacked: tuple[Modality, ...], gradients: bool = True) -> tuple[float, float]:
        """Seconds a sample of one forward, and of one forward with backward (0 if no gradients are asked for)."""
        key = (model, attacked, gradients)
        if key not in self._known:
            n = len(self._batch.ids)
            forward, pair = _measure(model, self._batch, attacked, gradients)
            self._known[key] = forward / n, pair / n
        return self._known[key]

    def alike(self, model: Victim) -> bool:
        """Tell whether both embeddings have one size."""
        one = Batch(self._batch.ids[:1], self._batch.inputs.pick(slice(0, 1)), self._batch.labels[:1])
        return len({f.flatten(1).shape for f in embed(model, one, MODALITIES).values()}) == 1


def _measure(victim: Victim, batch: Batch, attacked: tuple[Modality, ...], gradients: bool) -> tuple[float, float]:
    """Seconds of one forward, and of one forward with backward, with the other modality's embedding at hand."""
    oracle = Oracle(victim, batch, attacked, embed(victim, batch, [m for m in MODALITIES if m not in attacked]))
    forward = _best_of(lambda: oracle.logits(batch.inputs))
    return forward, _best_of(lambda: oracle.gradient(batch.inputs)) if gradients else 0.0


def _best_of(call: Callable[[], object], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
