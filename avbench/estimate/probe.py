"""Ten seconds of the real thing: what a pass costs in each cell, and which samples the attacks seem to leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from avbench.attacks.universal import Fitted, Universal
from avbench.cells import WAYS, Cell, Craft, embed, make_parts, most
from avbench.judge import judge
from avbench.metrics import NONE
from avbench.objectives import Objective, ascent_objective, margin
from avbench.oracle import Gradient, Oracle, Victim
from avbench.rng import Rng, seeded
from avbench.runner import Run
from avbench.threats import ThreatModel
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch, Modality

FEW = 8  # samples from which the size of the probe is found
LOOKS = 3  # that each attack should have time for


class _Enough(Exception):
    """Leave an attack whose time is over."""


class _Watched(Oracle):
    """Time the looks of an attack, note the samples that they show broken, and stop it when its time is over.

    One look is always made: only then is it asked what time it is.
    """

    def __init__(self, craft: Craft, batch: Batch, attacked: tuple[Modality, ...], end: float) -> None:
        still = [m for m in MODALITIES if m not in attacked]
        super().__init__(craft.model, batch, attacked, embed(craft.model, batch, still), craft.attack.needs)
        self.broken = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.labels.device)
        self.begun = self.last = 0.0  # the first look began, the last one ended
        self._end = end

    def logits(self, clips: AVInput) -> Tensor:
        self.begun = self.begun or now(self._victim.device)
        logits = super().logits(clips)
        self._note(logits)
        self._tick()
        return logits

    def gradient(self, clips: AVInput, objective: Objective = ascent_objective) -> Gradient:
        def noting(logits: Tensor, labels: Tensor) -> Tensor:
            self._note(logits.detach())
            return objective(logits, labels)

        return super().gradient(clips, noting)

    def gradient_of(self, clips: AVInput, objective: Callable[[AVInput], Tensor]) -> Gradient:
        self.begun = self.begun or now(self._victim.device)
        found = super().gradient_of(clips, objective)
        self._tick()
        return found

    def _note(self, logits: Tensor) -> None:
        self.broken |= margin(logits, self._batch.labels) <= 0

    def _tick(self) -> None:
        self.last = now(self._victim.device)
        if self.last > self._end:
            raise _Enough


class Price(NamedTuple):
    """Seconds a sample: before the first look, of a forward or a backward pass, and of the judgment."""

    start: float
    look: float
    judgment: float

    def of(self, passes: int) -> float:
        """Seconds a sample of an attack that makes so many passes, forward and backward."""
        return self.start + passes * self.look + self.judgment


class Probe:
    """Run the cells of a run on its first samples, each for its share of the time."""

    def __init__(self, run: Run, micro_batch: int, seconds: float, slices: int) -> None:
        self._run, self._slices, self._end = run, slices, time.perf_counter() + seconds
        self.look, size = self._size(micro_batch, seconds)  # seconds a sample of one pass
        start = time.perf_counter()
        self.batch = self._batch(size)
        self.loading = (time.perf_counter() - start) / size  # seconds a sample
        parts = dict(make_parts(run.victim, self.batch, run.references, run.options.seed))
        self.references = {cell: part.seconds / size for cell, part in parts.items()}  # seconds a sample
        clean = next(part.rows for cell, part in parts.items() if cell.columns[1] == NONE)
        self._wrong = torch.tensor(~clean["correct"].to_numpy())
        self._broken: dict[ThreatModel, Tensor] = {}
        self._alike: dict[Victim, bool] = {}

    @property
    def right(self) -> float:
        """Share of the samples that are right when nobody attacks."""
        return 1 - float(self._wrong.float().mean())

    def alive(self, threat: ThreatModel) -> float:
        """Share of the samples that are right and unbroken so far in a threat and in those that it contains."""
        inside = [found for other, found in self._broken.items() if threat.contains(other)]
        return 1 - float(torch.stack([self._wrong, *inside]).any(dim=0).float().mean())

    def alike(self, model: Victim) -> bool:
        """Tell whether both embeddings have one size."""
        if model not in self._alike:
            one = self._batch(1)
            with torch.no_grad():
                found = [model.embed(one.inputs, m) for m in MODALITIES] if model.two_stage else []
            self._alike[model] = len({f.flatten(1).shape for f in found}) == 1
        return self._alike[model]

    def price(self, cell: Cell, craft: Craft, passes: int) -> Price:
        """Run an attack that makes so many passes a sample, until its share of the time is over."""
        assert cell.threat is not None
        victim, n, seed = self._run.victim, len(self.batch.ids), self._run.options.seed
        kept = embed(victim, self.batch, [m for m in MODALITIES if m not in cell.attacked])
        start, before = now(victim.device), craft.model.passes.copy()
        end = start + max(self._end - start, 0.0) / max(self._slices, 1)
        self._slices -= 1
        oracle, clips = _Watched(craft, self.batch, cell.attacked, end), self.batch.inputs
        region, rng = Region(cell.threat, clips), Rng(seed, cell.columns[1], self.batch.ids)
        with suppress(_Enough), seeded(victim.device, seed, *cell.columns, *self.batch.ids):
            clips = craft.model.rescue(lambda: craft.attack.run(oracle, self.batch, region, rng))
        stopped = now(victim.device)
        region.check(clips, self.batch.ids, cell.columns[1])
        correct = judge(victim, self.batch, clips, kept)["correct"]
        judged = now(victim.device)
        self._note(cell.threat, torch.tensor(~correct.to_numpy()))
        if craft.model is victim:
            self._note(cell.threat, oracle.broken.cpu())
        made = craft.members * sum(most(craft.model.passes - before, way) for way in WAYS) / n
        begun = oracle.begun or stopped
        look = (stopped - begun) / made if passes and made else 0.0
        return Price((begun - start) / n, look / n, (judged - stopped) / n)

    def fit(self, cell: Cell, universal: Universal, craft: Craft) -> tuple[Craft, float]:
        """Fit a perturbation to the probe once; return what lays it on clips, and seconds a sample."""
        assert cell.threat is not None
        shapes = {m: self._run.split.card.spec.shape(m) for m in cell.attacked}
        zeros = {m: torch.zeros(1, *shape, device=craft.model.device) for m, shape in shapes.items()}
        start = now(craft.model.device)
        still = [m for m in MODALITIES if m not in cell.attacked]
        oracle = Oracle(craft.model, self.batch, cell.attacked, embed(craft.model, self.batch, still))
        threat, looks = cell.threat, [(oracle, self.batch)]
        perturbation = craft.model.rescue(lambda: universal.epoch(zeros, threat, looks))
        seconds = (now(craft.model.device) - start) / len(self.batch.ids)
        return craft._replace(attack=Fitted(perturbation)), seconds

    def _note(self, threat: ThreatModel, broken: Tensor) -> None:
        self._broken[threat] = broken | self._broken.get(threat, torch.zeros_like(broken))

    def _size(self, micro_batch: int, seconds: float) -> tuple[float, int]:
        """Time a pass, and choose as many samples as give each attack time for a few looks, at most a micro-batch."""
        few = self._batch(min(FEW, micro_batch))
        oracle = Oracle(self._run.victim, few, MODALITIES, {})
        needs = {self._run.crafting.aim(cell).attack.needs for cell in self._run.cells}
        ask: Callable[[AVInput], object] = oracle.gradient if "gradients" in needs else oracle.logits
        for _ in range(2):  # the first time warms up
            start = now(self._run.victim.device)
            self._run.victim.rescue(lambda: ask(few.inputs))
            spent = (now(self._run.victim.device) - start) / len(few.ids)
        wanted = int(seconds / (LOOKS * max(self._slices, 1) * spent))
        size = min(max(wanted, len(few.ids)), micro_batch, len(self._run.positions))
        return spent / (2 if "gradients" in needs else 1), size

    def _batch(self, size: int) -> Batch:
        return self._run.split.batch(self._run.positions[:size]).to(self._run.victim.device)


def now(device: torch.device) -> float:
    """Seconds on a clock, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
