"""Threat models: what an attacker may change, and by how much. Values, never code paths; nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from avbench.errors import BadBudget
from avbench.registry import Registry
from avbench.threats.budget import Budget

if TYPE_CHECKING:
    from avbench.types import Modality

BUDGETS: Registry[type[Budget]] = Registry("avbench.threats", "budget")
PRESETS: Registry[tuple[ThreatModel, ...]] = Registry("avbench.threats.presets", "preset")

Access = Literal["white-box", "black-box", "transfer"]
_FORM = re.compile(r"(?P<label>XA|XV|XAV)(?P<budgets>(?::[a-z0-9-]+:[^:@]+){1,2})(?:@(?P<access>[a-z-]+))?")


@dataclass(frozen=True)
class ThreatModel:
    """Say which clips count as adversarial: access, an audio budget or none, a video budget or none.

    XA has an audio budget only, XV a video budget only, XAV both at once and independently (a product set).
    The radii are part of the identity: `str(threat)` is, for example, `XAV:linf:0.006:linf:0.006`.

    Raises:
        BadBudget: if there is no budget at all, or a radius does not fit its modality.
    """

    audio: Budget | None = None
    video: Budget | None = None
    access: Access = "white-box"

    def __post_init__(self) -> None:
        if not self.budgets:
            raise BadBudget("a threat model needs a budget for audio, for video or for both")
        if self.access not in get_args(Access):
            raise BadBudget(f"access is one of {', '.join(get_args(Access))}, not {self.access!r}")
        for modality, budget in self.budgets.items():
            budget.check_fits(modality)

    @property
    def budgets(self) -> dict[Modality, Budget]:
        """Budgets of the attacked modalities."""
        both: dict[Modality, Budget | None] = {"audio": self.audio, "video": self.video}
        return {modality: budget for modality, budget in both.items() if budget is not None}

    @property
    def label(self) -> str:
        """XA, XV or XAV."""
        return "X" + "".join(modality[0].upper() for modality in self.budgets)

    def contains(self, other: ThreatModel) -> bool:
        """Tell whether every clip that `other` allows is allowed here: the lattice of spec section 2."""
        mine, theirs = self.budgets, other.budgets
        return self.access == other.access and all(m in mine and mine[m].contains(b) for m, b in theirs.items())

    def __str__(self) -> str:
        text = ":".join([self.label, *(str(budget) for budget in self.budgets.values())])
        return text if self.access == "white-box" else f"{text}@{self.access}"


def parse_threat(text: str) -> ThreatModel:
    """Read `XA:linf:0.006`, `XV:l2:0.5` or `XAV:linf:0.006:linf:0.006`, with `@black-box` appended if need be.

    Raises:
        BadBudget: if the text has another form, or names radii that cannot be.
    """
    match = _FORM.fullmatch(text)
    parts = match["budgets"][1:].split(":") if match else []
    if match and match["label"] == "XAV" and len(parts) == 2:
        raise BadBudget(f"XAV needs two budgets, for audio and for video: {text}:{':'.join(parts)}")
    if match is None or len(parts) != 2 * (len(match["label"]) - 1):
        raise BadBudget(f"{text!r} is not a threat model; write XA:linf:0.006, XV:l2:0.5 or XAV:linf:0.006:linf:0.006")
    budgets = [BUDGETS.get(norm)(_radius(radius)) for norm, radius in zip(parts[::2], parts[1::2], strict=True)]
    names = {"XA": ["audio"], "XV": ["video"], "XAV": ["audio", "video"]}[match["label"]]
    return ThreatModel(access=match["access"] or "white-box", **dict(zip(names, budgets, strict=True)))  # type: ignore[arg-type]


def find_threats(text: str) -> Iterator[ThreatModel]:
    """Resolve what `--threat` takes: a preset (`standard`), one of its threats (`standard/XA`), or a written one."""
    if ":" in text:
        yield parse_threat(text)
        return
    preset, _, label = text.partition("/")
    threats = PRESETS.get(preset)
    chosen = [threat for threat in threats if label in ("", threat.label)]
    if not chosen:
        raise BadBudget(f"preset {preset} has {', '.join(sorted({t.label for t in threats}))}, not {label!r}")
    yield from chosen


def _radius(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadBudget(f"{text!r} is not a radius") from None
