"""The worst of several clips, sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avbench.types import AVInput

if TYPE_CHECKING:
    from torch import Tensor


class Worst:
    """Keep, sample by sample, the worst clip of all that were offered; the first one wins a tie."""

    clips: AVInput

    def __init__(self) -> None:
        self._badness: Tensor | None = None

    def offer(self, clips: AVInput, badness: Tensor) -> None:
        """Keep those that are worse for the model than what was kept, by `avbench.objectives.badness` (batch,)."""
        if self._badness is None:
            self.clips, self._badness = clips, badness
            return
        worse = badness > self._badness
        self._badness = badness.where(worse, self._badness)
        self.clips = AVInput(*(choose(worse, new, old) for new, old in zip(clips, self.clips, strict=True)))


def choose(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Take the chosen samples, (batch,) bool, from one tensor and the others from another, both (batch, ...)."""
    return new.where(chosen.view(-1, *[1] * (new.dim() - 1)), old)
