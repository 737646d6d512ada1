"""Modality misalignment attack: Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858), eq. 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from avbench.attacks import ATTACKS, Cost, Setting
from avbench.attacks.mim import MIM
from avbench.attacks.tia import unit
from avbench.types import MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.attacks.mim import Term
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch, Modality

OTHER: dict[Modality, Modality] = {"audio": "video", "video": "audio"}


@ATTACKS.register("mma")
@dataclass(frozen=True)
class MMA(MIM):
    """Climb J = CE - l2 * L_M with momentum: err by sound and sight that do not agree; see `Alignment`.

    Eq. 3 as printed reduces to 1 / (f_a . f_v), whose descent would raise alignment; text and reply to the reviewers
    say that it is to fall. The log-odds of error stand for CE, as in tia.
    """

    l2: float = 1.0

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb J."""
        return self.climb(oracle, batch, region, Alignment(self.l2, oracle, batch, region.attacked).terms)

    def cost(self, setting: Setting) -> Cost:
        """One of each a step, and those of L_M."""
        once, each = Alignment.passes(self.l2, setting)
        return Cost(once + self.steps * (1 + each), self.steps * (1 + each))


class Alignment:
    """L_M: the cosine of both embeddings, or how far both modalities alone predict the same.

    A model without embeddings, or with embeddings of different sizes, has no cosine; there it is the sum over classes
    of p_a * p_v, the probabilities (softmax; sigmoid if multi-label) with the other modality silenced. What depends on
    no attacked modality is computed once.
    """

    def __init__(self, weight: float, oracle: Oracle, batch: Batch, attacked: tuple[Modality, ...]) -> None:
        self.weight = weight
        self._oracle = oracle
        self._multilabel = batch.labels.dim() > 1
        if not weight:
            return
        with torch.no_grad():
            self._alike = oracle.two_stage and len({self._embedding(batch.inputs, m).shape for m in MODALITIES}) == 1
            still = () if self._alike else tuple(m for m in MODALITIES if m not in attacked)
            self._fixed = {m: self._prediction(batch.inputs, m) for m in still}

    def terms(self, number: int) -> Iterator[Term]:
        """Give -weight * L_M, the same in every step."""
        if self.weight:
            yield lambda clips: -self.weight * self(clips)

    def __call__(self, clips: AVInput) -> Tensor:
        """L_M per sample, (batch,)."""
        if self._alike:
            audio, video = (unit(self._embedding(clips, m)) for m in MODALITIES)
        else:
            audio, video = (self._fixed[m] if m in self._fixed else self._prediction(clips, m) for m in MODALITIES)
        return (audio * video).sum(dim=1)

    @staticmethod
    def passes(weight: float, setting: Setting) -> tuple[int, int]:
        """Count forward passes made once, and passes either way a step, through the part that makes most."""
        if not weight:
            return 0, 0
        if setting.two_stage and setting.alike:
            return 1, 1
        silent = len(MODALITIES) - len(setting.attacked)
        return setting.two_stage + silent, len(setting.attacked)

    def _embedding(self, clips: AVInput, modality: Modality) -> Tensor:
        return self._oracle.embed(clips, modality).flatten(1)

    def _prediction(self, clips: AVInput, modality: Modality) -> Tensor:
        logits = self._oracle.look(clips, silenced=OTHER[modality])
        return logits.sigmoid() if self._multilabel else logits.softmax(dim=1)
