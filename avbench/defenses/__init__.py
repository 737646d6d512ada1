"""Defenses: one file each, found by `DEFENSES`. A defense says what training minimizes and may wrap the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from avbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avbench.types import Batch


class Defense(ABC):
    """Change how a model is trained; a subclass is a frozen dataclass whose fields are the recipe's parameters."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar to minimize for one batch, in nats."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model to train and to submit; inference-time parts belong inside it, differentiable."""
        return model


DEFENSES: Registry[type[Defense]] = Registry("avbench.defenses", "defense")
