"""Which scores a board shows, and under which headings: accuracies or, if clips have several labels, class means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from avbench.metrics import CLEAN, NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.site.tables import Column, View

Heads = Mapping[str, str]  # heading of each threat, by its text
OVERVIEW: tuple[View, ...] = ("overview",)
ATTACKS: tuple[View, ...] = ("attacks",)
SHOWN: tuple[View, ...] = ("overview", "attacks", "reported")


class Figure(NamedTuple):
    """One column and the score in it."""

    column: Column
    metric: str
    threat: str
    attack: str


def accuracies(heads: Heads, attacks: Sequence[str]) -> list[Figure]:
    """List the columns of a board of clips with one label."""
    robust = [
        Figure(Column(head, help=f"right under every attack of {text}, %"), "robust-accuracy", text, WORST_CASE)
        for text, head in heads.items()
    ]
    single = [
        Figure(Column(f"{head} {a}", "number", f"accuracy under {a} within {t}, %", ATTACKS), "attack-accuracy", t, a)
        for t, head in heads.items()
        for a in attacks
    ]
    avg = Column("Avg", "number", "mean of XA, XV and XAV, %; decides the rank", (*SHOWN, "geometry"))
    clean = Column("Clean", "number", "accuracy without attack, %", SHOWN)
    ri = Column("RI", help="Robustness Improvement: clean + Avg minus that of the undefended baseline, points")
    return [
        Figure(avg, "avg", MEAN_OF_THREATS, WORST_CASE),
        Figure(clean, "clean-accuracy", CLEAN, NONE),
        *robust,
        Figure(ri, "ri", MEAN_OF_THREATS, WORST_CASE),
        *single,
    ]


def means(heads: Heads, attacks: Sequence[str]) -> list[Figure]:
    """List the columns of a board of clips with several labels."""
    shown = {
        "mAP": ("mean-average-precision", "mean average precision"),
        "AUC": ("mean-auc", "mean area under the ROC curve"),
        "d'": ("d-prime", "d' of the mean AUC"),
    }
    cells = [("Clean", "without attack", CLEAN, NONE)]
    cells += [(head, f"in the worst case of {text}", text, WORST_CASE) for text, head in heads.items()]
    single = [(f"{head} {a}", f"under {a} within {text}", text, a) for text, head in heads.items() for a in attacks]
    return [
        Figure(Column(f"{head} {word}", "number", f"{meaning} {where}", views, digits=3), metric, threat, attack)
        for group, views in ((cells, OVERVIEW), (single, ATTACKS))
        for head, where, threat, attack in group
        for word, (metric, meaning) in shown.items()
    ]
