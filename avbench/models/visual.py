"""ResNet18 over frames, from torchvision's blocks, at any width."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

from avbench.errors import PretrainedUnavailable
from avbench.models.quick import WIDE, OffersQuick, channels_last
from avbench.threats.linf import IMAGENET_STD

IMAGENET_MEAN = (0.485, 0.456, 0.406)


class ResNet18(OffersQuick):
    """Embed each frame by ResNet18 without its last layer, then average over frames.

    Parameter names are torchvision's, so its ImageNet weights load at width 64. Frames are normalized inside.
    Tian & Xu call the pooling "global max pooling"; in their code it is ResNet18's average pooling (spec erratum 8).

    Args:
        width: channels of the first stage; 64 is ResNet18.
        pretrained: start from torchvision's ImageNet weights (fetched from the network; width 64 only).

    Raises:
        PretrainedUnavailable: if the weights cannot be fetched.
        ValueError: if `pretrained` is asked for at another width.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = 64, pretrained: bool = False) -> None:
        super().__init__()
        self.dimension = 8 * width
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        if pretrained:
            if width != 64:
                raise ValueError(f"ImageNet weights exist for width 64, not {width}")
            self._load_imagenet()

    def forward(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) in [0, 1] to (batch, 8 * width)."""
        return self.maps(video).mean(dim=(3, 4)).mean(dim=1)

    def maps(self, video: Tensor) -> Tensor:
        """(batch, frames, 3, height, width) in [0, 1] to feature maps (batch, frames, 8 * width, rows, columns)."""
        x = (video.flatten(0, 1) - self.mean) / self.std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.view(*video.shape[:2], *x.shape[1:])  # type: ignore[no-any-return]

    def quick(self) -> nn.Module | None:
        """Return an equal net for `avbench.models.quick`: with the channels of a pixel together."""
        return channels_last(copy.deepcopy(self)) if self.dimension >= 8 * WIDE else None

    def _load_imagenet(self) -> None:
        weights = ResNet18_Weights.IMAGENET1K_V1
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise PretrainedUnavailable(
                f"could not fetch {weights.url} ({error}); connect to the network, or put the file into "
                f"{torch.hub.get_dir()}/checkpoints, or set pretrained: false"
            ) from error
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})


def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
    return nn.Sequential(BasicBlock(channels, out, stride, shortcut), BasicBlock(out, out))
