"""`avbench diagnose`: look for every flag, in a model or in a finished run, and keep those of a run beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from avbench import files, store
from avbench.checkpoint import Candidate
from avbench.datasets.splits import Split, open_split
from avbench.device import deterministic, find_device
from avbench.diagnose import THRESHOLDS, Flag, Health, gather
from avbench.diagnose.probe import probe
from avbench.diagnose.rows import flags_of_record, flags_of_rows
from avbench.errors import AvbenchError, IncompleteRun, ProtocolMismatch
from avbench.metrics import Rows
from avbench.oracle import Victim
from avbench.rng import seeded
from avbench.sandbox import open_model
from avbench.threats import ThreatModel, parse_threat


def diagnose_model(
    candidate: Candidate,
    split: Split,
    threats: Sequence[ThreatModel],
    stored: pd.DataFrame | None = None,
    seed: int = 0,
    device: str = "auto",
    micro_batch: int | None = None,
) -> tuple[Flag, ...]:
    """Look for the flags that the model shows on a few samples; see `probe`.

    Raises:
        BadModel, NonFiniteOutput, BudgetViolation: as in an evaluation.
    """
    victim = Victim(candidate.module, len(split.card.classes), find_device(device))
    with deterministic(victim.device), seeded(victim.device, "diagnose", seed):
        return gather(probe(victim, split, threats, stored, seed, micro_batch))


def diagnose_run(
    run: Path, candidate: Candidate | None = None, split: Split | None = None, device: str = "auto"
) -> Health:
    """Look for all flags in a finished run, write its health.json, and return it.

    Without a candidate the submission of the run's name is probed; where there is none, what needs a model is left
    unchecked, and the run counts as not diagnosed.

    Raises:
        IncompleteRun: if the run has no rows, or rows that are not those of its record.
        ProtocolMismatch: if the candidate, or the split on this machine, is not the one that the run is of.
    """
    record, frame = store.read_record(run), store.read_rows(run)
    if record["rows_sha256"] != files.sha256_file(run / "rows.parquet"):
        raise IncompleteRun(f"the rows in {run} are not those of its record; repeat `avbench evaluate`")
    threats = [parse_threat(text) for text in record["threats"]]
    rows = Rows(frame, cells=tuple((str(t), attack) for t in threats for attack in record["attacks"]))
    flags = [*flags_of_record(record, rows), *flags_of_rows(rows)]
    probed = 0
    if candidate := candidate or _submitted(record):
        if any(record["model"][key] != value for key, value in candidate.identity.items()):
            raise ProtocolMismatch(f"{run} is a run of {record['model']['id']}, and {candidate.id} is another model")
        split = split or open_split(record["dataset"]["name"], record["dataset"]["split"])
        if split.lock.sha256 != record["dataset"]["lock_sha256"]:
            raise ProtocolMismatch(f"{run} was evaluated on other clips than those of {split.card.name} here")
        size = record["numerics"]["micro_batch"]
        found = diagnose_model(candidate, split, threats, frame, record["seed"], device, size)
        probed = next(flag.n for flag in found if flag.name == "random-outputs")
        flags += found
    health = Health(
        thresholds=THRESHOLDS, run=record["run"], rows_sha256=record["rows_sha256"], probed=probed, flags=gather(flags)
    )
    health.write(run)
    store.publish_seal(run)
    return health


def _submitted(record: dict[str, Any]) -> Candidate | None:
    """Find the submission that a run is of; None if it is not here or has changed."""
    try:
        candidate, _ = open_model(record["model"]["id"], record["dataset"]["name"])
    except AvbenchError:
        return None
    same = all(record["model"][key] == value for key, value in candidate.identity.items())
    return candidate if same else None
