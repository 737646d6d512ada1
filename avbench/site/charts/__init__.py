"""Charts as SVG, drawn at build time from scores: a page shows them without a script, and their data as a table."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from avbench.site.boards import Board
from avbench.site.charts import boards, runs
from avbench.site.charts.chart import Chart
from avbench.site.content import Entry

__all__ = ["Chart", "board_charts", "run_charts"]

_DRAWN: WeakKeyDictionary[Board | Entry, list[Chart]] = WeakKeyDictionary()  # a page shows them, and files hold them


def board_charts(board: Board) -> list[Chart]:
    """Draw the charts for which a board has data, once."""
    if board not in _DRAWN:
        _DRAWN[board] = boards.board_charts(board)
    return _DRAWN[board]


def run_charts(entry: Entry) -> list[Chart]:
    """Draw the charts for which a run has data, once."""
    if entry not in _DRAWN:
        _DRAWN[entry] = runs.run_charts(entry)
    return _DRAWN[entry]
