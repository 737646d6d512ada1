"""The l2 budget: energy of the perturbation of one clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from avbench.threats import BUDGETS
from avbench.threats.budget import Ball, Budget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from avbench.rng import Rng
    from avbench.threats.budget import Box

SHRINK = 1 - 1e-6  # keeps float32 rounding of the scaled perturbation inside the ball


@BUDGETS.register("l2")
@dataclass(frozen=True)
class L2(Budget):
    """Bound the root of the sum of squares of a clip's perturbation."""

    norm: ClassVar[str] = "l2"

    def ball(self, clean: Tensor, box: Box) -> L2Ball:
        """Return the legal clips around clean ones."""
        return L2Ball(self, clean, box)

    def length(self, change: NDArray[np.int64]) -> int:
        """Root of the sum of squares; the sum is exact, since Python's integers have no end."""
        total = sum(one * one for one in change.ravel().tolist())
        return math.isqrt(total - 1) + 1 if total else 0


class L2Ball(Ball):
    """Scale the perturbation into the ball, then clamp to the box.

    The clean clip lies in the box, so clamping only shortens the perturbation: the result is in both.
    """

    def project(self, clip: Tensor) -> Tensor:
        """Scale back to the radius, clamp to the box."""
        shrink = 1.0
        result = clip.clamp(*self.box)
        while (outside := self.distance(result) > self.budget.radius).any():
            shrink *= SHRINK
            delta = clip - self.clean
            length = _norm(delta).clamp_min(self.budget.radius)
            scaled = (self.clean + delta * (shrink * self.budget.radius / length).to(delta.dtype)).clamp(*self.box)
            result = scaled.where(_as(outside, clip), result)
            if shrink < 0.999:  # a radius near the resolution of float32 itself
                result = self.clean.where(_as(outside, clip), result)
        return result

    def ascend(self, clip: Tensor, gradient: Tensor, fraction: float) -> Tensor:
        """Step along the gradient, normalized per sample."""
        length = _norm(gradient)
        direction = gradient.double() / length.where(length > 0, 1.0)
        return self.project(clip + (fraction * self.budget.radius * direction).to(clip.dtype))

    def sample(self, rng: Rng, purpose: str) -> Tensor:
        """Uniform in the ball: a normal direction, the radius to the power of one over the dimension."""
        direction = rng.normal(self.clean, purpose).double()
        size = rng.uniform(self.clean.flatten(1)[:, :1], f"{purpose}/size").double() ** (1 / self.clean[0].numel())
        unit = direction / _norm(direction).clamp_min(1e-30)
        return self.project(self.clean + (self.budget.radius * _as(size.flatten(), direction) * unit).to(self.clean))

    def distance(self, clip: Tensor) -> Tensor:
        """Euclidean distance, float64."""
        return _norm(clip.double() - self.clean.double()).flatten()


def _as(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _norm(x: Tensor) -> Tensor:
    return _as(x.double().flatten(1).norm(dim=1), x)
