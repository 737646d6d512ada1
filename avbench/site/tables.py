"""What a board shows: columns and cells, one value for both the data that feed the script and the page's plain rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["rank", "model", "text", "noted", "number", "notes"]
View = Literal["overview", "attacks", "reported", "geometry", "provenance"]
Cell = str | int | float | list[Any] | None
"""None is missing. A number is alone or [value, low, high]; a model is [title, id, key of its evaluation card]; a rank
is [number, text]; what is noted is a text alone or [text, note]; notes are a list of marks."""

VIEWS: dict[View, str] = {
    "overview": "Overview",
    "attacks": "Per attack",
    "reported": "Reported and measured",
    "geometry": "Geometry",
    "provenance": "Provenance",
}
ALWAYS = ("rank", "model")  # kinds of columns that belong to every view
_PARTS = {"number": ("low", "high"), "model": ("id", "card"), "rank": ("group",), "noted": ("note",)}
MISSING = "\u2013"
WITHOUT_SCRIPT = 50  # rows in the page itself


@dataclass(frozen=True)
class Column:
    """One column of a board."""

    title: str
    kind: Kind = "number"
    help: str = ""
    views: tuple[View, ...] = ("overview",)
    digits: int = 2
    filter: bool = False  # by a choice of its values


@dataclass(frozen=True)
class Row:
    """One row of a board; `state` is ranked, partial or reported."""

    cells: list[Cell]
    state: Literal["ranked", "partial", "reported"]


@dataclass(frozen=True)
class Table:
    """A board's table."""

    columns: list[Column]
    rows: list[Row] = field(default_factory=list)

    @property
    def head(self) -> Table:
        """The part that stands in the page itself: the overview of the first rows."""
        shown = [c.kind in ALWAYS or "overview" in c.views for c in self.columns]
        return self._with(shown, self.rows[:WITHOUT_SCRIPT])

    @property
    def filled(self) -> Table:
        """The table without columns that are empty in all rows."""
        return self._with([any(row.cells[i] is not None for row in self.rows) for i in range(len(self.columns))])

    @property
    def views(self) -> dict[View, str]:
        """The overview, and views with columns of their own; for one column more there is the choice of columns."""
        own = [view for c in self.columns if c.kind not in ALWAYS and "overview" not in c.views for view in c.views]
        return {view: title for view, title in VIEWS.items() if view == "overview" or own.count(view) > 1}

    @property
    def filters(self) -> list[tuple[int, Column, list[str]]]:
        """Columns by whose values rows can be chosen: place, column, values."""
        found = []
        for place, column in enumerate(self.columns):
            cells = [row.cells[place] for row in self.rows] if column.filter else []
            values = {str(cell[0] if isinstance(cell, list) else cell) for cell in cells if cell is not None}
            if len(values) > 1:
                found.append((place, column, sorted(values)))
        return found

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads; a row's last element is its state."""
        columns = [
            {"title": c.title, "kind": c.kind, "help": c.help, "views": c.views, "digits": c.digits,
             "fields": self._fields(place)}
            for place, c in enumerate(self.columns)
        ]  # fmt: skip
        return {"columns": columns, "rows": [[*row.cells, row.state] for row in self.rows]}

    def _fields(self, place: int) -> list[str]:
        """Name the fields of a file that a column's cells fill."""
        column, cells = self.columns[place], [row.cells[place] for row in self.rows]
        parts = max((len(cell) for cell in cells if isinstance(cell, list)), default=1)
        return [column.title, *(f"{column.title} {part}" for part in _PARTS.get(column.kind, ())[: parts - 1])]

    def _with(self, kept: list[bool], rows: list[Row] | None = None) -> Table:
        def pick(values: list[Any]) -> list[Any]:
            return [value for value, keep in zip(values, kept, strict=True) if keep]

        rows = self.rows if rows is None else rows
        return Table(pick(self.columns), [replace(row, cells=pick(row.cells)) for row in rows])


def number(value: float, low: float = math.nan, high: float = math.nan, digits: int = 2) -> Cell:
    """Round to what is shown, so that page and script print the same text; NaN is missing."""
    if not math.isfinite(value):
        return None
    if not (math.isfinite(low) and math.isfinite(high)):
        return round(value, digits) + 0.0
    return [round(x, digits) + 0.0 for x in (value, low, high)]


def show(value: float | None, digits: int = 2) -> str:
    """Write a number, or a dash for a missing one."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
