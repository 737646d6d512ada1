"""The first page, how numbers are made, how to hand in a model, and the page for wrong addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from avbench.datasets.cards import names
from avbench.metrics import CLEAN, NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.site.boards import Board, find_card
from avbench.site.content import Content, Entry
from avbench.site.history import merge
from avbench.site.pages import File, Render
from avbench.site.pages.changes import make_lines
from avbench.site.published import FIGURES, FOUR, MIM, PIXELS, RADII
from avbench.suites import SUITES
from avbench.threats import PRESETS

NEWEST = 5  # changes on the first page


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    rows = sum(len(scored.run.frame) for board in content.boards for scored in board.runs)
    cards = {name: card.title for name in names() if (card := find_card(name))}
    yield render(
        "index.html",
        "index.html.j2",
        groups={name: (group, [_best(board) for board in group.boards]) for name, group in content.groups.items()},
        models=[content.newest(name) for name in content.models],
        datasets=cards | {name: group.title for name, group in content.groups.items()},
        suites=[SUITES.get(name) for name in SUITES.names()],
        presets=sorted({*PRESETS.names()} - {*SUITES.names()}),
        changes=make_lines(content, merge(content))[:NEWEST],
        counts={
            "models": len(content.models),
            "rows": rows,
            "reported": sum(len(r.table.rows) for r in content.reported),
        },
    )
    yield render("method.html", "method.html.j2", errata=(RADII, PIXELS, MIM, FOUR, *FIGURES))
    yield render("submit.html", "submit.html.j2")
    yield render("404.html", "404.html.j2")


def _best(board: Board) -> dict[str, Any]:
    """Give a board with its first ranked model, and how many do not differ significantly from it."""
    best = board.ranked[0] if board.ranked else None
    return {
        "board": board,
        "best": best.run.record.model if best else None,
        "key": Entry(board, best).key if best else "",
        "tied": sum(scored.tie_group == 1 for scored in board.ranked) - 1,
        "clean": best.by_name.get(("clean-accuracy", CLEAN, NONE)) if best else None,
        "avg": best.by_name.get(("avg", MEAN_OF_THREATS, WORST_CASE)) if best else None,
    }
