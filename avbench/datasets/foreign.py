"""Splits that strangers prepared: their lists must be the fixed ones, and only pinned clips are copied from them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

from avbench import files
from avbench.datasets.cards import Card, Lock, Pinned, canonical
from avbench.datasets.encoding import decode, digest
from avbench.datasets.prepare import Gap, Prepared, alone, find_dataset
from avbench.datasets.shards import GAPS, LOCK, ROW_GROUP, SHARD, Row, read_group, read_meta, shard_path, write
from avbench.datasets.workers import Workers
from avbench.errors import AvbenchError, BrokenReason, CorruptShard, DataError, DiskFull
from avbench.progress import track

LARGEST_TABLE = 64 << 20  # bytes of a lock or of a table of gaps
SECONDS = 600.0  # that copying one shard may take


def shard_paths(card: Card, split: str) -> list[Path]:
    """List the shards of a split, by their paths below the folder of the dataset."""
    return [shard_path(Path(split), number) for number in range(-(-card.splits[split] // SHARD))]


def gaps_text(gaps: list[Gap]) -> str:
    """Write a table of gaps without details, which hold paths on the machine that prepared the split."""
    return ",".join(Gap._fields) + "\n" + "".join(f"{gap.id},{gap.reason},\n" for gap in gaps)


def check_listing(card: Card, split: str, sizes: Mapping[str, int | None]) -> None:
    """Refuse a split that has other files than it must, or too large ones.

    Args:
        card: its dataset's.
        split: its name.
        sizes: all files of a folder or repository, and their bytes; those outside the split do not matter.
    """
    spec = card.spec
    frame = 3 * (spec.width + 1) * spec.height + 4096  # a PNG file that does not compress
    most = SHARD * (2 * spec.samples + spec.frames * frame + 4096) + (1 << 20)
    limits = {str(path): most for path in shard_paths(card, split)}
    limits |= {f"{split}/{LOCK}": LARGEST_TABLE, f"{split}/{GAPS}": LARGEST_TABLE}
    found = {path: size for path, size in sizes.items() if path.startswith(f"{split}/")}
    if not found:
        raise DataError(f"it has no split {split!r}; choose others with --split")
    if strange := sorted(found.keys() - limits.keys()):
        raise DataError(f"it has the unexpected file {strange[0]!r}")
    if missing := sorted(limits.keys() - found.keys()):
        raise DataError(f"it lacks {missing[0]}")
    for path, size in found.items():
        if size is None or size > limits[path]:
            raise DataError(f"{path} has {size} bytes, which is more than {limits[path]}")


def fixed_rows(card: Card, split: str) -> list[Pinned]:
    """Return what avbench fixes of a split, in canonical order; a hash is empty where no bits are pinned."""
    if card.lists is None:
        return Lock.read(Lock.path(card.name, split), card.task).rows
    return [Pinned(one.id, one.label, "") for one in sorted(find_dataset(card).entries(split), key=canonical)]


def read_tables(card: Card, place: Path, fixed: list[Pinned]) -> Prepared:
    """Read the lock and the gaps of a split, and refuse those of any other split than the fixed one."""
    lock = Lock.read(place / LOCK, card.task)
    different = [
        row.id
        for row, pin in zip(lock.rows, fixed, strict=False)
        if row[:2] != pin[:2] or pin.sha256 not in ("", row.sha256)
    ]
    if different or len(lock.rows) != len(fixed):
        raise DataError(
            f"{place.name}/{LOCK} has {len(lock.rows)} clips, of which {len(different)} are not those of the fixed "
            f"split, which has {len(fixed)}; first {different[:3]}"
        )
    try:
        with (place / GAPS).open(encoding="utf-8", newline="") as file:
            gaps = [Gap(row["id"], row["reason"], "") for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f"{place.name}/{GAPS} is malformed: {error}") from error
    if [gap.id for gap in gaps] != [row.id for row in lock.rows if not row.sha256]:
        raise DataError(f"{place.name}/{GAPS} does not list the clips that {LOCK} has no hash of")
    if unknown := [gap.reason for gap in gaps if gap.reason not in get_args(BrokenReason)]:
        raise DataError(f"{place.name}/{GAPS} gives the unknown reason {unknown[0]!r}")
    if len(gaps) == len(fixed):
        raise DataError(f"{place.name} has no clip at all")
    return Prepared(lock, gaps)


class Copy(NamedTuple):
    """One shard to copy."""

    source: Path
    target: Path
    card: Card
    rows: list[Pinned]  # that it must hold

    def __str__(self) -> str:
        return f"{self.source.parent.name}/{self.source.name}"


def copy_shards(card: Card, locks: Mapping[str, Lock], source: Path, target: Path) -> None:
    """Write new shards of the pinned clips of a stranger's; worker processes read those, as they read videos.

    Raises:
        DataError: if a shard cannot be read, or a clip is not the pinned one.
        DiskFull: if there is no space.
    """
    tasks = [
        Copy(source / path, target / path, card, [row for row in lock.rows[number * SHARD :][:SHARD] if row.sha256])
        for split, lock in locks.items()
        for number, path in enumerate(shard_paths(card, split))
    ]
    with Workers(copy_shard, SECONDS, min(len(tasks), len(os.sched_getaffinity(0)))) as workers:
        for trouble in track(workers.map(tasks), f"checking {card.name}", len(tasks)):
            if trouble is not None:
                raise trouble


def copy_shard(task: Copy) -> AvbenchError | None:
    """Copy one shard, or return what is wrong; runs in a worker."""
    copied: list[Row] = []
    try:
        for start in range(0, len(task.rows), ROW_GROUP):
            for row, pin in zip(
                read_group(task.source, start // ROW_GROUP), task.rows[start : start + ROW_GROUP], strict=True
            ):
                clip = decode(row.clip.audio, list(row.clip.frames), task.card.spec)
                if (row.id, row.label, digest(clip)) != pin:
                    return CorruptShard(f"the clip {pin.id} in {task} is not the pinned one")
                copied.append(Row(pin.id, pin.label, row.clip._replace(sha256=pin.sha256)))
        identity = str(read_meta(task.source)["identity"])
    except Exception as error:  # whatever a stranger's bytes make the libraries raise
        return CorruptShard(f"{task} cannot be read ({type(error).__name__}: {str(error)[:200]!r})")
    try:
        write(task.target, task.card, copied, {"identity": identity} if re.fullmatch("[0-9a-f]{64}", identity) else {})
    except DiskFull as error:
        return error
    return None


def put_in_place(source: Path, place: Path, made: Prepared) -> None:
    """Move checked shards to where splits are read from, the lock last, so that there is never half a split."""
    with alone(place):
        (place / LOCK).unlink(missing_ok=True)
        for path in source.glob("*.parquet"):
            os.replace(path, place / path.name)
        files.publish_text(place / GAPS, gaps_text(made.gaps))
        files.publish_text(place / LOCK, made.lock.text)
