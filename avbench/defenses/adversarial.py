"""Adversarial training: Madry et al., Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, eq. 2.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.attacks.pgd import PGD
from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.common import craft, linf_threat
from avbench.objectives import classification_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avbench.types import AVInput, Batch


@DEFENSES.register("adversarial-training")
@dataclass(frozen=True)
class AdversarialTraining(Defense):
    """Minimize the loss on PGD's clips of both modalities at once; steps are those of Madry, 2.5 radii over all."""

    radius_audio: float = 0.006  # of the threat, in input units, as in the preset `standard`
    radius_video: float = 0.006
    steps: int = 10

    def __post_init__(self) -> None:
        linf_threat(self.radius_audio, self.radius_video)
        climb(self.steps)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Mean over the batch; there are no clean clips in it."""
        return classification_loss(model(*self.clips(model, batch, moment)), batch.labels).mean()

    def clips(self, model: nn.Module, batch: Batch, moment: Moment) -> AVInput:
        """Craft from a random start."""
        return craft(model, batch, climb(self.steps), linf_threat(self.radius_audio, self.radius_video), moment)


def climb(steps: int) -> PGD:
    """PGD from a random start that can cross the ball, in steps of at most one radius."""
    return PGD(steps, step=min(1.0, 2.5 / max(steps, 1)), random_start=True)
