"""What can be checked of a result without its model: files, hashes, and what its rows say of its health flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avbench import files, store
from avbench.adversarial import FOLDER, SUMS, sums
from avbench.diagnose import read_health
from avbench.diagnose.rows import flags_of_record, flags_of_rows
from avbench.errors import IncompleteRun
from avbench.metrics import Rows

LARGEST = 4_000_000  # bytes of a run.json
COUNTER = "counter"  # folder of accepted counter attacks
_SEALED = {"run.json", "rows.parquet", "health.json", SUMS, FOLDER}
# What may lie beside them and proves nothing: figures that follow from the rows, a person's review, parts of a run.
_BESIDE = {
    "review.json", "withdrawn.json", "classes.parquet", "curve.parquet", "curve.svg", "curve.png", "geometry.parquet",
    "evidence.parquet", "drops.parquet", "drops.svg", "drops.png", "cells", "quarantine", ".lock", COUNTER,
}  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Model(_Part):
    id: str


class _Dataset(_Part):
    name: str
    split: str
    evaluated: int


class _Suite(_Part):
    name: str
    version: int
    mode: Literal["every", "worst-case"]
    published: bool


class _Cell(_Part):
    threat: str
    attack: str
    fingerprint: str
    rows: int


class _Numerics(_Part):
    micro_batch: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"


class _Record(_Part):
    """What of a record is used here; whoever wrote it may have put anything elsewhere."""

    run: str
    track: str
    model: _Model
    dataset: _Dataset
    suite: _Suite
    seed: int
    draws: int = 1
    threats: list[str]
    attacks: list[str]
    corruptions: list[str] = []
    cells: list[_Cell]
    numerics: _Numerics
    rows_sha256: str | None
    adversarial_sha256: str | None = None


def read_finished(run: Path) -> dict[str, Any]:
    """Read the record of a finished run.

    Raises:
        IncompleteRun: if there is none, or the run is not finished.
        ProtocolMismatch: if another protocol version wrote it.
    """
    path = run / "run.json"
    if path.is_file() and path.stat().st_size > LARGEST:
        raise IncompleteRun(f"{path} is larger than {LARGEST} bytes; no run writes that")
    try:
        record = store.read_record(run)
        _Record.model_validate(record)
    except (ValidationError, RecursionError) as error:
        raise IncompleteRun(f"{path} is not the record of a run ({str(error)[:300]})") from error
    if not record["rows_sha256"]:
        raise IncompleteRun(f"{run} is not finished; repeat `avbench evaluate`")
    return record


def check_files(run: Path, record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """List which files differ from what the record and the seal pin; and what could not be checked."""
    differences = [f"{path.name} is no file of a run" for path in run.iterdir() if path.name not in _SEALED | _BESIDE]
    differences += [f"{path.relative_to(run)} is a link" for path in run.rglob("*") if path.is_symlink()]
    unchecked = []
    if (run / "run.json").read_text(encoding="utf-8") != files.readable_json(record):
        differences.append("run.json is not written as avbench writes it")
    if not (run / "rows.parquet").is_file() or files.sha256_file(run / "rows.parquet") != record["rows_sha256"]:
        differences.append("rows.parquet is not the file that run.json pins")
    if "adversarial_sha256" in record:
        differences += _differing(run / SUMS, store.seal(run))
    else:
        unchecked.append("changes of run.json and health.json: the run was made before results were sealed")
    return differences + _check_clips(run / FOLDER, record.get("adversarial_sha256")), unchecked


def _check_clips(folder: Path, pinned: str | None) -> list[str]:
    if pinned is None:
        return [f"{FOLDER}/ holds clips and run.json names none"] if folder.exists() else []
    if not (folder / SUMS).is_file() or files.sha256_file(folder / SUMS) != pinned:
        return [f"{FOLDER}/{SUMS} is not the file that run.json pins"]
    there = [path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS]
    return _differing(folder / SUMS, sums(folder, [(path, files.sha256_file(path)) for path in there]))


def _differing(path: Path, wanted: str) -> list[str]:
    """Name the files of which a list of hashes and the truth say different things."""
    try:
        said = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return [f"{path.name} is missing or no text"]
    one, other = ({line[66:]: line[:64] for line in text.splitlines()} for text in (said, wanted))
    changed = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    where = "" if path.parent.name != FOLDER else f"{FOLDER}/"
    found = [
        f"{where}{name[:100]!a} is "
        + ("missing" if name not in other else f"not in {where}{SUMS}" if name not in one else f"not as {SUMS} says")
        for name in changed
    ]
    return found or ([] if said == wanted else [f"{where}{SUMS} is not written as avbench writes it"])


def check_health(run: Path, record: dict[str, Any], frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Compare health.json with what the rows alone show; what was found with the model is not repeated.

    Raises:
        DataError: if health.json is not one.
    """
    path = run / "health.json"
    if not path.exists():
        return [], ["health flags: nobody looked for them (`avbench diagnose`)"]
    health = read_health(run, record["run"], record["rows_sha256"])
    if health is None:
        return ["health.json is not of these rows"], []
    if path.read_text(encoding="utf-8") != files.canonical_json(health.model_dump()) + "\n":
        return ["health.json is not written as avbench writes it"], []
    cells = tuple((threat, attack) for threat in record["threats"] for attack in record["attacks"])
    rows = Rows(frame, cells=cells)
    found = [*flags_of_record(record, rows), *flags_of_rows(rows)]
    hidden = [str(flag) for flag in found if flag.state == "raised" and str(flag) not in map(str, health.raised)]
    differences = [f"health.json does not raise {name}, which the rows show" for name in hidden]
    return differences, ["health flags that need the model (`avbench diagnose` repeats them)"]
