"""Evaluation-health flags (spec section 5): what makes a robust accuracy doubtful, as data beside a run.

`rows` finds them in stored rows alone, `probe` with the model; a raised one keeps a run from ranking until reviewed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avbench import files
from avbench.errors import DataError

THRESHOLDS = 1  # version of the flags and their thresholds; rises with either, and every run is diagnosed again
COVERAGE = 95.0  # % of the fixed split; a run on less is partial and never ranks
LARGEST = 100_000  # bytes of a health.json or review.json

State = Literal["passed", "raised", "not checked"]
Where = Literal["audio", "video", "both"]
FlagName = Literal[
    "zero-gradients", "random-outputs", "noise-beats-gradient", "black-box-beats-white-box",
    "above-chance-at-huge-radius", "accuracy-rises-with-radius", "more-steps-help", "loss-not-larger",
    "incomplete-coverage", "clean-accuracy-not-as-claimed",
]  # fmt: skip
ONE: tuple[Where, ...] = ("audio", "video")
EACH: tuple[Where, ...] = (*ONE, "both")  # what is attacked
FLAGS: dict[FlagName, tuple[Where, ...]] = {  # to where each is looked for
    "zero-gradients": ONE,
    "random-outputs": ("both",),
    "noise-beats-gradient": EACH,
    "black-box-beats-white-box": EACH,
    "above-chance-at-huge-radius": EACH,
    "accuracy-rises-with-radius": EACH,
    "more-steps-help": EACH,
    "loss-not-larger": EACH,
    "incomplete-coverage": ("both",),
    "clean-accuracy-not-as-claimed": ("both",),
}


class Flag(BaseModel):
    """One check in one place: `value` in % against `threshold` in %, over `n` samples."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: FlagName
    where: Where
    state: State
    value: float | None = None
    threshold: float | None = None
    n: Annotated[int, Field(ge=0)] = 0

    def __str__(self) -> str:
        return self.name if self.where == "both" else f"{self.name} ({self.where})"


class Health(BaseModel):
    """The health.json of one run: every flag in every place, and what they were found in."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    thresholds: int
    run: str  # fingerprint
    rows_sha256: str
    probed: Annotated[int, Field(ge=0)]  # samples shown to the model; 0 if it was not there
    flags: tuple[Flag, ...]

    @model_validator(mode="after")
    def _whole(self) -> Health:
        """Refuse a list that leaves a flag out, since one that is not there cannot be raised."""
        places = sorted((name, where) for name in FLAGS for where in FLAGS[name])
        if sorted((flag.name, flag.where) for flag in self.flags) != places:
            raise ValueError("it must hold every flag in every place, once")
        return self

    @property
    def raised(self) -> list[Flag]:
        """Flags that keep the run from ranking until reviewed."""
        return [flag for flag in self.flags if flag.state == "raised"]

    def write(self, folder: Path) -> None:
        """Publish it beside run.json, whole or not at all; equal flags give equal bytes."""
        files.publish_text(folder / "health.json", files.canonical_json(self.model_dump()) + "\n")


def read_health(folder: Path, run: str, rows_sha256: str) -> Health | None:
    """Read the flags of a run, by its fingerprint; None if nobody looked for them in these rows with the model.

    Raises:
        DataError: if health.json is not one.
    """
    found = _read(folder / "health.json")
    if found is None:
        return None
    try:
        health = Health.model_validate(found)
    except ValidationError as error:
        raise DataError(f"{folder / 'health.json'} does not hold flags: {error}") from error
    same = (health.thresholds, health.run, health.rows_sha256) == (THRESHOLDS, run, rows_sha256)
    return health if same and health.probed else None


def read_review(folder: Path) -> str:
    """Read why a person accepted the flags, or nothing; review.json has `health_sha256`, of health.json, and `reason`.

    Raises:
        DataError: if review.json is not JSON.
    """
    found = _read(folder / "review.json")
    wanted = files.sha256_file(folder / "health.json")
    accepted = isinstance(found, dict) and found.get("health_sha256") == wanted
    return str(found.get("reason") or "") if accepted else ""


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} is larger than {LARGEST} bytes; no run writes that")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); repeat `avbench diagnose`") from error


def gather(found: Iterable[Flag]) -> tuple[Flag, ...]:
    """List every flag in every place once: raised before passed before not checked, else the one on most samples."""
    severity = {"raised": 2, "passed": 1, "not checked": 0}
    best = {(name, where): Flag(name=name, where=where, state="not checked") for name in FLAGS for where in FLAGS[name]}
    for flag in found:
        key = (flag.name, flag.where)
        best[key] = max(best[key], flag, key=lambda one: (severity[one.state], one.n, one.value or 0))
    return tuple(best.values())
