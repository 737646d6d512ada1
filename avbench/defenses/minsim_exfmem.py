"""Both defenses of Tian & Xu, CVPR 2021 ([T21]), which their tables call ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.defenses import DEFENSES
from avbench.defenses.exfmem import ExFMem
from avbench.defenses.minsim import MinSim

if TYPE_CHECKING:
    from torch import nn

    from avbench.datasets.cards import Card


@DEFENSES.register("minsim-exfmem")
@dataclass(frozen=True)
class MinSimExFMem(MinSim, ExFMem):
    """Push denoised embeddings apart: the loss of MinSim through the memory of ExFMem."""

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Refuse a model without memory; avnet's embeddings have one size."""
        return ExFMem.wrap(self, model, card)
