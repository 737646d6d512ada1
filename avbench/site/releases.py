"""Frozen releases: the numbers of all boards on one day, which nobody changes later, and what changed since."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

import avbench
from avbench import files
from avbench.errors import BadOption, DataError, RunConflict
from avbench.metrics import DIGITS, NONE, WORST_CASE
from avbench.site.boards import Board, identity
from avbench.site.content import HEADLINES, Content, Entry
from avbench.site.history import Event, append
from avbench.site.records import Run
from avbench.site.tables import show

SUMS = "SHA256SUMS"  # of every file of every release, oldest release first; `sha256sum -c` reads it
NUMBERS, ABOUT = "boards.parquet", "release.json"
Key = tuple[str, str, str, str]  # board, model, metric, threat


@dataclass(frozen=True)
class Release:
    """The boards as they were."""

    version: str
    folder: Path
    date: str
    numbers: pd.DataFrame  # see `numbers`


def numbers(boards: Sequence[Board]) -> pd.DataFrame:
    """List every score of every run on the boards, one a row; `board_id` tells boards apart that share a name."""
    return _numbers([Entry(board, scored) for board in boards for scored in board.runs])


def _numbers(entries: Sequence[Entry]) -> pd.DataFrame:
    if not entries:
        return pd.DataFrame(columns=["board_id"])
    scores = pd.concat([entry.scored.scores for entry in entries], ignore_index=True)
    headline = scores["metric"].isin(HEADLINES) & scores["attack"].isin([NONE, WORST_CASE])
    about = pd.DataFrame(list(map(_about, entries))).astype({"rank": "Int64", "tie_group": "Int64"})
    repeated = about.loc[about.index.repeat([len(entry.scored.scores) for entry in entries])].reset_index(drop=True)
    return pd.concat([repeated, scores.assign(headline=headline)], axis="columns")


def _about(entry: Entry) -> dict[str, Any]:
    """Tell what all scores of a run share."""
    run = entry.scored.run
    record = run.record
    return {
        "board_id": _board_id(run),
        "dataset": record.dataset.name,
        "board": entry.board.name,
        "track": record.track,
        "model": record.model.id,
        "title": record.model.title,
        "run": entry.key,
        "rows_sha256": record.rows_sha256,
        "date": record.provenance.date,
        "state": "ranked" if entry.scored.place is not None else entry.state,
        "rank": entry.scored.place,
        "tie_group": entry.scored.tie_group,
    }


def _board_id(run: Run) -> str:
    return files.fingerprint(identity(run))[:16]


def shown(frame: pd.DataFrame) -> dict[Key, tuple[str, dict[str, Any]]]:
    """Headline numbers as the boards print them, each with its row."""
    rows = frame[frame["headline"]].to_dict("records") if len(frame) else []
    return {
        (row["board_id"], row["model"], row["metric"], row["threat"]): (
            show(row["value"], DIGITS[row["unit"]]),
            {str(k): v for k, v in row.items()},
        )
        for row in rows
    }


def read_releases(folder: Path) -> list[Release]:
    """Read all releases, oldest first, and make sure that no byte of them has changed.

    Raises:
        DataError: if a file was changed, added or removed.
    """
    sums = folder / SUMS
    pinned = dict(line.split("  ")[::-1] for line in sums.read_text("utf-8").splitlines()) if sums.is_file() else {}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path != sums}
    for name in sorted(there | set(pinned)):
        if name not in there or pinned.get(name) != files.sha256_file(folder / name):
            raise DataError(f"{folder / name} is not as it was released ({sums}); restore it and make a new release")
    found = []
    for version in dict.fromkeys(Path(name).parts[0] for name in pinned):
        about = json.loads((folder / version / ABOUT).read_text(encoding="utf-8"))
        found.append(Release(version, folder / version, about["date"], pd.read_parquet(folder / version / NUMBERS)))
    return found


def freeze(content: Content, version: str, folder: Path) -> Path:
    """Write the numbers of all boards as a new release.

    Raises:
        BadOption: if the version cannot name a folder.
        RunConflict: if there is such a release.
        DataError: if there are no boards, or a number changed without a reason.
    """
    if not re.fullmatch(r"[0-9][0-9a-z.-]{0,29}", version):
        raise BadOption(f"{version!r} cannot name a release; write digits, letters and dots, as in 2026.12")
    if version in {release.version for release in content.releases} or (folder / version).exists():
        raise RunConflict(f"release {version} is there, and releases never change; choose another version")
    if not content.boards:
        raise DataError("there is no run to release; run `avbench evaluate` first")
    check(content)
    frame = numbers(content.boards)
    about = {"version": version, "date": _today(), "avbench": avbench.__version__, "runs": frame["run"].nunique()}
    files.publish(folder / version / NUMBERS, lambda path: frame.to_parquet(path, compression="snappy", index=False))
    files.publish_text(folder / version / ABOUT, files.readable_json(about))
    sums = folder / SUMS
    lines = [f"{files.sha256_file(folder / version / name)}  {version}/{name}\n" for name in (NUMBERS, ABOUT)]
    files.publish_text(sums, (sums.read_text("utf-8") if sums.is_file() else "") + "".join(lines))
    return folder / version


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def unexplained(content: Content) -> list[Event]:
    """List the numbers to which no chain of reasons leads from the last release or a superseded run."""
    now = shown(numbers(content.boards))
    before: dict[Key, tuple[str, dict[str, Any]]] = {}
    gone = set()
    for one in content.retired:
        old, new = one.scored.run, one.successor
        if old.withdrawn:
            gone.add((_board_id(old), old.record.model.id))
        elif new and old.record.provenance.created < new.record.provenance.created:
            before |= shown(_numbers([one]))
    if content.releases:
        before = shown(content.releases[-1].numbers) | before
    return [
        event
        for key, (old_figure, row) in before.items()
        if key in now or key[:2] not in gone
        for event in _compare(row, _follow(content.events, row, _figure(old_figure)), now.get(key))
    ]


def _follow(lines: Sequence[Event], row: dict[str, Any], figure: str) -> str:
    """Go where the reasons lead from a figure."""
    number = tuple(row[name] for name in ("track", "model", "metric", "threat"))
    for line in lines:
        if line.number == number and line.old == figure:
            figure = line.new
    return figure


def _compare(row: dict[str, Any], old: str, now: tuple[str, dict[str, Any]] | None) -> Iterator[Event]:
    shown_now, after = now or ("", row)
    new = _figure(shown_now)
    if new == old:
        return
    kind = "withdrawn" if now is None else "corrected" if after["rows_sha256"] == row["rows_sha256"] else "changed"
    if kind == "changed" and after["date"] > row["date"]:
        kind = "superseded"
    yield Event.model_validate(
        {name: row[name] for name in ("track", "model", "metric", "threat")}
        | {"date": _today(), "kind": kind, "old": old, "new": new, "run": after["run"]}
    )


def _figure(text: str) -> str:
    return text if text[-1:].isdigit() else ""  # a dash is no number


def check(content: Content) -> None:
    """Refuse boards on which a number changed and nobody said why.

    Raises:
        DataError: with the command that writes the reason.
    """
    if found := unexplained(content):
        some = "; ".join(f"{' '.join(e.number)}: {e.old or 'none'} -> {e.new or 'none'}" for e in found[:3])
        raise DataError(
            f"{len(found)} numbers changed without a reason ({some}); "
            'run `avbench leaderboard explain "REASON"`, and look at the lines in leaderboard/history.csv'
        )


def explain(content: Content, reason: str, history: Path) -> int:
    """Write a line for every changed number that has none yet, and return how many.

    Raises:
        BadOption: if the reason is empty.
    """
    if not reason.strip():
        raise BadOption("the reason is empty; say why the numbers changed")
    found = [event.model_copy(update={"reason": reason}) for event in unexplained(content)]
    if found:
        append(history, found)
    return len(found)
