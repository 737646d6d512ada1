"""Gradient blending: Wang et al., What Makes Training Multi-Modal Classification Networks Hard?, CVPR 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.common import STUDIED, Clips, Wrapped, embedding_sizes, stages
from avbench.errors import RecipeError
from avbench.objectives import classification_loss
from avbench.types import MODALITIES

if TYPE_CHECKING:
    from avbench.datasets.cards import Card
    from avbench.types import Batch, Modality

SMALLEST_GAP = 0.01  # nats; less is noise, and its inverse square would outweigh everything


@DEFENSES.register("g-blend")
@dataclass(frozen=True)
class GBlend(Defense):
    """Minimize the weighted losses of an audio head, a video head and the model itself; see `blend` for the weights.

    Weights are estimated after each epoch from the beginning of this run until then, on at most 1,000 clips of training
    and of val. The paper trains each branch alone to estimate them, which costs several runs.
    """

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Add the two heads, which are not submitted."""
        return _WithHeads(model, embedding_sizes(model, card, "g-blend"), len(card.classes))

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Mean over the batch; all three weights are 1/3 in the first epoch."""
        assert isinstance(model, _WithHeads)
        return (model.weights * model.losses(batch)).sum()

    def study(self, model: nn.Module, train: Clips, val: Clips, moment: Moment) -> None:
        """Measure how all three learn and overfit."""
        assert isinstance(model, _WithHeads)
        if not val.samples:
            raise RecipeError(f"defense g-blend measures overfitting on val clips; {val.card.name} has none")
        now = torch.stack([_mean(model, train), _mean(model, val)])
        if model.start.isnan().any():
            model.start.copy_(now)
        model.weights.copy_(blend(model.start, now, model.weights))


class _WithHeads(Wrapped):
    start: Tensor  # (train and val, audio and video and joint) losses before the first epoch, in nats
    weights: Tensor  # (audio and video and joint)

    def __init__(self, base: nn.Module, sizes: dict[Modality, int], classes: int) -> None:
        super().__init__(base)
        self.heads = nn.ModuleDict({m: nn.Linear(n, classes) for m, n in sizes.items()})
        self.register_buffer("start", torch.full((2, 3), torch.nan))
        self.register_buffer("weights", torch.full((3,), 1 / 3))

    def losses(self, batch: Batch) -> Tensor:
        """Mean losses of audio, video and joint, (3,)."""
        found = stages(self.base, batch.inputs)
        answers = [*(self.heads[m](getattr(found, m).flatten(1)) for m in MODALITIES), found.logits]
        return torch.stack([classification_loss(logits, batch.labels).mean() for logits in answers])


def blend(start: Tensor, now: Tensor, before: Tensor) -> Tensor:
    """Weights of sum 1 in proportion to G / O^2, the least overfitting for the learning (proposition 1).

    G is how far the loss on val fell, O how far the gap between val and train grew. Who has not learned gets 0; if none
    has, the weights stay.

    Args:
        start: (train and val, heads) losses in nats.
        now: the same, later.
        before: (heads,) weights until now.
    """
    learned = (start[1] - now[1]).clamp_min(0)
    grown = ((now[1] - now[0]) - (start[1] - start[0])).abs().clamp_min(SMALLEST_GAP)
    ratio = learned / grown.square()
    return ratio / ratio.sum() if ratio.sum() > 0 else before


def _mean(model: _WithHeads, clips: Clips) -> Tensor:
    found = [(model.losses(batch) * len(batch.ids), len(batch.ids)) for batch in clips.first(STUDIED)]
    return torch.stack([total for total, _ in found]).sum(dim=0) / sum(n for _, n in found)
