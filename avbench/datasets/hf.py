"""Hugging Face datasets of videos, as files or inside Parquet, without the library `datasets`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from avbench import files
from avbench.datasets.fetch import folder as downloads
from avbench.datasets.media import Limits
from avbench.datasets.sources import SPLITS, Clips, Found, Index, one_label, read_folder, read_metadata, shown
from avbench.datasets.videos import EXTENSIONS
from avbench.datasets.workers import Workers
from avbench.errors import AvbenchError, BadOption, BrokenClip, DataError, DiskFull

LARGEST_CLIP = Limits().size  # bytes of one embedded file
ROWS = 8  # held in memory at a time
SECONDS = 3600.0  # that unpacking one Parquet file may take
TABLES = ("metadata.csv", "metadata.jsonl")
WANTED = [*(f"*.{extension}" for extension in sorted(EXTENSIONS)), "*.parquet", *(f"*{table}" for table in TABLES)]


def read_hf(name: str, source: str, label: str) -> Clips:
    """Read a Hugging Face dataset: a folder of that layout, or ORG/NAME@REVISION, which is fetched.

    Args:
        name: of the dataset that is made; what is fetched or unpacked lies in the cache below it.
        source: where it is.
        label: name of the column of the labels.

    Raises:
        BadOption: if `source` is neither.
        DataError: if it cannot be had, or is of another layout.
        DiskFull: if there is no space.
    """
    folder = Path(source) if Path(source).is_dir() else _fetch(name, source)
    index = Index.of(folder)
    if tables := [file for file in index.others if PurePosixPath(file).name in TABLES]:
        return read_metadata(folder, tables, index, label)
    if shards := [file for file in index.others if file.endswith(".parquet")]:
        return _unpack_all(folder, shards, downloads(name) / "clips", label)
    return read_folder(folder)


def _fetch(name: str, source: str) -> Path:
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", source)
    if not found:
        raise BadOption(
            f"{source!r} is neither a folder nor ORG/NAME@REVISION with the 40 hexadecimal digits of a commit; "
            "branches and tags can move"
        )
    repo, revision = found.groups()
    place = downloads(name) / f"{repo.replace('/', '--')}@{revision}"
    outside = ["../*", "*/../*"]
    try:
        HfApi(os.environ.get("HF_ENDPOINT")).snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            local_dir=place,
            allow_patterns=WANTED,
            ignore_patterns=outside,
        )
    except Exception as error:  # it also lets through RuntimeError, ValueError, OSError and errors of its HTTP client
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or "os error 28" in str(error):  # as hf_xet says it
            raise DiskFull(f"no space left for {place}; free some and repeat the command: it continues") from error
        raise DataError(
            f"fetching {repo} at {revision} failed ({type(error).__name__}: {str(error)[:300]!r}); check its name, the "
            "network and `hf auth whoami`, and repeat the command: it continues where it stopped"
        ) from error
    return place


class Shard(NamedTuple):
    """One Parquet file to unpack."""

    path: Path
    split: str  # that its path says
    target: Path  # folder of the clips
    label: str

    def __str__(self) -> str:
        return str(self.path)


def _unpack_all(folder: Path, shards: list[str], target: Path, label: str) -> Clips:
    target.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    with Workers(unpack, SECONDS, min(len(shards), len(os.sched_getaffinity(0)))) as workers:
        for done in workers.map(Shard(folder / file, _split_in(file), target, label) for file in shards):
            if isinstance(done, BrokenClip):
                raise DataError(str(done)) from done
            if isinstance(done, AvbenchError):
                raise done
            found += done
    return Clips(target, found)


def _split_in(file: str) -> str:
    """Find the split that the name of a file says, else the folders it lies in, the nearest first."""
    for part in reversed(PurePosixPath(file).parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def unpack(shard: Shard) -> list[Found] | AvbenchError:
    """Write the clips of one Parquet file beside each other, or return what is wrong; runs in a worker."""
    try:
        with pq.ParquetFile(shard.path) as parquet:
            return list(_unpack(parquet, shard))
    except AvbenchError as error:
        return error
    except Exception as error:  # whatever a stranger's bytes make the libraries raise
        return DataError(f"{shard} cannot be read ({type(error).__name__}: {str(error)[:200]!r})")


def _unpack(parquet: pq.ParquetFile, shard: Shard) -> Iterator[Found]:
    schema = parquet.schema_arrow
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    video = _video_column(schema, features, shard)
    if shard.label not in schema.names:
        raise DataError(f"{shard} has no column {shard.label!a}; it has {shown(schema.names)} (choose it with --label)")
    names = features.get(shard.label, {}).get("names")
    columns = [video, shard.label, *(["split"] if "split" in schema.names else [])]
    for batch in parquet.iter_batches(ROWS, columns=columns):
        for row in batch.to_pylist():
            label = _label(row[shard.label], names, shard)
            split = SPLITS.get(str(row.get("split")).lower(), shard.split)
            file, called = _keep(row[video], shard)
            yield Found(file, label, called, split)


def _video_column(schema: pa.Schema, features: dict[str, Any], shard: Shard) -> str:
    """Choose the column that is declared a video, else the only one that holds bytes."""
    declared = [name for name, feature in features.items() if feature.get("_type") == "Video"]
    binary: list[str] = [field.name for field in schema if _is_binary(field.type)]
    chosen = [name for name in binary if name in declared] or binary
    if len(chosen) != 1:
        raise DataError(f"{shard} has {len(chosen)} columns of embedded videos ({shown(schema.names)}), not one")
    return chosen[0]


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label(value: object, names: list[str] | None, shard: Shard) -> str:
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            raise DataError(f"{shard} has the label {value}, but names {len(names)} classes")
        return one_label(str(names[value]))
    if not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{shard} has {str(value)[:80]!a} where a label is due")
    return str(value).strip()


def _keep(value: Any, shard: Shard) -> tuple[str, str]:
    """Write an embedded file under its hash; return its name and the one it had."""
    data, path = (value, None) if isinstance(value, bytes | None) else (value["bytes"], value.get("path"))
    if data is None:
        raise DataError(f"{shard} has a row without the bytes of its video ({path!a}); embed them, or give the files")
    if len(data) > LARGEST_CLIP:
        raise DataError(f"{shard} holds a file of {len(data)} bytes, the limit is {LARGEST_CLIP}")
    called = PurePosixPath(path or "")
    digest, extension = hashlib.sha256(data).hexdigest(), called.suffix.lower().removeprefix(".")
    file = f"{digest}.{extension if extension in EXTENSIONS else 'mp4'}"
    target = shard.target / file
    if not (target.is_file() and target.stat().st_size == len(data)):

        def write(temporary: Path) -> None:
            temporary.write_bytes(data)

        files.publish(target, write)
    return file, called.stem
