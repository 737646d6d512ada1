"""What a run will cost before it starts: exact passes, and seconds by trying its attacks for a few seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from avbench.attacks import Attack, Setting
from avbench.cells import Cell, Craft
from avbench.crafting import fitted
from avbench.device import deterministic
from avbench.diagnose.probe import SAMPLES, Plan, largest, looks
from avbench.estimate.probe import Probe
from avbench.memory import reused_memory
from avbench.metrics import CLEAN, NONE
from avbench.oracle import Victim
from avbench.rng import seeded
from avbench.runner import Run
from avbench.threats import ThreatModel
from avbench.types import Modality, modalities_of

SECONDS = 10.0  # of the probe, or what one look of each attack takes
DIAGNOSIS = "health flags"


class Estimate(NamedTuple):
    """Cost of one cell, of fitting its attack first, or of the diagnosis, which ends a run that may rank.

    Where broken samples are left out, in a worst-case suite and in the diagnosis, passes and seconds are the most that
    it can be, and `share` tells what part of it the probe expects.
    """

    threat: str
    attack: str
    samples: int
    forward: int  # samples through the attacked part of the model, the final judgment included
    backward: int
    seconds: float
    share: float = 1.0

    @property
    def expected(self) -> float:
        """Seconds, where broken samples are left out."""
        return self.share * self.seconds


class Passes(NamedTuple):
    """Samples through the attacked part of a model, for each sample that is attacked; without the judgment."""

    forward: int
    backward: int


def estimate(run: Run, seconds: float = SECONDS) -> list[Estimate]:
    """Count the passes of every cell, and try each for its share of the time.

    Nothing is written: the run's folder is not touched.
    """
    device = run.victim.device
    with deterministic(device), seeded(device, "run"), reused_memory(device):
        first = run.bench.look()
        threats = _diagnosed(run)
        probe = Probe(run, run.choose_micro_batch(first, None), seconds, len(run.cells) + 2 * len(threats))
        count = _Count(run, probe)
        found = [count.reference(cell) for cell in run.references]
        found += [one for cell in run.cells for one in count.cell(cell)]
        return found + ([count.diagnosis(threats)] if run.may_rank else [])


def _diagnosed(run: Run) -> list[ThreatModel]:
    """List the threats under which the diagnosis will attack."""
    if not run.may_rank or run.split.card.task == "multilabel":
        return []
    read = set(modalities_of(run.victim.model))
    return [threat for threat in largest(run.suite.threats) if read & set(threat.budgets)]


class _Count:
    """Multiply what one sample costs."""

    def __init__(self, run: Run, probe: Probe) -> None:
        self._run, self._probe, self._n = run, probe, len(run.positions)

    def reference(self, cell: Cell) -> Estimate:
        """Count a cell that nobody attacks; what it does not silence was embedded before, for all cells."""
        victim = self._run.victim
        forward = 0 if victim.two_stage and not victim.random and not cell.attacked else 1
        if isinstance(cell.attack, str) and set(cell.attacked) - set(modalities_of(victim.model)):
            forward += 2  # to check that the model does not read it
        seconds = self._probe.references[cell] + (self._probe.loading if cell.columns[1] == NONE else 0.0)
        return Estimate(CLEAN, cell.columns[1], self._n, forward * self._n, 0, seconds * self._n)

    def cell(self, cell: Cell) -> Iterator[Estimate]:
        """Count fitting and attacking in one cell."""
        assert cell.threat is not None
        craft, split = self._run.crafting.aim(cell), self._run.crafting.fit_split
        share = self._probe.alive(cell.threat) if self._run.worst_case else 1.0
        if (universal := fitted(cell)) and split:
            n = len(split.present)
            passes = craft.members * universal.epochs * n
            draws = _draws(craft.model)
            name = f"fit {universal} on {split.name}"
            craft, seconds = self._probe.fit(cell, universal, craft)
            seconds *= universal.epochs * n
            yield Estimate(cell.columns[0], name, n, draws * passes, draws * passes, seconds)
        forward, backward = self.passes(craft, cell.attacked)
        price = self._probe.price(cell, craft, forward + backward)
        seconds = price.of(forward + backward) + (self._probe.loading if self._run.worst_case else 0.0)
        n = self._n
        yield Estimate(*cell.columns, n, (forward + 1) * n, backward * n, seconds * n, share)

    def passes(self, craft: Craft, attacked: tuple[Modality, ...]) -> Passes:
        """Count the passes of an attack; each gradient of a model that answers at random is a mean over draws."""
        model = craft.model
        frames = self._run.split.card.spec.frames
        setting = Setting(attacked, model.two_stage, frames, model.classes, self._probe.alike(model))
        forward, backward = craft.attack.cost(setting)
        draws = _draws(model)
        return Passes(craft.members * (forward + (draws - 1) * backward), craft.members * draws * backward)

    def diagnosis(self, threats: Sequence[ThreatModel]) -> Estimate:
        """Count the looks at gradients and randomness, and the attacks of the diagnosis."""
        victim, n = self._run.victim, min(SAMPLES, self._n)
        forward, backward = looks(len(modalities_of(victim.model)), _draws(victim))
        seconds = expected = (forward + backward) * self._probe.look
        for threat in threats:
            found = self._diagnosis_of(threat)
            forward, backward = forward + found.forward, backward + found.backward
            seconds, expected = seconds + found.seconds, expected + found.expected
        return Estimate("all", DIAGNOSIS, n, forward * n, backward * n, seconds * n, expected / seconds)

    def _diagnosis_of(self, threat: ThreatModel) -> Estimate:
        """Count a sample's attacks under one threat: what breaks it decides which of them it meets."""
        victim, plan, attacked = self._run.victim, Plan.of(threat), tuple(threat.budgets)
        alive, right = self._probe.alive(threat), self._probe.right
        unit = {
            attack.needs: self._probe.price(
                Cell(threat, attack), Craft(attack, victim), sum(self._each(attack, attacked))
            )
            for attack in (plan.base, plan.weak[-1])
        }

        def cost(attacks: Sequence[Attack]) -> tuple[int, int, float]:
            """Sum passes, the judgments included, and seconds."""
            each = [self._each(attack, attacked) for attack in attacks]
            prices = [unit.get(attack.needs, unit["scores"]) for attack in attacks]
            spent = sum(price.of(sum(one)) for price, one in zip(prices, each, strict=True))
            return sum(one.forward + 1 for one in each), sum(one.backward for one in each), spent

        always, hard = cost([plan.quick]), cost([plan.base, plan.harder])
        unbroken, broken = cost(plan.weak), cost([plan.quick] if plan.doubled else [])
        forward, backward, seconds = (
            a + h + max(u, b) for a, h, u, b in zip(always, hard, unbroken, broken, strict=True)
        )
        expected = right * always[2] + alive * (hard[2] + unbroken[2]) + (right - alive) * broken[2]
        return Estimate(str(threat), DIAGNOSIS, 1, int(forward), int(backward), seconds, expected / seconds)

    def _each(self, attack: Attack, attacked: tuple[Modality, ...]) -> Passes:
        return self.passes(Craft(attack, self._run.victim), attacked)


def _draws(model: Victim) -> int:
    return model.draws if model.random else 1
