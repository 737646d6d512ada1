"""Measure what a packed model gains by computing the stream that is not attacked once; write benchmarks/graph.md.

Four clips of 11,025 samples and frames of 112 x 112 pixels through avnet at its published width, a ResNet18 beside
eight 1-D convolutions, attacked by PGD-10 as a run does it. The model as its author wrote it has one stage here;
packed it has two, found from the graph. Seconds of one core, best of three; two minutes in all.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/graph.py
"""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor, nn

import avbench
from avbench.cells import Cell, embed, make_clips
from avbench.datasets.cards import Card
from avbench.graph.pack import pack
from avbench.models import build
from avbench.oracle import Victim
from avbench.threats import parse_threat
from avbench.types import MODALITIES, AVInput, Batch, InputSpec

CLASSES, BATCH, REPEATS = 4, 4, 3


class OneStage(nn.Module):
    """A model that offers logits only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.model(audio, video)  # type: ignore[no-any-return]


def measure(frames: int) -> list[list[object]]:
    spec = InputSpec(sample_rate=11025, samples=11025, frames=frames, fps=8, height=112, width=112)
    card = Card(
        name="bench", title="Bench", summary="-", license="MIT", task="multiclass", sample_rate=11025, samples=11025,
        frames=frames, fps=8, height=112, width=112, splits={"test": 1}, classes=tuple(map(str, range(CLASSES))),
    )  # fmt: skip
    torch.manual_seed(0)
    model = OneStage(build("avnet", CLASSES, spec, {})).eval().requires_grad_(False)
    audio, video = torch.rand(BATCH, *spec.shape("audio")) - 0.5, torch.rand(BATCH, *spec.shape("video"))
    batch = Batch(tuple(map(str, range(BATCH))), AVInput(audio, video), model(audio, video).argmax(dim=1))
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(model, card, Path(folder))
    rows: list[list[object]] = []
    for threat in ("XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"):
        cell = Cell(parse_threat(threat), avbench.attacks.get("pgd").attack)
        seconds, found = [], []
        for one in (model, packed):
            victim, times = Victim(one, CLASSES, torch.device("cpu")), []
            for _ in range(REPEATS):
                start = time.process_time()
                fixed = embed(victim, batch, [m for m in MODALITIES if m not in cell.attacked])
                clips = make_clips(victim, batch, cell, fixed, seed=0)
                times.append(time.process_time() - start)
            seconds.append(min(times))
            found.append(clips)
        same = all(torch.equal(*pair) for pair in zip(*found, strict=True))
        rows.append([frames, threat.partition(":")[0], *seconds, seconds[0] / seconds[1], "yes" if same else "NO"])
    return rows


def main() -> None:
    rows = [row for frames in (1, 4) for row in measure(frames)]
    heads = ["frames", "threat", "as written, s", "packed, s", "gain", "same clips"]
    text = f"# Packed models\n\n{(__doc__ or '').partition(chr(10) * 2)[2].partition('    OMP')[0].strip()}\n\n"
    text += tabulate(rows, heads, tablefmt="github", floatfmt=("g", "", ".2f", ".2f", ".1f", ""))
    text += f"\n\nMade on {time.strftime('%Y-%m-%d')} with torch {torch.__version__}, {platform.machine()}.\n"
    (Path(__file__).parent / "graph.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
