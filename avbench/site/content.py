"""What the pages are made of: boards, published figures and models, put in order once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from avbench.metrics import DIGITS, WORST_CASE
from avbench.site.boards import Board, Scored, find_card, why_unranked
from avbench.site.published import Reported
from avbench.site.records import ModelRecord, visible
from avbench.site.tables import number

if TYPE_CHECKING:
    from avbench.site.history import Event, Retired
    from avbench.site.releases import Release

TITLES = {"mit-music": "MIT-MUSIC", "kinetics-sounds": "Kinetics-Sounds", "ave": "AVE", "audioset": "AudioSet"}
HEADLINES = ("clean-accuracy", "robust-accuracy", "avg", "ri", "mean-average-precision", "mean-auc", "d-prime")

WORDS = {"avg": "Avg", "ri": "RI"}  # as boards head them
SUFFIXES = {"mean-average-precision": "mAP", "mean-auc": "AUC", "d-prime": "d'"}


@dataclass
class Group:
    """The boards of one dataset, measured ones first."""

    name: str
    title: str
    summary: str = ""
    boards: list[Board] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Entry:
    """One run on a model's page."""

    board: Board
    scored: Scored

    @property
    def title(self) -> str:
        """Dataset and suite."""
        record = self.scored.run.record
        dataset = self.board.card.title if self.board.card else record.dataset.name
        return f"{dataset}, {record.suite.name}@{record.suite.version}"

    @property
    def key(self) -> str:
        """File name of its card."""
        return self.scored.run.record.run[:12]

    @property
    def state(self) -> str:
        """Why the run has no rank."""
        return why_unranked(self.scored.run) or "not ranked"

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """Where the run comes from, for people."""
        entries = self.scored.run.record.provenance.model_dump()
        return [
            (visible(name.replace("_", " ")), visible(str(value)))
            for name, value in entries.items()
            if value not in (None, "")
        ]

    @property
    def headlines(self) -> list[dict[str, Any]]:
        """The scores that a reader looks for first, under the headings of boards."""
        rows = [row | {"title": self._heading(row)} for row in self.scores if row["headline"]]
        return sorted(rows, key=lambda row: row["metric"] != "avg")

    def _heading(self, row: dict[str, Any]) -> str:
        threat = self.board.threats.get(row["threat"])
        name = "Clean" if threat is None else threat.label if self.board.short else row["threat"]
        return WORDS.get(row["metric"]) or f"{name} {SUFFIXES.get(row['metric'], '')}".strip()

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        """All scores, headline figures first."""
        rows: list[dict[str, Any]] = []
        for row in self.scored.scores.to_dict("records"):
            digits = DIGITS[row["unit"]]
            value = number(row["value"], row["low"], row["high"], digits)
            low, high = value[1:] if isinstance(value, list) else (None, None)
            headline = row["metric"] in HEADLINES and row["attack"] in ("none", WORST_CASE)
            rows.append(
                {
                    **{str(k): v for k, v in row.items()},
                    "digits": digits,
                    "low": low,
                    "high": high,
                    "headline": headline,
                }
            )
        return sorted(rows, key=lambda row: HEADLINES.index(row["metric"]) if row["headline"] else len(HEADLINES))


@dataclass(frozen=True)
class Content:
    """All that a site shows."""

    boards: Sequence[Board]
    reported: Sequence[Reported]
    retired: Sequence[Retired] = ()  # runs that no board shows
    events: Sequence[Event] = ()  # what people wrote of changed numbers, oldest first
    releases: Sequence[Release] = ()  # oldest first

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Boards by dataset."""
        names = dict.fromkeys(
            [*(board.record.dataset.name for board in self.boards), *(one.dataset for one in self.reported)]
        )
        groups = {}
        for name in names:
            card = find_card(name)
            groups[name] = Group(name, card.title if card else TITLES.get(name, name), card.summary if card else "")
        for board in self.boards:
            groups[board.record.dataset.name].boards.append(board)
        for one in self.reported:
            groups[one.dataset].reported.append(one)
        return groups

    @cached_property
    def models(self) -> dict[str, list[Entry]]:
        """Runs of each model, by its id."""
        models: dict[str, list[Entry]] = {}
        for board in self.boards:
            for scored in board.runs:
                models.setdefault(scored.run.record.model.id, []).append(Entry(board, scored))
        return dict(sorted(models.items()))

    def newest(self, model: str) -> ModelRecord:
        """Tell what the newest run says of a model."""
        records = [entry.scored.run.record for entry in self.models[model]]
        return max(records, key=lambda record: record.provenance.created).model
