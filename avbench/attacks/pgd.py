"""Projected gradient descent: Madry et al., 2017; steps of eps/8 from the clean clip as in Tian & Xu, 2021, A.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.attacks import ATTACKS, Attack, Cost, Setting
from avbench.attacks.worst import Worst

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch


@ATTACKS.register("pgd")
@dataclass(frozen=True)
class PGD(Attack):
    """Repeat x <- project(x + step * eps * sign(grad J)).

    With one restart the last iterate is returned, as in the paper; with more, the iterate of the restart that
    leaves the smallest margin. The first restart begins at the clean clip unless `random_start`; the others at
    random points of the threat set.

    Raises:
        ValueError: if a count is below 1 or the step is not in (0, 2].
    """

    steps: int = 10
    step: float = 0.125  # of the radius
    restarts: int = 1
    random_start: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or not 0 < self.step <= 2:
            raise ValueError("steps and restarts must be at least 1, step above 0 and at most 2 radii")

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb from each start, keep the worst."""
        worst = Worst()
        for restart in range(self.restarts):
            random = self.random_start or restart > 0
            clips = region.sample(rng, f"restart {restart}") if random else batch.inputs
            for _ in range(self.steps):
                clips = region.ascend(clips, oracle.gradient(clips).inputs, self.step)
            if self.restarts == 1:
                return clips
            worst.offer(clips, oracle.badness(clips))
        return worst.clips

    def cost(self, setting: Setting) -> Cost:
        """One of each a step, and one forward to compare restarts."""
        compare = self.restarts if self.restarts > 1 else 0
        return Cost(self.steps * self.restarts + compare, self.steps * self.restarts)
