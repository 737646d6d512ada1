"""What all charts of a board look up of a run."""

from __future__ import annotations

import math

from avbench.site.boards import Board, Scored


def percent_of(scored: Scored, metric: str, threat: str, attack: str) -> float | None:
    """Look up a share, in percent; None is missing."""
    score = scored.by_name.get((metric, threat, attack))
    return None if score is None or math.isnan(score.value) else score.value * {"1": 100}.get(score.unit, 1)


def key_of(board: Board, kind: str) -> str:
    """Name the files of a chart of a board."""
    return f"boards/{board.record.dataset.name}/{board.name}/{kind}"


def href_of(scored: Scored) -> str:
    """Lead from a board to the model of a run."""
    return f"../../models/{scored.run.record.model.id}.html"


def name_of(scored: Scored) -> str:
    """Tell what a run is called."""
    return scored.run.record.model.title
