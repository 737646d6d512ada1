"""The shapes that everything else speaks: clips, batches, and what a model must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Modality = Literal["audio", "video"]
MODALITIES: tuple[Modality, ...] = ("audio", "video")
BOX: dict[Modality, tuple[float, float]] = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


class AVInput(NamedTuple):
    """Clips of one batch."""

    audio: Tensor  # (batch, samples), float32 in [-1, 1], mono waveform
    video: Tensor  # (batch, frames, 3, height, width), float32 in [0, 1], RGB

    def to(self, device: torch.device | str) -> AVInput:
        """Move both streams; the host need not wait where they go to a GPU, and has to where they come from one."""
        ahead = str(device).startswith("cuda")
        return AVInput(self.audio.to(device, non_blocking=ahead), self.video.to(device, non_blocking=ahead))

    def pin(self) -> AVInput:
        """Keep both streams in memory from which a GPU copies while the host goes on."""
        return AVInput(self.audio.pin_memory(), self.video.pin_memory())

    def pick(self, index: Tensor | slice) -> AVInput:
        """Select samples."""
        return AVInput(self.audio[index], self.video[index])


@dataclass(frozen=True)
class Batch:
    """Samples with their identity; `labels` is (batch,) int64, or (batch, classes) float32 in {0, 1} if multi-label."""

    ids: tuple[str, ...]
    inputs: AVInput
    labels: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Move inputs and labels."""
        return Batch(self.ids, self.inputs.to(device), self.labels.to(device))

    def pin(self) -> Batch:
        """Keep the inputs where a GPU copies from fastest."""
        return Batch(self.ids, self.inputs.pin(), self.labels)


@dataclass(frozen=True)
class InputSpec:
    """What one clip of a dataset looks like; part of a card and of every model's arguments."""

    sample_rate: int  # Hz
    samples: int  # audio samples per clip
    frames: int  # video frames per clip
    fps: float  # frames per second
    height: int  # pixels
    width: int  # pixels

    def shape(self, modality: Modality) -> tuple[int, ...]:
        """Shape of one sample, without the batch."""
        return (self.samples,) if modality == "audio" else (self.frames, 3, self.height, self.width)


@runtime_checkable
class AVModel(Protocol):
    """A classifier of clips: logits (batch, classes) float32 from audio and video as in `AVInput`."""

    def __call__(self, audio: Tensor, video: Tensor) -> Tensor:
        """Answer logits."""


@runtime_checkable
class TwoStageModel(AVModel, Protocol):
    """A classifier that also offers its halves; `fuse(encode_audio(a), encode_video(v)) == forward(a, v)`."""

    def encode_audio(self, audio: Tensor) -> Tensor:
        """Embed waveforms."""

    def encode_video(self, video: Tensor) -> Tensor:
        """Embed frames."""

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Turn both embeddings into logits."""


def modalities_of(model: object) -> tuple[Modality, ...]:
    """Modalities that a model reads: its `modalities` attribute, both by default."""
    return tuple(getattr(model, "modalities", MODALITIES))
