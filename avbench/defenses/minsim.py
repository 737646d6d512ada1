"""Audio-visual dissimilarity: Tian & Xu, CVPR 2021 ([T21]); MinSim pushes the two embeddings apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.common import embedding_sizes, stages
from avbench.errors import RecipeError
from avbench.objectives import classification_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avbench.datasets.cards import Card
    from avbench.types import Batch


@DEFENSES.register("minsim")
@dataclass(frozen=True)
class MinSim(Defense):
    """Minimize CE + weight * cosine(f_a, f_v), so that one modality's perturbation says nothing of the other."""

    weight: float = 1.0

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Refuse a model whose embeddings cannot be compared."""
        sizes = embedding_sizes(model, card, DEFENSES.name_of(type(self)))
        if sizes["audio"] != sizes["video"]:
            raise RecipeError(
                f"defense {DEFENSES.name_of(type(self))} compares embeddings; those of this architecture have "
                f"{sizes['audio']} and {sizes['video']} dimensions"
            )
        return model

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Means over the batch."""
        found = stages(model, batch.inputs)
        similarity = F.cosine_similarity(found.audio.flatten(1), found.video.flatten(1), dim=1).mean()
        return classification_loss(found.logits, batch.labels).mean() + self.weight * similarity
