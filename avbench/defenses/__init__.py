"""Defenses: one file each, found by `DEFENSES`. A defense says what training minimizes and may wrap the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from avbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avbench.datasets.cards import Card
    from avbench.defenses.common import Clips
    from avbench.rng import Rng
    from avbench.types import Batch


class Moment(NamedTuple):
    """When in a training run something happens, and the randomness that belongs to it."""

    progress: float  # share of the training that is done, in [0, 1]
    classes: int
    rng: Rng  # of a batch's samples in this epoch; there must be no other


class Defense(ABC):
    """Change how a model is trained; a subclass is a frozen dataclass whose fields are the recipe's parameters.

    What it must remember between steps is a parameter or buffer of the model that `wrap` returns, so that a training
    that was stopped continues to the same weights.
    """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Scalar to minimize for one batch, in nats; `model` is what `wrap` returned, in training mode."""

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Return the model to train: the one to submit, or a `Wrapped` around it with parts that only training needs.

        Raises:
            RecipeError: if the defense cannot train this model for this dataset.
        """
        return model

    def study(self, model: nn.Module, train: Clips, val: Clips, moment: Moment) -> None:
        """Look at clean clips before the first epoch and after each, in eval mode and without gradients."""


DEFENSES: Registry[type[Defense]] = Registry("avbench.defenses", "defense")
