"""Square attack: Andriushchenko et al., Square Attack: a query-efficient black-box attack, ECCV 2020, algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from avbench.attacks import ATTACKS, Attack, Cost, Setting
from avbench.attacks.worst import Worst
from avbench.threats.linf import LinfBall

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.budget import Ball
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch

# Of 10,000 queries, as in the authors' code; the paper's text leaves out 500.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
STRIPES = 128  # segments of constant sign that the audio starts with
DRAWS = {"audio": 2, "video": 6}  # numbers that place and sign one box


@ATTACKS.register("square")
@dataclass(frozen=True)
class Square(Attack):
    """Try +eps or -eps in a random box of the clip, keep it where the margin falls (multi-label: the loss rises).

        x' = project(x + 2 * eps * s) inside a box with random signs s;  x <- x' if margin(x') < margin(x)

    The box holds the share p of the clip, which halves as in the paper, scaled to the number of queries; it starts at
    0.8 as in [CH20], not at the paper's 0.05. The first clip has vertical stripes of random sign, each one pixel wide.

    What clips add: a box covers about the share p^(1/3) of the frames, and of each the same square with one sign for
    each color; a clip of one frame meets the paper's attack. Stripes are the same in all frames. In audio a box is a
    segment, and the stripes are 128 segments. Under XAV each query changes both modalities.

    Departs from the paper: where a box would change nothing, its signs are flipped instead of drawn again; a broken
    sample goes on, so that it does not lie on the boundary. Under l2 the box is added with 2 * sqrt(p) of the radius in
    place of the paper's exchange of energy between two windows, and `project` scales to the ball.

    Raises:
        ValueError: if `queries` is below 1 or `p` not in (0, 1].
    """

    needs: ClassVar[Literal["gradients", "scores", "nothing"]] = "scores"
    queries: int = 1000
    p: float = 0.8  # share of the clip

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p <= 1:
            raise ValueError("queries must be at least 1, p above 0 and at most 1")

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Look at the stripes, then at one box a query."""
        worst = Worst()
        stripes = {m: _stripes(getattr(batch.inputs, m), rng, m) for m in region.attacked}
        start = region.ascend(batch.inputs, stripes, 1.0)
        worst.offer(start, oracle.badness(start))
        size = (len(batch.ids), self.queries)
        draws = {m: rng.uniform(batch.inputs.audio.new_empty(*size, DRAWS[m]), f"boxes/{m}") for m in region.attacked}
        for query in range(self.queries):
            share = self.share(query)
            offered = {
                m: _with_box(ball, getattr(worst.clips, m), draws[m][:, query], share)
                for m, ball in region.balls.items()
            }
            clips = worst.clips._replace(**offered)
            worst.offer(clips, oracle.badness(clips))
        return worst.clips

    def cost(self, setting: Setting) -> Cost:
        """One forward for the stripes and one a query."""
        return Cost(self.queries + 1, 0)

    def share(self, query: int) -> float:
        """Share of the clip that the box of a query holds."""
        return float(self.p / 2 ** sum(10_000 * query // self.queries > at for at in HALVINGS))


def _stripes(clip: Tensor, rng: Rng, modality: str) -> Tensor:
    if clip.dim() == 2:
        length = clip.shape[1]
        signs = rng.signs(clip.new_empty(len(clip), min(STRIPES, length)), f"stripes/{modality}")
        return signs[:, torch.arange(length, device=clip.device) * signs.shape[1] // length]
    _, _, colors, _, width = clip.shape
    return rng.signs(clip.new_empty(len(clip), 1, colors, 1, width), f"stripes/{modality}").expand_as(clip)


def _with_box(ball: Ball, clip: Tensor, draws: Tensor, share: float) -> Tensor:
    """Put a box into each clip, with the signs flipped where it would change nothing."""
    signs = _box(clip, draws, share)
    fraction = 2.0 if isinstance(ball, LinfBall) else 2 * math.sqrt(share)
    one, other = ball.ascend(clip, signs, fraction), ball.ascend(clip, -signs, fraction)
    idle = (one == clip).flatten(1).all(dim=1)
    return other.where(idle.view(-1, *[1] * (clip.dim() - 1)), one)


def _box(clip: Tensor, draws: Tensor, share: float) -> Tensor:
    """Signs inside a random box, zero outside, shaped like the clips.

    Args:
        clip: (batch, samples) or (batch, frames, colors, height, width).
        draws: (batch, 2 or 6) in [0, 1): where the box lies along each axis, then its signs.
        share: of the clip that the box holds.
    """
    if clip.dim() == 2:
        return _inside(clip.shape[1], share * clip.shape[1], draws[:, 0]) * _signs(draws[:, 1:])
    _, frames, _, height, width = clip.shape
    deep = max(1, round(frames * share ** (1 / 3)))
    side = math.sqrt(min(1.0, share * frames / deep) * height * width)
    time = _inside(frames, deep, draws[:, 0])[:, :, None, None, None]
    rows = _inside(height, side, draws[:, 1])[:, None, None, :, None]
    columns = _inside(width, side, draws[:, 2])[:, None, None, None, :]
    return time * rows * columns * _signs(draws[:, 3:])[:, None, :, None, None]


def _inside(length: int, size: float, where: Tensor) -> Tensor:
    """Ones in an interval of about `size` at a place in [0, 1), (batch, length)."""
    whole = min(length, max(1, round(size)))
    start = (where * (length - whole + 1)).floor()[:, None]
    position = torch.arange(length, device=where.device)
    return ((position >= start) & (position < start + whole)).to(where.dtype)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws.dtype)
