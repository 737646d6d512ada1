"""Prepared splits: integers in Parquet shards, checked against the lock, read back as batches."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.progress import track

from avbench import files
from avbench.datasets import DATASETS, Sample
from avbench.datasets.cards import Card, Lock, read_card
from avbench.errors import BadOption, CorruptShard, DataError, DatasetNotPrepared
from avbench.types import AVInput, Batch, InputSpec

SHARD = 1000  # samples a file
ROW_GROUP = 100  # samples; the unit of reading
_SCHEMA = pa.schema([("id", pa.string()), ("label", pa.int32()), ("audio", pa.binary()), ("video", pa.binary())])


def digest(sample: Sample) -> str:
    """Hex sha256 of a stored sample: its audio as little-endian int16, then its video bytes."""
    audio = np.ascontiguousarray(sample.audio, dtype="<i2")
    return hashlib.sha256(audio.tobytes() + np.ascontiguousarray(sample.video).tobytes()).hexdigest()


def folder(dataset: str) -> Path:
    """Where the prepared shards of a dataset lie."""
    return files.cache() / "data" / dataset


def prepare(dataset: str, split: str, source: Path | None = None, write_lock: bool = False) -> Lock:
    """Make the shards of a split in the user cache and check every sample against the lock file.

    Args:
        dataset: name of a registered dataset.
        split: one of its card's splits.
        source: folder with the original files; None fetches them.
        write_lock: write the lock file instead of checking against it (`avbench data lock`, for maintainers).

    Raises:
        DataError: if the samples made are not the ones that the lock pins.
    """
    card = read_card(dataset)
    if split not in card.splits:
        raise BadOption(f"{dataset} has the splits {', '.join(card.splits)}, not {split!r}")
    made = DATASETS.get(dataset)().samples(split, source)
    progress = track(made, f"{dataset} {split}", total=card.splits[split], transient=True)
    samples = {sample.id: sample for sample in progress}
    lock = Lock([(sample.id, sample.label, digest(sample)) for sample in samples.values()])
    if len(lock.rows) != card.splits[split]:
        raise DataError(f"{dataset} {split} has {len(lock.rows)} samples, its card says {card.splits[split]}")
    if write_lock:
        files.publish_text(Lock.path(dataset, split), lock.text)
    elif (pinned := Lock.read(dataset, split)) != lock:
        different = [new[0] for new, old in zip(lock.rows, pinned.rows, strict=False) if new != old]
        raise DataError(
            f"{len(different)} samples of {dataset} {split} are not the pinned ones, first {different[:3]}; "
            "the source files or the library versions differ (install from constraints.txt)"
        )
    _write_shards(dataset, split, [samples[row[0]] for row in lock.rows])
    return lock


def _write_shards(dataset: str, split: str, samples: Sequence[Sample]) -> None:
    target = folder(dataset) / split
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{split}.", dir=target.parent))
    for start in range(0, len(samples), SHARD):
        rows = [
            {"id": s.id, "label": s.label, "audio": s.audio.astype("<i2").tobytes(), "video": s.video.tobytes()}
            for s in samples[start : start + SHARD]
        ]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        path = building / f"{start // SHARD:05d}.parquet"
        files.publish(path, partial(pq.write_table, table, row_group_size=ROW_GROUP))
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)


@dataclass(frozen=True)
class Split:
    """A prepared split in canonical order; every sample is checked against its pinned hash as it is read."""

    card: Card
    name: str
    lock: Lock

    def __len__(self) -> int:
        return len(self.lock.rows)

    @property
    def ids(self) -> tuple[str, ...]:
        """Sample ids in canonical order."""
        return tuple(row[0] for row in self.lock.rows)

    @property
    def labels(self) -> torch.Tensor:
        """(samples,) int64, in canonical order."""
        return torch.tensor([row[1] for row in self.lock.rows])

    def stored(self, index: int) -> Sample:
        """One sample as integers.

        Raises:
            CorruptShard: if it is not the sample that the lock pins, or its shard cannot be read.
        """
        shard, row = divmod(index, SHARD)
        path = folder(self.card.name) / self.name / f"{shard:05d}.parquet"
        try:
            group = _row_group(path, path.stat().st_mtime_ns, row // ROW_GROUP)
            sample = _from_row({key: column[row % ROW_GROUP].as_py() for key, column in group.items()}, self.card.spec)
        except (OSError, pa.ArrowInvalid, IndexError, ValueError, TypeError) as error:
            raise self._corrupt(f"{path} cannot be read ({error})") from error
        if (sample.id, sample.label, digest(sample)) != self.lock.rows[index]:
            raise self._corrupt(f"sample {self.lock.rows[index][0]} in {path} is not the pinned one")
        return sample

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return samples as the model sees them, on CPU."""
        return to_batch([self.stored(index) for index in indices])

    def _corrupt(self, what: str) -> CorruptShard:
        return CorruptShard(f"{what}; repeat `avbench data prepare {self.card.name}`")


def to_batch(samples: Sequence[Sample]) -> Batch:
    """Turn stored integers into what a model sees: int16 / 32768 and uint8 / 255, float32."""
    audio = torch.from_numpy(np.stack([sample.audio for sample in samples])).float() / 32768
    video = torch.from_numpy(np.stack([sample.video for sample in samples])).float() / 255
    labels = torch.tensor([sample.label for sample in samples])
    return Batch(tuple(sample.id for sample in samples), AVInput(audio, video), labels)


def open_split(dataset: str, split: str) -> Split:
    """Open a prepared split; an embedded dataset is built on first use.

    Raises:
        UnknownName: if there is no such dataset.
        BadOption: if the dataset has no such split.
        DatasetNotPrepared: if its shards are missing; the message gives the command that makes them.
    """
    card = read_card(dataset)
    if split not in card.splits:
        raise BadOption(f"{dataset} has the splits {', '.join(card.splits)}, not {split!r}")
    if not (folder(dataset) / split).is_dir():
        if not DATASETS.get(dataset).embedded:
            raise DatasetNotPrepared(f"{dataset} {split} is not prepared; run `avbench data prepare {dataset}`")
        prepare(dataset, split)
    return Split(card, split, Lock.read(dataset, split))


def _from_row(row: dict[str, object], spec: InputSpec) -> Sample:
    audio, video = row["audio"], row["video"]
    assert isinstance(audio, bytes)
    assert isinstance(video, bytes)
    return Sample(
        str(row["id"]),
        int(str(row["label"])),
        np.frombuffer(audio, "<i2").reshape(spec.shape("audio")),
        np.frombuffer(video, np.uint8).reshape(spec.shape("video")),
    )


@lru_cache(maxsize=4)
def _row_group(path: Path, modified: int, group: int) -> dict[str, pa.ChunkedArray]:
    table = pq.ParquetFile(path, memory_map=True).read_row_group(group)
    return {name: table[name] for name in table.column_names}
