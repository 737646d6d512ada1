"""What a budget is: a norm and a radius around a clean clip, inside the box of legal inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from avbench.errors import BadBudget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from avbench.rng import Rng
    from avbench.types import Modality

    Box = tuple[float, float]


@dataclass(frozen=True)
class Budget(ABC):
    """Bound a perturbation of one modality: `norm` and `radius`, in input units.

    Raises:
        BadBudget: if the radius is negative, NaN or infinite.
    """

    radius: float
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise BadBudget(f"a radius is a number of at least 0, not {self.radius}")

    def check_fits(self, modality: Modality) -> None:
        """Refuse a radius that means nothing for a modality.

        Raises:
            BadBudget: with the largest sensible radius.
        """

    def contains(self, other: Budget) -> bool:
        """Tell whether every perturbation that `other` allows is allowed here."""
        return type(self) is type(other) and other.radius <= self.radius

    @abstractmethod
    def ball(self, clean: Tensor, box: Box) -> Ball:
        """Return the legal clips around clean ones, (batch, ...) float32."""

    @abstractmethod
    def length(self, change: NDArray[np.int64]) -> int:
        """Length in this norm of the absolute change of one clip, exact, in the same units, rounded up to a whole."""

    def __str__(self) -> str:
        return f"{self.norm}:{self.radius!r}"


class Ball(ABC):
    """The legal clips of one modality around one batch of clean clips: inside the budget and inside the box.

    What `project` returns is inside exactly, as `excess` measures it in float64: no tolerance is needed anywhere.
    """

    def __init__(self, budget: Budget, clean: Tensor, box: Box) -> None:
        self.budget = budget
        self.clean = clean
        self.box = box

    @abstractmethod
    def project(self, clip: Tensor) -> Tensor:
        """Return the nearest legal clip."""

    @abstractmethod
    def ascend(self, clip: Tensor, gradient: Tensor, fraction: float) -> Tensor:
        """Step `fraction` of the radius along the norm's steepest ascent direction, then project."""

    @abstractmethod
    def sample(self, rng: Rng, purpose: str) -> Tensor:
        """Return a random legal clip, uniform over the budget before the box cuts it."""

    @abstractmethod
    def distance(self, clip: Tensor) -> Tensor:
        """Distance to the clean clip in the budget's norm and units, (batch,) float64."""

    def excess(self, clip: Tensor) -> Tensor:
        """How far each clip lies outside the budget or the box, (batch,) float64; 0 is legal, NaN is infinite."""
        low, high = self.box
        flat = clip.double().flatten(1)
        outside = (flat - high).clamp_min(low - flat).amax(dim=1).clamp_min(0)
        too_far = (self.distance(clip) - self.budget.radius).clamp_min(0)
        return (outside + too_far).nan_to_num(nan=math.inf)
