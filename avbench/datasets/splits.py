"""Prepared splits, read back as batches; every clip is checked against the lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch

from avbench import files
from avbench.datasets import DATASETS, Sample
from avbench.datasets.cards import Card, Lock, label_text, read_card
from avbench.datasets.encoding import decode, digest
from avbench.datasets.lists import read_entries
from avbench.datasets.prepare import VERSION, prepare
from avbench.datasets.shards import LOCK, ROW_GROUP, SHARD, Row, ShardError, folder, read_group, shard_path
from avbench.errors import CorruptShard, DatasetNotPrepared
from avbench.types import MODALITIES, AVInput, Batch

T = TypeVar("T")
R = TypeVar("R")
IN_MEMORY = 1 << 30  # bytes; a split that takes more is not loaded whole
AHEAD = 2  # batches read before they are asked for


@dataclass(frozen=True)
class Split:
    """A prepared split in canonical order; a clip that could not be had keeps its place and is never replaced."""

    card: Card
    name: str
    lock: Lock

    def __len__(self) -> int:
        """Size of the fixed split, missing clips included."""
        return len(self.lock.rows)

    @cached_property
    def present(self) -> tuple[int, ...]:
        """Indices of the clips that are there."""
        return tuple(index for index, row in enumerate(self.lock.rows) if row.sha256)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Sample ids in canonical order."""
        return tuple(row.id for row in self.lock.rows)

    @property
    def fixed_sha256(self) -> str:
        """Identity of what is the same for all who evaluate on it: the clips' bits where they are pinned, else their
        ids, labels and how they are decoded; which of them are missing may differ.
        """
        if self.card.lists is None:
            return self.lock.sha256
        rows = [[row.id, label_text(row.label)] for row in self.lock.rows]
        return files.fingerprint([self.card.name, self.name, VERSION, vars(self.card.spec), rows])

    @cached_property
    def _before(self) -> list[int]:
        """For each index, how many clips before it are there."""
        return list(accumulate((bool(row.sha256) for row in self.lock.rows), initial=0))

    def stored(self, index: int) -> Sample:
        """One sample as integers.

        Raises:
            CorruptShard: if it is not the sample that the lock pins, or its shard cannot be read.
        """
        shard, pinned = index // SHARD, self.lock.rows[index]
        path = shard_path(folder(self.card.name) / self.card.find(self.name)[0], shard)
        place = self._before[index] - self._before[shard * SHARD]
        try:
            row = _group(path, path.stat().st_mtime_ns, place // ROW_GROUP)[place % ROW_GROUP]
            clip = decode(row.clip.audio, row.clip.frames, self.card.spec)
        except (OSError, ShardError, IndexError, ValueError) as error:
            raise self._corrupt(f"sample {pinned.id} in {path} cannot be read ({error})") from error
        if (row.id, row.label, digest(clip)) != pinned:
            raise self._corrupt(f"sample {pinned.id} in {path} is not the pinned one")
        return Sample(row.id, row.label, clip.audio, clip.video)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return samples as the model sees them, on CPU."""
        return to_batch([self.stored(index) for index in indices], self.card)

    def batches(self, chunks: Iterable[Sequence[int]], pinned: bool = False) -> Iterator[Batch]:
        """Read batches ahead, in another thread, while the caller uses the last one; pinned, to be copied to a GPU."""
        return read_ahead((lambda chunk: self.batch(chunk).pin()) if pinned else self.batch, chunks)

    def _corrupt(self, what: str) -> CorruptShard:
        return CorruptShard(f"{what}; repeat `avbench data prepare {self.card.name}`")


def read_ahead(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Apply `read` to items in order, in one other thread, a few items before they are asked for."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        try:
            for item in items:
                pending.append(thread.submit(read, item))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def to_batch(samples: Sequence[Sample], card: Card) -> Batch:
    """Turn stored integers into what a model sees: int16 / 32768 and uint8 / 255, float32; labels as `Batch` says."""
    audio = torch.from_numpy(np.stack([sample.audio for sample in samples])).float() / 32768
    video = torch.from_numpy(np.stack([sample.video for sample in samples])).float() / 255
    if card.task == "multilabel":
        labels = torch.zeros(len(samples), len(card.classes))
        for row, sample in zip(labels, samples, strict=True):
            row[list(sample.label)] = 1  # type: ignore[arg-type]
    else:
        labels = torch.tensor([sample.label for sample in samples])
    return Batch(tuple(sample.id for sample in samples), AVInput(audio, video), labels)


class _OnDisk(Sequence[Sample]):
    """The clips of a split that are there, read when they are asked for."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.present)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self.split.stored(one) for one in self.split.present[index]]
        return self.split.stored(self.split.present[index])


def load(split: Split) -> Sequence[Sample]:
    """Give training the clips that are there: a small split in memory, a large one as it is used."""
    clips = _OnDisk(split)
    size = sum(prod(split.card.spec.shape(modality)) for modality in MODALITIES) * len(clips)  # about bytes
    return list(clips) if size <= IN_MEMORY else clips


def open_split(dataset: str, split: str) -> Split:
    """Open a prepared split, or the beginning of one (`test-200`); an embedded dataset is built on first use.

    Raises:
        UnknownName: if there is no such dataset.
        BadOption: if the dataset has no such split; see `Card.find`.
        DatasetNotPrepared: if its shards are missing; the message gives the command that makes them.
        DataError: if its lock is malformed.
    """
    card = read_card(dataset)
    name, (split, size) = split, card.find(split)
    path = folder(dataset) / split / LOCK
    if not path.is_file():
        if card.lists is not None or not DATASETS.get(dataset).embedded:
            videos = " --videos DIR" if card.lists else ""
            raise DatasetNotPrepared(f"{dataset} {split} is not prepared; run `avbench data prepare {dataset}{videos}`")
        prepare(dataset, split)
    lock = Lock.read(Lock.path(dataset, split) if card.lists is None else path, card.task)
    same = len(lock.rows) == card.splits[split]
    if same and card.lists and not card.sources:  # a list beside the card: another folder may have one of that name
        listed = {entry.id: entry.label for entry in read_entries(card, split, None)}
        same = listed == {row.id: row.label for row in lock.rows}
    if not same:
        raise DatasetNotPrepared(f"{dataset} {split} was prepared for another list; repeat `avbench data prepare`")
    return Split(card, name, Lock(lock.rows[:size]))


@lru_cache(maxsize=4)
def _group(path: Path, modified: int, group: int) -> list[Row]:
    return read_group(path, group)
