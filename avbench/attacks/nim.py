"""Nesterov iterative method: Lin et al., Nesterov Accelerated Gradient and Scale Invariance, ICLR 2020, eq. 6 to 8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.attacks import ATTACKS
from avbench.attacks.mim import MIM, l1_normalized

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.budget import Ball
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch, Modality


@ATTACKS.register("nim")
@dataclass(frozen=True)
class NIM(MIM):
    """Take MIM's gradient where the velocity leads: at x + step * eps * mu * |g|_1 * direction(g), then step from x.

    Departs from the paper: that looks ahead at x + step * eps * mu * g, with g a sum of gradients divided by their l1
    norm in its text and by their mean size in its code, which alone moves a long clip. Here the look-ahead has the mean
    size of the code's, along the norm's own direction (sign for linf, unit length for l2), so that it means the same
    for every budget and clip. It is projected: outside the box a model need not answer.
    """

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb with momentum and look-ahead, return the last iterate."""
        clips = batch.inputs
        velocity: dict[Modality, Tensor] = {}
        for _ in range(self.steps):
            ahead = clips._replace(
                **{m: self._ahead(region.balls[m], getattr(clips, m), g) for m, g in velocity.items()}
            )
            for modality, gradient in oracle.gradient(ahead).inputs.items():
                velocity[modality] = self.momentum * velocity.get(modality, 0.0) + l1_normalized(gradient)
            clips = region.ascend(clips, velocity, self.step)
        return clips

    def _ahead(self, ball: Ball, clip: Tensor, velocity: Tensor) -> Tensor:
        length = velocity.flatten(1).abs().sum(dim=1).view(-1, *[1] * (clip.dim() - 1))
        fraction = self.step * self.momentum * length
        return ball.ascend(clip, velocity, fraction)  # type: ignore[arg-type]  # it is only multiplied
