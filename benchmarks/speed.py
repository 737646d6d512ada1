"""Measure attacks against torchattacks, foolbox and ART, and write the tables of benchmarks/RESULTS.md.

    python benchmarks/speed.py [--full] [--parts NAME ...]

`make bench` runs it in minutes, `make bench-full` as the papers attack. Needs the extra `bench`. The network is that of
[T21] at its published size, 65,535 samples and 224 x 224 pixels, with random weights and norms fitted to its clips.
Peers attack the very same module, wrapped as their users must: the clip of the other modality is fixed, or both are
packed into one image. Before any time is quoted, who leaves which sample right is compared. Contestants take turns;
seconds are CPU time of one thread, where there are rounds the least of them, so what else runs on the machine adds
little; only those of workers are of the clock. The peers run
as they come; what they would gain by memory that is reused, as avbench has it, stands beside them.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from speed_growth import measure_frames, measure_samples, measure_steps
from speed_parts import measure_data, measure_standard
from speed_peers import CLASSES, KINDS, STEP, Contestant, Task, peers, problem
from speed_workers import measure_workers
from tabulate import tabulate
from torch import nn

from avbench import cells
from avbench.attacks import parse_attack
from avbench.cells import REFERENCES, Cell, make_parts
from avbench.memory import reused_memory
from avbench.objectives import ascent_objective, margin
from avbench.oracle import Victim
from avbench.provenance import provenance
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.types import AVInput, Batch

CPU = torch.device("cpu")
FULL, QUICK = (10, 8, 3), (5, 4, 1)  # steps, samples, rounds
REUSED = "torchattacks, memory reused"
RESULTS = Path(__file__).parent / "RESULTS.md"


def loop(task: Task) -> AVInput:
    """PGD with nothing cached: forward passes, backward passes to the attacked input, projections, no more."""
    batch = task.batch
    clips, region = batch.inputs, Region(parse_threat(task.threat), batch.inputs)
    for _ in range(task.steps):
        leaves = {m: getattr(clips, m).detach().requires_grad_() for m in KINDS[task.kind]}
        loss = ascent_objective(task.model(*clips._replace(**leaves)), batch.labels).sum()
        found = torch.autograd.grad(loss, list(leaves.values()))
        clips = region.ascend(clips, dict(zip(leaves, found, strict=True)), STEP)
    return clips


def victim_of(model: nn.Module, quick: bool, precision: str = "fp32") -> Victim:
    """Hold the model as a run does, perhaps without its equal network."""
    victim = Victim(model, CLASSES, CPU)
    victim.quick = victim.quick if quick else victim.model
    victim.precision = precision
    return victim


def ours(victim: Victim, batch: Batch, tried: Sequence[Cell]) -> list[AVInput]:
    """Attack and judge one micro-batch as a run does."""
    kept: list[AVInput] = []
    for _ in make_parts(victim, batch, tried, 0, keep=lambda _, clips: kept.append(clips)):
        pass
    return kept


def reusing(run: Contestant) -> AVInput:
    """Give a peer what avbench has: memory that is reused within a micro-batch."""
    with reused_memory(CPU):
        return run()


def wasting(run: Contestant) -> AVInput:
    """Take it from avbench."""
    cells.reused_memory = nullcontext  # type: ignore[assignment]
    try:
        return run()
    finally:
        cells.reused_memory = reused_memory


def race(contestants: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Let contestants take turns; return what each made and its least CPU time, s."""
    made, seconds = {}, dict.fromkeys(contestants, float("inf"))
    for number in range(rounds):
        for who, run in contestants.items():
            start = time.process_time()
            made[who] = run()
            took = time.process_time() - start
            seconds[who] = min(seconds[who], took)
            print(f"round {number} {who}: {took:.2f} s", flush=True)
    return made, seconds


def apart(task: Task, one: AVInput, other: AVInput) -> float:
    """Share of the attacked values that differ by half a step or more."""
    halves = {"audio": task.radius * STEP, "video": task.radius * STEP / 2}
    changes = {m: getattr(one, m) - getattr(other, m) for m in KINDS[task.kind]}
    return torch.cat([(change.abs() >= halves[m]).flatten() for m, change in changes.items()]).float().mean().item()


class Outcome(NamedTuple):
    """Rows of both tables about one kind of attack."""

    against: list[Any]
    gained: list[Any]


def measure_cell(task: Task, rounds: int) -> Outcome:
    """Let every contestant attack the same clips."""
    model, batch = task.model, task.batch
    tried = [Cell(parse_threat(task.threat), parse_attack(f"pgd:steps={task.steps}"))]
    others = peers(task, "pgd")

    plain, quick = victim_of(model, quick=False), victim_of(model, quick=True)
    reduced = victim_of(model, quick=True, precision="bf16")
    contestants: dict[str, Contestant] = {
        "plain loop": lambda: loop(task),
        "cached": lambda: wasting(lambda: ours(plain, batch, tried)[0]),
        "reused": lambda: ours(plain, batch, tried)[0],
        "avbench": lambda: ours(quick, batch, tried)[0],
        "bf16": lambda: ours(reduced, batch, tried)[0],
        **others,
        REUSED: lambda: reusing(others["torchattacks"]),
    }
    made, took = race(contestants, rounds)
    with torch.no_grad():
        right = {who: margin(model(*clips), batch.labels) > 0 for who, clips in made.items()}
    mine, size = right["avbench"], len(batch.ids)
    differ = sum(int((right[who] != mine).sum()) for who in (*others, "plain loop"))
    bitwise = all(
        torch.equal(*pair) for who in ("cached", "reused") for pair in zip(made[who], made["plain loop"], strict=True)
    )
    label = f"{task.kind}, {batch.inputs.video.shape[1]}"
    ratios = [took[who] / took["avbench"] for who in (*others, REUSED, "plain loop")]
    return Outcome(
        [
            label,
            f"{int(mine.sum())} of {size}",
            f"{differ} of {(len(others) + 1) * size}",
            *(f"{100 * apart(task, made['avbench'], made[who]):.1f} %" for who in ("plain loop", "torchattacks")),
            took["avbench"],
            *ratios,
        ],
        [
            label,
            *(took[who] for who in ("plain loop", "cached", "reused", "avbench")),
            "yes" if bitwise else "NO",
            took["bf16"],
            f"{int(right['bf16'].sum())} of {size}",
        ],
    )


def measure_cells(full: bool) -> str:
    """Each kind of attack at one and at four frames."""
    steps, size, rounds = FULL if full else QUICK
    found = []
    for frames in (1, 4):
        model, batch = problem(frames, size)
        found += [measure_cell(Task.fit(model, batch, kind, steps), rounds) for kind in KINDS]
    heads = ["threat, frames", "left right", "others decide otherwise", "values apart from the plain loop"]
    heads += ["from torchattacks", "avbench, s"]
    heads += ["torchattacks", "foolbox", "ART"]
    against = tabulate([one.against for one in found], [*heads, REUSED, "plain loop"], "github", floatfmt=".2f")
    heads = ["threat, frames", "plain loop, s", "other stream cached, s", "memory reused, s", "quick gradients, s"]
    heads += ["first three: same bits", "in bf16, s", "left right in bf16"]
    gained = tabulate([one.gained for one in found], heads, "github", floatfmt=".2f")
    about = (
        f"PGD-{steps}, batch {size}, rounds: {rounds}. Values apart: by half a step or more, of all that are attacked. "
    )
    about += "After avbench's seconds: times as long as avbench."
    return f"{about}\n\n{against}\n\nWhat each step gained:\n\n{gained}"


def measure_suite(full: bool) -> str:
    """All nine cells of cvpr21-attack with their references, and those of sound alone at four frames."""
    steps, size, rounds = FULL if full else QUICK
    names = {"fgsm": "fgsm", "pgd": f"pgd:steps={steps}", "mim": f"mim:steps={steps}"}
    rows = []
    for frames, kinds, references in ((1, list(KINDS), REFERENCES), (4, ["XA"], ())):
        model, batch = problem(frames, size)
        tasks = [Task.fit(model, batch, kind, steps) for kind in kinds]
        tried = [Cell(parse_threat(task.threat), parse_attack(text)) for task in tasks for text in names.values()]
        runs = [peers(task, name)["torchattacks"] for task in tasks for name in names]
        made, took = race(
            {
                "avbench": partial(ours, victim_of(model, quick=True), batch, [*references, *tried]),
                "torchattacks": lambda runs=runs: [run() for run in runs],  # type: ignore[misc]
            },
            rounds,
        )
        made["avbench"] = made["avbench"][len(references) :]
        with torch.no_grad():
            right = [[margin(model(*clips), batch.labels) > 0 for clips in made[who]] for who in made]
        differ = sum(int((mine != theirs).sum()) for mine, theirs in zip(*right, strict=True))
        label = f"{len(tried)} cells: {' '.join(kinds)}, {frames}" + (", and references" if references else "")
        ratio = took["torchattacks"] / took["avbench"]
        rows.append([label, took["avbench"], took["torchattacks"], ratio, f"{differ} of {len(tried) * size}"])
    heads = ["threats, frames", "avbench, s", "torchattacks, s", "ratio", "samples decided otherwise"]
    about = f"Attacks of cvpr21-attack, batch {size}, {steps} steps; cells share embeddings."
    return about + "\n\n" + tabulate(rows, heads, "github", floatfmt=".2f")


PARTS: dict[str, Callable[[bool], str]] = {
    "cells": measure_cells, "suite": measure_suite, "standard": measure_standard, "data": measure_data,
    "samples": measure_samples, "steps": measure_steps, "frames": measure_frames, "workers": measure_workers,
}  # fmt: skip


def write(part: str, text: str, full: bool) -> None:
    """Put a part into its place in the results, and leave the others as they are."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", old, re.MULTILINE | re.DOTALL))
    mode, date = "full" if full else "quick", time.strftime("%Y-%m-%d")
    machine = f"{provenance(CPU)['cpu']}, {torch.backends.cpu.get_cpu_capability()}, one thread, {platform.system()}"
    about = f"Made by `python benchmarks/speed.py{' --full' * full} --parts {part}` ({mode}) on {date}: {machine}, "
    about += f"Python {platform.python_version()}, torch {torch.__version__}."
    parts[part] = f"{about}\n\n{text}"
    body = "\n\n".join(f"## {name}\n\n{parts[name].strip()}" for name in PARTS if name in parts)
    told = " ".join((__doc__ or "").split("\n\n")[2].split("[--")[0].split())
    RESULTS.write_text(f"# Speed and growth\n\n{told}\n\n{body}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="batch 8, 10 steps, three rounds: two hours")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.parts:
        write(part, PARTS[part](args.full), args.full)


if __name__ == "__main__":
    main()
