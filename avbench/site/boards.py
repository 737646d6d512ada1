"""Boards of measured runs: what may share a table, what ranks, and the cells of each row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from avbench import files
from avbench.counter import best_known_avg
from avbench.datasets.cards import Card, read_card
from avbench.diagnose import COVERAGE
from avbench.errors import BadOption, DataError, UnknownName
from avbench.metrics import CLEAN, NONE, WORST_CASE, Rows
from avbench.metrics.outcomes import TRIPLE
from avbench.site.figures import Figure, accuracies, means
from avbench.site.records import Record, Run, visible
from avbench.site.tables import Cell, Column, Row, Table, number
from avbench.summarize import rank, score
from avbench.threats import ThreatModel, parse_threat


@dataclass(frozen=True)
class Scored:
    """A run with all its scores, and its place where it has one."""

    run: Run
    scores: pd.DataFrame
    place: int | None = None
    tie_group: int | None = None

    def cell(self, figure: Figure) -> Cell:
        """One figure, with its interval unless it is a detail."""
        s = self.scores
        found = s[(s["metric"] == figure.metric) & (s["threat"] == figure.threat) & (s["attack"] == figure.attack)]
        if not len(found):
            return None
        value, low, high = found.iloc[0][["value", "low", "high"]]
        cell = number(value, low, high, figure.column.digits)
        return cell[0] if figure.column.detail and isinstance(cell, list) else cell


@dataclass(frozen=True)
class Board:
    """Runs on the same samples under the same threats and attacks."""

    name: str  # file name, unique within the dataset
    card: Card | None
    runs: list[Scored]

    @cached_property
    def record(self) -> Record:
        """What all runs share, read from the newest."""
        return max((scored.run.record for scored in self.runs), key=lambda record: record.provenance.created)

    @cached_property
    def threats(self) -> dict[str, ThreatModel]:
        """Threat models by text, XA before XV before XAV, then by radius."""
        parsed = {text: parse_threat(text) for text in self.record.threats}
        return dict(sorted(parsed.items(), key=lambda item: (len(item[1].label), item[0])))

    @property
    def short(self) -> bool:
        """Tell whether XA, XV and XAV name one threat each, so that headings need no radius."""
        return len({threat.label for threat in self.threats.values()}) == len(self.threats)

    @cached_property
    def countered(self) -> bool:
        """Tell whether third parties have broken more of a run than the suite did."""
        return any(scored.run.counters for scored in self.runs)

    @property
    def multilabel(self) -> bool:
        """Tell whether its clips have several labels; such a board does not rank."""
        return self.runs[0].run.multilabel

    @property
    def ranked(self) -> list[Scored]:
        """Runs that have a place, best first."""
        return [scored for scored in self.runs if scored.place is not None]

    @cached_property
    def table(self) -> Table:
        """The board's table, ranked rows first."""
        heads = {text: threat.label if self.short else text for text, threat in self.threats.items()}
        figures = (means if self.multilabel else accuracies)(heads, self.record.attacks)
        best = [
            Column("Best known", help="Avg if the counter attacks of third parties count too, %"),
            Column("Broken by", "text", "who made them"),
        ] if self.countered else []  # fmt: skip
        columns = [
            Column("Rank", "rank", "place by worst-case Avg; runs of one tie group do not differ significantly"),
            Column("Model", "link"),
            *(figure.column for figure in figures),
            *best,
            Column("n", digits=0, help="samples evaluated"),
            Column("Coverage", help="share of the fixed split that could be had and was evaluated, %"),
            Column("Date", "text"),
            Column("State", "text", "ranked, or why not"),
        ]  # fmt: skip
        return Table(columns, [self._row(scored, figures) for scored in self.runs])

    def _row(self, scored: Scored, figures: Sequence[Figure]) -> Row:
        record = scored.run.record
        place: Cell = [scored.place, f"group {scored.tie_group}"] if scored.place is not None else None
        cells: list[Cell] = [
            place,
            [record.model.title, f"../../models/{record.model.id}.html"],
            *map(scored.cell, figures),
            *(_best_known(scored.run) if self.countered else ()),
            record.dataset.evaluated,
            100 * record.dataset.coverage,
            record.provenance.date,
            why_unranked(scored.run) or ("ranked" if place else "not ranked"),
        ]
        return Row(cells, "ranked" if place else "partial")


def _best_known(run: Run) -> list[Cell]:
    """Cells of the figure that holds after all counter attacks, and of their authors."""
    names = dict.fromkeys(visible(counter.record.credit.name) for counter in run.counters)
    value = best_known_avg(_rows(run), run.counters)
    return [None if value is None else number(value), ", ".join(names) or None]


def why_unranked(run: Run) -> str:
    """Say why a run cannot rank, or nothing if it may."""
    dataset, suite = run.record.dataset, run.record.suite
    if not run.complete or 100 * dataset.coverage < COVERAGE:
        return f"partial: {dataset.evaluated} of {dataset.size}"
    if not suite.published:
        return "partial: unpublished suite"
    if run.health is None:
        return "not diagnosed"
    if run.health.raised and not run.review:
        return f"in review: {', '.join(map(str, run.health.raised))}"
    return "reference" if run.record.model.unimodal else ""


def find_card(dataset: str) -> Card | None:
    """Find the dataset's card, or None if no such dataset is installed."""
    try:
        return read_card(dataset)
    except UnknownName:
        return None


def make_boards(runs: Iterable[Run]) -> list[Board]:
    """Sort runs into boards; what differs in split, suite version, threats or attacks never shares a table.

    The board of the newest suite version on the test split gets the suite's plain name, others a suffix.

    Raises:
        DataError: if a run contradicts its dataset's card.
        IncompleteRun: if rows are missing that a score needs.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(files.fingerprint(_identity(run)), []).append(run)
    order = sorted(groups, key=lambda key: (*_preference(groups[key]), key), reverse=True)
    taken: set[tuple[str, str]] = set()
    boards = []
    for key in order:
        record = groups[key][0].record
        name = record.suite.name
        if (record.dataset.name, name) in taken:
            name = f"{name}-{key[:8]}"
        taken.add((record.dataset.name, name))
        boards.append(_board(name, groups[key]))
    return sorted(boards, key=lambda board: (board.record.dataset.name, board.name))


def _identity(run: Run) -> list[object]:
    record = run.record
    suite = [record.suite.name, record.suite.version, record.suite.mode]
    dataset = [record.dataset.name, record.dataset.split, record.dataset.identity]
    return [dataset, suite, sorted(record.threats), sorted(record.attacks)]


def _preference(runs: list[Run]) -> tuple[bool, bool, int, int, str]:
    record = runs[0].record
    newest = max(run.record.provenance.created for run in runs)
    return record.suite.published, record.dataset.split == "test", record.suite.version, len(runs), newest


def _board(name: str, runs: list[Run]) -> Board:
    card = find_card(runs[0].record.dataset.name)
    kept: dict[str, Run] = {}  # of each model the run on most samples, of these the newest
    for run in sorted(runs, key=lambda run: (run.record.dataset.evaluated, run.record.provenance.created)):
        _check(run, card)
        kept[run.record.model.id] = run
    baseline = kept.get(card.baseline) if card and card.baseline else None
    if baseline and not baseline.complete:
        baseline = None
    scored = [Scored(run, score(_rows(run, baseline))) for run in kept.values()]
    return Board(name, card, _place(scored))


def _rows(run: Run, baseline: Run | None = None) -> Rows:
    # One that nothing survived to meet has no row.
    cells = tuple((threat, attack) for threat in run.record.threats for attack in run.record.attacks)
    return Rows(run.frame, baseline.frame if baseline else None, cells)


def _size(card: Card, split: str) -> int | None:
    try:
        return card.find(split)[1]
    except BadOption:
        return None


def _check(run: Run, card: Card | None) -> None:
    dataset = run.record.dataset
    where = run.folder / "run.json"
    if card and _size(card, dataset.split) != dataset.size:
        raise DataError(f"{where} gives split {dataset.split} {dataset.size} samples; {dataset.name}'s card does not")
    clean = run.frame[(run.frame["threat"] == CLEAN) & (run.frame["attack"] == NONE)]
    if clean["sample"].nunique() != dataset.evaluated:
        raise DataError(f"{where} claims {dataset.evaluated} samples, its rows hold {clean['sample'].nunique()}")
    if card and run.multilabel != (card.task == "multilabel"):
        raise DataError(f"{run.folder / 'rows.parquet'} does not hold the rows of a {card.task} dataset")
    allowed = {(cell.threat, cell.attack) for cell in run.record.cells}
    strangers = [key for key, _ in run.frame.groupby(["threat", "attack"]) if key not in allowed and key[0] != CLEAN]
    if strangers:
        raise DataError(f"{run.folder / 'rows.parquet'} holds rows of {strangers[0]}, which run.json does not name")


def _place(scored: list[Scored]) -> list[Scored]:
    """Rank what may be ranked; the rest follows, by worst-case Avg or, if multi-label, mAP."""
    able = {one.run.record.model.id: one for one in scored if not why_unranked(one.run)}
    rest = [one for one in scored if one.run.record.model.id not in able]
    labels = sorted(parse_threat(text).label for text in scored[0].run.record.threats)
    if labels != sorted(TRIPLE) or scored[0].run.multilabel:
        return sorted(scored, key=_order)
    placed = []
    if able:
        for row in rank({name: _rows(one.run) for name, one in able.items()}).to_dict("records"):
            one = able[row["run"]]
            placed.append(Scored(one.run, one.scores, int(row["rank"]), int(row["tie_group"])))
    return placed + sorted(rest, key=_order)


def _order(one: Scored) -> tuple[float, str]:
    s = one.scores
    values = s["value"][s["metric"].isin(["avg", "mean-average-precision"]) & (s["attack"] == WORST_CASE)]
    return (-values.mean() if len(values) else math.inf, one.run.record.model.id)
