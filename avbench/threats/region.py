"""The legal clips of a threat model around one batch: the set an attack searches and the runner polices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from avbench.errors import BudgetViolation
from avbench.threats import ThreatModel
from avbench.threats.budget import Ball
from avbench.types import BOX, MODALITIES, AVInput, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.rng import Rng


class Region:
    """Bind a threat model to clean clips. Every method works on the attacked modalities and leaves the other alone."""

    def __init__(self, threat: ThreatModel, clean: AVInput) -> None:
        self.threat = threat
        self.clean = clean
        self.balls: dict[Modality, Ball] = {
            modality: budget.ball(getattr(clean, modality), BOX[modality])
            for modality, budget in threat.budgets.items()
        }

    @property
    def attacked(self) -> tuple[Modality, ...]:
        """Modalities with a budget."""
        return tuple(self.balls)

    def project(self, clips: AVInput) -> AVInput:
        """Return the nearest legal clips."""
        return clips._replace(**{m: ball.project(getattr(clips, m)) for m, ball in self.balls.items()})

    def ascend(self, clips: AVInput, gradient: Mapping[Modality, Tensor], fraction: float) -> AVInput:
        """Step `fraction` of each radius along each norm's steepest ascent direction, then project."""
        moved = {m: ball.ascend(getattr(clips, m), gradient[m], fraction) for m, ball in self.balls.items()}
        return clips._replace(**moved)

    def sample(self, rng: Rng, purpose: str) -> AVInput:
        """Random legal clips."""
        drawn = {m: ball.sample(rng, f"{purpose}/{m}") for m, ball in self.balls.items()}
        return self.clean._replace(**drawn)

    def check(self, clips: AVInput, ids: tuple[str, ...], attack: str) -> None:
        """Refuse clips outside the threat set; measured in float64, without tolerance, never repaired.

        Raises:
            BudgetViolation: naming the attack, the first such sample and by how much it is outside.
        """
        for modality in MODALITIES:
            clip, clean = getattr(clips, modality), getattr(self.clean, modality)
            if clip.shape != clean.shape or clip.dtype != clean.dtype:
                raise BudgetViolation(
                    f"{attack} returned {modality} {tuple(clip.shape)} {clip.dtype}, "
                    f"it was given {tuple(clean.shape)} {clean.dtype}"
                )
            if ball := self.balls.get(modality):
                excess = ball.excess(clip)
            else:
                excess = (clip.double() - clean.double()).flatten(1).abs().amax(dim=1).nan_to_num(nan=torch.inf)
            if (excess > 0).any():
                worst = int(excess.argmax())
                raise BudgetViolation(
                    f"{attack} left {self.threat}: the {modality} of sample {ids[worst]} is {float(excess[worst]):.3g} "
                    "outside its budget or box; mend the attack, the runner never clips"
                )
