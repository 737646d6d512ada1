"""What a board shows: columns and cells, one value for both the JSON that feeds the page and its plain rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["rank", "link", "text", "number", "notes"]
Cell = str | int | float | list[Any] | None
"""None is missing. A number is alone or [value, low, high]; a link is [text, href]; a rank is [number, text]."""

MISSING = "\u2013"
WITHOUT_SCRIPT = 50  # rows in the page itself


@dataclass(frozen=True)
class Column:
    """One column of a board."""

    title: str
    kind: Kind = "number"
    help: str = ""
    detail: bool = False  # shown on demand only
    digits: int = 2


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
    def head(self) -> list[Row]:
        """The rows that stand in the page itself."""
        return self.rows[:WITHOUT_SCRIPT]

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads; a row's last element is its state."""
        columns = [{"kind": c.kind, "digits": c.digits, "detail": c.detail} for c in self.columns]
        return {"columns": columns, "rows": [[*row.cells, row.state] for row in self.rows]}


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
