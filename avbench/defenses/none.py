"""Plain training: the undefended baseline that every Robustness Improvement is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.defenses import DEFENSES, Defense, Moment
from avbench.objectives import classification_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avbench.types import Batch


@DEFENSES.register("none")
@dataclass(frozen=True)
class NoDefense(Defense):
    """Minimize the mean classification loss on clean clips."""

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Mean cross-entropy, or binary cross-entropy summed over classes."""
        return classification_loss(model(*batch.inputs), batch.labels).mean()
