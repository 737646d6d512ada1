"""All rows to be downloaded: one Parquet file and its record for each run, a summary, and the hash of every file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from avbench.site.content import Content, Entry
from avbench.site.pages import File, Render
from avbench.site.releases import numbers

SUMS = "SHA256SUMS"
RISKY = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would read a text that begins so as a formula


@dataclass(frozen=True)
class Download:
    """A file of the data folder."""

    name: str  # below data/
    size: int
    sha256: str


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    runs: list[tuple[Entry, list[Download]]] = []
    for entries in content.models.values():
        for entry in entries:
            folder = entry.scored.run.folder
            paths = {f"{entry.key}/{name}": folder / name for name in ("rows.parquet", "run.json")}
            runs.append((entry, [_download(name, path.read_bytes()) for name, path in paths.items()]))
            yield from ((f"data/{name}", path) for name, path in paths.items())
    frame = numbers(content.boards)
    summary = {"boards.parquet": _parquet(frame), "boards.csv": _csv(frame)}
    yield from ((f"data/{name}", data) for name, data in summary.items())
    summaries = [_download(name, data) for name, data in summary.items()]
    every = [*summaries, *(download for _, downloads in runs for download in downloads)]
    sums = "".join(f"{one.sha256}  {one.name}\n" for one in sorted(every, key=lambda one: one.name))
    yield f"data/{SUMS}", sums
    example = runs[0][0].key if runs else "RUN"
    yield render("data/index.html", "data.html.j2", runs=runs, summaries=summaries, sums=SUMS, example=example)


def _download(name: str, data: bytes) -> Download:
    return Download(name, len(data), hashlib.sha256(data).hexdigest())


def _parquet(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file, compression="snappy", index=False)
    return file.getvalue()


def _csv(frame: pd.DataFrame) -> bytes:
    texts = frame.select_dtypes(["object", "string"])
    safe = texts.map(lambda x: f"'{x}" if isinstance(x, str) and x.startswith(RISKY) else x)
    return frame.assign(**safe).to_csv(index=False, lineterminator="\n").encode()
