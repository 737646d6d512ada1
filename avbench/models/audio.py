"""The 1-D convolutional audio encoder of Tian & Xu (CVPR 2021), figure 6."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval

from avbench.models.quick import WIDE, OffersQuick, channels_last

SMALLEST_CLIP = 2**11  # samples; less vanishes in the last pooling layer


class AudioNet(OffersQuick):
    """Embed a waveform: eight conv layers (k3 s2 p1, BN, ReLU), max-pool 2 after each pair, global max pool.

    Args:
        width: channels of the first pair; the four pairs have 1, 2, 4 and 8 times as many. The paper has 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.dimension = 8 * width
        self.features = _features(width)

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, samples) in [-1, 1] to (batch, 8 * width)."""
        return self.features(audio.unsqueeze(1)).amax(dim=2)  # type: ignore[no-any-return]

    def quick(self) -> nn.Module | None:
        """Return an equal net for `avbench.models.quick`: with the channels of a moment together, norms folded in."""
        width = self.dimension // 8
        return _Flat(self.features) if width >= WIDE and _is_plain(self.features, width) else None


class _Flat(nn.Module):
    """Look at a waveform as a picture of one row, whose channels can lie together in memory."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = channels_last(nn.Sequential(*_flatten(list(features))))

    def forward(self, audio: Tensor) -> Tensor:
        return self.features(audio[:, None, None]).amax(dim=(2, 3))  # type: ignore[no-any-return]


def _features(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for out in (width, 2 * width, 4 * width, 8 * width):
        for _ in range(2):
            layers += [nn.Conv1d(channels, out, 3, stride=2, padding=1), nn.BatchNorm1d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool1d(2))
    return nn.Sequential(*layers)


def _is_plain(features: nn.Sequential, width: int) -> bool:
    """Tell whether the layers compute what those that AudioNet makes do, whatever their weights."""
    with torch.device("meta"):
        plain = _features(width)
    return list(map(_kind, features)) == list(map(_kind, plain))


def _kind(layer: nn.Module) -> tuple[object, ...]:
    if type(layer) is nn.BatchNorm1d:  # of which eps is folded, and momentum is for training
        return nn.BatchNorm1d, layer.num_features, layer.running_mean is None
    return type(layer), repr(layer)


def _flatten(features: list[nn.Module]) -> Iterator[nn.Module]:
    """Turn 1-D layers into 2-D ones, each convolution with the norm that follows it."""
    for layer, following in zip(features, [*features[1:], None], strict=True):
        if isinstance(layer, nn.Conv1d) and isinstance(following, nn.BatchNorm1d):
            folded = fuse_conv_bn_eval(layer, following)
            flat = skip_init(  # type: ignore[no-untyped-call]  # draws nothing
                nn.Conv2d, layer.in_channels, layer.out_channels, (1, 3), stride=(1, 2), padding=(0, 1)
            )
            flat.weight, flat.bias = nn.Parameter(folded.weight.unsqueeze(2)), folded.bias
            yield flat
        elif isinstance(layer, nn.ReLU):
            yield nn.ReLU(inplace=True)
        elif isinstance(layer, nn.MaxPool1d):
            yield nn.MaxPool2d((1, 2))
