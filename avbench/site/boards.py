"""Boards of measured runs: what may share a table, and what ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from avbench import files
from avbench.datasets.cards import Card, read_card
from avbench.errors import BadOption, DataError, UnknownName
from avbench.metrics import CLEAN, NONE, WORST_CASE
from avbench.metrics.outcomes import TRIPLE
from avbench.site.columns import make_table
from avbench.site.figures import accuracies, means
from avbench.site.records import Record, Run
from avbench.site.scored import Scored, why_unranked
from avbench.site.tables import Table
from avbench.summarize import rank, score
from avbench.threats import ThreatModel, parse_threat

__all__ = ["Board", "Scored", "find_card", "make_boards", "why_unranked"]


@dataclass(frozen=True, eq=False)
class Board:
    """Runs on the same samples under the same threats and attacks."""

    name: str  # file name, unique within the dataset
    card: Card | None
    runs: list[Scored]

    @cached_property
    def record(self) -> Record:
        """What all runs share, read from the newest, of those under a published suite if there are any."""
        records = [scored.run.record for scored in self.runs]
        return max(records, key=lambda record: (record.suite.published, record.provenance.created))

    @cached_property
    def threats(self) -> dict[str, ThreatModel]:
        """Threat models by text, XA before XV before XAV, then by radius."""
        parsed = {text: parse_threat(text) for text in self.record.threats}
        return dict(sorted(parsed.items(), key=lambda item: (len(item[1].label), item[0])))

    @property
    def short(self) -> bool:
        """Tell whether XA, XV and XAV name one threat each, so that headings need no radius."""
        return len({threat.label for threat in self.threats.values()}) == len(self.threats)

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
        return make_table(self.runs, figures)


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
        groups.setdefault(files.fingerprint(identity(run)), []).append(run)
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
    return sorted(boards, key=lambda b: (b.record.dataset.name, b.record.suite.name != "standard", b.name))


def identity(run: Run) -> list[object]:
    """List what the runs of one board share."""
    record = run.record
    suite = [record.suite.name, record.suite.version, record.suite.mode]
    dataset = [record.dataset.name, record.dataset.split, record.dataset.identity]
    return [dataset, suite, sorted(record.threats), sorted(record.attacks)]


def _preference(runs: list[Run]) -> tuple[bool, bool, int, int, str]:
    record = runs[0].record
    newest = max(run.record.provenance.created for run in runs)
    published = any(run.record.suite.published for run in runs)
    return published, record.dataset.split == "test", record.suite.version, len(runs), newest


def _board(name: str, runs: list[Run]) -> Board:
    card = find_card(runs[0].record.dataset.name)
    kept: dict[str, Run] = {}  # of each model the run on most samples, of these one that may rank, then the newest
    for run in sorted(runs, key=_worth):
        _check(run, card)
        kept[run.record.model.id] = run
    baseline = kept.get(card.baseline) if card and card.baseline else None
    if baseline and not baseline.complete:
        baseline = None
    beside = None if baseline is None else baseline.frame
    scored = [Scored(run, score(replace(run.rows, baseline=beside))) for run in kept.values()]
    return Board(name, card, _place(scored))


def _worth(run: Run) -> tuple[int, bool, str]:
    return run.record.dataset.evaluated, run.full_precision, run.record.provenance.created


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
    cells = run.frame[["threat", "attack"]].drop_duplicates().itertuples(index=False, name=None)
    strangers = [cell for cell in cells if cell not in allowed and cell[0] != CLEAN]
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
        for row in rank({name: one.run.rows for name, one in able.items()}).to_dict("records"):
            one = able[row["run"]]
            placed.append(Scored(one.run, one.scores, int(row["rank"]), int(row["tie_group"])))
    return placed + sorted(rest, key=_order)


def _order(one: Scored) -> tuple[float, str]:
    s = one.scores
    values = s["value"][s["metric"].isin(["avg", "mean-average-precision"]) & (s["attack"] == WORST_CASE)]
    return (-values.mean() if len(values) else math.inf, one.run.record.model.id)
