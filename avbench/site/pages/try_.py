"""The page that checks a rows.parquet and places it on its board, in the browser."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from avbench.diagnose import COVERAGE
from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.site.pages.samples import comparable, heads, key, title
from avbench.suites import SUITES
from avbench.threats import ThreatModel

HYPARQUET = "hyparquet-1.31.5"


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    boards = [
        _protocol(title(board), board.threats.values(), board.record.attacks, board.record.suite.mode)
        | {"board": key(board)}
        for board in comparable(content)
    ]
    suites = [
        _protocol(str(suite), suite.threats, list(map(str, suite.attacks)), suite.mode)
        for suite in map(SUITES.get, SUITES.names())
        if suite.threats
    ]
    known = {"coverage": COVERAGE, "boards": [*boards, *suites]}
    yield render("try.html", "try.html.j2", known=known, hyparquet=HYPARQUET)


def _protocol(name: str, threats: Iterable[ThreatModel], attacks: Iterable[str], mode: str) -> dict[str, Any]:
    """Say which cells a run has, and for each threat the places of those that decide over it."""
    models = list(threats)
    cells = list(itertools.product(models, attacks))
    return {
        "title": name,
        "every": mode == "every",
        "figures": heads(models),
        "cells": [f"{threat} {attack}" for threat, attack in cells],
        "inside": [[i for i, (other, _) in enumerate(cells) if model.contains(other)] for model in models],
    }
