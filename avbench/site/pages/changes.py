"""What changed, as a page and as an Atom feed, the runs that no board shows, and the frozen releases."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from avbench.metrics import DIGITS
from avbench.site.content import HEADLINES, Content
from avbench.site.history import Event, merge
from avbench.site.pages import File, Render
from avbench.site.pages.samples import title
from avbench.site.releases import ABOUT, NUMBERS, Release
from avbench.site.tables import show

FED = 50  # entries of the feed
SHORT = {"clean-accuracy": "Clean", "avg": "Avg", "ri": "RI"}  # as boards head them


@dataclass(frozen=True)
class Line:
    """What changed at once for one reason, of one model on one board; additions of a day to a board share a line."""

    date: str
    kind: str
    title: str  # of the board, as its files are called
    name: str  # of the board, for people
    board: str  # its address below the site's folder, or nothing
    models: tuple[tuple[str, str], ...]  # name, and address of its card or nothing
    numbers: tuple[tuple[str, str, str], ...]  # name, old, new
    reason: str

    @property
    def urn(self) -> str:
        """Identity in a feed, which does not depend on where the site lies."""
        about = [] if self.kind == "added" else [self.models[0][0], *map("|".join, self.numbers), self.reason]
        parts = ("avbench", self.date, self.kind, self.title, *about)
        return uuid.uuid5(uuid.NAMESPACE_OID, "\n".join(parts)).urn


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    lines = make_lines(content, merge(content))
    reasons = {(e.track, e.model): e.reason for e in content.events if e.kind == "superseded"}
    context = {"retired": content.retired, "releases": content.releases[::-1], "reasons": reasons}
    yield render("changes.html", "changes.html.j2", lines=lines, **context)
    urn = uuid.uuid5(uuid.NAMESPACE_OID, "avbench").urn
    feed = list({line.urn: line for line in lines}.values())[:FED]
    yield render("feed.xml", "feed.xml.j2", lines=feed, urn=urn)
    every = [*(entry for entries in content.models.values() for entry in entries), *content.retired]
    records = [(entry.scored.run.record, entry.key) for entry in every]
    cards = {(record.run[:12], record.rows_sha256): f"evals/{key}.html" for record, key in records}
    for release in content.releases:
        path = f"v/{release.version}"
        yield render(f"{path}/index.html", "release.html.j2", release=release, tables=_tables(release, cards))
        yield from ((f"{path}/{name}", release.folder / name) for name in (NUMBERS, ABOUT))


def make_lines(content: Content, events: Sequence[Event]) -> list[Line]:
    """Put events into lines, in their order."""
    boards = {board.record.track: board for board in content.boards[::-1]}
    cards = {entry.key: entry for entries in content.models.values() for entry in entries}
    cards |= {one.key: one for one in content.retired}

    def line(events: list[Event]) -> Line:
        first = events[0]
        board = boards.get(first.track)
        models = {
            e.model: (cards[e.run].scored.run.record.model.title, f"evals/{e.run}.html")
            if e.run in cards
            else (e.model, "")
            for e in events
        }
        path = f"lb/{board.record.dataset.name}/{board.name}.html" if board else ""
        numbers = [] if len(models) > 1 else sorted(events, key=_place)
        shown = tuple((_number(e), e.old, e.new) for e in numbers if e.old or e.new)
        name = title(board) if board else first.track
        return Line(first.date, first.kind, first.track, name, path, tuple(models.values()), shown, first.reason)

    return [line(list(group)) for _, group in groupby(events, _at_once)]


def _at_once(event: Event) -> tuple[str, ...]:
    return event.date, event.track, event.kind, event.reason, "" if event.kind == "added" else event.model


def _place(event: Event) -> int:
    return HEADLINES.index(event.metric) if event.metric in HEADLINES else len(HEADLINES)


def _number(event: Event) -> str:
    return _head(event.metric or "avg", event.threat)


def _head(metric: str, threat: str) -> str:
    return SHORT.get(metric) or (threat if metric == "robust-accuracy" else f"{metric} {threat}".strip())


def _tables(release: Release, cards: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Boards of a release as plain tables: headings, and rows in the order of the boards."""
    tables = []
    for _, frame in release.numbers.groupby(["dataset", "board"], sort=False):
        shown = frame[frame["headline"]]
        pairs = dict.fromkeys(zip(shown["metric"], shown["threat"], strict=True))
        heads = sorted(pairs, key=lambda pair: (pair[0] != "avg", HEADLINES.index(pair[0])))
        rows = [_row(rows, heads, cards) for _, rows in shown.groupby(["run", "rows_sha256"], sort=False)]
        tables.append({"track": frame["track"].iloc[0], "heads": [_head(*head) for head in heads], "rows": rows})
    return tables


def _row(rows: pd.DataFrame, heads: list[tuple[str, str]], cards: dict[tuple[str, str], str]) -> dict[str, Any]:
    first = rows.iloc[0]
    cells = {(row["metric"], row["threat"]): row for row in rows.to_dict("records")}
    numbers = []
    for head in heads:
        row = cells.get(head)
        numbers.append([show(row[end], DIGITS[row["unit"]]) for end in ("value", "low", "high")] if row else [])
    place = "" if pd.isna(first["rank"]) else f"{first['rank']} (group {first['tie_group']})"
    card = cards.get((first["run"], first["rows_sha256"]), "")
    return {"place": place, "title": first["title"], "card": card, "numbers": numbers, "n": int(rows["n"].max()),
            "date": first["date"], "state": first["state"]}  # fmt: skip
