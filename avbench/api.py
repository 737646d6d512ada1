"""The two calls of a notebook: evaluate a model, score a run."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pandas as pd
from torch import nn

from avbench import files, store, summarize
from avbench.checkpoint import Candidate, state_sha256
from avbench.datasets.cards import read_card
from avbench.datasets.shards import open_split
from avbench.errors import IncompleteRun
from avbench.metrics import Rows
from avbench.options import RunOptions
from avbench.runner import evaluate as run_suite
from avbench.submission import find_candidate
from avbench.suites import Suite, find_suite


def evaluate(
    model: str | Path | nn.Module,
    dataset: str | None = None,
    suite: str | Suite = "cvpr21-attack",
    split: str = "test",
    options: RunOptions | None = None,
    quiet: bool = False,
) -> Path:
    """Evaluate a submission, a weights file or your own module; return the run's folder.

    A module is called as `model(audio, video)` with the shapes of `avbench.types.AVInput` and answers logits
    (batch, classes). If it also has `encode_audio`, `encode_video` and `fuse`, what is not attacked is computed once.
    """
    if isinstance(model, nn.Module):
        card = read_card(dataset or "synthav")
        candidate = _own(model)
    else:
        candidate, card = find_candidate(str(model), dataset)
    chosen = find_suite(suite) if isinstance(suite, str) else suite
    return run_suite(candidate, open_split(card.name, split), chosen, options or RunOptions(), quiet)


def score(run: Path) -> pd.DataFrame:
    """Compute all metrics of a run again from its rows alone; columns as in `avbench.metrics.Score`.

    The Robustness Improvement needs the rows of the dataset's baseline on the same track: they are looked for beside
    the run, then among the committed results.

    Raises:
        IncompleteRun: if the run has no rows, or is not a run.
    """
    return summarize.score(read_run(run))


def read_run(run: Path) -> Rows:
    """Read the rows of a run, with its baseline's where there are any.

    Raises:
        IncompleteRun: if the run has no rows, or rows that are not those of its record.
    """
    record = store.read_record(run)
    rows = store.read_rows(run)
    if record["rows_sha256"] != files.sha256_file(run / "rows.parquet"):
        raise IncompleteRun(f"the rows in {run} are not those of its record; repeat `avbench evaluate`")
    cells = tuple((threat, attack) for threat in record["threats"] for attack in record["attacks"])
    baseline = read_card(record["dataset"]["name"]).baseline
    results = files.root() / "leaderboard" / "results"
    for folder in (run.resolve().parent, results / record["track"]):
        if baseline and (folder / baseline / "rows.parquet").is_file():
            return Rows(rows, store.read_rows(folder / baseline), cells)
    return Rows(rows, cells=cells)


def _own(model: nn.Module) -> Candidate:
    kind = type(model)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        source = ""
    arguments = {"source_sha256": files.fingerprint(source)}
    weights = state_sha256(model)
    name = re.sub(r"[^a-z0-9]+", "-", kind.__qualname__.lower()).strip("-")
    return Candidate(f"{name}-{weights[:8]}", model, f"{kind.__module__}.{kind.__qualname__}", arguments, weights)
