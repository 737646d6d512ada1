"""Compare robust accuracy with clips crafted in bfloat16 and in float32, on committed models; the judge is the same.

python benchmarks/precision.py [fp16] > benchmarks/precision.md
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

import torch

from avbench import store
from avbench.datasets.splits import open_split
from avbench.metrics.intervals import wilson
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.submission import find_candidate
from avbench.suites import find_suite

MODELS = ("avmnist-concat", "avmnist-adversarial", "synthav-concat", "synthav-adversarial")
SAMPLES = 64
SUITE = find_suite(None, ("XAV:linf:0.006:linf:0.006",), ("pgd", "apgd-ce:steps=20"))


def survivors(name: str, precision: str) -> tuple[dict[str, int], float]:
    """Count the samples that survive each attack, and the seconds of all attacks."""
    candidate, card = find_candidate(f"avbench--{name}")
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(limit=SAMPLES, precision=precision, output_dir=Path(folder))
        run = evaluate(candidate, open_split(card.name, "test"), SUITE, options, quiet=True)
        rows, cells = store.read_rows(run), store.read_record(run)["cells"]
    right = rows[rows["threat"] != "clean"].groupby("attack")["correct"].sum()
    return dict(right), sum(cell["seconds"] for cell in cells if cell["threat"] != "clean")


def shown(count: int) -> str:
    """A share of the samples in % with its 95 % interval."""
    low, high = wilson(count, SAMPLES)
    return f"{100 * count / SAMPLES:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def main(reduced: str = "bf16") -> None:
    """Print the table."""
    print("# Clips crafted in reduced precision\n")
    arithmetic = torch.backends.cpu.get_cpu_capability()
    print(
        f"{torch.get_num_threads()} thread of {platform.machine()} ({arithmetic}), torch {torch.__version__};", end=" "
    )
    print(f"the first {SAMPLES} test")
    print("clips, both radii 0.006, every clip judged in float32. Attack accuracy in % with its 95 % interval.")
    print("`python benchmarks/precision.py`\n")
    print(f"| model | attack | fp32 | {reduced} | {reduced} above fp32's interval | s fp32 | s {reduced} |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS:
        (full, seconds), (other, spent) = survivors(name, "fp32"), survivors(name, reduced)
        for attack, count in full.items():
            above = "yes" if other[attack] / SAMPLES > wilson(count, SAMPLES)[1] else "no"
            shares = f"{shown(count)} | {shown(other[attack])}"
            print(f"| {name} | {attack} | {shares} | {above} | {seconds:.1f} | {spent:.1f} |", flush=True)
    print("\nSeconds are of both attacks together, on a machine that has other work.")


if __name__ == "__main__":
    main(*sys.argv[1:])
