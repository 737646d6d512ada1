"""Parts of benchmarks/speed.py about whole runs: the worst-case mode, and reading of data."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from avbench.attacks import Setting, parse_attack
from avbench.cells import REFERENCES, Cell, make_parts
from avbench.datasets.splits import open_split
from avbench.memory import reused_memory
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.submission import find_candidate
from avbench.suites import find_suite
from avbench.threats import parse_threat
from avbench.types import TwoStageModel

MODELS = ("avbench--synthav-concat", "avbench--avmnist-concat", "avbench--grid-concat")  # undefended, committed


def run(model: str, mode: str, samples: int) -> tuple[dict[str, Any], float]:
    """Run `standard` on a committed model, worst case or every attack on every sample; return record and CPU s."""
    candidate, card = find_candidate(model)
    suite = replace(find_suite("standard"), mode=mode, published=False, name=f"standard-{mode}")
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(limit=samples, device="cpu", output_dir=Path(folder))
        start = time.process_time()
        made = evaluate(candidate, open_split(card.name, "test"), suite, options, quiet=True)
        return json.loads((made / "run.json").read_text()), time.process_time() - start


def on_every_sample(record: dict[str, Any], model: str) -> int:
    """Passes of the same attacks on every sample, as the attacks announce them, judging included."""
    candidate, card = find_candidate(model)
    total = 0
    for cell in (Cell(parse_threat(t), parse_attack(a)) for t in record["threats"] for a in record["attacks"]):
        setting = Setting(
            cell.attacked, isinstance(candidate.module, TwoStageModel), card.spec.frames, len(card.classes)
        )
        total += sum(cell.attack.cost(setting), start=1) * record["dataset"]["evaluated"]  # type: ignore[union-attr]
    return total


def measure_standard(full: bool) -> str:
    """What is saved by attacking only what is still robust; passes, and in full mode CPU time too."""
    rows = []
    for model in MODELS:
        record, took = run(model, "worst-case", samples := 32)
        made = [cell for cell in record["cells"] if cell["threat"] != "clean"]
        passes, every = sum(cell["forward"] + cell["backward"] for cell in made), on_every_sample(record, model)
        left = [cell["rows"] for cell in made]
        slow = run(model, "every", samples)[1] if full else None
        times = [f"{slow:.0f} / {took:.0f} = {slow / took:.1f}" if slow else ""]
        rows.append([model, samples, f"{every} / {passes} = {every / passes:.1f}", *times, " ".join(map(str, left))])
    heads = ["model", "samples", "passes: every sample / worst case", "CPU s", "samples that each cell attacked"]
    return "Suite standard on undefended committed models.\n\n" + tabulate(rows, heads, "github")


def measure_data(full: bool) -> str:
    """CPU time of reading beside that of the cheapest published suite: an upper bound of what the loop waits."""
    candidate, card = find_candidate("avbench--synthav-concat")
    split, size = open_split(card.name, "test"), 64 if full else 32
    victim, suite = Victim(candidate.module, len(card.classes), torch.device("cpu")), find_suite("cvpr21-defense")
    split.batch(range(size, size + 1))
    start = time.process_time()
    batch = split.batch(range(size))
    read = time.process_time() - start
    cells = [*REFERENCES, *(Cell(threat, attack) for threat in suite.threats for attack in suite.attacks)]
    start = time.process_time()
    with reused_memory(torch.device("cpu")):
        list(make_parts(victim, batch, cells, 0))
    attacked = time.process_time() - start
    row = [suite, 1000 * read / size, 1000 * attacked / size, f"{100 * read / (read + attacked):.1f} %"]
    about = (
        f"`{candidate.id}`, the smallest network there is, on {size} prepared clips of synthav. Reading happens in\n"
    )
    about += "another thread, ahead of the loop; its whole CPU time is counted here, so the loop waits less than this."
    heads = ["suite", "reading, ms a sample", "attacks, ms a sample", "share"]
    return about + "\n\n" + tabulate([row], heads, "github", floatfmt=".2f")
