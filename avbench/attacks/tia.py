"""Temporal invariance attack: Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858), eq. 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from avbench.attacks import ATTACKS, Cost, Setting
from avbench.attacks.mim import MIM
from avbench.errors import BadOption
from avbench.types import MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.attacks.mim import Term
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch, Modality

TRANSFORMS = 5


@ATTACKS.register("tia")
@dataclass(frozen=True)
class TIA(MIM):
    """Climb J = CE - l1 * L_T with momentum: err by features that stay the same over time; see `Variance`.

    L_T is minimized. A negative `l1` maximizes it, which by the authors' reply to their reviewers is stronger on the
    attacked model and weaker on others.

    As in all attacks here the log-odds of error stand for CE. Where the model errs both have the same gradient; before,
    CE's is smaller by the probability of error. With CE itself the weight of L_T would depend on how sure the model is,
    and a last layer times 1000 would leave nothing but L_T to climb.

    Raises:
        ValueError: as for mim, or if `copies` is below 1 or `segments` below 2.
    """

    l1: float = 1.0
    copies: int = 3  # draws of transforms a step
    segments: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.variance  # refuses what it cannot be

    @property
    def variance(self) -> Variance:
        """Return the term L_T."""
        return Variance(self.l1, self.copies, self.segments)

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb J."""
        return self.climb(oracle, batch, region, partial(self.variance.terms, oracle, batch, region.attacked, rng))

    def cost(self, setting: Setting) -> Cost:
        """One of each a step, and one for each segment of each draw."""
        passes = self.steps * (1 + self.variance.passes(setting))
        return Cost(passes, passes)


@dataclass(frozen=True)
class Variance:
    """L_T: the mean over modalities and draws of the variance over time of the segments' unit-length embeddings.

    What [Z25] leaves open: a segment is looped to the length of a clip, as [T21] loops clips that are too short, so
    every model takes it. A draw gives each segment of each sample one of five transforms at random. Its embedding is
    that of its modality if the model has two stages, else the logits, with the other modality as it is. Variances are
    summed over dimensions, so they lie in [0, 1] whatever the number of dimensions.

    A modality that is not attacked is constant and costs nothing; a video has at most one segment a frame, and one
    frame has no variance. The mean counts such modalities as well.

    Raises:
        ValueError: if `copies` is below 1 or `segments` below 2.
    """

    weight: float
    copies: int
    segments: int

    def __post_init__(self) -> None:
        if self.copies < 1 or self.segments < 2:
            raise ValueError("copies must be at least 1, segments at least 2")

    def terms(
        self, oracle: Oracle, batch: Batch, attacked: tuple[Modality, ...], rng: Rng, number: int
    ) -> Iterator[Term]:
        """Draw -weight * L_T for one step, one term for each draw and modality."""
        share = self.weight / (self.copies * len(MODALITIES))
        for copy in range(self.copies):
            for modality in attacked:
                if count := self._count(modality, batch.inputs.video.shape[1]):
                    like = torch.empty(len(batch.ids), count, 2)
                    draws = rng.uniform(like, f"step {number}/copy {copy}/{modality}")
                    yield lambda clips, m=modality, d=draws: -share * variance(oracle, clips, m, d)  # type: ignore[misc]

    def passes(self, setting: Setting) -> int:
        """Count passes per sample and step through the part of the model that makes most."""
        counts = [self._count(modality, setting.frames) for modality in setting.attacked]
        return self.copies * (max(counts) if setting.two_stage else sum(counts))

    def _count(self, modality: Modality, frames: int) -> int:
        """How many segments there are to compare."""
        count = min(self.segments, frames) if modality == "video" else self.segments
        return count if self.weight and count > 1 else 0


def variance(oracle: Oracle, clips: AVInput, modality: Modality, draws: Tensor) -> Tensor:
    """Variance over segments, (batch,), in [0, 1], of one draw.

    Args:
        oracle: what embeds.
        clips: to be cut in time.
        modality: which of them to cut.
        draws: (batch, segments, 2) in [0, 1), a transform and its amount; zeros leave a segment as it is.
    """
    looped = segments(getattr(clips, modality), draws.shape[1])
    found = []
    for index, (one, choices) in enumerate(zip(looped, draws.unbind(dim=1), strict=True)):
        triples = zip(one, looped[abs(index - 1)], choices.tolist(), strict=True)
        changed = torch.stack([transformed(clip, neighbor, *choice) for clip, neighbor, choice in triples])
        shown = clips._replace(**{modality: changed})
        found.append(unit(oracle.embed(shown, modality) if oracle.two_stage else oracle.look(shown)))
    units = torch.stack(found)
    return (units - units.mean(dim=0)).square().sum(dim=2).mean(dim=0)


def segments(clip: Tensor, count: int) -> list[Tensor]:
    """Cut clips (batch, time, ...) into equal parts of their time, each looped to the length of the whole.

    Raises:
        BadOption: if there are fewer samples than segments.
    """
    time = clip.shape[1]
    if time < count:
        raise BadOption(f"{time} audio samples cannot be cut into {count} segments; choose fewer")
    parts = clip.tensor_split(count, dim=1)
    return [torch.cat([part] * -(-time // part.shape[1]), dim=1)[:, :time] for part in parts]


def transformed(clip: Tensor, neighbor: Tensor, choice: float, amount: float) -> Tensor:
    """Change one clip (time, ...) in time; it stays in its box, which holds 0.

    A circular shift, a quarter masked by silence or black, a gain above 1/2, a blur by at most [1/4, 1/2, 1/4], or a
    mix with less than one half of a neighbor.
    """
    time = len(clip)
    match int(choice * TRANSFORMS):
        case 0:
            return clip.roll(int(amount * time), 0)
        case 1:
            width = max(1, time // 4)
            start = int(amount * (time - width + 1))
            return torch.cat([clip[:start], torch.zeros_like(clip[:width]), clip[start + width :]])
        case 2:
            return (1 - amount / 2) * clip
        case 3:
            return (1 - amount / 2) * clip + amount / 4 * (clip.roll(1, 0) + clip.roll(-1, 0))
        case _:
            return (1 - amount / 2) * clip + amount / 2 * neighbor


def unit(embeddings: Tensor) -> Tensor:
    """Divide each embedding (batch, ...) by its length; a zero embedding stays zero and keeps a finite gradient."""
    flat = embeddings.flatten(1)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    normalized: Tensor = flat / length.where(length > 0, 1.0)
    return normalized
