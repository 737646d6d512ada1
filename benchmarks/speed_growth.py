"""Parts of benchmarks/speed.py about growth: time and memory against samples, steps and frames, with plots."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_peers import CLASSES, KINDS, Task, problem
from tabulate import tabulate

from avbench import figures
from avbench.attacks import parse_attack
from avbench.cells import Cell, make_parts
from avbench.datasets import Sample
from avbench.datasets.cards import Lock
from avbench.datasets.splits import Split, open_split
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.submission import find_candidate
from avbench.suites import find_suite
from avbench.threats import parse_threat

ROUNDS = 3
HERE = Path(__file__).parent
SMALL = "avbench--synthav-concat"  # the smallest network there is, so that what surrounds attacks weighs most


@dataclass(frozen=True)
class Repeated(Split):
    """A prepared split as often as it takes, each clip under an id of its own; all is read from its shards."""

    count: int = 0

    @cached_property
    def _whole(self) -> Split:
        return Split(self.card, self.name, self.lock)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        rows = self.lock.rows
        return tuple(f"{rows[i % len(rows)].id}-{i // len(rows)}" for i in range(self.count))

    def __len__(self) -> int:
        return self.count

    @cached_property
    def present(self) -> tuple[int, ...]:
        return tuple(range(self.count))

    def stored(self, index: int) -> Sample:
        return self._whole.stored(index % len(self.lock.rows))._replace(id=self.ids[index])


def peak() -> float:
    """Highest resident memory since the last call, MB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return int(lines["VmHWM"].split()[0]) / 1024


def fresh(work: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
    """Do it in a process of its own, whose memory holds nothing else; return CPU seconds and MB before what it says."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, *arguments))


def _measured(work: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
    torch.set_num_threads(1)
    found = work(*arguments)
    return [*found[:1], peak(), *found[1:]]


def run_samples(count: int) -> list[Any]:
    """Attack so many clips by one look, with the references, as `avbench evaluate` does; return its CPU seconds."""
    candidate, card = find_candidate(SMALL)
    whole = open_split(card.name, "test")
    split = Repeated(card, "test", Lock(whole.lock.rows), count)
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(device="cpu", batch_size=64, output_dir=Path(folder))
        suite = find_suite(None, ("XAV:linf:0.002:linf:0.002",), ("fgsm",))
        start = time.process_time()
        evaluate(candidate, split, suite, options, quiet=True)
        return [time.process_time() - start]


def run_cells(frames: int, steps: int, size: int) -> list[Any]:
    """Attack one micro-batch at the published size in each modality; return CPU seconds: all, then each, the least."""
    model, batch = problem(frames, size)
    victim, attack = Victim(model, CLASSES, torch.device("cpu")), parse_attack(f"pgd:steps={steps}")
    seconds = []
    for kind in KINDS:
        threat = parse_threat(Task(model, batch, kind, steps, 0.001).threat)
        list(make_parts(victim, batch, [Cell(threat, parse_attack("fgsm"))], 0))  # the first time makes kernels
        tries = []
        for _ in range(ROUNDS):
            start = time.process_time()
            list(make_parts(victim, batch, [Cell(threat, attack)], 0))
            tries.append(time.process_time() - start)
        seconds.append(min(tries))
    return [sum(seconds), *seconds]


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line of both logarithms: 1 where time is proportional."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(name: str, x: str, points: Sequence[float], times: dict[str, Sequence[float]], memory: Sequence[float]) -> str:
    """Draw seconds and memory side by side; return the picture's place for a page."""

    def panels(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for label, seconds in times.items():
            left.plot(points, seconds, ".-", label=label)
        left.set(xscale="log", yscale="log", xlabel=x, ylabel="CPU time (s)")
        left.legend(fontsize=7)
        right.plot(points, memory, ".-")
        right.set(xscale="log", xlabel=x, ylabel="highest resident memory (MB)", ylim=(0, 1.15 * max(memory)))

    figures.write(HERE / name, panels, width=6.8)
    (HERE / f"{name}.png").unlink()
    return f"![CPU time and memory against {x}]({name}.svg)"


def measure_samples(full: bool) -> str:
    """Time and memory of whole runs against the number of samples."""
    counts = (100, 1000, 5000, 20_000) if full else (100, 400, 1600)
    found = [fresh(run_samples, count) for count in counts]
    rows = [[n, s, 1000 * s / n, memory] for n, (s, memory) in zip(counts, found, strict=True)]
    heads = ["samples", "CPU time, s", "ms a sample", "highest memory, MB"]
    picture = draw("growth-samples", "samples", counts, {SMALL: [f[0] for f in found]}, [f[1] for f in found])
    about = (
        f"`avbench evaluate` of `{SMALL}`: FGSM on both modalities and the references, micro-batches of 64; a process\n"
    )
    about += "for each number. The prepared test clips of SynthAV are read again and again, each time under another id."
    return f"{about}\n\n{tabulate(rows, heads, 'github', floatfmt='.1f')}\n\n{picture}"


def measure_steps(full: bool) -> str:
    """Time and memory of attacks at the published size against their steps."""
    size, counts = (8, (1, 2, 5, 10, 20, 50)) if full else (2, (1, 2, 4))
    return _grown("steps", "PGD, one frame", size, counts, [(1, steps) for steps in counts])


def measure_frames(full: bool) -> str:
    """Time and memory of attacks at the published size against the frames of a clip."""
    size, steps, counts = (4, 5, (1, 2, 4, 8, 16)) if full else (1, 1, (1, 2, 4))
    return _grown("frames", f"PGD-{steps}", size, counts, [(frames, steps) for frames in counts])


def _grown(name: str, attack: str, size: int, counts: Sequence[int], settings: Sequence[tuple[int, int]]) -> str:
    found = [fresh(run_cells, frames, steps, size) for frames, steps in settings]
    times = {kind: [one[2 + place] for one in found] for place, kind in enumerate(KINDS)}
    memory = [one[1] for one in found]
    rows = [[n, *one[2:], one[1]] for n, one in zip(counts, found, strict=True)]
    slopes = ", ".join(f"{kind} {exponent(counts, seconds):.2f}" for kind, seconds in times.items())
    about = f"{attack}, the network at its published size, batch {size}; a process for each row. Time grows with this "
    about += f"power of the\n{name}: {slopes}. Torch and the network alone take a large part of the memory."
    table = tabulate(rows, [name, *(f"{kind}, s" for kind in KINDS), "highest memory, MB"], "github", floatfmt=".2f")
    return f"{about}\n\n{table}\n\n{draw(f'growth-{name}', name, counts, times, memory)}"
