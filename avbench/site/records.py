"""Read run folders; every string in one was written by a stranger and is checked before it is used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from rich.console import Console

from avbench import files, store
from avbench.counter import Counter, counter_folders, read_counter
from avbench.diagnose import Health, read_health, read_review
from avbench.errors import DataError, StaleCounter
from avbench.form import Claim
from avbench.metrics import Rows
from avbench.options import PRECISIONS
from avbench.provenance import precision_of
from avbench.suites import SUITES

LARGEST = 4_000_000  # bytes of a run.json


def visible(text: str) -> str:
    """Replace what could hide or reorder text: control, format and bidirectional characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds NaN or infinity")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(part)
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]  # becomes a file name
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(visible)]
Plain = Annotated[dict[str, Any], AfterValidator(_finite)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class ModelRecord(_Record):
    """What was evaluated."""

    id: Name
    title: Annotated[Line, StringConstraints(min_length=1, max_length=200)]
    architecture: Line
    arguments: Plain = Field(default_factory=dict)
    weights_sha256: Hash
    authors: Line = ""
    license: Line = ""
    training_data: Line = ""
    defense: Line = ""
    reference: Line = ""  # its role on the board, if it has one
    claims: tuple[Claim, ...] = ()
    description: Annotated[Line, StringConstraints(max_length=5000)] = ""

    @property
    def unimodal(self) -> bool:
        """Tell whether it reads one modality only; then half of the attacks cannot touch it."""
        return self.reference.startswith("unimodal")


class DatasetRecord(_Record):
    """On which samples."""

    name: Name
    split: Name
    lock_sha256: Hash
    fixed_sha256: Hash | None = None  # None in records of datasets whose lock pins every clip
    size: Count  # of the fixed split
    missing: Count = 0  # clips of it that were not to be had
    evaluated: Count

    @property
    def identity(self) -> str:
        """What runs must share to be compared."""
        return self.fixed_sha256 or self.lock_sha256

    @property
    def coverage(self) -> float:
        """Share of the fixed split that was evaluated."""
        return self.evaluated / self.size if self.size else 0.0


class SuiteRecord(_Record):
    """Under which protocol."""

    name: Name
    version: Count
    mode: Literal["every", "worst-case"]
    published: bool


class CellRecord(_Record):
    """One threat under one attack: its identity and its cost."""

    threat: Line
    attack: Line
    fingerprint: Hash
    rows: Count
    forward: Count
    backward: Count
    seconds: Annotated[float, Field(ge=0)]


class Provenance(_Record):
    """Where, when and how; further entries are shown as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)
    created: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d[0-9TZ:.+ -]{0,30}$")]
    avbench: Line
    git_commit: Line | None = None
    dirty: bool | None = None
    python: Line
    torch: Line
    device: Line
    cpu: Line = ""
    command: Line

    @property
    def date(self) -> str:
        """Day, YYYY-MM-DD."""
        return self.created[:10]


class Withdrawal(_Record):
    """Why a run is no longer shown: the withdrawn.json that a person put beside it."""

    rows_sha256: Hash  # of the rows that it is about
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    reason: Annotated[Line, StringConstraints(min_length=1)]


class Record(_Record):
    """The run.json of one run."""

    protocol: Count
    run: Hash
    model: ModelRecord
    dataset: DatasetRecord
    suite: SuiteRecord
    seed: int
    threats: tuple[Line, ...]
    attacks: tuple[Line, ...]
    cells: tuple[CellRecord, ...]
    numerics: Plain = Field(default_factory=dict)
    provenance: Provenance
    rows_sha256: Hash

    @property
    def precision(self) -> str:
        """In what its clips were crafted."""
        told = precision_of(self.numerics)
        return told if told in PRECISIONS else "a precision that is not known"

    @property
    def track(self) -> str:
        """Dataset, split and suite."""
        return f"{self.dataset.name}-{self.dataset.split}-{self.suite.name}@{self.suite.version}"


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    record: Record
    frame: pd.DataFrame

    @property
    def complete(self) -> bool:
        """Tell whether every sample of the split that was to be had was evaluated."""
        dataset = self.record.dataset
        return dataset.evaluated + dataset.missing == dataset.size and dataset.evaluated > 0

    @property
    def full_precision(self) -> bool:
        """Tell whether its clips were crafted in a precision that its suite ranks."""
        name = self.record.suite.name
        allowed = SUITES.get(name).precisions if name in SUITES.names() else ("fp32",)
        return self.record.precision in allowed

    @property
    def multilabel(self) -> bool:
        """Tell whether its clips have several labels."""
        return "scores" in self.frame

    @cached_property
    def rows(self) -> Rows:
        """Its rows as metrics read them, with all cells of its suite: one that nothing survived to meet has no row."""
        return Rows(self.frame, cells=tuple(itertools.product(self.record.threats, self.record.attacks)))

    @cached_property
    def samples(self) -> frozenset[str]:
        """On which clips it ran."""
        return frozenset(self.frame["sample"].unique())

    @cached_property
    def health(self) -> Health | None:
        """Its flags, or None if nobody looked for them."""
        return read_health(self.folder, self.record.run, self.record.rows_sha256)

    @cached_property
    def counters(self) -> list[Counter]:
        """Counter attacks that were accepted for it; those for rows that it had before are left out."""
        found = []
        for folder in counter_folders(self.folder):
            try:
                found.append(read_counter(folder, self.record.model_dump()))
            except StaleCounter as error:
                Console(stderr=True).print(f"left out: {error}", markup=False)
        return found

    @cached_property
    def review(self) -> str:
        """Why a person accepted raised flags, or nothing."""
        return visible(read_review(self.folder)) if self.health and self.health.raised else ""

    @cached_property
    def withdrawn(self) -> Withdrawal | None:
        """Why it is no longer shown, if a person withdrew it."""
        path = self.folder / "withdrawn.json"
        try:
            found = Withdrawal.model_validate_json(path.read_bytes()) if path.exists() else None
        except (OSError, ValidationError) as error:
            raise DataError(f"{path} cannot be used; it needs rows_sha256, date and reason: {error}") from error
        if found and found.rows_sha256 != self.record.rows_sha256:
            raise DataError(f"{path} is about other rows; delete it, or give it the rows_sha256 of run.json")
        return found


def read_run(folder: Path) -> Run:
    """Read and check one run folder.

    Raises:
        DataError: if run.json cannot be used or does not pin the rows beside it.
        IncompleteRun: if the rows are missing or are not rows.
        ProtocolMismatch: if another protocol version wrote the run.
    """
    path, rows = folder / "run.json", folder / "rows.parquet"
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} is larger than {LARGEST} bytes; no run writes that")
    data = store.read_record(folder)
    try:
        record = Record.model_validate(data)
    except (ValidationError, RecursionError) as error:
        raise DataError(f"{path} is not a usable run record: {error}") from error
    frame = store.read_rows(folder)
    if files.sha256_file(rows) != record.rows_sha256:
        raise DataError(f"{rows} is not the file that its run.json pins; fetch both again")
    return Run(folder, record, frame)


def read_runs(folders: Sequence[Path]) -> Iterator[Run]:
    """Read every finished run at or below the given folders, in a fixed order, each once.

    Raises:
        DataError: if a folder does not exist or a run is malformed.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; give the folder that `avbench evaluate` wrote, or one above it")
        found |= {path.parent.resolve() for path in folder.rglob("run.json")}
    for path in sorted(found):
        if store.read_record(path).get("rows_sha256") is None:
            Console(stderr=True).print(f"left out, because it is not finished: {path}", markup=False)
        else:
            yield read_run(path)
