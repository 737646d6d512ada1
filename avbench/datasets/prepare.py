"""Prepare a split: every clip of the fixed list is decoded into shards, or is a gap with its reason."""

from __future__ import annotations

import csv
import fcntl
import io
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from avbench import files
from avbench.datasets import DATASETS, Dataset, Entry, shards
from avbench.datasets.cards import Card, Lock, Pinned, canonical, read_card
from avbench.datasets.encoding import Encoded, decode, digest
from avbench.datasets.shards import GAPS, LOCK, SHARD, Row, ShardError, folder, shard_path
from avbench.errors import BadOption, BrokenClip, DataError

VERSION = 1  # of decoding and storing; clips of another version are made anew


class Gap(NamedTuple):
    """A clip of the fixed split that could not be had."""

    id: str
    reason: str
    detail: str


class Prepared(NamedTuple):
    """What a prepared split holds."""

    lock: Lock
    gaps: list[Gap]

    @property
    def coverage(self) -> float:
        """Share of the fixed split that is there."""
        return 1 - len(self.gaps) / len(self.lock.rows)

    @property
    def reasons(self) -> str:
        """How often each reason for a gap occurs."""
        return ", ".join(f"{count} {reason}" for reason, count in Counter(g.reason for g in self.gaps).most_common())


def find_dataset(card: Card, source: Path | None = None, lists: Path | None = None) -> Dataset:
    """Return what makes the clips of a dataset: its own code, or else the reader of video files."""
    from avbench.datasets.videos import VideoDataset

    kind = VideoDataset if card.lists else DATASETS.get(card.name)
    return kind(card, source, lists)


def prepare(
    dataset: str, split: str, source: Path | None = None, lists: Path | None = None, write_lock: bool = False
) -> Prepared:
    """Make the shards of a split in the user cache, and its lock; what a stopped or earlier call made is kept.

    Called again it tries the gaps again.

    Args:
        dataset: its name.
        split: one of its card's splits.
        source: folder with the original files; None fetches them where that is possible.
        lists: folder with the official lists; None fetches them.
        write_lock: commit the lock beside the card instead of checking against the one there (`avbench data lock`,
            for maintainers of datasets whose clips are the same bits everywhere).

    Raises:
        DataError: if the lists or sources are not the pinned ones, no clip could be had, or the clips made are not
            those that a committed lock pins.
            DiskFull: if there is no space; what is finished is kept.
    """
    card = read_card(dataset)
    if split not in card.splits:
        raise BadOption(f"{dataset} has the splits {', '.join(card.splits)}, not {split!r}")
    maker = find_dataset(card, source, lists)
    entries = sorted(maker.entries(split), key=canonical)
    if len({entry.id for entry in entries}) != len(entries) or len(entries) != card.splits[split]:
        raise DataError(f"{dataset} {split} has {len(entries)} clips, its card says {card.splits[split]}")
    place = folder(dataset) / split
    with alone(place):
        made = _Making(card, place, entries, maker).run()
        if len(made.gaps) == len(entries):
            first = made.gaps[0]
            raise DataError(
                f"none of the {len(entries)} clips of {dataset} {split} could be had: {made.reasons}; "
                f"the first, {first.id}: {first.detail} (below {source})"
            )
        _check_lock(card, split, made.lock, write_lock)
        files.publish_text(place / GAPS, _table(made.gaps))
        files.publish_text(place / LOCK, made.lock.text)
    return made


def _check_lock(card: Card, split: str, lock: Lock, write_lock: bool) -> None:
    path = Lock.path(card.name, split)
    if write_lock:
        files.publish_text(path, lock.text)
    if card.lists is not None:
        return
    pinned = {row.id: row for row in Lock.read(path, card.task).rows}
    different = [row.id for row in lock.rows if pinned.get(row.id) != row]
    if different or len(pinned) != len(lock.rows):
        raise DataError(
            f"{len(different)} samples of {card.name} {split} are not the pinned ones, first {different[:3]}; "
            "the source files or the library versions differ (install from constraints.txt)"
        )


class _Shard(NamedTuple):
    """A shard's place, its entries in canonical order, and which of them it holds already."""

    path: Path
    entries: Sequence[Entry]
    known: dict[str, str]  # id to sha256
    whole: bool  # the file is there and holds nothing else

    @property
    def missing(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.id not in self.known]


@dataclass
class _Making:
    """One call of `prepare`."""

    card: Card
    place: Path
    entries: Sequence[Entry]
    maker: Dataset

    def run(self) -> Prepared:
        """Make what is missing, a shard at a time; only one shard is in memory."""
        self.identity = files.fingerprint([VERSION, vars(self.card.spec), [list(entry) for entry in self.entries]])
        with _progress() as progress:
            self.progress, self.bar = progress, progress.add_task(f"{self.card.name} {self.place.name}", gaps="")
            plan = self._plan()
            pending = [entry for shard in plan for entry in shard.missing]
            progress.reset(self.bar, total=len(pending))
            self.gaps: list[Gap] = []
            clips = self.maker.clips(pending)
            try:
                rows = [row for shard in plan for row in self._finish(shard, clips)]
            finally:
                if isinstance(clips, Generator):
                    clips.close()  # ends its processes now, not when an error's traceback is forgotten
        return Prepared(Lock(rows), self.gaps)

    def _plan(self) -> list[_Shard]:
        """See what earlier calls made; every clip found is compared with its hash."""
        plan = []
        self.progress.update(self.bar, total=len(self.entries))
        for start in range(0, len(self.entries), SHARD):
            path, part = shard_path(self.place, start // SHARD), self.entries[start : start + SHARD]
            labels = {entry.id: entry.label for entry in part}
            known = {row.id: row.clip.sha256 for row in self._kept(path) if labels.get(row.id) == row.label}
            whole = len(known) == (shards.count_rows(path) if path.exists() else -1)
            plan.append(_Shard(path, part, known, whole))
            self.progress.advance(self.bar, len(part))
        for stray in {*self.place.glob("*.parquet"), *self.place.glob(".*.tmp")} - {shard.path for shard in plan}:
            stray.unlink()  # of a split that was larger, or of a call that was killed
        return plan

    def _kept(self, path: Path) -> Iterator[Row]:
        try:
            if path.exists() and shards.read_meta(path).get("identity") == self.identity:
                for row in shards.read_rows(path):
                    if digest(decode(row.clip.audio, row.clip.frames, self.card.spec)) == row.clip.sha256:
                        yield row
        except (ShardError, ValueError, OSError):  # what cannot be read is made again
            return

    def _finish(self, shard: _Shard, clips: Iterator[Encoded | BrokenClip]) -> list[Pinned]:
        """Write a shard if it lacks anything that can be had now, and return its part of the lock."""
        fresh: dict[str, Encoded] = {}
        for entry in shard.missing:
            clip = next(clips)
            if isinstance(clip, BrokenClip):
                detail = clip.what.encode(errors="backslashreplace").decode()  # folders' names may be any bytes
                self.gaps.append(Gap(entry.id, clip.reason, detail))
            else:
                fresh[entry.id] = clip
            self.progress.update(self.bar, advance=1, gaps=f"{len(self.gaps)} missing" if self.gaps else "")
        if fresh or not shard.whole:
            (self.place / LOCK).unlink(missing_ok=True)  # until all shards are those of one lock again
            held = {row.id: row.clip for row in self._kept(shard.path) if row.id in shard.known} | fresh
            rows = [Row(one.id, one.label, held[one.id]) for one in shard.entries if one.id in held]
            shards.write(shard.path, self.card, rows, {"identity": self.identity})
        hashes = shard.known | {id_: clip.sha256 for id_, clip in fresh.items()}
        return [Pinned(entry.id, entry.label, hashes.get(entry.id, "")) for entry in shard.entries]


def read_gaps(dataset: str, split: str) -> list[Gap]:
    """Read why each missing clip of a prepared split is missing."""
    with (folder(dataset) / split / GAPS).open(encoding="utf-8", newline="") as file:
        return [Gap(*row) for row in list(csv.reader(file))[1:]]


def _table(gaps: Sequence[Gap]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Gap._fields)
    writer.writerows(gaps)
    return out.getvalue()


class _Rate(ProgressColumn):
    """Clips a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} clips/s")


def _progress() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TextColumn("[red]{task.fields[gaps]}"))
    first, last, console = TextColumn("{task.description}"), TimeRemainingColumn(), Console(stderr=True)
    return Progress(first, *columns, last, transient=True, console=console)


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Let one process at a time prepare a split; the next one waits, and then finds it done."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".preparing").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            Console(stderr=True).print(f"waiting for another avbench, which prepares {place}", markup=False)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
