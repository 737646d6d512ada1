"""External feature memory: Tian & Xu, CVPR 2021 ([T21]); the architecture has it, training fills it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from avbench.defenses import DEFENSES, Moment
from avbench.defenses.none import NoDefense
from avbench.errors import RecipeError
from avbench.models.exfmem import ExFMemNet
from avbench.types import MODALITIES

if TYPE_CHECKING:
    from torch import nn

    from avbench.datasets.cards import Card
    from avbench.defenses.common import Clips


@DEFENSES.register("exfmem")
@dataclass(frozen=True)
class ExFMem(NoDefense):
    """Train through a memory of clean embeddings, made anew after each epoch from the first clips of training.

    The released code keeps the embeddings of a network that was trained before. Here one training does both: a batch is
    coded over what the encoders made of the clips at the end of the last epoch, and the submitted memory is that of the
    submitted encoders.
    """

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Refuse a model without memory."""
        if not isinstance(model, ExFMemNet):
            raise RecipeError("this defense needs the architecture avnet-exfmem, which has a memory to fill")
        return model

    def study(self, model: nn.Module, train: Clips, val: Clips, moment: Moment) -> None:
        """Fill both memories with the embeddings of the first clips in canonical order, the same ones every time."""
        assert isinstance(model, ExFMemNet)
        if len(train.samples) < model.atoms:
            raise RecipeError(f"{model.atoms} atoms need as many training samples; there are {len(train.samples)}")
        batches = list(train.first(model.atoms))
        for modality in MODALITIES:
            found = [model.raw(modality, getattr(batch.inputs, modality)) for batch in batches]
            model.get_buffer(f"memory_{modality}").copy_(torch.cat(found))
