"""Compare what `avbench evaluate --dry-run` predicts with what the run then makes and takes, on committed models.

python benchmarks/estimate.py > benchmarks/estimate.md
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from avbench import store
from avbench.datasets.splits import open_split
from avbench.estimate import DIAGNOSIS, estimate
from avbench.options import RunOptions
from avbench.runner import Run, evaluate
from avbench.submission import find_candidate
from avbench.suites import find_suite

# Model, suite, samples.
TRIED = (
    ("avbench--avmnist-concat", "iclr25", 256),
    ("avbench--avmnist-adversarial", "standard", 128),
    ("avbench--synthav-concat", "cvpr21-attack", 128),
    ("avbench--synthav-video", "iclr25", 128),
    ("avbench--synthav-adversarial", "standard", 128),
)


def compare(name: str, suite: str, limit: int, folder: Path) -> str:
    """Predict, run, and write both as a line of the table."""
    (candidate, card), chosen = find_candidate(name), find_suite(suite)
    split, options = open_split(card.name, "test"), RunOptions(limit=limit, output_dir=folder)
    found = estimate(Run(candidate, split, chosen, options))
    start = time.perf_counter()
    cells = store.read_record(evaluate(candidate, split, chosen, options, quiet=True))["cells"]
    seconds = time.perf_counter() - start
    made = [sum(cell[way] for cell in cells) for way in ("forward", "backward")]
    passes = [sum(getattr(one, way) for one in found if one.attack != DIAGNOSIS) for way in ("forward", "backward")]
    expected = sum(one.expected for one in found)
    off = 100 * (expected / seconds - 1)
    return (
        f"| {name} | {chosen} | {limit} | {passes[0]} / {passes[1]} | {made[0]} / {made[1]} "
        f"| {expected:.1f} | {seconds:.1f} | {off:+.2f} |"
    )


def main() -> None:
    """Print the table."""
    print("# Predicted and measured\n")
    print(f"{torch.get_num_threads()} thread of {platform.machine()}, torch {torch.__version__}; load average", end=" ")
    print(f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. `python benchmarks/estimate.py`\n")
    print(
        "In `standard`, a worst-case suite, predicted passes are the most that it can be, and seconds those expected."
    )
    print(
        "A second or two before and after the cells is not predicted, nor then a run that takes no longer than that.\n"
    )
    print("| model | suite | samples | passes predicted, forward / backward | made | s expected | s taken | off, % |")
    print("|---|---|---|---|---|---|---|---|")
    for model, suite, limit in TRIED:
        with tempfile.TemporaryDirectory() as folder:
            print(compare(model, suite, limit, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
