"""Adversarial curriculum training: Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from avbench.attacks.mask import Mask
from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.adversarial import climb
from avbench.defenses.common import craft, embedding_sizes, linf_threat
from avbench.objectives import classification_loss
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch, TwoStageModel

if TYPE_CHECKING:
    from avbench.datasets.cards import Card
    from avbench.rng import Rng


class Level(NamedTuple):
    """How hard training is at a moment."""

    steps: int  # of PGD
    mask: float  # share of time that is silent and black, in both streams at once
    dropout: float  # share of both embeddings that is zero


@DEFENSES.register("adversarial-curriculum")
@dataclass(frozen=True)
class AdversarialCurriculum(Defense):
    """Adversarial training that begins easy, with one step, nothing masked, nothing dropped, and crafts on few frames.

    PGD sees a random share of each clip's frames and the whole waveform, which has no frames to leave out; a frame that
    it did not see gets the perturbation of the nearest one that it saw, projected into its own ball. The clips are then
    masked. Steps, masking ratio and dropout ratio rise together from 1, 0 and 0 to what is given here.
    """

    radius_audio: float = 0.006  # in input units, as in the preset `standard`
    radius_video: float = 0.006
    frames: float = 0.25  # share of frames that are crafted on, at least one; [Z25] has 0.1 to 0.4
    steps: int = 10
    mask: float = 0.3
    dropout: float = 0.3
    schedule: str = "linear"  # or cosine

    def __post_init__(self) -> None:
        linf_threat(self.radius_audio, self.radius_video)
        climb(self.steps)
        if not (0 < self.frames <= 1 and 0 <= self.mask < 1 and 0 <= self.dropout < 1):
            raise ValueError("frames must be in (0, 1], mask and dropout in [0, 1)")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule must be linear or cosine, not {self.schedule!r}")

    def level(self, progress: float) -> Level:
        """Rise linearly, or along half a cosine: slowly, fast, slowly."""
        share = progress if self.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return Level(round(1 + share * (self.steps - 1)), share * self.mask, share * self.dropout)

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Refuse a model without embeddings to drop from."""
        embedding_sizes(model, card, "adversarial-curriculum")
        return model

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Mean over the batch of adversarial, masked clips with dropout."""
        assert isinstance(model, TwoStageModel)
        level = self.level(moment.progress)
        clips = Mask(level.mask).corrupt(self.clips(model, batch, moment), moment.rng)
        embedded = [
            _drop(getattr(model, f"encode_{m}")(getattr(clips, m)), level.dropout, moment.rng, m) for m in MODALITIES
        ]
        return classification_loss(model.fuse(*embedded), batch.labels).mean()

    def clips(self, model: nn.Module, batch: Batch, moment: Moment) -> AVInput:
        """Craft on some frames, share with the rest."""
        threat, video = linf_threat(self.radius_audio, self.radius_video), batch.inputs.video
        seen = sampled(len(batch.ids), video.shape[1], self.frames, moment.rng).to(video.device)
        row = torch.arange(len(video), device=video.device)[:, None]
        few = replace(batch, inputs=batch.inputs._replace(video=video[row, seen]))
        found = craft(model, few, climb(self.level(moment.progress).steps), threat, moment)
        time = torch.arange(video.shape[1], device=video.device)
        nearest = (time[None, :, None] - seen[:, None, :]).abs().argmin(dim=2)  # (batch, frames)
        shared = video + (found.video - few.inputs.video)[row, nearest]
        return Region(threat, batch.inputs).project(AVInput(found.audio, shared))


def sampled(clips: int, frames: int, share: float, rng: Rng) -> Tensor:
    """Frames of each clip to craft on, in order, (clips, at least one)."""
    drawn = rng.uniform(torch.empty(clips, frames), "frames")
    return drawn.argsort(dim=1, stable=True)[:, : max(1, round(share * frames))].sort(dim=1).values


def _drop(embedding: Tensor, ratio: float, rng: Rng, purpose: str) -> Tensor:
    kept = rng.uniform(embedding.detach(), f"dropout/{purpose}") >= ratio
    return embedding * kept / (1 - ratio)
