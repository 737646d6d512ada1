"""Outcomes of every sample, one script for each board: what compares models and places a file without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from avbench.evidence import read_evidence
from avbench.metrics.intervals import mean, proportion
from avbench.metrics.outcomes import TRIPLE, Outcomes, read
from avbench.metrics.significance import sign_flip_test
from avbench.site.boards import Board, Scored
from avbench.site.content import Content
from avbench.site.evidence import anchor
from avbench.site.pages import File, Render
from avbench.site.tables import number
from avbench.threats import ThreatModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAIRED = 100  # runs of a board, the first ones, of which every pair is compared; pairs grow with the square of runs
BITS = 5  # in a character, so that none needs an escape
LEVELS = np.arange(-3, 4)  # by how many threats two models can differ on one sample


class Marks(NamedTuple):
    """What a run did on the samples of its board."""

    seen: NDArray[np.bool_]  # (samples,)
    right: NDArray[np.int64]  # (figures, samples): 1 right; under Avg the number of threats survived


class Curve(NamedTuple):
    """Threats that differ in the radius alone."""

    title: str
    points: list[tuple[float, int]]  # radius, and place among the figures


def comparable(content: Content) -> list[Board]:
    """Leave out boards of clips with several labels, which have no right and wrong per sample."""
    return [board for board in content.boards if not board.multilabel]


def key(board: Board) -> str:
    """Name a board as addresses do: dataset/board."""
    return f"{board.record.dataset.name}/{board.name}"


def title(board: Board) -> str:
    """Name a board for people."""
    record = board.record
    version = f"{record.suite.name}@{record.suite.version}"
    suffix = "" if board.name == record.suite.name else f" ({board.name})"
    return f"{board.card.title if board.card else record.dataset.name}, {version}{suffix}"


def heads(threats: Sequence[ThreatModel]) -> list[str]:
    """Name what is shown of a run: clean accuracy, one for each threat and, where they are three kinds, their mean."""
    labels = [threat.label for threat in threats]
    names = labels if len(set(labels)) == len(labels) else map(str, threats)
    return ["Clean", *names, *(["Avg"] if sorted(labels) == sorted(TRIPLE) else [])]


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for board in comparable(content):
        yield (
            f"data/{key(board)}.js",
            f"avbenchBoard({json.dumps(_data(board), allow_nan=False, separators=(',', ':'))});\n",
        )


def _data(board: Board) -> dict[str, Any]:
    threats = board.threats
    figures = heads(list(threats.values()))
    curves = _curves(board)
    outcomes = [read(scored.run.rows) for scored in board.runs]
    samples = pd.Index(sorted(set().union(*(found.samples for found in outcomes))))
    marks = [_marks(found, list(threats), len(figures), samples) for found in outcomes]
    return {
        "board": key(board),
        "title": title(board),
        "size": board.record.dataset.size,
        "samples": list(samples),
        "figures": figures,
        "curves": [[curve.title, curve.points[-1][0]] for curve in curves],
        "runs": [
            _run(scored, mark, len(threats), curves) | {"evidence": _evidence(scored) if board.card else {}}
            for scored, mark in zip(board.runs, marks, strict=True)
        ],
        "pairs": [_pair(one, marks[j], len(threats)) for j in range(min(len(marks), PAIRED)) for one in marks[:j]],
    }


def _run(scored: Scored, marks: Marks, threats: int, curves: list[Curve]) -> dict[str, Any]:
    right = marks.right[:, marks.seen]
    scores = [proportion(("", "", ""), one.astype(bool)) for one in right[: 1 + threats]]
    scores += [mean(("", "", ""), 100.0 * survived / 3, 100, "%") for survived in right[1 + threats :]]
    return {
        "id": scored.run.record.model.id,
        "title": scored.run.record.model.title,
        "place": scored.place,
        "values": [number(one.value, one.low, one.high) for one in scores],
        "exact": scores[-1].value,
        "n": int(marks.seen.sum()),
        "marks": [_pack(marks, 1 + threats, part) for part in range(0, 1 + threats, BITS)],
        "curves": [_line(curve, [one.value for one in scores]) for curve in curves],
    }


def _evidence(scored: Scored) -> dict[str, str]:
    """Say where on the model's page clips can be looked at."""
    record = scored.run.record
    found = read_evidence(scored.run.folder, {"run": record.run, "rows_sha256": record.rows_sha256})
    return {one.sample: anchor(scored.run, one.sample) for one in found.exhibits} if found else {}


def _marks(outcomes: Outcomes, threats: list[str], figures: int, samples: pd.Index[str]) -> Marks:
    robust = [outcomes.robust(threat) for threat in threats]
    places = samples.get_indexer(outcomes.samples)
    right = np.zeros((figures, len(samples)), dtype=np.int64)
    right[:, places] = [outcomes.clean, *robust, np.sum(robust, axis=0)][:figures]
    seen = np.zeros(len(samples), dtype=bool)
    seen[places] = True
    return Marks(seen, right)


def _pack(marks: Marks, figures: int, part: int) -> str:
    """Write one character for each sample: its bits say which of BITS figures from `part` on it gets right."""
    right = marks.right[part : min(part + BITS, figures)]
    codes = ord("0") + (right << np.arange(len(right))[:, None]).sum(axis=0)
    return np.where(marks.seen, codes, ord("-")).astype(np.uint8).tobytes().decode()


def _pair(one: Marks, other: Marks, threats: int) -> list[list[str]]:
    """Compare two runs on the samples that both have, as `avbench compare` prints it; nothing if there is none."""
    both = one.seen & other.seen
    if not both.any():
        return []
    changes = (one.right - other.right)[:, both] - LEVELS[0]
    counts = [tuple(np.bincount(change, minlength=len(LEVELS)).tolist()) for change in changes]
    return [_paired(count, 3 if place > threats else 1) for place, count in enumerate(counts)]


@cache
def _paired(counts: tuple[int, ...], parts: int) -> list[str]:
    """Write difference, interval and p from the number of samples that differ by each of LEVELS."""
    changes = np.repeat(LEVELS, counts)
    figure = mean(("", "", ""), 100.0 * changes / parts, 100, "points")
    return [*(f"{value:+z.2f}" for value in (figure.value, figure.low, figure.high)), f"{sign_flip_test(changes):.4g}"]


def _curves(board: Board) -> list[Curve]:
    """Group the threats that differ in the radius alone."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for place, threat in enumerate(board.threats.values(), start=1):
        kind = [threat.label, *(budget.norm for budget in threat.budgets.values()), threat.access]
        groups.setdefault(" ".join(kind), []).append((next(iter(threat.budgets.values())).radius, place))
    return [Curve(kind, sorted(one)) for kind, one in groups.items() if len(dict(one)) == len(one) > 1]


def _line(curve: Curve, values: list[float]) -> str:
    """Place a run's points on axes from 40 to 340 and, for 0 and 100 %, 170 to 10."""
    most = curve.points[-1][0]
    return " ".join(f"{40 + 300 * radius / most:.5g},{170 - 1.6 * values[place]:.5g}" for radius, place in curve.points)
