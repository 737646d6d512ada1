"""The sound-source localization head of Tian & Xu (CVPR 2021), section 4.5."""

from __future__ import annotations

import torch
from torch import Tensor

from avbench.models import ARCHITECTURES
from avbench.models.avnet import AVNet


@ARCHITECTURES.register("localization")
class Localization(AVNet):
    """Look where the sound comes from: weigh positions of a frame by softmax of f_a . f_v_i, then fuse and classify.

    Arguments are those of avnet. Each frame is attended alone, and what is seen is averaged over frames.
    """

    def attention_map(self, audio: Tensor, video: Tensor) -> Tensor:
        """Show where the model looks: clips to weights (batch, frames, rows, columns), of sum 1 in every frame."""
        return _attention(self.encode_audio(audio), self.encode_video(video))

    def encode_video(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) to feature maps (batch, frames, 8 * width, rows, columns)."""
        return self.visual.maps(video)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Turn an embedding and feature maps into logits (batch, classes)."""
        attended = (_attention(audio, video).unsqueeze(2) * video).sum(dim=(3, 4))
        return super().fuse(audio, attended.mean(dim=1))


def _attention(audio: Tensor, maps: Tensor) -> Tensor:
    scores = torch.einsum("bd,bfdyx->bfyx", audio, maps)
    return scores.flatten(2).softmax(dim=2).view_as(scores)
