"""The calls of a notebook: evaluate a model, score a run, compare two."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from avbench import files, store, summarize
from avbench.checkpoint import Candidate, state_sha256
from avbench.datasets.cards import read_card
from avbench.datasets.splits import open_split
from avbench.device import threads_of
from avbench.errors import AvbenchError, BadModel, IncompleteRun, ProtocolMismatch
from avbench.metrics import Rows
from avbench.options import RunOptions
from avbench.runner import evaluate as run_suite
from avbench.sandbox import open_model
from avbench.suites import Suite, find_suite
from avbench.tensors import given_back


def evaluate_model(
    model: str | Path | nn.Module,
    dataset: str | None = None,
    suite: str | Suite = "cvpr21-attack",
    split: str = "test",
    options: RunOptions | None = None,
    quiet: bool = False,
    trust_remote_code: bool = False,
    sandbox: bool | None = None,
) -> Path:
    """Evaluate a submission, a packed model, a weights file, code or your own module; return the run's folder.

    A module is called as `model(audio, video)` with the shapes of `avbench.types.AVInput` and answers logits
    (batch, classes), not probabilities. If it also has `encode_audio`, `encode_video` and `fuse`, what is not attacked
    is computed once. Whatever else is opened as by `avbench evaluate`, graphs and code in a worker process.
    """
    chosen = find_suite(suite) if isinstance(suite, str) else suite
    how = options or RunOptions()
    if isinstance(model, type):
        raise BadModel(f"expected a torch.nn.Module, got the class {model.__name__}; pass an instance of it")
    if not isinstance(model, nn.Module):
        with threads_of(how.engine):
            candidate, card = open_model(str(model), dataset, trust_remote_code=trust_remote_code, sandbox=sandbox)
            return run_suite(candidate, open_split(card.name, split), chosen, how, quiet)
    with given_back(model):
        return run_suite(_own(model), open_split(dataset or "synthav", split), chosen, how, quiet)


def score(run: str | Path) -> pd.DataFrame:
    """Compute all metrics of a run again from its rows alone; columns as in `avbench.metrics.Score`.

    The Robustness Improvement needs the rows of the dataset's baseline on the same track: they are looked for beside
    the run, then among the committed results.

    Raises:
        IncompleteRun: if the run has no rows, or is not a run.
    """
    return summarize.score(read_run(Path(run)))


def compare(one: str | Path, other: str | Path) -> pd.DataFrame:
    """Compare two runs on the samples that both have; columns as in `avbench.summarize.compare`.

    Runs of one fixed split may lack different clips: what either lacks is left out of both.

    Raises:
        IncompleteRun: if a run has no rows, or they share no sample.
        ProtocolMismatch: if the runs are of different splits, threats or modes of a suite.
    """
    (mine, rows), (theirs, other_rows) = (_verified(Path(run)) for run in (one, other))
    if (_fixed(mine), mine["suite"]["mode"]) != (_fixed(theirs), theirs["suite"]["mode"]):
        raise ProtocolMismatch(f"{mine['track']} and {theirs['track']} are not comparable: another split or protocol")
    return summarize.compare(
        *(Rows(frame, cells=_cells(record)) for record, frame in ((mine, rows), (theirs, other_rows)))
    )


def _cells(record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((threat, attack) for threat in record["threats"] for attack in record["attacks"])


def read_run(run: Path) -> Rows:
    """Read the rows of a run, with its baseline's where there are any.

    Raises:
        IncompleteRun: if the run has no rows, or rows that are not those of its record.
    """
    record, rows = _verified(run)
    cells = _cells(record)
    name = read_card(record["dataset"]["name"]).baseline
    for folder in (run.resolve().parent, files.root() / "leaderboard" / "results" / record["track"]):
        if name and (baseline := _baseline(folder / name, record)) is not None:
            return Rows(rows, baseline, cells)
    return Rows(rows, cells=cells)


def _verified(run: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    record, rows = store.read_record(run), store.read_rows(run)
    if record["rows_sha256"] != files.sha256_file(run / "rows.parquet"):
        raise IncompleteRun(f"the rows in {run} are not those of its record; repeat `avbench evaluate`")
    return record, rows


def _baseline(folder: Path, run: dict[str, Any]) -> pd.DataFrame | None:
    """Rows of the baseline, or None if it has no finished run here on the same split under the same protocol."""
    try:
        record, rows = _verified(folder)
    except AvbenchError:
        return None
    same = (
        _fixed(record) == _fixed(run)
        and record["suite"]["mode"] == run["suite"]["mode"]
        and all(sorted(record[key]) == sorted(run[key]) for key in ("threats", "attacks"))
        and _reach(record) >= _reach(run)
    )
    return rows if same else None


def _fixed(record: dict[str, Any]) -> str:
    """Identity of the fixed split; records of datasets whose lock pins every clip need not have it."""
    dataset = record["dataset"]
    return str(dataset.get("fixed_sha256") or dataset["lock_sha256"])


def _reach(record: dict[str, Any]) -> int:
    """How far a run went through the fixed split, missing clips counted in."""
    dataset = record["dataset"]
    whole = dataset["evaluated"] + dataset.get("missing", 0) == dataset["size"]
    return int(dataset["size"] if whole else dataset["evaluated"])


def _plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Numbers, words and switches that a module's code may read besides its weights."""
    kinds = (str, bool, int, float, tuple, type(None))
    return {
        f"{name}.{key}": repr(value)
        for name, part in model.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, kinds) and key != "training" and not key.startswith("_")
    }


def _own(model: nn.Module) -> Candidate:
    kind = type(model)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        source = ""
    arguments = {"source_sha256": files.fingerprint(source), "attributes": files.fingerprint(_plain_attributes(model))}
    weights = state_sha256(model)
    name = re.sub(r"[^a-z0-9]+", "-", kind.__qualname__.lower()).strip("-")
    return Candidate(f"{name}-{weights[:8]}", model, f"{kind.__module__}.{kind.__qualname__}", arguments, weights)
