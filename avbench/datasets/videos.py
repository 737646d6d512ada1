"""Datasets of video files: find the file of each entry below one folder, and decode it in a worker process."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from avbench import files
from avbench.datasets import Dataset, Entry
from avbench.datasets.decode import decode
from avbench.datasets.encoding import Encoded, encode
from avbench.datasets.lists import read_entries
from avbench.datasets.workers import Workers
from avbench.errors import BrokenClip, DataError
from avbench.types import InputSpec

SECONDS = 300.0  # that decoding one file may take
EXTENSIONS = frozenset(("3gp avi flv m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv").split())  # noqa: SIM905
# What downloaders append to a YouTube id: the segment's times, in seconds or milliseconds.
_SEGMENT = re.compile(r"Y?(?P<id>[A-Za-z0-9_-]{11})(_[0-9.]+){0,2}")


class Task(NamedTuple):
    """What a worker is asked to decode."""

    path: str
    spec: InputSpec
    seconds: float | None
    span: tuple[float, float] | None
    sha256: str | None

    def __str__(self) -> str:
        return self.path


def work(task: Task) -> Encoded:
    """Decode and encode one clip; runs in a worker."""
    path = Path(task.path)
    clip = decode(path, task.spec, task.seconds, task.span)
    if task.sha256 and files.sha256_file(path) != task.sha256:
        raise BrokenClip("other-file", f"{path}: its sha256 is not the listed one")
    return encode(clip, task.spec.sample_rate)


class VideoDataset(Dataset):
    """Make clips from the video files that the card's lists name."""

    def entries(self, split: str) -> list[Entry]:
        """Read the fixed split from its list."""
        return read_entries(self.card, split, self.lists)

    def clips(self, entries: Sequence[Entry]) -> Iterator[Encoded | BrokenClip]:
        """Decode the file of each entry, in parallel.

        Raises:
            DataError: if there is no folder of videos.
        """
        if self.source is None:
            raise DataError(f"the videos of {self.card.name} cannot be fetched; give their folder (--videos DIR)")
        folder = Folder(self.source)
        found = [folder.find(entry) for entry in entries]
        tasks = [
            Task(str(path), self.card.spec, entry.seconds, entry.span, entry.sha256)
            for path, entry in zip(found, entries, strict=True)
            if isinstance(path, Path)
        ]
        with Workers(work, SECONDS) as workers:
            decoded = workers.map(tasks)
            for path in found:
                yield next(decoded) if isinstance(path, Path) else path


class Folder:
    """The video files below a folder, read once; names of lists are looked up here and never joined to a path."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; give the folder of the video files (--videos DIR)")
        self._by_path: dict[str, Path] = {}
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        for place, _, names in os.walk(folder):
            for name in names:
                if (stem := _stem(name)) != name:
                    path = Path(place, name)
                    self._by_path[path.relative_to(folder).as_posix()] = path
                    self._by_name[stem].append(path)
                    if (segment := _SEGMENT.fullmatch(stem)) and segment["id"] != stem:
                        self._by_name[segment["id"]].append(path)

    def find(self, entry: Entry) -> Path | BrokenClip:
        """Find the file of an entry: by its path, else by its name in a folder of the right name, else by its name."""
        if entry.file in self._by_path:
            return self._by_path[entry.file]
        folders, _, name = entry.file.rpartition("/")
        name = _stem(name)
        named = self._by_name.get(name, [])
        inside = [path for path in named if path.parent.name == folders.rpartition("/")[2]] or named
        found = [path for path in inside if _stem(path.name) == name] or inside
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(map(str, sorted(found)[:3]))
            return BrokenClip("ambiguous", f"{len(found)} files could be {entry.id}: {some}")
        return BrokenClip("missing", f"no file {entry.file}")


def _stem(name: str) -> str:
    stem, _, extension = name.rpartition(".")
    return stem if extension.lower() in EXTENSIONS else name
