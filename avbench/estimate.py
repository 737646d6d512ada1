"""What a run will cost before it starts: exact passes, and seconds extrapolated from one measured micro-batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from avbench.attacks import Attack
from avbench.device import deterministic
from avbench.oracle import Oracle, Victim
from avbench.runner import ANSWERS, Run
from avbench.types import Batch, Modality


class Estimate(NamedTuple):
    """Cost of one cell; in a worst-case suite the most it can be, since broken samples are left out."""

    threat: str
    attack: str
    samples: int
    forward: int  # samples through the attacked part of the model, the final judgment included
    backward: int
    seconds: float


def estimate(run: Run) -> list[Estimate]:
    """Measure one forward and one backward pass for each set of attacked modalities, and multiply.

    Nothing is written: the run's folder is not touched.
    """
    n = len(run.positions)
    with deterministic(run.victim.device):
        first = run.split.batch(run.split.present[:ANSWERS]).to(run.victim.device)
        size = min(run.choose_micro_batch(first, None), n)
        batch = run.split.batch(run.positions[:size]).to(run.victim.device)
        seconds: dict[tuple[tuple[Modality, ...], bool], tuple[float, float]] = {}
        found = []
        for cell in run.cells:
            assert isinstance(cell.attack, Attack)
            forward, backward = cell.attack.cost()
            forward += 1  # the judgment
            key = (cell.attacked, backward > 0)
            if key not in seconds:
                seconds[key] = _measure(run.victim, batch, *key)
            one_forward, one_pair = seconds[key]
            total = (forward - backward) * one_forward + backward * one_pair
            found.append(Estimate(*cell.columns, n, forward * n, backward * n, total * n / size))
    return found


def _measure(victim: Victim, batch: Batch, attacked: tuple[Modality, ...], gradients: bool) -> tuple[float, float]:
    """Seconds of one forward, and of one forward with backward, with the other modality's embedding at hand."""
    fixed: dict[Modality, torch.Tensor] = {}
    if victim.two_stage:
        with torch.no_grad():
            fixed = {m: victim.embed(batch.inputs, m) for m in ("audio", "video") if m not in attacked}
    oracle = Oracle(victim, batch, attacked, fixed)
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
