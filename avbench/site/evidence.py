"""What a model's page shows of stored evidence, checked against the run's rows, the dataset's lock and its card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from avbench.datasets.cards import Card, Lock
from avbench.errors import DataError
from avbench.evidence import FILE, VERSIONS, Answer, Evidence, Exhibit, Map, read_evidence
from avbench.evidence.clips import open_pair
from avbench.metrics import CLEAN, NONE
from avbench.site.content import Entry
from avbench.site.media import Media, make_media
from avbench.site.records import Run
from avbench.threats import parse_threat
from avbench.types import MODALITIES

LIMIT = 1_500_000  # bytes of media on one page
COLORS = 10  # of classes on a map
_RATIOS = {"audio": ("SNR", "audio_snr_db"), "video": ("PSNR", "video_psnr_db")}


@dataclass(frozen=True)
class Shown:
    """One sample."""

    id: str  # of the element
    exhibit: Exhibit
    label: str
    holds: bool
    facts: list[tuple[str, str]]
    answers: list[tuple[str, list[tuple[str, float]]]]  # version; class and confidence in %
    media: Media | None  # None: the card or the size of the page leaves none


@dataclass(frozen=True)
class View:
    """The evidence of one run."""

    entry: Entry
    card: Card
    shown: list[Shown]
    map: Map | None

    @property
    def credit(self) -> list[str]:
        """License of the clips, and whom to name."""
        named = [note for note in self.card.notes if note.startswith("Attribution:")]
        return [f"Clips of {self.card.title}: {self.card.license}.", *named]

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Color and name of the classes on the map."""
        labels = sorted({dot.label for dot in self.map.dots}) if self.map else []
        return [(label % COLORS, _class(self.card, label)) for label in labels]


def find_evidence(entries: Sequence[Entry]) -> list[View]:
    """Read and check the evidence of a model's runs, with as much of its media as one page may have.

    Raises:
        DataError, BudgetViolation: naming evidence that is not what the run, its rows or the dataset say.
    """
    taken: dict[str, int] = {}  # bytes by file
    views = []
    for entry in entries:
        run, card = entry.scored.run, entry.board.card
        evidence = read_evidence(run.folder, {"run": run.record.run, "rows_sha256": run.record.rows_sha256})
        if evidence is None or card is None:
            continue
        shown = []
        for one in (_show(entry, card, evidence, exhibit) for exhibit in evidence.exhibits):
            more = taken | {asset.path: asset.size for asset in (one.media.assets if one.media else ())}
            fits = sum(more.values()) <= LIMIT
            taken = more if fits else taken
            shown.append(one if fits else replace(one, media=None))
        views.append(View(entry, card, shown, evidence.map))
    return views


def anchor(run: Run, sample: str) -> str:
    """Name the place on a model's page where a sample of a run is shown."""
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in sample)
    return f"evidence-{run.record.run[:12]}-{plain}"


def _show(entry: Entry, card: Card, evidence: Evidence, exhibit: Exhibit) -> Shown:
    run, sample = entry.scored.run, exhibit.sample
    row = _row(run, sample, exhibit.threat, exhibit.attack)
    for judged, answer in zip((_row(run, sample, CLEAN, NONE), row), exhibit.answers, strict=False):
        if _prediction(judged) != answer.classes[0]:
            raise DataError(f"{run.folder / FILE} shows another answer for {sample} than the run's rows hold")
    pair = open_pair(exhibit, card, evidence.media)
    stored = exhibit.clean.sha256 if exhibit.clean and evidence.media == "full" else None
    if stored and _pins(card, run.record.dataset.split).get(sample, stored) != stored:
        raise DataError(f"{run.folder / FILE} holds another clip than {sample} of {card.title}")
    labels = [row["label"]] if "label" in row else row["labels"]
    label = ", ".join(_class(card, int(one)) for one in labels) or "no class"
    return Shown(
        id=anchor(run, sample),
        exhibit=exhibit,
        label=label,
        holds=bool(row["correct"]),
        facts=list(_facts(exhibit, row)),
        answers=[(v, _told(card, a)) for v, a in zip(VERSIONS, exhibit.answers, strict=True)],
        media=make_media(f"{sample}, {label}", pair, exhibit.maps, card.sample_rate) if pair else None,
    )


def _row(run: Run, sample: str, threat: str, attack: str) -> dict[str, Any]:
    f = run.frame
    found = f[(f["sample"] == sample) & (f["threat"] == threat) & (f["attack"] == attack)].to_dict("records")
    if len(found) != 1:
        raise DataError(f"{run.folder / FILE} shows {sample} under {threat!a}, {attack!a}, of which there is no row")
    return {str(key): value for key, value in found[0].items()}


def _prediction(row: dict[str, Any]) -> int:
    return int(row["prediction"] if "prediction" in row else np.argmax(row["scores"]))


def _told(card: Card, answer: Answer) -> list[tuple[str, float]]:
    return [(_class(card, i), 100 * share) for i, share in zip(answer.classes, answer.confidences, strict=True)]


def _class(card: Card, index: int) -> str:
    if not 0 <= index < len(card.classes):
        raise DataError(f"evidence names class {index}, and {card.title} has {len(card.classes)}")
    return card.classes[index]


def _facts(exhibit: Exhibit, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say how much of each budget is used, and how that compares with the clip."""
    budgets = parse_threat(exhibit.threat).budgets
    for modality in (m for m in MODALITIES if m in budgets):
        budget, (ratio, column) = budgets[modality], _RATIOS[modality]
        used = row[f"{modality}_{budget.norm.partition('-')[0]}"]
        yield f"{modality.capitalize()} change, {budget.norm}", f"{used:.6g} of {budget.radius:g}"
        yield f"{modality.capitalize()}, {ratio}", f"{row[column]:.2f} dB"


def _pins(card: Card, split: str) -> dict[str, str]:
    """Hashes of the clips of a split, where its lock is committed."""
    path = Lock.path(card.name, card.find(split)[0])
    return _locked(path, card.task, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(maxsize=16)
def _locked(path: Path, task: str, modified: int) -> dict[str, str]:
    return {row.id: row.sha256 for row in Lock.read(path, task).rows}
