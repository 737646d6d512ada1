"""The audio-visual network of Tian & Xu (CVPR 2021), and its two unimodal references."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from avbench.models import ARCHITECTURES
from avbench.models.audio import SMALLEST_CLIP, AudioNet
from avbench.models.fusion import Fusion, FusionName
from avbench.models.two_stage import AudioOnly, TwoStage
from avbench.models.visual import ResNet18
from avbench.types import InputSpec, Modality


def _audio_net(width: int, spec: InputSpec) -> AudioNet:
    if spec.samples < SMALLEST_CLIP:
        raise ValueError(f"AudioNet needs at least {SMALLEST_CLIP} samples a clip, not {spec.samples}")
    return AudioNet(width)


@ARCHITECTURES.register("avnet")
class AVNet(TwoStage):
    """Join a 1-D conv audio net and a frame-averaged ResNet18 by one of five fusions ([T21] figures 2 and 6, A.4).

    Args:
        fusion: concat, sum, film, gated-sum or gated-concat.
        width: 64 is the paper's size (512-dimensional embeddings); smaller widths serve small datasets.
        pretrained: start the visual encoder from ImageNet weights (width 64 only).
    """

    def __init__(
        self, classes: int, spec: InputSpec, fusion: FusionName = "concat", width: int = 64, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.audio = _audio_net(width, spec)
        self.visual = ResNet18(width, pretrained)
        self.fusion = Fusion(fusion, self.audio.dimension)
        self.classifier = nn.Linear(self.fusion.dimension, classes)

    def encode_audio(self, audio: Tensor) -> Tensor:
        """(batch, samples) to (batch, 8 * width)."""
        return self.audio(audio)  # type: ignore[no-any-return]

    def encode_video(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) to (batch, 8 * width)."""
        return self.visual(video)  # type: ignore[no-any-return]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Embeddings to logits (batch, classes)."""
        return self.classifier(self.fusion(audio, video))  # type: ignore[no-any-return]


@ARCHITECTURES.register("unimodal-audio")
class UnimodalAudio(AudioOnly):
    """Classify by sound alone; the reference row of [T21] table 3."""

    def __init__(self, classes: int, spec: InputSpec, width: int = 64) -> None:
        super().__init__()
        self.audio = _audio_net(width, spec)
        self.classifier = nn.Linear(self.audio.dimension, classes)

    def encode_audio(self, audio: Tensor) -> Tensor:
        """(batch, samples) to (batch, 8 * width)."""
        return self.audio(audio)  # type: ignore[no-any-return]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Embeddings to logits (batch, classes)."""
        return self.classifier(audio)  # type: ignore[no-any-return]


@ARCHITECTURES.register("unimodal-video")
class UnimodalVideo(TwoStage):
    """Classify by sight alone; the reference row of [T21] table 3."""

    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    def __init__(self, classes: int, spec: InputSpec, width: int = 64, pretrained: bool = False) -> None:
        super().__init__()
        self.visual = ResNet18(width, pretrained)
        self.classifier = nn.Linear(self.visual.dimension, classes)

    def encode_audio(self, audio: Tensor) -> Tensor:
        """Ignore the sound: an empty embedding (batch, 0)."""
        return audio.new_zeros(audio.shape[0], 0)

    def encode_video(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) to (batch, 8 * width)."""
        return self.visual(video)  # type: ignore[no-any-return]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Embeddings to logits (batch, classes)."""
        return self.classifier(video)  # type: ignore[no-any-return]
