"""Threats that differ in strength only, which make a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from avbench.threats import ThreatModel


class Family(NamedTuple):
    """Threats of one kind, weakest first."""

    label: str  # XA, XV, XAV
    name: str
    threats: list[tuple[float, str]]  # radius, of sound before picture, and text

    @property
    def slug(self) -> str:
        """Part of a file name."""
        return self.name.lower().replace(" ", "-")


def families(threats: Mapping[str, ThreatModel]) -> list[Family]:
    """Find the kinds of threat that have several radii, of sound or else of the picture."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for text, threat in threats.items():
        norms = (budget.norm for budget in threat.budgets.values())
        access = () if threat.access == "white-box" else (threat.access,)
        groups.setdefault((threat.label, *norms, *access), []).append(text)
    labels = [label for label, *_ in groups]
    found = []
    for key, texts in groups.items():
        radii = zip(*([budget.radius for budget in threats[text].budgets.values()] for text in texts), strict=True)
        apart = [one for one in radii if len(set(one)) == len(texts) > 1]
        if apart:
            name = key[0] if labels.count(key[0]) == 1 else " ".join(key)
            found.append(Family(key[0], name, sorted(zip(apart[0], texts, strict=True))))
    return found
