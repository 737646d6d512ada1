"""One page for each threat preset and suite: what may change by how much, which attacks run, and where it is used."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.boards import Board
from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.suites import SUITES
from avbench.threats import PRESETS, ThreatModel, parse_threat


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for name in sorted({*PRESETS.names(), *SUITES.names(), *(board.record.suite.name for board in content.boards)}):
        boards = [board for board in content.boards if board.record.suite.name == name]
        preset = PRESETS.get(name) if name in PRESETS.names() else None
        suite = SUITES.get(name) if name in SUITES.names() else None
        users = [s for s in map(SUITES.get, SUITES.names()) if preset and set(s.threats) == set(preset)]
        yield render(
            f"threats/{name}.html",
            "threat.html.j2",
            name=name,
            suite=suite,
            threats=suite.threats if suite else preset or _recorded(boards),
            preset=preset,
            users=users,
            boards=boards,
        )


def _recorded(boards: list[Board]) -> tuple[ThreatModel, ...]:
    """Threats of a protocol that this version of avbench does not have."""
    return tuple(parse_threat(text) for text in dict.fromkeys(t for board in boards for t in board.threats))
