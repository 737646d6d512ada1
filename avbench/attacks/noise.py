"""Random sign noise: the sanity baseline of Carlini et al., On Evaluating Adversarial Robustness, 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from avbench.attacks import ATTACKS, Attack, Cost, Setting
from avbench.attacks.worst import Worst

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch


@ATTACKS.register("noise")
@dataclass(frozen=True)
class Noise(Attack):
    """Try random corners of the threat set and keep the one with the smallest margin.

    Noise that does better than a gradient attack means that the gradients are masked.

    Raises:
        ValueError: if `draws` is below 1.
    """

    needs: ClassVar[Literal["gradients", "scores", "nothing"]] = "scores"
    draws: int = 20

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be at least 1")

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Draw, look, keep the worst."""
        worst = Worst()
        for draw in range(self.draws):
            signs = {m: rng.signs(getattr(batch.inputs, m), f"draw {draw}/{m}") for m in region.attacked}
            clips = region.ascend(batch.inputs, signs, 1.0)
            worst.offer(clips, oracle.badness(clips))
        return worst.clips

    def cost(self, setting: Setting) -> Cost:
        """One forward a draw."""
        return Cost(self.draws, 0)
