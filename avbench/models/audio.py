"""The 1-D convolutional audio encoder of Tian & Xu (CVPR 2021), figure 6."""

from __future__ import annotations

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
        layers: list[nn.Module] = []
        channels = 1
        for out in (width, 2 * width, 4 * width, 8 * width):
            for _ in range(2):
                layers += [nn.Conv1d(channels, out, 3, stride=2, padding=1), nn.BatchNorm1d(out), nn.ReLU()]
                channels = out
            layers.append(nn.MaxPool1d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, samples) in [-1, 1] to (batch, 8 * width)."""
        return self.features(audio.unsqueeze(1)).amax(dim=2)  # type: ignore[no-any-return]

    def quick(self) -> nn.Module | None:
        """Return an equal net for `avbench.models.quick`: with the channels of a moment together, norms folded in."""
        return _Flat(layers) if self.dimension >= 8 * WIDE and (layers := _flatten(self.features)) else None


class _Flat(nn.Module):
    """Look at a waveform as a picture of one row, whose channels can lie together in memory."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.features = channels_last(nn.Sequential(*layers))

    def forward(self, audio: Tensor) -> Tensor:
        return self.features(audio[:, None, None]).amax(dim=(2, 3))  # type: ignore[no-any-return]


def _flatten(features: nn.Sequential) -> list[nn.Module] | None:
    """Turn 1-D layers into 2-D ones, each convolution with its norm; None if there are others than AudioNet's."""
    layers: list[nn.Module] = []
    for layer, following in zip(features, [*list(features)[1:], None], strict=True):
        if type(layer) is nn.Conv1d and type(following) is nn.BatchNorm1d and layer.padding_mode == "zeros":
            folded = fuse_conv_bn_eval(layer, following)
            flat = skip_init(  # type: ignore[no-untyped-call]  # draws nothing
                nn.Conv2d, layer.in_channels, layer.out_channels, (1, *layer.kernel_size), (1, *layer.stride),
                (0, *layer.padding), (1, *layer.dilation), layer.groups,
            )  # fmt: skip
            flat.weight, flat.bias = nn.Parameter(folded.weight.unsqueeze(2)), folded.bias
            layers.append(flat)
        elif type(layer) is nn.ReLU:
            layers.append(nn.ReLU(inplace=True))
        elif type(layer) is nn.MaxPool1d and (layer.kernel_size, layer.stride, layer.padding) == (2, 2, 0):
            layers.append(nn.MaxPool2d((1, 2)))
        elif type(layer) is not nn.BatchNorm1d:
            return None
    return layers
