"""The audio tagger CNN14 of PANNs: Kong et al. 2020 (arXiv 1912.10211), table 2, without its augmentation."""

from __future__ import annotations

from torch import Tensor, nn

from avbench.models import ARCHITECTURES
from avbench.models.logmel import MELS, LogMel
from avbench.models.two_stage import AudioOnly
from avbench.types import InputSpec


class Tagger(nn.Module):
    """Embed a waveform: six blocks of two 3x3 convolutions on its log-mel spectrogram, then mean plus max over time.

    Args:
        spec: of the clips.
        width: channels of the first block; each has twice as many as the one before. The paper has 64.
    """

    def __init__(self, spec: InputSpec, width: int) -> None:
        super().__init__()
        self.dimension = 32 * width
        self.logmel = LogMel(spec)
        self.norm = nn.BatchNorm1d(MELS)
        channels = [1, *(width * 2**i for i in range(6))]
        pools = (2, 2, 2, 2, 2, 1)
        self.blocks = nn.Sequential(*map(_block, channels, channels[1:], pools))
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(self.dimension, self.dimension)

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, samples) in [-1, 1] to (batch, 32 * width)."""
        x = self.blocks(self.norm(self.logmel(audio)).unsqueeze(1)).mean(dim=2)
        return self.linear(self.dropout(x.amax(dim=2) + x.mean(dim=2))).relu()  # type: ignore[no-any-return]


def _block(channels: int, out: int, pool: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given in (channels, out):
        layers += [nn.Conv2d(given, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(pool), nn.Dropout(0.2))


@ARCHITECTURES.register("cnn14")
class CNN14(AudioOnly):
    """Classify by sound alone, by the convolutional tagger of PANNs on a log-mel spectrogram."""

    def __init__(self, classes: int, spec: InputSpec, width: int = 64) -> None:
        super().__init__()
        self.audio = Tagger(spec, width)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(self.audio.dimension, classes)

    def encode_audio(self, audio: Tensor) -> Tensor:
        """(batch, samples) to (batch, 32 * width)."""
        return self.audio(audio)  # type: ignore[no-any-return]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Embeddings to logits (batch, classes)."""
        return self.classifier(self.dropout(audio))  # type: ignore[no-any-return]
