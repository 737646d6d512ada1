"""The five fusions of Tian & Xu (CVPR 2021), appendix A.4: from two embeddings of equal size to one feature."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

FusionName = Literal["concat", "sum", "film", "gated-sum", "gated-concat"]
FUSIONS: tuple[str, ...] = get_args(FusionName)


class Fusion(nn.Module):
    """Join an audio and a video embedding, both (batch, dimension).

    concat  [f_a; f_v]                        sum     f_a + f_v
    film    alpha(f_a) * f_v + f_a            gated-sum     g * f_a + (1 - g) * f_v
    gated-concat  [g * f_a; (1 - g) * f_v]    with alpha linear and g = sigmoid(linear([f_a; f_v])).

    Raises:
        ValueError: if the name is none of these.
    """

    def __init__(self, name: FusionName, dimension: int) -> None:
        super().__init__()
        if name not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, not {name!r}")
        self.name = name
        self.dimension = 2 * dimension if name.endswith("concat") else dimension
        if name == "film":
            self.alpha = nn.Linear(dimension, dimension)
        if name.startswith("gated"):
            self.gate = nn.Linear(2 * dimension, dimension)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """(batch, dimension) twice to (batch, self.dimension)."""
        if self.name == "film":
            return self.alpha(audio) * video + audio  # type: ignore[no-any-return]
        if self.name.startswith("gated"):
            gate = torch.sigmoid(self.gate(torch.cat([audio, video], dim=1)))
            audio, video = gate * audio, (1 - gate) * video
        return torch.cat([audio, video], dim=1) if self.name.endswith("concat") else audio + video
