"""The two-stage contract: a model is two encoders and what joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


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
