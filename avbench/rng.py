"""One random stream per sample, so that batch size, order and other samples change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rng:
    """Draw numbers that depend only on seed, stream, purpose and sample id; drawn on CPU, then moved.

    There is no hidden state: the same purpose gives the same numbers, so name each draw.
    """

    seed: int
    stream: str
    ids: tuple[str, ...]

    def uniform(self, like: Tensor, purpose: str) -> Tensor:
        """Numbers in [0, 1), one independent block per sample, of the shape, dtype and device of `like`."""
        return self._draw("random", like, purpose)

    def normal(self, like: Tensor, purpose: str) -> Tensor:
        """Return standard normal numbers, one independent block per sample, shaped like `like`."""
        return self._draw("standard_normal", like, purpose)

    def signs(self, like: Tensor, purpose: str) -> Tensor:
        """-1 or +1 with equal probability, one independent block per sample, shaped like `like`."""
        return torch.where(self.uniform(like, purpose) < 0.5, -1.0, 1.0).to(like.dtype)

    def _draw(self, method: str, like: Tensor, purpose: str) -> Tensor:
        shape = like.shape[1:]
        blocks = [getattr(self._generator(purpose, one), method)(shape, np.float32) for one in self.ids]
        return torch.from_numpy(np.stack(blocks)).to(like)

    def _generator(self, purpose: str, one: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}/{self.stream}/{purpose}/{one}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


@contextmanager
def seeded(device: torch.device, *words: object) -> Iterator[None]:
    """Let a model that draws from torch's global generator draw what the words decide; outside nothing changes."""
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big")
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
