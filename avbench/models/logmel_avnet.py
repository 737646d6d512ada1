"""The networks of Zhang et al., ICLR 2025 ([Z25], arXiv 2502.11858): picture encoders of log-mel and of frames.

Its eight combinations have names of three letters, such as RsR and AcA. Here they are read as the audio encoder
(A AlexNet, R ResNet), the fusion (s sum, c concat) and the visual encoder, in the order of the word "audio-visual":

    AsA  AsR  RsA  RsR  AcA  AcR  RcA  RcR

VGG, its third audio encoder, makes VsA, VsR, VcA and VcR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import make_layers
from torchvision.transforms.functional import normalize

from avbench.models import ARCHITECTURES
from avbench.models.fusion import Fusion, FusionName
from avbench.models.logmel import LogMel
from avbench.models.two_stage import TwoStage
from avbench.models.visual import IMAGENET_MEAN, ResNet18
from avbench.threats.linf import IMAGENET_STD
from avbench.types import InputSpec

EncoderName = Literal["alexnet", "resnet", "vgg"]
COMBINATIONS = {
    f"{audio[0].upper()}{fusion[0]}{visual[0].upper()}": {"audio": audio, "fusion": fusion, "visual": visual}
    for audio, fusion, visual in product(("alexnet", "resnet"), ("sum", "concat"), ("alexnet", "resnet"))
}
SMALLEST_SIDE = 63  # pixels; less vanishes in AlexNet's last pooling layer


class Pictures(nn.Module):
    """Embed each frame by a convolutional net, its mean over positions and a linear layer; then average over frames.

    The one linear layer stands for the large ones that end AlexNet and VGG. Small frames are enlarged, each pixel by a
    whole number.
    """

    def __init__(self, features: nn.Module, channels: int, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.features = features
        self.linear = nn.Linear(channels, dimension)

    def forward(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) in [0, 1] to (batch, dimension)."""
        x = normalize(video.flatten(0, 1), IMAGENET_MEAN, IMAGENET_STD)
        if (scale := math.ceil(SMALLEST_SIDE / min(x.shape[2:]))) > 1:
            x = F.interpolate(x, scale_factor=scale)
        embedded: Tensor = self.linear(self.features(x).mean(dim=(2, 3)))
        return embedded.view(*video.shape[:2], self.dimension).mean(dim=1)


def _alexnet(width: int) -> Pictures:
    """AlexNet's convolutions as torchvision has them (one column of Krizhevsky 2014), at width 64."""
    sizes = (width, 3 * width, 6 * width, 4 * width, 4 * width)
    convolutions = [
        nn.Conv2d(3, sizes[0], 11, stride=4, padding=2),
        nn.Conv2d(sizes[0], sizes[1], 5, padding=2),
        *(nn.Conv2d(given, out, 3, padding=1) for given, out in pairwise(sizes[1:])),
    ]
    layers: list[nn.Module] = []
    for number, convolution in enumerate(convolutions):
        layers += [convolution, nn.ReLU()]
        if number in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, stride=2))
    return Pictures(nn.Sequential(*layers), sizes[-1], 8 * width)


def _vgg(width: int) -> Pictures:
    """VGG11's convolutions with batch normalization, as torchvision has them at width 64."""
    multiples: list[int | Literal["M"]] = [1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"]
    sizes = [step if step == "M" else step * width for step in multiples]
    return Pictures(make_layers(sizes, batch_norm=True), 8 * width, 8 * width)


ENCODERS: dict[str, Callable[[int], nn.Module]] = {"alexnet": _alexnet, "resnet": ResNet18, "vgg": _vgg}


@ARCHITECTURES.register("logmel-avnet")
class LogMelAVNet(TwoStage):
    """Join a log-mel spectrogram, seen as a gray picture, and frames, each by AlexNet, ResNet18 or VGG11 ([Z25]).

    Args:
        audio: alexnet, resnet or vgg.
        visual: alexnet or resnet in the paper; vgg works too.
        fusion: sum or concat in the paper; the others of avnet work too.
        width: 64 is the encoders' published size (512-dimensional embeddings); smaller widths serve small datasets.

    Raises:
        ValueError: if there is no such encoder or fusion.
    """

    def __init__(
        self,
        classes: int,
        spec: InputSpec,
        audio: EncoderName = "resnet",
        visual: EncoderName = "resnet",
        fusion: FusionName = "concat",
        width: int = 64,
    ) -> None:
        super().__init__()
        for what, name in (("audio", audio), ("visual", visual)):
            if name not in ENCODERS:
                raise ValueError(f"{what} must be one of {', '.join(ENCODERS)}, not {name!r}")
        self.logmel = LogMel(spec)
        self.audio = ENCODERS[audio](width)
        self.visual = ENCODERS[visual](width)
        self.fusion = Fusion(fusion, 8 * width)
        self.classifier = nn.Linear(self.fusion.dimension, classes)

    def encode_audio(self, audio: Tensor) -> Tensor:
        """(batch, samples) to (batch, 8 * width)."""
        picture = self.logmel(audio)[:, None, None].expand(-1, 1, 3, -1, -1)
        return self.audio(picture)  # type: ignore[no-any-return]

    def encode_video(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) to (batch, 8 * width)."""
        return self.visual(video)  # type: ignore[no-any-return]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Embeddings to logits (batch, classes)."""
        return self.classifier(self.fusion(audio, video))  # type: ignore[no-any-return]
