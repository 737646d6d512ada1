"""Masked segments: a corruption after Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858), section 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from avbench.attacks import ATTACKS, Attack, Cost, Setting
from avbench.types import MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch


@ATTACKS.register("mask")
@dataclass(frozen=True)
class Mask(Attack):
    """Silence a share of a clip's time: zeros in round(ratio * segments) random segments of audio and video.

    In mode `sync` both streams lose the same segments, in mode `async` each loses its own, drawn independently. What
    lies in the middle of a segment decides: a frame is black if the segment that holds its middle is masked, so a clip
    of few frames loses the ratio only on average. A larger ratio masks more of the same clip, never other segments.

    A corruption, not an attack: it looks at no model and has no budget. Its rows have the threat `clean`, as those of
    silenced clips, so no budget is checked and no robust accuracy depends on it.

    Raises:
        ValueError: if the ratio is not in [0, 1], `segments` is below 1, or there is no such mode.
    """

    needs: ClassVar[Literal["gradients", "scores", "nothing"]] = "nothing"
    ratio: float = 0.3
    segments: int = 10
    mode: str = "sync"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1 or self.segments < 1 or self.mode not in ("sync", "async"):
            raise ValueError("ratio must lie in [0, 1], segments be at least 1, mode be sync or async")

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Corrupt the clips, whatever the region."""
        return self.corrupt(batch.inputs, rng)

    def corrupt(self, clips: AVInput, rng: Rng) -> AVInput:
        """Mask segments of each clip."""
        masked = {}
        for modality in MODALITIES:
            clip: Tensor = getattr(clips, modality)
            purpose = "segments" if self.mode == "sync" else f"segments/{modality}"
            drawn = rng.uniform(clip.new_empty(len(clip), self.segments), purpose)
            kept = drawn.argsort(dim=1, stable=True).argsort(dim=1) >= round(self.ratio * self.segments)
            time = clip.shape[1]
            segment = (2 * torch.arange(time, device=clip.device) + 1) * self.segments // (2 * time)
            masked[modality] = clip * kept[:, segment].view(len(clip), time, *[1] * (clip.dim() - 2))
        return clips._replace(**masked)

    def cost(self, setting: Setting) -> Cost:
        """None."""
        return Cost(0, 0)
