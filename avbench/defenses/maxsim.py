"""Audio-visual similarity: Tian & Xu, CVPR 2021 ([T21]); the opposite of MinSim, which they compare it with."""

from __future__ import annotations

from dataclasses import dataclass

from avbench.defenses import DEFENSES
from avbench.defenses.minsim import MinSim


@DEFENSES.register("maxsim")
@dataclass(frozen=True)
class MaxSim(MinSim):
    """Minimize CE - cosine(f_a, f_v): MinSim with the weight -1."""

    weight: float = -1.0
