"""Prototype conformity loss: Mustafa et al., Adversarial Defense by Restricting the Hidden Space, ICCV 2019, eq. 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.common import Wrapped, embedding_sizes, one_label, stages
from avbench.objectives import classification_loss
from avbench.types import MODALITIES

if TYPE_CHECKING:
    from avbench.datasets.cards import Card
    from avbench.types import Batch, Modality


@DEFENSES.register("pcl")
@dataclass(frozen=True)
class PCL(Defense):
    """Minimize CE + weight * sum of `conformity` over both embeddings, each with a learned prototype of every class.

    Embeddings and prototypes have unit length here: as printed, the term that pushes prototypes apart has no lower
    bound. Beside CE the loss is there from the first step on.
    """

    weight: float = 1.0

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Add prototypes, which are not submitted."""
        one_label(card, "pcl")
        return _WithPrototypes(model, embedding_sizes(model, card, "pcl"), len(card.classes))

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Means over the batch."""
        assert isinstance(model, _WithPrototypes)
        found = stages(model.base, batch.inputs)
        total = classification_loss(found.logits, batch.labels).mean()
        for modality in MODALITIES:
            total = total + self.weight * conformity(
                getattr(found, modality).flatten(1), batch.labels, model.prototypes[modality]
            )
        return total


class _WithPrototypes(Wrapped):
    def __init__(self, base: nn.Module, sizes: dict[Modality, int], classes: int) -> None:
        super().__init__(base)
        self.prototypes = nn.ParameterDict({m: nn.Parameter(torch.randn(classes, n)) for m, n in sizes.items()})


def conformity(features: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Mean of |f - w_y|^2 - mean over j != y of (|f - w_j|^2 + |w_y - w_j|^2), all of unit length.

    Args:
        features: (batch, dimension).
        labels: (batch,).
        prototypes: (classes, dimension).
    """
    features, prototypes = F.normalize(features, dim=1), F.normalize(prototypes, dim=1)
    far = (features[:, None] - prototypes).square().sum(dim=2)  # (batch, classes)
    apart = (prototypes[labels][:, None] - prototypes).square().sum(dim=2)
    own = F.one_hot(labels, len(prototypes)).bool()
    others = (far + apart).masked_fill(own, 0).sum(dim=1) / (len(prototypes) - 1)
    return (far[own] - others).mean()
