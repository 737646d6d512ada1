"""Shards: Parquet files of clips as WAV and PNG, which pandas and Hugging Face `datasets` read as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from avbench import files
from avbench.datasets import Label
from avbench.datasets.cards import Card
from avbench.datasets.encoding import Encoded

SHARD = 250  # clips of the fixed split that a file stands for, whether they could be had or not
ROW_GROUP = 10  # clips; the unit of reading, so that a shuffled reader need not read far more than it uses
LOCK, GAPS = "lock.csv", "gaps.csv"  # beside the shards of a split; the lock is written last
_META = b"avbench"
_reading = Lock()  # two threads that read one ParquetFile at once crash the process
_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError)  # a name may be no Unicode


def folder(dataset: str) -> Path:
    """Where the prepared shards of a dataset lie, a folder for each split."""
    return files.cache() / "data" / dataset


def shard_path(split: Path, number: int) -> Path:
    """File of a shard, for the clips from SHARD * number on in canonical order."""
    return split / f"{number:05d}.parquet"


class Row(NamedTuple):
    """One stored clip."""

    id: str
    label: Label
    clip: Encoded


class ShardError(Exception):
    """A shard cannot be read."""


def write(path: Path, card: Card, rows: Sequence[Row], meta: Mapping[str, Any]) -> None:
    """Write a shard whole or not at all; `meta` is kept in its footer.

    Raises:
        DiskFull: if there is no space.
    """
    columns = [
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.label for row in rows], _label_type(card)),
        pa.array([{"bytes": row.clip.audio, "path": None} for row in rows], _FILE),
        pa.array([[{"bytes": png, "path": None} for png in row.clip.frames] for row in rows], pa.list_(_FILE)),
        pa.array([row.clip.sha256 for row in rows], pa.string()),
    ]
    schema = pa.schema(
        list(zip(("id", "label", "audio", "frames", "sha256"), (column.type for column in columns), strict=True)),
        metadata={_META: json.dumps(dict(meta)), b"huggingface": json.dumps({"info": {"features": features(card)}})},
    )
    table = pa.Table.from_arrays(columns, schema=schema)
    files.publish(
        path,
        lambda temporary: pq.write_table(
            table, temporary, row_group_size=ROW_GROUP, compression="none", use_dictionary=False, write_statistics=False
        ),
    )


def features(card: Card) -> dict[str, Any]:
    """Describe the columns as Hugging Face `datasets` does."""
    names: dict[str, Any] = {"names": list(card.classes), "_type": "ClassLabel"}
    return {
        "id": {"dtype": "string", "_type": "Value"},
        "label": {"feature": names, "_type": "List"} if card.task == "multilabel" else names,
        "audio": {"sampling_rate": card.sample_rate, "_type": "Audio"},
        "frames": {"feature": {"_type": "Image"}, "_type": "List"},
        "sha256": {"dtype": "string", "_type": "Value"},
    }


def read_meta(path: Path) -> dict[str, Any]:
    """Read what `write` was given as `meta`.

    Raises:
        ShardError: if the file cannot be read.
    """
    try:
        found = json.loads((_open(path).schema_arrow.metadata or {})[_META])
    except _UNREADABLE as error:
        raise ShardError(f"{path} cannot be read ({error})") from error
    assert isinstance(found, dict)
    return found


def count_rows(path: Path) -> int:
    """Count the clips of a shard; 0 if it cannot be read."""
    try:
        return int(_open(path).metadata.num_rows)
    except _UNREADABLE:
        return 0


def read_rows(path: Path) -> Iterator[Row]:
    """Read a shard row group by row group.

    Raises:
        ShardError: if it cannot be read.
    """
    try:
        for group in range(_open(path).num_row_groups):
            yield from read_group(path, group)
    except _UNREADABLE as error:
        raise ShardError(f"{path} cannot be read ({error})") from error


def read_group(path: Path, group: int) -> list[Row]:
    """Read the clips of one row group from the memory-mapped file.

    Raises:
        ShardError: if they cannot be read.
    """
    try:
        with _reading:
            table = _open(path).read_row_group(group)
        return [_row(row) for row in table.to_pylist()]
    except _UNREADABLE as error:
        raise ShardError(f"{path} cannot be read ({error})") from error


def _row(row: Mapping[str, Any]) -> Row:
    label = row["label"] if isinstance(row["label"], int) else tuple(row["label"])
    frames = tuple(frame["bytes"] for frame in row["frames"])
    return Row(row["id"], label, Encoded(row["audio"]["bytes"], frames, row["sha256"]))


_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _label_type(card: Card) -> pa.DataType:
    return pa.list_(pa.int64()) if card.task == "multilabel" else pa.int64()


def _open(path: Path) -> pq.ParquetFile:
    status = path.stat()
    return _opened(path, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _opened(path: Path, modified: int, inode: int) -> pq.ParquetFile:
    return pq.ParquetFile(path, memory_map=True)
