"""The columns of a board of measured runs, each with what it says of a run; a column without any cell is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from avbench.analyze import read_geometry
from avbench.counter import best_known_avg
from avbench.geometry import QUANTILES
from avbench.metrics import NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.metrics.intervals import proportion
from avbench.metrics.outcomes import read
from avbench.site.figures import ATTACKS, Figure
from avbench.site.records import visible
from avbench.site.scored import Scored, why_unranked
from avbench.site.tables import Cell, Column, Row, Table, View, number

FIRST: tuple[View, ...] = ("overview", "provenance")
REPORTED: tuple[View, ...] = ("overview", "reported")
GEOMETRY: tuple[View, ...] = ("geometry",)
PROVENANCE: tuple[View, ...] = ("provenance",)


class Made(NamedTuple):
    """A column and how its cells are made."""

    column: Column
    cell: Callable[[Scored], Cell]


def make_table(runs: Sequence[Scored], figures: Sequence[Figure]) -> Table:
    """Show runs with these figures, and with all else that is known of them."""
    countered = any(scored.run.counters for scored in runs)
    made = [
        Made(Column("Rank", "rank", "by Avg; runs of one tie group do not differ significantly"), _place),
        Made(Column("Model", "model"), _model),
        *(Made(figure.column, _figure(figure)) for figure in figures if "overview" in figure.column.views),
        Made(Column("Worst case", help="right under every attack of every threat, %", views=ATTACKS), _worst_case),
        *(_COUNTERED if countered else ()),
        *_REPORTED,
        *_STATE,
        *(Made(figure.column, _figure(figure)) for figure in figures if "overview" not in figure.column.views),
        *_GEOMETRY,
        *_PROVENANCE,
    ]  # fmt: skip
    rows = [Row([one.cell(scored) for one in made], "ranked" if scored.place else "partial") for scored in runs]
    return Table([one.column for one in made], rows).filled


def _figure(figure: Figure) -> Callable[[Scored], Cell]:
    return lambda scored: scored.cell(figure)


def _place(scored: Scored) -> Cell:
    return None if scored.place is None else [scored.place, f"group {scored.tie_group}"]


def _model(scored: Scored) -> Cell:
    record = scored.run.record
    return [record.model.title, record.model.id, record.run[:12]]


def _worst_case(scored: Scored) -> Cell:
    if scored.run.multilabel:
        return None
    outcomes = read(scored.run.rows)
    right = np.logical_and.reduce([outcomes.clean, *map(outcomes.robust, outcomes.threats)])
    score = proportion(("worst-case", "", WORST_CASE), right)
    return number(score.value, score.low, score.high)


def _best_known(scored: Scored) -> Cell:
    value = best_known_avg(scored.run.rows, scored.run.counters)
    return None if value is None else number(value)


def _breakers(scored: Scored) -> Cell:
    names = dict.fromkeys(visible(counter.record.credit.name) for counter in scored.run.counters)
    return ", ".join(names) or None


_COUNTERED = [
    Made(Column("Best known", "number", "Avg if the counter attacks of third parties count too, %", REPORTED),
         _best_known),
    Made(Column("Broken by", "text", "who made the counter attacks", REPORTED), _breakers),
]  # fmt: skip


def _reported(what: str) -> Callable[[Scored], Cell]:
    def cell(scored: Scored) -> Cell:
        value = getattr(scored.claim, what, None)
        return None if value is None else number(value)

    return cell


def _gap(what: str, name: tuple[str, str, str]) -> Callable[[Scored], Cell]:
    def cell(scored: Scored) -> Cell:
        value, score = getattr(scored.claim, what, None), scored.by_name.get(name)
        return None if value is None or score is None else number(score.value - value)

    return cell


_REPORTED = [
    Made(Column("Reported clean", "number", "clean accuracy as the author reports it, %", ("reported",)),
         _reported("clean")),
    Made(Column("Clean gap", "number", "measured minus reported clean accuracy, points", ("reported",)),
         _gap("clean", ("clean-accuracy", "clean", NONE))),
    Made(Column("Reported", "number", "Avg as the author reports it for this suite, %", REPORTED), _reported("robust")),
    Made(Column("Gap", "number", "measured minus reported Avg, points", REPORTED),
         _gap("robust", ("avg", MEAN_OF_THREATS, WORST_CASE))),
]  # fmt: skip


def _health(scored: Scored) -> Cell:
    health = scored.run.health
    if health is None:
        return None
    states = [flag.state for flag in health.flags]
    accepted = "accepted: " if scored.run.review else ""
    names = ", ".join(dict.fromkeys(flag.name for flag in health.raised))
    checked = f"{len(states) - states.count('not checked')} of {len(states)} checked"
    return [f"{len(health.raised)} raised", accepted + names or checked]


def _state(scored: Scored) -> Cell:
    why = why_unranked(scored.run) or ("not ranked" if scored.place is None else "ranked")
    state, _, note = why.partition(": ")
    return [state, note] if note and state == "partial" else state  # flags in review stand under Health


_STATE = [
    Made(Column("Health", "noted", "flags: signs that there is less robustness than measured", FIRST), _health),
    Made(Column("n", "number", "samples evaluated", FIRST, digits=0),
         lambda scored: scored.run.record.dataset.evaluated),
    Made(Column("Coverage", "number", "share of the fixed split that could be had and was evaluated, %", PROVENANCE),
         lambda scored: number(100 * scored.run.record.dataset.coverage)),
    Made(Column("State", "noted", "ranked, or why not", FIRST, filter=True), _state),
]  # fmt: skip


def _geometry(measure: str, factor: float, digits: int) -> Callable[[Scored], Cell]:
    """Average a measure of both modalities together over the classes that have it."""

    def cell(scored: Scored) -> Cell:
        record = scored.run.record
        found = read_geometry(scored.run.folder, record.run, record.rows_sha256)
        if found is None:
            return None
        own = found[(found["measure"] == measure) & (found["streams"] == "joint")]
        return number(factor * own["value"][~own["parameter"].gt(min(QUANTILES))].mean(), digits=digits)

    return cell


_GEOMETRY = [
    Made(Column("Convexity", "number", "of the classes' regions, among clips, mean over classes, %", GEOMETRY),
         _geometry("input-convexity", 100, 2)),
    Made(Column("Embedding convexity", "number", "the same among embeddings, %", GEOMETRY),
         _geometry("embedding-convexity", 100, 2)),
    Made(Column("Density", "number", f"of embeddings (tau = {min(QUANTILES):g}), mean over classes", GEOMETRY, 4),
         _geometry("density", 1, 4)),
]  # fmt: skip


def _architecture(scored: Scored) -> Cell:
    model = scored.run.record.model
    fusion = model.arguments.get("fusion")
    return visible(f"{model.architecture}, {fusion}"[:120]) if isinstance(fusion, str) else model.architecture


def _suite(scored: Scored) -> Cell:
    record = scored.run.record
    return f"{record.suite.name}@{record.suite.version}, {record.dataset.split}"


_PROVENANCE = [
    Made(Column("Defense", "text", "what the training or the model does about attacks", PROVENANCE, filter=True),
         lambda scored: scored.run.record.model.defense or None),
    Made(Column("Architecture", "text", "with its fusion", PROVENANCE, filter=True), _architecture),
    Made(Column("License", "text", "of the weights", PROVENANCE, filter=True),
         lambda scored: scored.run.record.model.license or None),
    Made(Column("Suite", "text", "with its version, and the split", PROVENANCE), _suite),
    Made(Column("Seed", "number", "of the attacks", PROVENANCE, digits=0), lambda scored: scored.run.record.seed),
    Made(Column("Date", "text", "of the run", PROVENANCE), lambda scored: scored.run.record.provenance.date),
    Made(Column("Commit", "text", "of avbench", PROVENANCE),
         lambda scored: (scored.run.record.provenance.git_commit or "")[:12] or None),
    Made(Column("Device", "text", "on which it ran", PROVENANCE),
         lambda scored: scored.run.record.provenance.device or None),
]  # fmt: skip
