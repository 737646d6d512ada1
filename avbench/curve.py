"""Strength curves: accuracy against the radius of the attack, beside unimodal models, as in [T21] figures 3, 7, 8.

One panel for each attack and one for the worst case, in each XA, XV and XAV; those figures are of several models and
datasets, and of each run there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from avbench import api, store, summarize
from avbench.errors import AvbenchError
from avbench.figures import Line, curves
from avbench.metrics import CLEAN, SILENCE_AUDIO, SILENCE_VIDEO, WORST_CASE, Rows, Score
from avbench.threats import ThreatModel, parse_threat
from avbench.types import MODALITIES

OWN = "model"  # the role of the run's own scores
METRICS = ("clean-accuracy", "silenced-accuracy", "attack-accuracy", "robust-accuracy", "mean-average-precision")
RADII = [f"radius_{modality}" for modality in MODALITIES]
COLUMNS = ["model", "role", "label", *RADII, *Score._fields]


class Family(NamedTuple):
    """Threats that differ in one radius, or in both together."""

    label: str  # XA, XV, XAV
    name: str  # in the legend
    radius: str  # the column of the radius that tells them apart
    threats: list[str]


def draw_curve(run: Path, scores: pd.DataFrame) -> bool:
    """Write curve.parquet, .svg and .png into a run's folder, and return true, if its threats have several radii.

    References are the runs of unimodal submissions on the same track that lie beside this one and have all its
    samples; they are scored on those. In the figure each is under attacks on the modality that it reads.

    Args:
        run: folder of a finished run.
        scores: its scores, of which those that the figure needs are stored as they are, with the columns `model`,
            `role` ("model", "unimodal-audio" or "unimodal-video"), `label` (of the threat) and both radii.
    """
    record = store.read_record(run)
    families = _families([parse_threat(text) for text in record["threats"]])
    if not families:
        return False
    tables = [_table(record["model"]["id"], OWN, scores), *_references(run.resolve(), record)]
    table = pd.concat(tables, ignore_index=True)
    store.publish_table(run / "curve.parquet", table)
    panels = {attack: _lines(table, attack, families) for attack in [*record["attacks"], WORST_CASE]}
    y = "mAP (%)" if (table["metric"] == "mean-average-precision").any() else "accuracy (%)"
    curves(run / "curve", {attack: lines for attack, lines in panels.items() if lines}, "attack strength (radius)", y)
    return True


def _families(threats: Sequence[ThreatModel]) -> list[Family]:
    groups: dict[tuple[str, ...], list[ThreatModel]] = {}
    for threat in threats:
        norms = (budget.norm for budget in threat.budgets.values())
        access = () if threat.access == "white-box" else (threat.access,)
        groups.setdefault((threat.label, *norms, *access), []).append(threat)
    labels = [label for label, *_ in groups]
    found = []
    for key, members in groups.items():
        radii = pd.DataFrame([_radii(threat) for threat in members], columns=RADII)
        apart = [column for column in RADII if radii[column].notna().all() and radii[column].is_unique]
        if len(members) > 1 and apart:
            name = key[0] if labels.count(key[0]) == 1 else " ".join(key)
            found.append(Family(key[0], name, apart[0], [str(threat) for threat in members]))
    return found


def _radii(threat: ThreatModel) -> list[float]:
    return [threat.budgets[m].radius if m in threat.budgets else float("nan") for m in MODALITIES]


def _table(model: str, role: str, scores: pd.DataFrame) -> pd.DataFrame:
    kept = scores[scores["metric"].isin(METRICS)].reset_index(drop=True)
    threats = [None if text == CLEAN else parse_threat(text) for text in kept["threat"]]
    kept[RADII] = [[float("nan")] * len(RADII) if threat is None else _radii(threat) for threat in threats]
    labels = [CLEAN if threat is None else threat.label for threat in threats]
    return kept.assign(model=model, role=role, label=labels)[COLUMNS]


def _references(run: Path, record: Mapping[str, Any]) -> Iterator[pd.DataFrame]:
    """Score the unimodal runs beside this one; those that are not finished or not of the same clips are left out."""
    samples = set(store.read_rows(run)["sample"])
    for folder in sorted(path.parent for path in run.parent.glob("*/run.json") if path.parent != run):
        try:
            other = store.read_record(folder)
            role = str(other["model"].get("reference", ""))
            if role.startswith("unimodal-") and _place(other) == _place(record):
                rows = api.read_run(folder)
                common = rows.frame[rows.frame["sample"].isin(samples)]
                if set(common["sample"]) == samples:
                    yield _table(other["model"]["id"], role, summarize.score(Rows(common, cells=rows.cells)))
        except AvbenchError:
            continue


def _place(record: Mapping[str, Any]) -> list[Any]:
    return [record["track"], record["dataset"].get("fixed_sha256"), record["suite"]["mode"]]


def _lines(table: pd.DataFrame, attack: str, families: Sequence[Family]) -> dict[str, Line]:
    """Make one panel: a line for each family, then the references; none if the attack has no curve of its own."""
    found: dict[str, Line] = {}
    for role, model in table[["role", "model"]].drop_duplicates().itertuples(index=False):
        scores = table[(table["role"] == role) & (table["model"] == model) & (table["attack"] == attack)]
        for family in families if role == OWN else _read_by(role, families):
            points = scores[scores["threat"].isin(family.threats)]
            if len(points) > 1:
                line = _line(points.sort_values(family.radius), family.radius, dashed=role != OWN)
                found[f"{model} under {family.name}"] = line
    if found:
        ends = [end(radius for line in found.values() for radius in line.x) for end in (min, max)]
        own = table[(table["role"] == OWN) & (table["label"] == CLEAN)]
        for silenced in (SILENCE_AUDIO, SILENCE_VIDEO):
            score = own[own["attack"] == silenced]
            if len(score):
                name = f"{score['model'].iloc[0]}, {silenced.removeprefix('silence-')} silenced"
                found[name] = _line(pd.concat([score, score]).assign(radius=ends), "radius", dashed=True)
    return found


def _read_by(role: str, families: Sequence[Family]) -> list[Family]:
    """Choose the first threat that attacks the modality which a unimodal model reads."""
    letter = role.removeprefix("unimodal-")[:1].upper()
    return [family for family in families if letter in family.label][:1]


def _line(points: pd.DataFrame, radius: str, dashed: bool) -> Line:
    percent = points[["value", "low", "high"]].mul(points["unit"].map({"%": 1, "1": 100}), axis=0)
    value, low, high = (percent[name].to_list() for name in percent)
    return Line(points[radius].to_list(), value, low, high, dashed)
