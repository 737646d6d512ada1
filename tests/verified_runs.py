"""For the tests of verification: a real run that kept its clips, and what somebody who recomputes hashes would do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from avbench import adversarial, files, store
from avbench.api import evaluate_model
from avbench.datasets.splits import open_split
from avbench.options import RunOptions
from avbench.suites import Suite, find_suite
from avbench.threats import parse_threat
from avbench.types import Batch

MODEL = "avbench--synthav-concat"
SAMPLES = 10
WORST = Suite(
    "worst", 1, "", tuple(map(parse_threat, ("XA:linf:0.004", "XV:linf:0.004", "XAV:linf:0.004:linf:0.004"))),
    find_suite(None, ("standard",), ("fgsm", "pgd:steps=2")).attacks, "worst-case", published=False,
)  # fmt: skip


def make_run(folder: Path, suite: Suite = WORST, model: str = MODEL, **changes: Any) -> Path:
    """Evaluate a committed model on a few samples."""
    how = {"limit": SAMPLES, "batch_size": 4, "device": "cpu", "save_adversarial": True} | changes
    return evaluate_model(model, suite=suite, options=RunOptions(output_dir=folder, **how), quiet=True)


def copied(run: Path, folder: Path) -> Path:
    """A copy to be tampered with."""
    return Path(shutil.copytree(run, folder / run.name, ignore=shutil.ignore_patterns("cells")))


def reseal(run: Path, /, **changes: Any) -> None:
    """Recompute every hash, as somebody would who hides a change; `changes` replace entries of run.json."""
    record = store.read_record(run) | changes
    record["rows_sha256"] = files.sha256_file(run / "rows.parquet")
    folder = run / "adversarial"
    if folder.exists():
        shards = [(path, files.sha256_file(path)) for path in folder.rglob("*.npz")]
        (folder / "SHA256SUMS").write_text(adversarial.sums(folder, shards))
        record["adversarial_sha256"] = files.sha256_file(folder / "SHA256SUMS")
    (run / "run.json").write_text(files.readable_json(record))
    if (run / "health.json").exists():
        health = json.loads((run / "health.json").read_text()) | {"rows_sha256": record["rows_sha256"]}
        (run / "health.json").write_text(files.canonical_json(health) + "\n")
    store.publish_seal(run)


def edit_rows(run: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change rows, and hide it."""
    metadata = pq.read_schema(run / "rows.parquet").metadata
    told = {key.decode(): value.decode() for key, value in metadata.items()}
    store.write_table(run / "rows.parquet", edit(store.read_rows(run)), told)
    record = store.read_record(run)
    rows = store.read_rows(run)
    counts = rows.groupby(["threat", "attack"]).size()
    cells = [cell | {"rows": int(counts.get((cell["threat"], cell["attack"]), 0))} for cell in record["cells"]]
    reseal(run, cells=cells)


def edit_shard(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change arrays of a file of clips."""
    with np.load(path) as found:
        arrays = dict(found)
    edit(arrays)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def clean_batch(ids: list[str]) -> Batch:
    """The clean clips of some samples of the test split."""
    split = open_split("synthav", "test")
    return split.batch([split.ids.index(name) for name in ids])
