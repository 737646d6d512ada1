"""Small datasets of video files that tests share: a card and lists in ./datasets, distinct clips, a cache of their own."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from media_clips import Made, flat, ramp

from avbench.datasets.encoding import Encoded
from avbench.datasets.videos import Task, work
from avbench.errors import BrokenClip

RATE = 8000
CARD: dict[str, Any] = {
    "title": "Small", "summary": "For tests", "license": "MIT", "task": "multiclass", "classes": ["a", "b", "c"],
    "sample_rate": RATE, "samples": 4000, "frames": 2, "fps": 4, "height": 12, "width": 16, "splits": {"test": 12},
}  # fmt: skip


def enter(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder the current one, and the only one that datasets are read from and shards written to."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("AVBENCH_CACHE", str(place / "cache"))
    return place


def shrink_shards(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let a small split have several shards."""
    for module in ("shards", "prepare", "splits"):
        monkeypatch.setattr(f"avbench.datasets.{module}.SHARD", size)


def made(number: int, seconds: float = 1.0, start: float = 0.0) -> Made:
    """Part of an endless lossless video; no two moments and no two numbers look or sound the same."""
    first, last = round(10 * start), round(10 * (start + seconds))
    sound = ramp(round(RATE * (start + seconds)) + 97 * number)[97 * number :][round(RATE * start) :]
    return Made(
        frames=last - first, fps=Fraction(10), size=(24, 32), sound=sound, rate=RATE,
        draw=lambda i, *how: flat(first + i + 11 * number, *how),
    )  # fmt: skip


def name(number: int) -> str:
    return f"v{number:010d}"  # as long as a YouTube id


def write_videos(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        made(number).write(folder / f"{name(number)}.mkv")
    return folder


def plain_rows(count: int) -> list[list[str]]:
    """A table that lists `write_videos`."""
    return [["id", "label", "file"], *([name(n), CARD["classes"][n % 3], f"{name(n)}.mkv"] for n in range(count))]


def write_card(dataset: str, lists: dict[str, Iterable[Sequence[object]]], **changes: Any) -> Path:
    """Write a card whose splits are those of the lists of format `table`, and the lists beside it."""
    folder = Path("datasets") / dataset
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for split, rows in lists.items():
        with (folder / f"{split}-list.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows := list(rows))
        sizes[split] = len(rows) - 1
    listed = {"format": "table", "files": {split: f"{split}-list.csv" for split in lists}}
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | {"splits": sizes, "lists": listed} | changes))
    return folder


class Inline:
    """Workers that work in this process, which starts at once; for tests of everything around them."""

    def __init__(self, function: Callable[[Any], Any], seconds: float, count: int | None = None) -> None:
        self.function = function

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            try:
                yield self.function(task)
            except BrokenClip as error:
                yield error


def deadly(task: Task) -> Encoded:
    """Work, but harm the worker where the file's name says so."""
    if task.path.endswith("crash.mkv"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if task.path.endswith("hang.mkv"):
        time.sleep(600)
    return work(task)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the mark of who prepares it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".preparing"}
