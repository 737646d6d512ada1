"""Measure the goals of a GPU: a suite at full size, and its rate against a plain ResNet18 in bfloat16.

`make bench-gpu` writes benchmarks/gpu.md. Goals, on one H200: cvpr21-attack on 3,104 samples in less than 60 s; forward
with backward at 60 % or more of the rate of the plain network. Other libraries attack in the same run, in float32 as
they come. It needs a GPU.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from speed_peers import CLASSES as PEERS_CLASSES
from speed_peers import KINDS, Task, peers, problem
from torchvision.models import resnet18

from avbench import store
from avbench.attacks import parse_attack
from avbench.cells import Cell, make_parts
from avbench.checkpoint import Candidate, state_sha256
from avbench.datasets import Sample
from avbench.datasets.cards import Card, Lock, Pinned
from avbench.datasets.splits import Split
from avbench.device import deterministic
from avbench.estimate.probe import now
from avbench.models.avnet import AVNet
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.suites import find_suite
from avbench.threats import parse_threat
from avbench.types import AVInput, Batch

SAMPLES, CLASSES, STORED = 3104, 28, 64
CARD = Card(  # of the size of [T21]
    name="random", title="Random clips", summary="For this benchmark", license="MIT", task="multiclass",
    sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224, splits={"test": SAMPLES},
    classes=tuple(map(str, range(CLASSES))),
)  # fmt: skip
SECONDS, SHARE = 60.0, 0.6  # the goals
REPEATS = 20


@cache
def clip(number: int) -> tuple[np.ndarray, np.ndarray]:
    """One of few clips at random, so that none is made while the clock runs."""
    random = np.random.default_rng(number)
    audio = random.integers(-16000, 16000, CARD.samples).astype(np.int16)
    return audio, random.integers(0, 256, (CARD.frames, 3, CARD.height, CARD.width)).astype(np.uint8)


@dataclass(frozen=True)
class Random(Split):
    """A split of clips at random, in memory."""

    def stored(self, index: int) -> Sample:
        row = self.lock.rows[index]
        return Sample(row.id, int(row.label), *clip(index % STORED))  # type: ignore[arg-type]


def rate_of_resnet(batch: int) -> float:
    """Forward and backward passes a second of a plain ResNet18 in bfloat16, to its input, as fast as torch is."""
    torch.backends.cudnn.benchmark = True
    model = resnet18().cuda().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    video = torch.rand(batch, 3, CARD.height, CARD.width, device="cuda").to(memory_format=torch.channels_last)
    video.requires_grad_()
    for number in range(2 * REPEATS):
        if number == REPEATS:  # the first half warms up
            torch.cuda.synchronize()
            start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(video).float().logsumexp(dim=1).sum()
        torch.autograd.grad(loss, video)
    torch.cuda.synchronize()
    torch.backends.cudnn.benchmark = False
    return REPEATS * batch / (time.perf_counter() - start)


def by_avbench(victim: Victim, batch: Batch, cell: Cell) -> None:
    """Attack and judge a micro-batch as a run does."""
    with deterministic(victim.device):
        for _ in make_parts(victim, batch, [cell], 0):
            pass


def against_peers(device: torch.device, size: int, steps: int) -> list[str]:
    """Let everybody attack the same micro-batch twice, and time the second: lines of a table.

    Kernels and layouts are deterministic ones for avbench only, as in a run; float32 is float32 for all.
    """
    model, clean = problem(1, size)
    batch = Batch(clean.ids, AVInput(*(clip.to(device) for clip in clean.inputs)), clean.labels.to(device))
    model = model.to(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    lines = []
    for kind in KINDS:
        task = Task.fit(model, batch, kind, steps)
        cell = Cell(parse_threat(task.threat), parse_attack(f"pgd:steps={steps}"))
        victim = Victim(copy.deepcopy(model), PEERS_CLASSES, device)
        runs = {**peers(task, "pgd"), "avbench": partial(by_avbench, victim, batch, cell)}
        seconds = {}
        for who, run in runs.items():
            for _ in range(2):
                start = now(device)
                run()
                seconds[who] = now(device) - start
        others = " | ".join(f"{seconds[who] / seconds['avbench']:.2f}" for who in list(runs)[:-1])
        lines.append(f"| {kind} | {seconds['avbench']:.2f} | {others} |")
    return lines


def main() -> None:
    """Print what was reached, and whether it is the goal."""
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    for number in range(STORED):
        clip(number)
    lock = Lock(Pinned(f"random-{i:04d}", i % CLASSES, "0" * 64) for i in range(SAMPLES))
    model = AVNet(CLASSES, CARD.spec)
    candidate = Candidate("random--avnet", model, "AVNet", {}, state_sha256(model))
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(device="cuda", precision="bf16", output_dir=Path(folder))
        start = time.perf_counter()
        run = evaluate(candidate, Random(CARD, "test", lock), find_suite("cvpr21-attack"), options, quiet=True)
        seconds = time.perf_counter() - start
        record = store.read_record(run)
    batch = record["numerics"]["micro_batch"]
    cells = [cell for cell in record["cells"] if cell["threat"].startswith("XV") and cell["backward"]]
    rate = sum(cell["backward"] for cell in cells) / sum(cell["seconds"] for cell in cells)
    plain = rate_of_resnet(batch)
    print("# On a GPU\n")
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, micro-batches of {batch}, clips crafted in bf16."
    )
    print("`make bench-gpu`\n")
    print("| what | reached | goal | |\n|---|---|---|---|")
    met = "met" if seconds < SECONDS else "missed"
    print(f"| cvpr21-attack on {SAMPLES} samples at full size, s | {seconds:.1f} | < {SECONDS:.0f} | {met} |")
    met = "met" if rate >= SHARE * plain else "missed"
    print(f"| forward with backward a second, XV, of {plain:.0f} | {rate:.0f} | >= {SHARE * plain:.0f} | {met} |")
    print("\nPGD-10 in float32, batch 64: times as long as avbench, which also checks budgets and judges.\n")
    print("| threat | avbench, s | torchattacks | foolbox | ART |\n|---|---|---|---|---|")
    print("\n".join(against_peers(torch.device("cuda"), 64, 10)))


if __name__ == "__main__":
    main()
