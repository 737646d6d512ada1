"""Compare robust accuracy with clips crafted in reduced precision and in float32, on committed models.

python benchmarks/precision.py > benchmarks/precision.md
"""

from __future__ import annotations

import platform
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

MODELS = [f"{dataset}-{kind}" for dataset in ("synthav", "avmnist", "grid") for kind in ("concat", "adversarial")]
REDUCED = ("bf16", "fp16")
SAMPLES = 256
SUITE = find_suite(None, ("standard",), ("pgd",))


def survivors(name: str, precision: str) -> tuple[dict[str, int], int]:
    """Count the samples that survive under each threat, and those attacked."""
    candidate, card = find_candidate(f"avbench--{name}")
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(limit=SAMPLES, precision=precision, output_dir=Path(folder))
        rows = store.read_rows(evaluate(candidate, open_split(card.name, "test"), SUITE, options, quiet=True))
    attacked = rows[rows["threat"] != "clean"]
    return dict(attacked.groupby("threat")["correct"].sum()), rows["sample"].nunique()


def main() -> None:
    """Print the table."""
    print("# Clips crafted in reduced precision\n")
    arithmetic = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.machine()} ({arithmetic}), torch {torch.__version__}; PGD on the first {SAMPLES} test clips,")
    print("or all of fewer; every clip is judged in float32. Attack accuracy in %, of float32 with its 95 % interval.")
    print("`python benchmarks/precision.py`\n")
    print(f"| model | threat | samples | fp32 | {' | '.join(REDUCED)} | above fp32's interval |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS:
        full, n = survivors(name, "fp32")
        others = [survivors(name, precision)[0] for precision in REDUCED]
        for threat, count in full.items():
            low, high = wilson(count, n)
            above = [precision for precision, other in zip(REDUCED, others, strict=True) if other[threat] / n > high]
            shares = f"{100 * count / n:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
            shown = " | ".join(f"{100 * other[threat] / n:.2f}" for other in others)
            print(f"| {name} | {threat} | {n} | {shares} | {shown} | {', '.join(above) or 'none'} |", flush=True)


if __name__ == "__main__":
    main()
