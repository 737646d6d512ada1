"""Official split lists: text of strangers in, entries of a fixed split out; no word of a list becomes a path."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from avbench.datasets import Entry, Label
from avbench.datasets.cards import Card, Source, card_folder
from avbench.datasets.fetch import check_pinned, fetch
from avbench.errors import DataError

LARGEST = 64 << 20  # bytes of a list
T21_FPS = 8  # the frame counts in the lists of [T21] are at this rate
T21_SLACK = 2  # frames; a clip of 10 s is listed with 82, not 80
_COLUMNS = ("id", "label", "file", "seconds", "start", "end", "sha256")  # of a table
YOUTUBE = r"[A-Za-z0-9_-]{11}"

Rows: TypeAlias = Iterator[tuple[int, list[str]]]  # line number, fields
Reader: TypeAlias = Callable[[Rows, Card, "Path | None"], Iterator[Entry]]


def read_entries(card: Card, split: str, lists: Path | None) -> list[Entry]:
    """Read the clips of a fixed split; a row that repeats an id gets `#2` and so on, or is dropped by `unique`.

    Args:
        card: of a dataset with `lists`.
        split: one of its splits.
        lists: folder of the official lists; None takes those beside the card or fetches the pinned ones.

    Raises:
        DataError: if a list is missing, is not the pinned one, is malformed, or has another size than the card says.
    """
    assert card.lists is not None
    entries = _unique(card, split, lists) if card.lists.unique else _numbered(_read(card, split, lists))
    if len(entries) != card.splits[split]:
        raise DataError(f"the list of {card.name} {split} has {len(entries)} clips, its card says {card.splits[split]}")
    return entries


def read_all(card: Card, lists: Path | None) -> dict[str, list[Entry]]:
    """Read the lists of all splits as they stand, with repeated ids; for an audit."""
    return {split: _read(card, split, lists) for split in card.splits}


def find_list(card: Card, file: str, lists: Path | None) -> Path:
    """Find a list that the card names, and check that it is the pinned one.

    Raises:
        DataError: if it is missing, or differs.
    """
    pinned: Source | None = next((source for source in card.sources if source.file == file), None)
    if lists is None:
        return card_folder(card.name) / file if pinned is None else fetch(card.name, pinned)
    if pinned is not None:
        check_pinned(lists / file, pinned)
    return lists / file


def _read(card: Card, split: str, lists: Path | None) -> list[Entry]:
    assert card.lists is not None
    file = card.lists.files[split]
    path = find_list(card, file, lists)
    labels = find_list(card, card.lists.labels, lists) if card.lists.labels else None
    try:
        return list(_READERS[card.lists.format](_rows(path), card, labels))
    except _BadRowError as error:
        raise DataError(f"{path}: {error}") from error


class _BadRowError(Exception):
    """Mark a row that cannot be used."""


def _rows(path: Path) -> Rows:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} is larger than {LARGEST} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from error
    reader = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def _t21(rows: Rows, card: Card, labels: Path | None) -> Iterator[Entry]:
    """Read `/class/id.wav,/class/id.mp4,frames at 8 fps`, the lists of Tian & Xu (CVPR 2021)."""
    row = re.compile(rf"/([A-Za-z_]+)/({YOUTUBE})\.wav\n/\1/\2\.mp4\n([1-9][0-9]{{0,5}})")
    for line, fields in rows:
        found = row.fullmatch("\n".join(fields))
        if not found:
            raise _BadRowError(f"line {line} is not /class/id.wav,/class/id.mp4,frames")
        name, youtube, frames = found.groups()
        seconds = max(int(frames) - T21_SLACK, 1) / T21_FPS
        yield Entry(youtube, _label(card, [name], line), f"{name}/{youtube}", seconds)


def _audioset(rows: Rows, card: Card, labels: Path | None) -> Iterator[Entry]:
    """Read `YTID, start_seconds, end_seconds, "mid,mid"`; the counts that the header declares must be found."""
    assert labels is not None
    index = _mids(labels, card)
    declared: dict[str, int] = {}
    ids, positives = set[str](), 0
    for line, fields in rows:
        if fields[0].startswith("#"):
            declared |= {key: int(value) for key, value in re.findall(r"(num_\w+)=(\d{1,9})", ",".join(fields))}
            continue
        if len(fields) != 4 or not re.fullmatch(YOUTUBE, fields[0]):
            raise _BadRowError(f"line {line} is not YTID, start_seconds, end_seconds, positive_labels")
        mids = fields[3].split(",")
        if unknown := [mid for mid in mids if mid not in index]:
            raise _BadRowError(f"line {line} has the label {unknown[0]!r}, which {labels.name} does not name")
        span = _span(fields[1], fields[2], line)
        ids.add(fields[0])
        positives += len(mids)
        yield Entry(fields[0], tuple(sorted({index[mid] for mid in mids})), fields[0], span=span)
    found = {"num_ytids": len(ids), "num_positive_labels": positives}
    if any(declared.get(key) != count for key, count in found.items()):
        raise _BadRowError(f"its header declares {declared}, it holds {found}; fetch it again")


def _mids(path: Path, card: Card) -> dict[str, int]:
    """Index of each class by its machine id; the names must be those of the card."""
    rows = [fields for _, fields in _rows(path)]
    if rows[:1] != [["index", "mid", "display_name"]] or [row[2:] for row in rows[1:]] != [[c] for c in card.classes]:
        raise DataError(f"{path} does not name the classes that the card of {card.name} has")
    return {row[1]: index for index, row in enumerate(rows[1:])}


def _table(rows: Rows, card: Card, labels: Path | None) -> Iterator[Entry]:
    """Read columns id, label (several with `;` between), file; perhaps seconds, start and end, sha256."""
    _, head = next(rows, (0, []))
    known = set(_COLUMNS[:3]) <= set(head) <= set(_COLUMNS) and len(set(head)) == len(head)
    if not known or ("start" in head) != ("end" in head):
        raise _BadRowError(f"the first line must name columns of {', '.join(_COLUMNS)}; the first three are required")
    for line, fields in rows:
        if len(fields) != len(head):
            raise _BadRowError(f"line {line} has {len(fields)} fields, the first line {len(head)}")
        row = dict(zip(head, fields, strict=True))
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,190}", row["id"]):
            raise _BadRowError(f"line {line} has the id {row['id']!r}; ids are made of A-Z, a-z, 0-9, _ . and -")
        if not re.fullmatch("([0-9a-f]{64})?", row.get("sha256", "")):
            raise _BadRowError(f"line {line} has {row['sha256']!r} where a sha256 is due")
        seconds = _seconds(row["seconds"], line) if row.get("seconds") else None
        span = _span(row["start"], row["end"], line) if row.get("start") or row.get("end") else None
        label = _label(card, row["label"].split(";"), line)
        yield Entry(row["id"], label, row["file"], seconds, span, row.get("sha256") or None)


_READERS: dict[str, Reader] = {"t21": _t21, "audioset": _audioset, "table": _table}


def _label(card: Card, names: Sequence[str], line: int) -> Label:
    if unknown := [name for name in names if name not in card.classes]:
        raise _BadRowError(f"line {line} has the label {unknown[0]!r}, which is no class of {card.name}")
    found = tuple(sorted({card.classes.index(name) for name in names}))
    if card.task == "multilabel":
        return found
    if len(found) != 1:
        raise _BadRowError(f"line {line} has {len(found)} labels, but {card.name} is not multi-label")
    return found[0]


def _seconds(text: str, line: int) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise _BadRowError(f"line {line} has {text!r} where seconds are due")
    return float(text)


def _span(start: str, end: str, line: int) -> tuple[float, float]:
    span = (_seconds(start, line), _seconds(end, line))
    if span[0] >= span[1]:
        raise _BadRowError(f"line {line} ends at {end} s, before it starts")
    return span


def _unique(card: Card, split: str, lists: Path | None) -> list[Entry]:
    """Keep of each clip its first row; what test holds is no part of val, and what either holds none of train."""
    order: list[str] = [name for name in ("test", "val", "train") if name in card.splits]
    seen: dict[str, Entry] = {}
    for name in order[: order.index(split)]:
        seen |= {entry.id: entry for entry in _read(card, name, lists)}
    fresh: dict[str, Entry] = {}
    for entry in _read(card, split, lists):
        if entry.id not in seen:
            fresh.setdefault(entry.id, entry)
    return list(fresh.values())


def _numbered(entries: Sequence[Entry]) -> list[Entry]:
    count: Counter[str] = Counter()
    found = []
    for entry in entries:
        count[entry.id] += 1
        found.append(entry._replace(id=f"{entry.id}#{count[entry.id]}") if count[entry.id] > 1 else entry)
    return found
