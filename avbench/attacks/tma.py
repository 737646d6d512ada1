"""Both attacks of Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858), at once: eq. 4."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from avbench.attacks import ATTACKS, Cost, Setting
from avbench.attacks.mma import Alignment
from avbench.attacks.tia import TIA

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch


@ATTACKS.register("tma")
@dataclass(frozen=True)
class TMA(TIA):
    """Climb J = CE - l1 * L_T - l2 * L_M with momentum; see tia and mma for the terms and for what stands for CE.

    Raises:
        ValueError: as for tia.
    """

    l2: float = 1.0

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb J."""
        alignment = Alignment(self.l2, oracle, batch, region.attacked)
        return self.climb(
            oracle,
            batch,
            region,
            lambda number: chain(
                self.variance.terms(oracle, batch, region.attacked, rng, number), alignment.terms(number)
            ),
        )

    def cost(self, setting: Setting) -> Cost:
        """Those of tia, and those of L_M."""
        once, each = Alignment.passes(self.l2, setting)
        forward, backward = super().cost(setting)
        return Cost(once + forward + self.steps * each, backward + self.steps * each)
