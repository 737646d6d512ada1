"""Flags that stored rows show without the model; the probe reads its own rows with the same functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from avbench.attacks import parse_attack
from avbench.diagnose import COVERAGE, Flag, FlagName, State, Where
from avbench.metrics import CLEAN, NONE, SILENCE_AUDIO, SILENCE_VIDEO, Rows
from avbench.metrics.intervals import LEVEL, wilson
from avbench.metrics.outcomes import Outcomes, read
from avbench.threats import ThreatModel
from avbench.threats.linf import Linf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Marks = NDArray[np.bool_]  # (samples,)

POINT = 1.0  # % of the samples
HUGE = 1.0  # linf; the least radius at which every clip can be silenced, in sound and in sight
NEAR = 4  # times a radius; beyond it the gradient at a clean clip says little of what is there, also of honest models
SAME = 1e-4  # logits; a smaller change of an answer is rounding
WHERE: dict[str, Where] = {"XA": "audio", "XV": "video", "XAV": "both"}
SILENCED: dict[Where, str] = {"audio": SILENCE_AUDIO, "video": SILENCE_VIDEO}


def share(name: FlagName, where: Where, hits: int, n: int, threshold: float = POINT) -> Flag:
    """Raise a flag if more than `threshold` % of the samples show it, by the exact 95 % interval: not by chance.

    >>> [share("loss-not-larger", "both", hits, 64).state for hits in (0, 3, 4)]
    ['passed', 'passed', 'raised']
    """
    low = stats.binomtest(hits, n).proportion_ci(LEVEL, method="exact").low
    state: State = "raised" if 100 * low > threshold else "passed"
    return Flag(name=name, where=where, state=state, value=100 * hits / n, threshold=threshold, n=n)


def flags_of_record(record: Mapping[str, Any], rows: Rows) -> Iterator[Flag]:
    """Check coverage, and the clean accuracy that the submission claims on the split, if it claims one."""
    data = record["dataset"]
    covered = 100 * data["evaluated"] / data["size"]
    yield Flag(
        name="incomplete-coverage", where="both", state="raised" if covered < COVERAGE else "passed",
        value=covered, threshold=COVERAGE, n=data["size"],
    )  # fmt: skip
    splits = (data["split"], data["split"].rpartition("-")[0])  # `test-200` is a fair draw of `test`
    claims = [claim["clean"] for claim in record["model"].get("claims", ()) if claim["split"] in splits]
    if claims and not rows.multilabel:
        right = read(rows).clean
        low, high = wilson(int(right.sum()), len(right))
        claim = max(claims, key=lambda one: abs(one - 100 * float(right.mean())))
        state: State = "passed" if 100 * low <= claim <= 100 * high else "raised"
        yield Flag(
            name="clean-accuracy-not-as-claimed", where="both", state=state,
            value=100 * float(right.mean()), threshold=claim, n=len(right),
        )  # fmt: skip


def flags_of_rows(rows: Rows) -> Iterator[Flag]:
    """Check what outcomes and losses show; a modality that the model does not read is not checked."""
    outcomes = read(rows)
    for name, threat in outcomes.threats.items():
        where = WHERE[threat.label]
        if threat.access != "white-box" or not _gradient(outcomes, name) or not _reads(rows, where):
            continue
        yield from _loss(rows, name, threat, where)
        if not rows.multilabel:
            yield from _weaker(outcomes, name, threat, where)
            yield from _rises(outcomes, name, threat, where)
            yield from _huge(rows, outcomes, name, threat, where)


def _loss(rows: Rows, name: str, threat: ThreatModel, where: Where) -> Iterator[Flag]:
    """Share of the samples that no gradient attack leaves with a larger loss, nor with a smaller margin."""
    frame = rows.frame
    clean = frame[(frame["threat"] == CLEAN) & (frame["attack"] == NONE)].set_index("sample")
    attacked = frame[frame["threat"] == name]
    attacked = attacked[[needs_gradients(attack) for attack in attacked["attack"]]]
    if attacked.empty or _is_huge(threat) or not all(budget.radius for budget in threat.budgets.values()):
        return
    before = clean.loc[attacked["sample"]]
    idle = (attacked["loss"].to_numpy() <= before["loss"].to_numpy()) & (
        attacked["margin"].to_numpy() >= before["margin"].to_numpy()
    )
    of_samples = attacked.assign(idle=idle).groupby("sample")["idle"].all()
    yield share("loss-not-larger", where, int(of_samples.sum()), len(of_samples))


def _weaker(outcomes: Outcomes, name: str, threat: ThreatModel, where: Where) -> Iterator[Flag]:
    """Share of the samples that noise, or any attack without this model's gradients, breaks and no gradient attack."""
    held = _met(outcomes, name) & ~_broken(outcomes, name)
    for inside, other in outcomes.threats.items():
        if threat.contains(other):
            held &= ~_broken(outcomes, inside)
    alike = [text for text, other in outcomes.threats.items() if other.budgets == threat.budgets]
    weak = [cell for cell in outcomes.marks if cell[0] in alike and not (cell[0] == name and needs_gradients(cell[1]))]
    noise = [cell for cell in weak if cell[1].partition(":")[0] == "noise"]
    names: dict[FlagName, list[tuple[str, str]]] = {"noise-beats-gradient": noise, "black-box-beats-white-box": weak}
    for flag, cells in names.items():
        if cells:
            fell = np.any([outcomes.marks[cell] == 0 for cell in cells], axis=0)
            yield share(flag, where, int((outcomes.clean & held & fell).sum()), len(held))


def _rises(outcomes: Outcomes, name: str, threat: ThreatModel, where: Where) -> Iterator[Flag]:
    """Share of the samples that the gradient attacks break at this radius, and at two to four times as much do not."""
    for larger, other in outcomes.threats.items():
        if other.access != threat.access or other.label != threat.label or not _gradient(outcomes, larger):
            continue
        doubled = all(
            type(wide) is type(budget) and NEAR * budget.radius >= wide.radius >= 2 * budget.radius > 0
            for wide, budget in zip(other.budgets.values(), threat.budgets.values(), strict=True)
        )
        if doubled:
            back = _broken(outcomes, name) & _met(outcomes, larger) & ~_broken(outcomes, larger)
            yield share("accuracy-rises-with-radius", where, int((outcomes.clean & back).sum()), len(back))


def _huge(rows: Rows, outcomes: Outcomes, name: str, threat: ThreatModel, where: Where) -> Iterator[Flag]:
    """Compare accuracy where every clip can be silenced with that on silenced clips; of both, with the largest class.

    No attack that sees gradients should do worse than the one clip that an attacker can choose without them.
    """
    if not _is_huge(threat):
        return
    if where == "both":
        clean = rows.frame[(rows.frame["threat"] == CLEAN) & (rows.frame["attack"] == NONE)]
        chance = float(clean["label"].value_counts(normalize=True).max())
    else:
        silenced = outcomes.unattacked(SILENCED[where])
        if silenced is None:
            return
        chance = float(silenced.mean())
    right = outcomes.clean & ~_broken(outcomes, name)
    yield share("above-chance-at-huge-radius", where, int(right.sum()), len(right), 100 * chance)


def _is_huge(threat: ThreatModel) -> bool:
    return all(type(budget) is Linf and budget.radius >= HUGE for budget in threat.budgets.values())


def needs_gradients(attack: str) -> bool:
    """Tell whether an attack, as text, sees the model's gradients."""
    return parse_attack(attack).needs == "gradients"


def _gradient(outcomes: Outcomes, threat: str) -> list[NDArray[np.float64]]:
    return [outcomes.marks[threat, attack] for attack in outcomes.attacks(threat) if needs_gradients(attack)]


def _met(outcomes: Outcomes, threat: str) -> Marks:
    """Tell which samples a gradient attack met under this threat."""
    return ~np.all([np.isnan(marks) for marks in _gradient(outcomes, threat)], axis=0)  # type: ignore[no-any-return]


def _broken(outcomes: Outcomes, threat: str) -> Marks:
    """Tell which samples a gradient attack broke under this threat."""
    found = [marks == 0 for marks in _gradient(outcomes, threat)]
    return np.any(found, axis=0) if found else np.zeros(len(outcomes.samples), dtype=bool)


def _reads(rows: Rows, where: Where) -> bool:
    """Tell whether silencing a modality changes any answer; one that the model does not read cannot be attacked."""
    if where == "both":
        return True
    clean = rows.frame[rows.frame["threat"] == CLEAN].set_index("sample")
    margins = [clean.loc[clean["attack"] == attack, "margin"] for attack in (NONE, SILENCED[where])]
    return margins[1].empty or bool(((margins[0] - margins[1]).abs() > SAME).any())
