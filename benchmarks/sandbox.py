"""Measure what the worker process costs: one forward and backward pass against the same in process.

python benchmarks/sandbox.py > benchmarks/sandbox.md
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch
from torch import nn

from avbench.datasets.cards import read_card
from avbench.models.avnet import AVNet
from avbench.oracle import Oracle, Victim
from avbench.sandbox.process import Limits, Worker
from avbench.sandbox.remote import RemoteModel
from avbench.types import AVInput, Batch, InputSpec

CPU, CLASSES, REPEATS = torch.device("cpu"), 28, 9
FILE = Path(__file__).resolve()
AVE = InputSpec(sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224)  # [T21]
SYNTHAV = read_card("synthav").spec


def batch_of(spec: InputSpec, size: int) -> Batch:
    """Clips at random, the same each time."""
    random = torch.Generator().manual_seed(0)
    audio = torch.rand(size, *spec.shape("audio"), generator=random) * 2 - 1
    video = torch.rand(size, *spec.shape("video"), generator=random)
    return Batch(tuple(map(str, range(size))), AVInput(audio, video), torch.arange(size) % CLASSES)


def seconds(models: list[nn.Module], batch: Batch) -> list[float]:
    """Least time of one gradient with respect to both streams, of each model in turn: other programs only add."""
    oracles = [Oracle(Victim(model, CLASSES, CPU), batch, ("audio", "video"), {}) for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(REPEATS):
        for oracle, of_this in zip(oracles, times, strict=True):
            start = time.perf_counter()
            oracle.gradient(batch.inputs)
            of_this.append(time.perf_counter() - start)
    return [min(of_this) for of_this in times]


class Empty(nn.Module):
    """Compute next to nothing, so that what is measured is the way there and back."""

    def __init__(self, classes: int, spec: InputSpec) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return (audio.sum(dim=1) + video.flatten(1).sum(dim=1))[:, None].expand(-1, self.classes)


def main() -> None:
    print("# What the worker process costs\n")
    print(f"{torch.get_num_threads()} thread of {platform.machine()}, torch {torch.__version__}; least of {REPEATS}")
    print("tries, one gradient with respect to both streams. `python benchmarks/sandbox.py`\n")
    print("| model | clips | MB of clips | in process, ms | worker, ms | more, ms |\n|---|---|---|---|---|---|")
    for kind, spec, size in (
        (Empty, SYNTHAV, 16),
        (Empty, AVE, 8),
        (Empty, AVE, 32),
        (AVNet, SYNTHAV, 16),
        (AVNet, AVE, 4),
    ):
        start = time.perf_counter()
        load = {"file": str(FILE), "factory": kind.__name__, "classes": CLASSES, "spec": vars(spec), "arguments": {}}
        worker = Worker(load, [FILE], Limits())
        started = time.perf_counter() - start
        batch = batch_of(spec, size)
        plain, behind = seconds([kind(CLASSES, spec), RemoteModel(worker)], batch)
        worker.stop()
        print(
            f"| {kind.__name__} | {size} of {'AVE' if spec is AVE else 'synthav'} "
            f"| {sum(clip.nbytes for clip in batch.inputs) / 1e6:.1f} "
            f"| {1000 * plain:.1f} | {1000 * behind:.1f} | {1000 * (behind - plain):.1f} |"
        )
    print(
        f"\nStarting a worker takes {started:.1f} s, nearly all of it to import torch. Clips, answers and gradients go"
    )
    print("through shared memory and are copied on each side; the cost grows with the clips, not with the model.")
    print(
        f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: where a model computes long, the difference"
    )
    print("is less than what other programs cost, and its sign says nothing.")


if __name__ == "__main__":
    main()
