"""Fast gradient sign method: Goodfellow et al., Explaining and Harnessing Adversarial Examples, 2014, eq. 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.attacks import ATTACKS, Attack, Cost, Setting

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch


@ATTACKS.register("fgsm")
@dataclass(frozen=True)
class FGSM(Attack):
    """Take one step of the whole radius: x + eps * sign(grad J), or along the normalized gradient for l2."""

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """One gradient, one step."""
        return region.ascend(batch.inputs, oracle.gradient(batch.inputs).inputs, 1.0)

    def cost(self, setting: Setting) -> Cost:
        """One forward and one backward pass."""
        return Cost(1, 1)
