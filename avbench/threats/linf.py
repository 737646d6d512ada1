"""The l-infinity budget, in input units or in units of ImageNet-normalized pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from avbench.errors import BadBudget
from avbench.threats import BUDGETS
from avbench.threats.budget import Ball, Budget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from avbench.rng import Rng
    from avbench.threats.budget import Box
    from avbench.types import Modality

IMAGENET_STD = (0.229, 0.224, 0.225)


@BUDGETS.register("linf")
@dataclass(frozen=True)
class Linf(Budget):
    """Bound the largest change of any sample of the waveform or any pixel."""

    norm: ClassVar[str] = "linf"

    def check_fits(self, modality: Modality) -> None:
        """Refuse a radius larger than the box: 2 for audio, 1 for video."""
        width = {"audio": 2.0, "video": 1.0}[modality]
        if self.radius > width:
            raise BadBudget(f"linf radius {self.radius} is larger than the whole range of {modality}, {width}")

    def units(self, clean: Tensor) -> Tensor:
        """Size of one unit of the radius in input units, broadcastable to `clean`, float64."""
        return clean.new_ones(1).double()

    def ball(self, clean: Tensor, box: Box) -> LinfBall:
        """Return the legal clips around clean ones."""
        return LinfBall(self, clean, box)

    def length(self, change: NDArray[np.int64]) -> int:
        """Largest change."""
        return int(change.max())


@BUDGETS.register("linf-normalized")
@dataclass(frozen=True)
class LinfNormalized(Linf):
    """Bound pixels after ImageNet normalization: radius times the channel's standard deviation (spec erratum 2)."""

    norm: ClassVar[str] = "linf-normalized"

    def check_fits(self, modality: Modality) -> None:
        """Refuse audio, which has no channels to normalize, and a radius larger than the box."""
        if modality == "audio":
            raise BadBudget("linf-normalized is a budget of video; audio has no ImageNet normalization")
        if self.radius * min(IMAGENET_STD) > 1:
            raise BadBudget(f"linf-normalized radius {self.radius} is larger than the whole range of video")

    def units(self, clean: Tensor) -> Tensor:
        """Return standard deviation of each channel."""
        return clean.new_tensor(IMAGENET_STD).double().view(3, 1, 1)

    def length(self, change: NDArray[np.int64]) -> int:
        """Largest change of any channel over its standard deviation."""
        largest: list[int] = change.max(axis=(0, 2, 3)).tolist()  # of (frames, channels, height, width)
        return max(math.ceil(one / Fraction(std)) for one, std in zip(largest, IMAGENET_STD, strict=True))


class LinfBall(Ball):
    """Precompute the lowest and highest legal clip, so that projecting is one clamp and is exact."""

    budget: Linf

    def __init__(self, budget: Linf, clean: Tensor, box: Box) -> None:
        super().__init__(budget, clean, box)
        self.units = budget.units(clean)
        self.low = self._bound(-1.0).clamp_min(box[0])
        self.high = self._bound(1.0).clamp_max(box[1])

    def project(self, clip: Tensor) -> Tensor:
        """Clamp between the lowest and the highest legal clip."""
        return clip.clamp(self.low, self.high)

    def ascend(self, clip: Tensor, gradient: Tensor, fraction: float) -> Tensor:
        """Step along the sign of the gradient."""
        step = (fraction * self.budget.radius * self.units).to(clip.dtype)
        return self.project(clip + step * gradient.sign())

    def sample(self, rng: Rng, purpose: str) -> Tensor:
        """Uniform in the cube."""
        noise = 2 * rng.uniform(self.clean, purpose) - 1
        return self.project(self.clean + (self.budget.radius * self.units).to(noise.dtype) * noise)

    def distance(self, clip: Tensor) -> Tensor:
        """Largest change in units of the radius, float64."""
        return ((clip.double() - self.clean.double()).abs() / self.units).flatten(1).amax(dim=1)

    def _bound(self, side: float) -> Tensor:
        # Round toward the clean clip until the float64 distance, measured as `distance` does, is within the radius.
        bound = (self.clean.double() + side * self.budget.radius * self.units).to(self.clean.dtype)
        inward = self.clean.new_full((), -side * math.inf)
        while (outside := (bound.double() - self.clean.double()).abs() / self.units > self.budget.radius).any():
            bound = bound.nextafter(inward).where(outside, bound)
        return bound
