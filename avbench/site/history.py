"""What changed on the boards, when and why: lines that people wrote, and what follows from the runs themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from avbench import files
from avbench.errors import DataError
from avbench.metrics import WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.site.boards import Board, identity, make_boards
from avbench.site.content import Content, Entry
from avbench.site.records import Line, Name, Run
from avbench.site.tables import show

Kind = Literal["added", "changed", "superseded", "withdrawn", "corrected", "released"]
Figure = Annotated[str, StringConstraints(pattern=r"^(-?\d{1,9}(\.\d{1,6})?)?$")]  # as shown; empty: none


class Event(BaseModel):
    """One line of leaderboard/history.csv, or one that follows from a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    kind: Kind
    track: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._@-]{0,299}$")]
    model: Name
    metric: Line = ""
    threat: Line = ""
    old: Figure = ""
    new: Figure = ""
    run: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{12}(-[0-9a-f]{8})?)?$")] = ""  # key of its card
    reason: Line = ""

    @property
    def number(self) -> tuple[str, ...]:
        """Which number it is about."""
        return self.track, self.model, self.metric, self.threat


FIELDS = tuple(Event.model_fields)


@dataclass(frozen=True, eq=False)
class Retired(Entry):
    """A run that is on no board: a person withdrew it, or another run of its model stands there."""

    successor: Run | None  # which stands there

    @property
    def key(self) -> str:
        """File name of its card; the successor may have the same fingerprint."""
        return f"{super().key}-{self.scored.run.record.rows_sha256[:8]}"

    @property
    def state(self) -> str:
        """Why the run has no rank."""
        return "withdrawn" if self.scored.run.withdrawn else "superseded"


def retire(runs: Sequence[Run], boards: Sequence[Board]) -> list[Retired]:
    """List the runs that no board shows, newest first."""
    seen = {_identity(scored.run) for board in boards for scored in board.runs}
    found = []
    for run in runs:
        if _identity(run) in seen:
            continue
        seen.add(_identity(run))
        [alone] = make_boards([run])
        board = next((b for b in boards if identity(b.runs[0].run) == identity(run)), None)
        others = [s.run for s in board.runs if s.run.record.model.id == run.record.model.id] if board else []
        scored = replace(alone.runs[0], place=None, tie_group=None)
        found.append(Retired(board or replace(alone, name=""), scored, others[0] if others else None))
    return sorted(found, key=lambda one: one.scored.run.record.provenance.created, reverse=True)


def _identity(run: Run) -> tuple[str, str]:
    return run.record.run, run.record.rows_sha256


def read_history(path: Path) -> list[Event]:
    """Read what people wrote; no file is no history.

    Raises:
        DataError: if a line is malformed or gives no reason.
    """
    if not path.is_file():
        return []
    events = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if tuple(lines.fieldnames or ()) != FIELDS:
            raise DataError(f"{path} needs the columns {','.join(FIELDS)}")
        for line in lines:
            try:
                events.append(Event.model_validate(line))
            except ValidationError as error:
                raise DataError(f"{path}, line {lines.line_num}, cannot be used: {error}") from error
            if not events[-1].reason.strip():
                raise DataError(f"{path}, line {lines.line_num}, gives no reason; say why the number changed")
    return events


def append(path: Path, events: Sequence[Event]) -> None:
    """Add lines; those that are there keep their bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not old:
        writer.writerow(FIELDS)
    writer.writerows(event.model_dump().values() for event in events)
    files.publish_text(path, old + text.getvalue())


def follow(boards: Sequence[Board], retired: Sequence[Retired]) -> Iterator[Event]:
    """Tell what the runs themselves say: when a model came to a board first, and what a person withdrew."""
    first: dict[tuple[str, str], Entry] = {}
    entries = [Entry(board, scored) for board in boards for scored in board.runs]
    for entry in (*entries, *retired):
        record = entry.scored.run.record
        key = record.track, record.model.id
        if key not in first or record.provenance.created < first[key].scored.run.record.provenance.created:
            first[key] = entry
    for (track, model), entry in first.items():
        date = entry.scored.run.record.provenance.date
        yield Event(date=date, kind="added", track=track, model=model, new=average(entry), run=entry.key)
    for one in retired:
        record, why = one.scored.run.record, one.scored.run.withdrawn
        if why:
            yield Event(date=why.date, kind="withdrawn", track=record.track, model=record.model.id, metric="avg",
                        threat=MEAN_OF_THREATS, old=average(one), run=one.key, reason=why.reason)  # fmt: skip


def average(entry: Entry) -> str:
    """Worst-case Avg as shown, or nothing."""
    found = entry.scored.by_name.get(("avg", MEAN_OF_THREATS, WORST_CASE))
    return "" if found is None else show(found.value)


def merge(content: Content) -> list[Event]:
    """Put what people wrote and what the runs say together, newest first."""
    events = [*content.events, *follow(content.boards, content.retired)]
    return sorted(events, key=lambda e: (e.date, e.track, e.kind, e.model), reverse=True)
