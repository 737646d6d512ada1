"""Dataset cards and lock files: what a split is, fixed by people and pinned by hashes."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avbench import files
from avbench.datasets import DATASETS, Entry, Label
from avbench.errors import BadOption, DataError, UnknownName
from avbench.registry import nearest
from avbench.types import InputSpec


class Source(BaseModel):
    """A file to fetch: where it is and what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str  # path below the source folder
    url: str
    sha256: str | None  # None: no maintainer has seen the file, so its contents are checked instead
    size: int  # bytes; at most, where there is no sha256


class Lists(BaseModel):
    """How the official lists make the splits of a dataset of video files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["table", "t21", "audioset"]  # see avbench/datasets/lists.py
    files: dict[str, str]  # split to file name, of a source or else beside the card
    labels: str | None = None  # the file that names the classes, of the format audioset
    unique: bool = False  # drop rows that repeat a clip, and from train those that val or test holds


class Hub(BaseModel):
    """Where prepared shards can be had: a dataset repository on the Hugging Face Hub, at a pinned revision."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    repo: str
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]


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
    lists: Lists | None = None  # of a dataset of video files, which needs no code
    hub: Hub | None = None

    @property
    def spec(self) -> InputSpec:
        """Shape of a clip."""
        return InputSpec(self.sample_rate, self.samples, self.frames, self.fps, self.height, self.width)

    def find(self, split: str) -> tuple[str, int]:
        """Whole split and number of samples of `test`, or of `test-200`: the first 200 of it, which are a fair draw.

        Raises:
            BadOption: if there is no such split, or it has no more samples than that.
        """
        if split in self.splits:
            return split, self.splits[split]
        whole, _, count = split.rpartition("-")
        if re.fullmatch("[1-9][0-9]{0,8}", count) and int(count) < self.splits.get(whole, 0):
            return whole, int(count)
        raise BadOption(
            f"{self.name} has the splits {', '.join(self.splits)}, not {split!r}; "
            f"{next(iter(self.splits))}-100 would be the first 100 samples of one"
        )


def names() -> list[str]:
    """Names of all datasets: those with a card here or in the current folder, and those of installed plug-ins."""
    cards = {path.parent.name for base in _bases() for path in base.glob("*/card.yaml")}
    return sorted(cards | set(DATASETS.names()))


def card_folder(name: str) -> Path:
    """Folder of a dataset's card: one of avbench, or `datasets/<name>` in the current folder.

    Raises:
        UnknownName: if no such dataset is known.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        for base in _bases():
            if (base / name / "card.yaml").is_file():
                return base / name
    raise UnknownName(f"no dataset is called {name!r}; {nearest(name, names())}")


def _bases() -> tuple[Path, ...]:
    return (files.root() / "datasets", Path("datasets"))


def read_card(name: str) -> Card:
    """Read a dataset's card.

    Raises:
        UnknownName: if no such dataset is known.
        DataError: if the card is malformed.
    """
    path = card_folder(name) / "card.yaml"
    try:
        card = _parse(path.read_text(encoding="utf-8"), name)
    except (OSError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise DataError(f"the card {path} cannot be used: {error}") from error
    if card.lists is None and name not in DATASETS.names():
        raise DataError(f"the card {path} has no `lists`, and no code is registered that makes its clips")
    return card


@lru_cache(maxsize=64)  # a site asks for each card on many pages
def _parse(text: str, name: str) -> Card:
    return Card.model_validate(yaml.safe_load(text) | {"name": name})


class Pinned(NamedTuple):
    """One row of a lock."""

    id: str
    label: Label
    sha256: str  # of the stored clip; empty where there is none


class Lock:
    """The samples of one split, in canonical order: by sha256 of the id, so that any prefix is a fair draw.

    The ids are those of the fixed split, whether their clips could be had or not.
    """

    def __init__(self, rows: Iterable[Pinned]) -> None:
        self.rows = sorted(rows, key=canonical)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lock) and self.rows == other.rows

    @property
    def text(self) -> str:
        """The file: id, label (several with spaces between), sha256 of the stored sample."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(Pinned._fields)
        writer.writerows((row.id, label_text(row.label), row.sha256) for row in self.rows)
        return out.getvalue()

    @cached_property
    def sha256(self) -> str:
        """Identity of the split; part of every fingerprint."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @classmethod
    def path(cls, dataset: str, split: str) -> Path:
        """Where the lock that a maintainer committed lies, if there is one."""
        return card_folder(dataset) / f"{split}.csv"

    @classmethod
    def read(cls, path: Path, task: str) -> Lock:
        """Read a lock file.

        Raises:
            DataError: if there is none, or it is malformed.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [_pinned(row, task) for row in csv.DictReader(file)]
        except FileNotFoundError as error:
            raise DataError(f"there is no lock file {path}") from error
        except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise DataError(f"the lock file {path} is malformed: {error}") from error
        if len({row.id for row in rows}) != len(rows):
            raise DataError(f"the lock file {path} holds an id twice")
        return cls(rows)


def canonical(row: Pinned | Entry) -> bytes:
    """Sort key of the canonical order."""
    return hashlib.sha256(row.id.encode()).digest()


def label_text(label: Label) -> str:
    """Write a label as locks do."""
    return str(label) if isinstance(label, int) else " ".join(map(str, label))


def _pinned(row: dict[str, str], task: str) -> Pinned:
    if not re.fullmatch(r"[A-Za-z0-9_.#-]{1,200}", row["id"]):
        raise ValueError(f"{row['id']!r} is no id")
    if not re.fullmatch(r"([0-9a-f]{64})?", row["sha256"]):
        raise ValueError(f"{row['sha256']!r} is no sha256")
    label = int(row["label"]) if task == "multiclass" else tuple(map(int, row["label"].split()))
    return Pinned(row["id"], label, row["sha256"])
