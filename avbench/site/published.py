"""Boards of figures as the papers print them: shown beside what follows from their own columns, never ranked."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import NormalDist

from avbench.errors import DataError
from avbench.site.tables import Cell, Column, Row, Table, number

PAPERS = {
    "tian2021": ("Tian & Xu, CVPR 2021", "arXiv:2104.02000"),
    "li2022": ("Li et al., ICASSP 2022", "arXiv:2203.12122"),
}
# A mean of three figures with two decimals, printed with two, is within 0.01; an index of two such sums within 0.02.
AVG_TOLERANCE, RI_TOLERANCE = 0.0101, 0.0201
AUC_HALF_UNIT = 0.0005

RADII = "The captions of Tian & Xu print radii ten times too large; their README corrects them to 0.006 and 0.012."
PIXELS = (
    "The released code applies the video radius after ImageNet normalization: 0.006 there is 0.0013 in pixel units."
)
MIM = (
    "The released MIM clips against the current iterate, not against the clean clip, and leaves the budget: "
    "ten steps reach 1.25 times the radius on audio and up to 11.25 times on dark pixels."
)
FOUR = "The printed average of table 2 is over four columns, clean included; avbench always averages XA, XV and XAV."
FIGURES = (
    "Printed averages that do not follow from their columns: Tian & Xu table 3 MIT-MUSIC PCL (51.91, it is 51.92) and "
    "table 1 MIT-MUSIC PGD (5.09, it is 5.13); printed RI: table 3 Kinetics-Sounds MinSim (8.99, it is 8.90) and "
    "table 6 MIT-MUSIC MaxSim (12.84, it is 12.82).",
    "Printed d' that does not follow from the printed AUC: Li et al. table 1, every attacked mid-fusion row and clean "
    "adversarial training (an AUC of 0.889, for example, gives 1.727 where 1.836 is printed).",
)
DIFFERS = {
    "avg": "The printed average does not follow from the row's own columns.",
    "ri": "The printed RI does not follow from the table's own columns.",
    "d": "The printed d' does not follow from the printed AUC.",
}


@dataclass(frozen=True)
class Reported:
    """One table of one paper on one dataset."""

    dataset: str
    paper: str
    number: str  # of the table in the paper
    table: Table
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """File name of its board."""
        return f"{self.paper}-table{self.number}"

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{PAPERS[self.paper][0]}, table {self.number}"


def read_published(folder: Path) -> Iterator[Reported]:
    """Read the published figures, one board for each table and dataset.

    Raises:
        DataError: if a file is missing or malformed.
    """
    for name, make in (("accuracy.csv", _accuracy), ("multilabel.csv", _multilabel)):
        path = folder / name
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            rows.sort(key=_board)
            for (dataset, paper, table), group in groupby(rows, _board):
                lines = list(group)
                shown, notes = make(lines)
                facts = _radii(lines)
                yield Reported(dataset, paper, table.removeprefix("table"), shown, tuple(notes), facts)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"the published figures {path} cannot be used: {error!r}") from error


def _radii(rows: list[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    """Radii of a table, corrected and as printed; notes 1 and 2 are RADII and PIXELS."""
    facts = []
    for title, column in (("Radius XA, XV", "eps_single_printed"), ("Radius XAV", "eps_joint_printed")):
        if printed := sorted({row[column] for row in rows if row.get(column)}):
            corrected = ", ".join(f"{float(text) / 10:g}" for text in printed)
            facts.append((title, f"{corrected} (printed: {', '.join(printed)}; notes 1 and 2)"))
    return tuple(facts)


def _board(row: dict[str, str]) -> tuple[str, str, str]:
    return row["dataset"], row["paper"], row["table"]


def _mark(notes: list[str], text: str) -> int:
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1


def mean_of_threats(row: dict[str, str]) -> float:
    """Mean of XA, XV, XAV."""
    return sum(float(row[name]) for name in ("xa", "xv", "xav")) / 3


def _undefended(rows: list[dict[str, str]], like: dict[str, str]) -> dict[str, str] | None:
    same = [
        row for row in rows if row["attack"] == like["attack"] and (row["defense"], row["fusion"]) == ("none", "concat")
    ]
    return same[0] if same else None


def _accuracy(rows: list[dict[str, str]]) -> tuple[Table, list[str]]:
    indexed = any(row["ri_printed"] for row in rows)
    titles = [("Clean", "accuracy without attack, %"), ("XA", "audio attacked"), ("XV", "video attacked"),
              ("XAV", "both attacked"), ("Avg printed", "as the paper prints it"),
              ("Avg", "mean of XA, XV, XAV, from the row's own columns")]  # fmt: skip
    if indexed:
        titles += [("RI printed", "as the paper prints it"), ("RI", "Robustness Improvement from the table's columns")]
    words = ["Model", "Fusion", "Defense", "Attack"]
    columns = [*(Column(word, "text") for word in words), *(Column(title, "number", text) for title, text in titles),
               Column("Notes", "notes", "corrections to the printed figures")]  # fmt: skip
    notes = [RADII, PIXELS] if _radii(rows) else []
    return Table(columns, [_accuracy_row(row, rows, notes, indexed) for row in rows]), notes


def _accuracy_row(row: dict[str, str], rows: list[dict[str, str]], notes: list[str], indexed: bool) -> Row:
    marks: list[int] = []
    average, printed = mean_of_threats(row), float(row["avg_printed"])
    if row["attack"] == "mim":
        marks.append(_mark(notes, MIM))
    if row["table"] == "table2":
        marks.append(_mark(notes, FOUR))
    elif abs(average - printed) > AVG_TOLERANCE:
        marks.append(_mark(notes, DIFFERS["avg"]))
    figures: list[Cell] = [*(float(row[k]) for k in ("clean_av", "xa", "xv", "xav")), printed, number(average)]
    if indexed:
        base = _undefended(rows, row)
        index = float(row["clean_av"]) + average - float(base["clean_av"]) - mean_of_threats(base) if base else math.nan
        stated = float(row["ri_printed"]) if row["ri_printed"] else math.nan
        if abs(index - stated) > RI_TOLERANCE:
            marks.append(_mark(notes, DIFFERS["ri"]))
        figures += [number(stated), number(index)]
    words: list[Cell] = [row["model"], row["fusion"] or None, row["defense"], row["attack"].upper()]
    return Row([*words, *figures, list(marks) or None], "reported")


def d_prime(auc: float) -> float:
    """Sensitivity index that belongs to an area under the curve."""
    return math.sqrt(2) * NormalDist().inv_cdf(auc)


def _multilabel(rows: list[dict[str, str]]) -> tuple[Table, list[str]]:
    columns = [Column("Model", "text"), Column("Training", "text"), Column("Attacked", "text"),
               Column("mAP", "number", "mean average precision", digits=3),
               Column("AUC", "number", "mean area under the ROC curve", digits=3),
               Column("d' printed", "number", "as the paper prints it", digits=3),
               Column("d'", "number", "from the printed AUC", digits=3),
               Column("Notes", "notes", "corrections to the printed figures")]  # fmt: skip
    notes: list[str] = []
    shown = []
    for row in rows:
        auc, printed = float(row["auc"]), float(row["d_prime_printed"])
        low, high = d_prime(auc - AUC_HALF_UNIT) - 0.0005, d_prime(auc + AUC_HALF_UNIT) + 0.0005
        marks: list[Cell] = [] if low <= printed <= high else [[_mark(notes, DIFFERS["d"])]]
        figures: list[Cell] = [float(row["map"]), auc, printed, number(d_prime(auc), digits=3)]
        words: list[Cell] = [row["model"], row["training"], row["attack_modalities"]]
        shown.append(Row([*words, *figures, *(marks or [None])], "reported"))
    return Table(columns, shown), notes
