"""What a user's own clips say of themselves: a folder of classes, a table, or a Hugging Face dataset."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from avbench.datasets.lists import LARGEST
from avbench.datasets.videos import EXTENSIONS
from avbench.errors import BadOption, DataError

# What sources call the splits.
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test"}  # fmt: skip
COLUMNS = ("id", "split", "start", "end")  # that a table may have beside the file and the label
LAYOUTS = "<class>/<clip>, or {train,val,test}/<class>/<clip> (all three, or train and test)"


class Found(NamedTuple):
    """One clip, in the words of its source."""

    file: str  # path below the folder of videos
    label: str  # several with `;` between
    id: str = ""  # what its id is made from; by default the file's name
    split: str = ""
    start: str = ""  # of the part of the file that is the clip, in seconds
    end: str = ""


class Clips(NamedTuple):
    """All clips of a source."""

    videos: Path  # the folder that holds their files
    found: list[Found]
    ignored: int = 0  # files that are no videos


class Index(NamedTuple):
    """What lies below a folder, as paths below it; names from tables are looked up here, never joined."""

    files: list[str]  # videos
    others: list[str]  # files that are no videos
    folders: list[str]

    @classmethod
    def of(cls, folder: Path) -> Index:
        """Walk a folder; what begins with a dot is no one's clip, and links to folders are not followed."""
        if not folder.is_dir():
            raise BadOption(f"{folder} is no folder")
        index = cls([], [], [])
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = Path(place).relative_to(folder)
            index.folders.extend((below / name).as_posix() for name in folders)
            for name in sorted(names):
                (index.files if _is_video(name) else index.others).append((below / name).as_posix())
        return index

    def require(self, asked: Sequence[str], folder: Path) -> None:
        """Refuse a table that names files which are not there."""
        there = set(self.files)
        if missing := list(dict.fromkeys(file for file in asked if file not in there)):
            raise DataError(
                f"{len(missing)} of {len(set(asked))} files are not below {folder}, first {shown(missing)}; give their "
                f"folder, and names as they are below it (videos end in {', '.join(sorted(EXTENSIONS))})"
            )


def shown(names: Sequence[object]) -> str:
    """Name the first few, so that a message stays readable whatever strangers wrote."""
    return ", ".join(ascii(name)[:80] for name in names[:3]) + (", ..." if len(names) > 3 else "")


def read_folder(folder: Path) -> Clips:
    """Read a folder with one folder of clips for each class, perhaps below one for each split.

    Raises:
        DataError: if it is laid out otherwise, or a class holds no clip.
    """
    index = Index.of(folder)
    depth = Counter(file.count("/") for file in index.files).most_common(1)[0][0] if index.files else 0
    strange = [
        file
        for file in index.files
        if depth not in (1, 2) or file.count("/") != depth or (depth == 2 and file.split("/")[0].lower() not in SPLITS)
    ]
    if strange or not index.files:
        raise DataError(f"{folder} must hold {LAYOUTS}, but holds {shown(strange) or 'no video files'}")
    found = [Found(file, one_label(file.split("/")[-2])) for file in index.files]
    if depth == 2:
        found = [clip._replace(split=split_name(clip.file.split("/")[0])) for clip in found]
    if (splits := {clip.split for clip in found}) not in ({""}, {"train", "test"}, {"train", "val", "test"}):
        raise DataError(f"{folder} must hold {LAYOUTS}, but holds {', '.join(sorted(splits))}")
    filled = {file.rpartition("/")[0] for file in index.files}
    if empty := [name for name in index.folders if name.count("/") == depth - 1 and name not in filled]:
        raise DataError(f"{shown(empty)} of {folder} hold no video files; fill or remove these folders")
    return Clips(folder, found, len(index.others))


def read_csv(table: Path, videos: Path | None, label: str) -> Clips:
    """Read a table with the columns `file` and that of the label, and perhaps `COLUMNS`; others do not matter.

    Args:
        table: with a header.
        videos: folder of the files that it names; by default its own.
        label: name of the column of the labels.

    Raises:
        DataError: if the table cannot be used, or names files that are not there.
    """
    videos = videos or table.parent
    found = [_found(row, line, "file", label) for line, row in _rows(table, ("file", label))]
    Index.of(videos).require([clip.file for clip in found], videos)
    return Clips(videos, found)


def read_metadata(folder: Path, tables: Sequence[str], index: Index, label: str) -> Clips:
    """Read a Hugging Face dataset of files: metadata.csv or metadata.jsonl, with paths below their own folders."""
    found = []
    for table in tables:
        rows = _rows if table.endswith(".csv") else _json_rows
        below = str(PurePosixPath(table).parent)
        for line, row in rows(folder / table, ("file_name", label)):
            clip = _found(row, line, "file_name", label)
            file = clip.file if below == "." else f"{below}/{clip.file}"
            in_path = next((SPLITS[part] for part in file.split("/")[:-1] if part in SPLITS), "")
            found.append(clip._replace(file=file, split=clip.split or in_path))
    index.require([clip.file for clip in found], folder)
    return Clips(folder, found)


def one_label(label: str) -> str:
    """Refuse a name of one class that reads as several."""
    if ";" in label:
        raise DataError(f"the class {label[:80]!a} has a `;` in its name, which separates labels; rename it")
    return label


def split_name(text: str) -> str:
    """Return our word for a split.

    Raises:
        DataError: if it is none.
    """
    if text.lower() not in SPLITS:
        raise DataError(f"{text[:80]!a} is no split; known are {', '.join(SPLITS)}")
    return SPLITS[text.lower()]


def _is_video(name: str) -> bool:
    stem, _, extension = name.rpartition(".")
    return extension.lower() in EXTENSIONS and not stem.startswith(".") and stem != ""


def _found(row: Mapping[str, str], line: int, file: str, label: str) -> Found:
    more = {column: (row.get(column) or "").strip() for column in COLUMNS}
    try:
        if not row[label].strip():
            raise DataError(f"its {label} is empty")
        if bool(more["start"]) != bool(more["end"]) or not all(
            re.fullmatch(r"([0-9]{1,6}(\.[0-9]{1,6})?)?", more[column]) for column in ("start", "end")
        ):
            raise DataError(f"start and end are no seconds: {more['start'][:80]!a}, {more['end'][:80]!a}")
        more["split"] = more["split"] and split_name(more["split"])
    except DataError as error:
        raise DataError(f"row {line} of the table cannot be used: {error}") from error
    return Found(row[file], row[label].strip(), **more)


def _text(table: Path) -> str:
    try:
        if table.stat().st_size > LARGEST:
            raise DataError(f"{table} is larger than {LARGEST} bytes")
        return table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read as UTF-8 text: {error}") from error


def _rows(table: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(_text(table), newline=""), strict=True)
    try:
        head = next(reader, [])
        if missing := [column for column in required if column not in head]:
            raise DataError(
                f"{table} has no column {missing[0]!a} but {shown(head)}; name that of the labels (--label)"
            )
        for row in filter(None, reader):
            if len(row) != len(head):
                raise DataError(f"{table} line {reader.line_num} has {len(row)} fields, the first line {len(head)}")
            yield reader.line_num, dict(zip(head, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{table} line {reader.line_num}: {error}") from error


def _json_rows(table: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    for line, text in enumerate(_text(table).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row: Any = json.loads(text)
            usable = {key: str(value) for key, value in row.items() if isinstance(value, str | int | float)}
        except (ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{table} line {line} is no JSON object") from error
        if missing := [column for column in required if column not in usable]:
            raise DataError(f"{table} line {line} has no text or number {missing[0]!a}, but {shown(list(row))}")
        yield line, usable
