"""Both attacks of Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858), at once: eq. 4."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from avbench.attacks import ATTACKS, Cost, Setting
from avbench.attacks.mim import MIM
from avbench.attacks.mma import Alignment
from avbench.attacks.tia import Variance

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch


@ATTACKS.register("tma")
@dataclass(frozen=True)
class TMA(MIM):
    """Climb J = CE - l1 * L_T - l2 * L_M with momentum; see tia and mma for the terms and for what stands for CE.

    Raises:
        ValueError: as for tia.
    """

    l1: float = 1.0
    l2: float = 1.0
    copies: int = 3  # draws of transforms a step
    segments: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        Variance(self.l1, self.copies, self.segments)

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb J."""
        variance = Variance(self.l1, self.copies, self.segments)
        alignment = Alignment(self.l2, oracle, batch, region.attacked)
        return self.climb(
            oracle,
            batch,
            region,
            lambda number: chain(variance.terms(oracle, batch, region.attacked, rng, number), alignment.terms(number)),
        )

    def cost(self, setting: Setting) -> Cost:
        """One of each a step, and those of both terms."""
        once, each = Alignment.passes(self.l2, setting)
        each += 1 + Variance(self.l1, self.copies, self.segments).passes(setting)
        return Cost(once + self.steps * each, self.steps * each)
