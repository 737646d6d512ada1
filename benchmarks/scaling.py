"""Measure what workers gain: the same run by one process and by Ray's workers, in turn, each from nothing.

OMP_NUM_THREADS=1 python benchmarks/scaling.py [samples] [workers] > benchmarks/scaling.md
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from avbench import files
from avbench.datasets.splits import open_split
from avbench.device import threads_of
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.sandbox import open_model
from avbench.suites import find_suite

MODEL, SUITE, MICRO_BATCH = "avbench--synthav-concat", "cvpr21-attack", 16


class Timed(NamedTuple):
    """What one run took, in seconds: all of it, and from its first part to its last, so without starting workers."""

    whole: float
    parts: float
    rows_sha256: str


def timed(engine: str, samples: int, workers: int | None) -> Timed:
    with tempfile.TemporaryDirectory() as folder, threads_of("ray"):  # one thread for both
        options = RunOptions(
            limit=samples, batch_size=MICRO_BATCH, device="cpu", output_dir=Path(folder), engine=engine, workers=workers
        )
        candidate, card = open_model(MODEL)
        start = time.perf_counter()
        run = evaluate(candidate, open_split(card.name, "test"), find_suite(SUITE), options, quiet=True)
        whole = time.perf_counter() - start
        times = [path.stat().st_mtime for path in run.rglob("part-*.parquet")]
        return Timed(whole, max(times) - min(times), files.sha256_file(run / "rows.parquet"))


def main(samples: int = 500, workers: int = 2) -> None:
    rounds = []
    for _ in range(3):
        one, several = timed("local", samples, None), timed("ray", samples, workers)
        assert one.rows_sha256 == several.rows_sha256
        rounds.append((one, several))
        print(f"round {len(rounds)}: {one.whole:.1f} s and {several.whole:.1f} s", file=sys.stderr)
    print(
        f"# What workers gain\n\n{MODEL}, {SUITE}, {samples} samples, micro-batches of {MICRO_BATCH}, one thread each,"
    )
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f} (5 min).")
    print("`python benchmarks/scaling.py`; equal bytes were checked. Without start: from the first part to the last.\n")
    print(f"| round | one process, s | {workers} workers, s | gain | without start, s | s | gain |")
    print("|---|---|---|---|---|---|---|")
    for number, (one, several) in enumerate(rounds, 1):
        times = [f"{a:.1f} | {b:.1f} | {a / b:.2f}" for a, b in zip(one[:2], several[:2], strict=True)]
        print(f"| {number} | {' | '.join(times)} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
