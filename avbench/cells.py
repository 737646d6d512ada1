"""A cell: one threat with one attack, the unit of work, of resume and of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avbench.attacks import Attack
from avbench.metrics import CLEAN, NONE, SILENCE_AUDIO, SILENCE_VIDEO
from avbench.threats import ThreatModel
from avbench.types import Modality

_SILENCED: dict[str, Modality] = {SILENCE_AUDIO: "audio", SILENCE_VIDEO: "video"}


@dataclass(frozen=True)
class Cell:
    """One threat with one attack, or clean clips (`attack` is then "none" or what is silenced)."""

    threat: ThreatModel | None
    attack: Attack | str

    @property
    def columns(self) -> tuple[str, str]:
        """The threat and attack columns of its rows."""
        return (str(self.threat) if self.threat else CLEAN, str(self.attack))

    @property
    def attacked(self) -> tuple[Modality, ...]:
        """Modalities in which its clips differ from the clean ones."""
        if self.threat:
            return tuple(self.threat.budgets)
        return tuple(m for name, m in _SILENCED.items() if name == self.attack)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data for the fingerprint; type names are part of it."""
        attack = self.attack.identity if isinstance(self.attack, Attack) else {"name": self.attack}
        return {"threat": self.columns[0], "attack": attack}


# Rows that nobody attacked: they belong to every run.
REFERENCES = tuple(Cell(None, name) for name in (NONE, *_SILENCED))
