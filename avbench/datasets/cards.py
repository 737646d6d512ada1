"""Dataset cards and lock files: what a split is, fixed by people and pinned by hashes."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avbench import files
from avbench.datasets import DATASETS
from avbench.errors import DataError
from avbench.types import InputSpec


class Source(BaseModel):
    """A file to fetch: where it is and what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str  # path below the source folder
    url: str
    sha256: str
    size: int  # bytes


class Card(BaseModel):
    """What a dataset is; see docs/protocol.md for each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    title: str
    summary: str
    license: str
    homepage: str = ""
    task: Literal["multiclass", "multilabel"]
    media: Literal["none", "thumbnail", "full"] = "none"  # what the site may show of a clip
    sample_rate: int
    samples: int
    frames: int
    fps: float
    height: int
    width: int
    classes: tuple[str, ...]
    splits: dict[str, int]  # split to number of samples
    baseline: str | None = None  # submission that the Robustness Improvement is measured against
    notes: tuple[str, ...] = ()
    ceilings: dict[str, float] = Field(default_factory=dict)  # highest reachable accuracy, percent
    sources: tuple[Source, ...] = ()

    @property
    def spec(self) -> InputSpec:
        """Shape of a clip."""
        return InputSpec(self.sample_rate, self.samples, self.frames, self.fps, self.height, self.width)


def read_card(name: str) -> Card:
    """Read a dataset's card.

    Raises:
        UnknownName: if no such dataset is registered.
        DataError: if the card is malformed.
    """
    DATASETS.get(name)
    path = files.root() / "datasets" / name / "card.yaml"
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) | {"name": name})
    except (OSError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise DataError(f"the card {path} cannot be used: {error}") from error


class Lock:
    """The pinned samples of one split, in canonical order: by sha256 of the id, so that any prefix is a fair draw."""

    def __init__(self, rows: list[tuple[str, int, str]]) -> None:
        self.rows = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lock) and self.rows == other.rows

    @property
    def text(self) -> str:
        """The file: id, label, sha256 of the stored sample."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", "label", "sha256"])
        writer.writerows(self.rows)
        return out.getvalue()

    @property
    def sha256(self) -> str:
        """Identity of the split; part of every fingerprint."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @classmethod
    def path(cls, dataset: str, split: str) -> Path:
        """Where the lock of a split lies."""
        return files.root() / "datasets" / dataset / f"{split}.csv"

    @classmethod
    def read(cls, dataset: str, split: str) -> Lock:
        """Read a lock file.

        Raises:
            DataError: if there is none, or it is malformed.
        """
        path = cls.path(dataset, split)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            return cls([(row["id"], int(row["label"]), row["sha256"]) for row in rows])
        except FileNotFoundError as error:
            raise DataError(f"{dataset} has no lock file for split {split!r} ({path})") from error
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"the lock file {path} is malformed: {error}") from error
