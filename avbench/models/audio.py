"""The 1-D convolutional audio encoder of Tian & Xu (CVPR 2021), figure 6."""

from __future__ import annotations

from torch import Tensor, nn

SMALLEST_CLIP = 2**11  # samples; less vanishes in the last pooling layer


class AudioNet(nn.Module):
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
