"""Charts of one run: its strength curves, its classes, and what geometry tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from avbench.analyze import accuracy_drop, read_geometry
from avbench.geometry import QUANTILES
from avbench.metrics import CLEAN, NONE, WORST_CASE, Score
from avbench.metrics.intervals import wilson
from avbench.metrics.outcomes import read
from avbench.site.boards import Scored
from avbench.site.charts.chart import Chart, Value
from avbench.site.charts.grids import Bars, bars
from avbench.site.charts.plots import Guide, Line, Point, lines, scatter
from avbench.site.charts.strength import Family, families
from avbench.site.charts.svg import Style, fitted, percent
from avbench.site.content import Entry
from avbench.site.tables import WITHOUT_SCRIPT

MEASURES = {  # of geometry: words, and unit
    "input-convexity": "convexity of the clips",
    "embedding-convexity": "convexity of the embeddings",
    "density": f"density of the embeddings, tau = {min(QUANTILES):g}",
}


def run_charts(entry: Entry) -> list[Chart]:
    """Make the charts for which a run has data."""
    return [*_strength(entry), *_classes(entry), *_geometry(entry)]


def _key(entry: Entry, kind: str) -> str:
    return f"runs/{entry.key}/{kind}"


def _class(entry: Entry, label: int) -> str:
    names = entry.board.card.classes if entry.board.card else ()
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _strength(entry: Entry) -> Iterator[Chart]:
    """Accuracy against the radius, one field for each attack, beside models that read one modality."""
    found = families(entry.board.threats)
    beside = [one for one in entry.board.runs if one is not entry.scored and _reference(one, entry.scored)]
    for i, attack in enumerate([WORST_CASE, *entry.board.record.attacks] if found else []):
        drawn: list[Line] = []
        rows: list[tuple[Value, ...]] = []
        for scored in [entry.scored, *beside]:
            for family in found if scored is entry.scored else _read_by(scored, found):
                name = family.name if scored is entry.scored else f"{scored.run.record.model.title}, {family.name}"
                scores = _scores(scored, family, attack)
                rows += [(name, f"{radius:g}", *values) for radius, *values in scores]
                if len(scores) > 1:
                    band = [(low, high) for _, _, low, high in scores] if scored is entry.scored else []
                    points = [(radius, value) for radius, value, _, _ in scores]
                    drawn.append(Line(name, points, band, reference=scored is not entry.scored))
        if any(not line.reference for line in drawn):
            radii = [radius for line in drawn for radius, _ in line.points]
            yield Chart(
                _key(entry, f"strength-{i}"),
                f"Strength of {attack}" if i else "Strength, worst case",
                "Accuracy against the radius, with 95 % bands."
                + (" Gray: models that read one modality." if beside else ""),
                lines(fitted("radius of the attack", radii), percent("accuracy (%)"), drawn),
                ("Curve", "Radius", "Accuracy, %", "Low, %", "High, %"),
                rows,
            )


def _reference(one: Scored, scored: Scored) -> bool:
    """Tell whether a run reads one modality and saw the same samples."""
    return one.run.record.model.unimodal and one.run.samples == scored.run.samples


def _read_by(scored: Scored, found: Sequence[Family]) -> list[Family]:
    """Choose the first kind of threat that attacks what a model reads."""
    letter = scored.run.record.model.reference.removeprefix("unimodal-")[:1].upper()
    return [family for family in found if letter in family.label][:1]


def _scores(scored: Scored, family: Family, attack: str) -> list[tuple[float, float, float, float]]:
    """Radius, share and the ends of its interval, percent."""
    metric = "robust-accuracy" if attack == WORST_CASE else "attack-accuracy"
    metric = "mean-average-precision" if scored.run.multilabel else metric
    found: list[tuple[float, Score | None]] = [
        (radius, scored.by_name.get((metric, text, attack))) for radius, text in family.threats
    ]
    unit = 100 if scored.run.multilabel else 1
    return [(radius, *(unit * x for x in (s.value, s.low, s.high))) for radius, s in found if s is not None]  # type: ignore[misc]


def _classes(entry: Entry) -> Iterator[Chart]:
    """Accuracy of each class, clean and in the worst case of each threat, most broken first."""
    run, board = entry.scored.run, entry.board
    if run.multilabel or not board.short:
        return
    outcomes = read(run.rows)
    clean = run.frame[(run.frame["threat"] == CLEAN) & (run.frame["attack"] == NONE)].set_index("sample")
    labels = clean["label"].reindex(outcomes.samples).to_numpy()
    right = [outcomes.clean, *(outcomes.robust(text) for text in board.threats)]
    heads = ["clean", *(threat.label for threat in board.threats.values())]
    shares = {int(label): [100 * float(one[labels == label].mean()) for one in right] for label in np.unique(labels)}
    order = sorted(shares, key=lambda label: (sum(shares[label][1:]), label))
    groups = [Bars(_class(entry, label), shares[label]) for label in order]
    rows: list[list[Value]] = []
    for group, label in zip(groups, order, strict=True):
        n = int((labels == label).sum())
        ends = [wilson(round(share * n / 100), n) for share in shares[label]]
        told = [f"{100 * low:.2f} to {100 * high:.2f}" for low, high in ends]
        rows.append([group.name, *(one for pair in zip(shares[label], told, strict=True) for one in pair), str(n)])
    some = f" The {WITHOUT_SCRIPT} most broken of {len(groups)}." if len(groups) > WITHOUT_SCRIPT else ""
    yield Chart(
        _key(entry, "classes"),
        "Accuracy by class",
        f"The outline is clean accuracy, inside it the worst case of each threat. Most broken classes first.{some}",
        bars(percent("accuracy (%)"), heads, groups[:WITHOUT_SCRIPT]),
        ("Class", *(word for head in heads for word in (f"{head}, %", "95 % interval")), "n"),
        rows,
    )


def _geometry(entry: Entry) -> Iterator[Chart]:
    """Loss of accuracy of each class against density and convexity, as in [L22]."""
    run = entry.scored.run
    found = None if run.multilabel else read_geometry(run.folder, run.record.run, run.record.rows_sha256)
    if found is None:
        return
    lost = accuracy_drop(run.frame).groupby("class")["drop"].mean()
    joint = found[(found["streams"] == "joint") & ~found["parameter"].gt(min(QUANTILES))]
    for measure, words in MEASURES.items():
        values = joint[joint["measure"] == measure].groupby("class")["value"].first()
        both = pd.DataFrame({"x": values, "y": lost}).dropna()
        if len(both):
            yield _drop(entry, measure, words, both)


def _drop(entry: Entry, measure: str, words: str, both: pd.DataFrame) -> Chart:
    """Draw one measure, with the least-squares line and Pearson's r."""
    x, y = both["x"].to_numpy(dtype=float), both["y"].to_numpy(dtype=float)
    names = [_class(entry, int(label)) for label in both.index]
    guides = []
    if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.clip(
            [(one, slope * one + intercept) for one in (x.min(), x.max())], [-np.inf, y.min()], [np.inf, y.max()]
        )
        guides = [Guide(f"trend, r = {np.corrcoef(x, y)[0, 1]:.2f}", [(float(a), float(b)) for a, b in ends])]
    points = [
        Point(a, b, name, f"{name}: {words} {a:.4f}, drop {b:.2f} points")
        for a, b, name in zip(x, y, names, strict=True)
    ]
    return Chart(
        _key(entry, measure),
        f"Accuracy drop against {measure.replace('-', ' ')}",
        "One point a class, mean drop over attacks that ran on every sample.",
        scatter(
            fitted(words, x.tolist()), fitted("accuracy drop (points)", y.tolist()), {"": (Style(), points)}, guides
        ),
        ("Class", words, "Drop, points"),
        [(name, f"{a:.4f}", float(b)) for name, a, b in zip(names, x, y, strict=True)],
    )
