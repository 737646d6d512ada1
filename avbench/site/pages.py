"""Turn boards into pages: every text passes through jinja2's autoescape, no page holds inline code or style."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from avbench.metrics import DIGITS, WORST_CASE
from avbench.site.boards import Board, Scored, find_card, why_unranked
from avbench.site.published import FIGURES, FOUR, MIM, PAPERS, PIXELS, RADII, Reported
from avbench.site.records import ModelRecord, visible
from avbench.site.tables import MISSING, number, show

HERE = Path(__file__).resolve().parent
DATATABLES = "datatables.net-3.1.5"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
TITLES = {"mit-music": "MIT-MUSIC", "kinetics-sounds": "Kinetics-Sounds", "ave": "AVE", "audioset": "AudioSet"}
HEADLINES = ("clean-accuracy", "robust-accuracy", "avg", "ri", "mean-average-precision", "mean-auc", "d-prime")


@dataclass
class Group:
    """The boards of one dataset, measured ones first."""

    name: str
    title: str
    summary: str = ""
    boards: list[Board] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)


@dataclass(frozen=True)
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


def environment() -> Environment:
    """Make the template environment: autoescape on, unknown names are errors."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.filters["show"] = show
    env.filters["plain"] = lambda data: visible(json.dumps(data, ensure_ascii=False, sort_keys=True))
    env.globals |= {"csp": CSP, "missing": MISSING, "datatables": DATATABLES, "version": _version()}
    return env


def make_pages(boards: Sequence[Board], reported: Sequence[Reported]) -> Iterator[tuple[str, str]]:
    """Yield path and text of every page."""
    env = environment()
    groups = _groups(boards, reported)
    models = _models(boards)

    def page(path: str, template: str, **context: Any) -> tuple[str, str]:
        return path, env.get_template(template).render(root="../" * path.count("/"), **context)

    yield page(
        "index.html", "index.html.j2", groups=groups.values(), models=_newest(models), counts=_count(boards, reported)
    )
    yield page("method.html", "method.html.j2", errata=(RADII, PIXELS, MIM, FOUR, *FIGURES))
    yield page("404.html", "404.html.j2")
    for group in groups.values():
        for board in group.boards:
            yield page(f"lb/{group.name}/{board.name}.html", "board.html.j2", board=board)
        for one in group.reported:
            paper = ", ".join(PAPERS[one.paper])
            path = f"lb/{group.name}/{one.name}.html"
            yield page(path, "reported.html.j2", reported=one, dataset_title=group.title, reference=paper)
    for model, entries in zip(_newest(models), models.values(), strict=True):
        yield page(f"models/{model.id}.html", "model.html.j2", model=model, entries=entries)


def _groups(boards: Sequence[Board], reported: Sequence[Reported]) -> dict[str, Group]:
    names = dict.fromkeys([*(board.record.dataset.name for board in boards), *(one.dataset for one in reported)])
    groups = {}
    for name in names:
        card = find_card(name)
        groups[name] = Group(name, card.title if card else TITLES.get(name, name), card.summary if card else "")
    for board in boards:
        groups[board.record.dataset.name].boards.append(board)
    for one in reported:
        groups[one.dataset].reported.append(one)
    return groups


def _models(boards: Sequence[Board]) -> dict[str, list[Entry]]:
    models: dict[str, list[Entry]] = {}
    for board in boards:
        for scored in board.runs:
            models.setdefault(scored.run.record.model.id, []).append(Entry(board, scored))
    return dict(sorted(models.items()))


def _newest(models: Mapping[str, list[Entry]]) -> list[ModelRecord]:
    records = [[entry.scored.run.record for entry in entries] for entries in models.values()]
    return [max(some, key=lambda record: record.provenance.created).model for some in records]


def _count(boards: Sequence[Board], reported: Sequence[Reported]) -> dict[str, str]:
    rows = sum(len(scored.run.frame) for board in boards for scored in board.runs)
    models = len(_models(boards))
    return {"models": str(models), "samples": f"{rows:,}", "reported": str(sum(len(r.table.rows) for r in reported))}


def _version() -> str:
    try:
        return version("avbench")
    except PackageNotFoundError:
        return "(not installed)"
