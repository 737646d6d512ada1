"""Universal perturbation: Li et al., ICASSP 2022 ([L22], arXiv 2203.12122), `delta_global` in the released code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from avbench.attacks import ATTACKS, Attack, Cost, Setting
from avbench.errors import BadOption
from avbench.threats.region import Region

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats import ThreatModel
    from avbench.types import AVInput, Batch, Modality

    Perturbation = Mapping[Modality, Tensor]  # of each attacked modality, (1, ...), inside the budget around zero

NO_BOX = (-math.inf, math.inf)


@ATTACKS.register("universal")
@dataclass(frozen=True)
class Universal(Attack):
    """Lay one perturbation on every clip, fitted on the dataset's val split (train if it has none), scored on another.

        d <- project(d + mean_i project(d + 0.1 * eps * sign(grad J(x_i + d))))

    once an epoch, from d = 0, over all clips x_i of the fitting split; `project` is onto the budget. As in the released
    code the mean of the projected perturbations is added to the last one, so what clips agree on doubles each epoch.
    (That mean alone moves by 0.1 eps times how far clips agree: on synthav by 8 % of the radius in 20 epochs.)

    Departs from the released code: it never projects the sum, which leaves the ball; it adds the share of each shuffled
    batch at once, so that its result depends on the batches; its step is the radius (spec section 3 sets a tenth).

    Raises:
        ValueError: if `epochs` is below 1 or the step is not in (0, 2].
    """

    epochs: int = 20
    step: float = 0.1  # of the radius

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.step <= 2:
            raise ValueError("epochs must be at least 1, step above 0 and at most 2 radii")

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Refuse: a run fits it first, see avbench.crafting.

        Raises:
            BadOption: always.
        """
        raise BadOption(f"{self} has to be fitted on a split first; use it in `avbench evaluate`")

    def cost(self, setting: Setting) -> Cost:
        """None a sample; the fit is counted apart."""
        return Cost(0, 0)

    def epoch(
        self, perturbation: Perturbation, threat: ThreatModel, looks: Iterable[tuple[Oracle, Batch]]
    ) -> Perturbation:
        """Improve a perturbation by one pass over the fitting split.

        Args:
            perturbation: what the last epoch gave, zeros before the first.
            threat: whose budgets bound it.
            looks: the fitting split in batches of any size, each with its oracle.
        """
        balls = {m: budget.ball(torch.zeros_like(perturbation[m]), NO_BOX) for m, budget in threat.budgets.items()}
        total = {m: torch.zeros_like(d, dtype=torch.float64) for m, d in perturbation.items()}
        count = 0
        for oracle, batch in looks:
            gradient = oracle.gradient(_laid(perturbation, Region(threat, batch.inputs))).inputs
            for m, ball in balls.items():
                moved = ball.ascend(perturbation[m].expand_as(gradient[m]), gradient[m], self.step)
                total[m] += moved.double().sum(dim=0, keepdim=True)
            count += len(batch.ids)
        return {m: ball.project(perturbation[m] + (total[m] / count).float()) for m, ball in balls.items()}


@dataclass(frozen=True)
class Fitted(Attack):
    """Lay a fitted perturbation on clips."""

    needs: ClassVar[Literal["gradients", "scores", "nothing"]] = "nothing"
    perturbation: Perturbation

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Add, project."""
        return _laid(self.perturbation, region)

    def cost(self, setting: Setting) -> Cost:
        """None."""
        return Cost(0, 0)


def _laid(perturbation: Perturbation, region: Region) -> AVInput:
    moved = {m: getattr(region.clean, m) + perturbation[m] for m in region.attacked}
    return region.project(region.clean._replace(**moved))
