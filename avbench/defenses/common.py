"""What several defenses share: clips to study, parts that only training needs, clips crafted on a model in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avbench.attacks import Attack
from avbench.datasets import Sample
from avbench.datasets.cards import Card
from avbench.datasets.splits import to_batch
from avbench.defenses import Moment
from avbench.errors import RecipeError
from avbench.oracle import Oracle, Victim
from avbench.threats import ThreatModel
from avbench.threats.linf import Linf
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch, Modality, TwoStageModel

STUDIED = 1000  # clips at most, of those that a defense may look at after each epoch
CHUNK = 64  # clips at a time


class Clips(NamedTuple):
    """Clean clips of a split in canonical order, of which any prefix is a fair draw."""

    samples: Sequence[Sample]
    card: Card
    device: torch.device

    def first(self, n: int) -> Iterator[Batch]:
        """Read the first `n` clips, or all there are."""
        for start in range(0, min(n, len(self.samples)), CHUNK):
            yield to_batch(self.samples[start : min(start + CHUNK, n)], self.card).to(self.device)


class Wrapped(nn.Module):
    """Carry parts that only training needs beside a model; only `base` is submitted."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Logits of the model."""
        return self.base(audio, video)  # type: ignore[no-any-return]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model to submit."""
    return model.base if isinstance(model, Wrapped) else model


class Stages(NamedTuple):
    """Both embeddings of a batch, (batch, ...), and the logits made of them."""

    audio: Tensor
    video: Tensor
    logits: Tensor


def stages(model: nn.Module, clips: AVInput) -> Stages:
    """Run a two-stage model, and keep what lies between the stages."""
    assert isinstance(model, TwoStageModel)
    audio, video = model.encode_audio(clips.audio), model.encode_video(clips.video)
    return Stages(audio, video, model.fuse(audio, video))


def embedding_sizes(model: nn.Module, card: Card, defense: str) -> dict[Modality, int]:
    """Numbers in both embeddings of a clip.

    Raises:
        RecipeError: if it offers none.
    """
    if not isinstance(model, TwoStageModel):
        raise RecipeError(f"defense {defense} works on embeddings; the architecture must be a two-stage one")
    with evaluated(model), torch.no_grad():
        found = stages(model, AVInput(*(torch.zeros(1, *card.spec.shape(m)) for m in MODALITIES)))
    if not found.audio.numel() or not found.video.numel():
        raise RecipeError(f"defense {defense} works on both embeddings; the architecture must read both modalities")
    return {"audio": found.audio.numel(), "video": found.video.numel()}


def one_label(card: Card, defense: str) -> None:
    """Refuse a multi-label dataset.

    Raises:
        RecipeError: if it is one.
    """
    if card.task == "multilabel":
        raise RecipeError(f"defense {defense} needs classes that exclude each other; {card.name} is multi-label")


def linf_threat(audio: float, video: float) -> ThreatModel:
    """Both modalities at once within l-infinity balls, radii in input units."""
    return ThreatModel(Linf(audio), Linf(video))


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put a model in training into eval mode, then each of its modules back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen(model: nn.Module, classes: int) -> Iterator[Victim]:
    """Show attacks a model in training as it would be evaluated, then give it back as it was.

    In eval mode batch norm's running statistics hear nothing of half-made clips, dropout hides no gradient, and the
    clips are bad for the model that will be judged; Pang et al., Bag of Tricks for Adversarial Training, ICLR 2021,
    find models trained so no less robust, and more accurate, than with train mode.
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with evaluated(model):
        try:
            victim = Victim(model, classes, wanted[0][0].device)
            victim.quick = model  # an equal network would have to be made after every step
            yield victim
        finally:
            for parameter, grad in wanted:
                parameter.requires_grad_(grad)


def craft(model: nn.Module, batch: Batch, attack: Attack, threat: ThreatModel, moment: Moment) -> AVInput:
    """Attack a model in training; the clips are inside the threat set."""
    with frozen(model, moment.classes) as victim:
        oracle = Oracle(victim, batch, tuple(threat.budgets), {})
        return attack.run(oracle, batch, Region(threat, batch.inputs), moment.rng)
