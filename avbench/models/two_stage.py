"""The two-stage contract: a model is two encoders and what joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from avbench.types import Modality


class TwoStage(nn.Module, ABC):
    """Offer the halves of a model, so that under XA or XV the other half is computed once.

    `forward` is fixed as `fuse(encode_audio(audio), encode_video(video))`.
    """

    @abstractmethod
    def encode_audio(self, audio: Tensor) -> Tensor:
        """Embed waveforms (batch, samples) as (batch, dimension)."""

    @abstractmethod
    def encode_video(self, video: Tensor) -> Tensor:
        """Embed clips (batch, frames, 3, height, width) as (batch, dimension)."""

    @abstractmethod
    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Turn both embeddings into logits (batch, classes)."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Logits (batch, classes), float32."""
        logits: Tensor = self.fuse(self.encode_audio(audio), self.encode_video(video))
        return logits


class AudioOnly(TwoStage):
    """A model that does not see: the video's embedding is empty."""

    modalities: ClassVar[tuple[Modality, ...]] = ("audio",)

    def encode_video(self, video: Tensor) -> Tensor:
        """Ignore the video: an empty embedding (batch, 0)."""
        return video.new_zeros(video.shape[0], 0)
