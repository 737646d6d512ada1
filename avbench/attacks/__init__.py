"""Attacks: one file each, found by `ATTACKS`. An attack returns clips, never verdicts; the runner judges."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from avbench.errors import BadOption
from avbench.registry import Registry

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.tensors import TensorAttack
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch, Modality


class Cost(NamedTuple):
    """Passes through the attacked part of the model that an attack makes per sample, without the final judgment."""

    forward: int
    backward: int


class Setting(NamedTuple):
    """What the passes of an attack depend on."""

    attacked: tuple[Modality, ...]
    two_stage: bool  # whether the model offers embeddings
    frames: int
    classes: int
    alike: bool = True  # whether both embeddings have one size


@dataclass(frozen=True)
class Attack(ABC):
    """Search a threat set for clips that the model gets wrong.

    The fields of the dataclass are the attack's parameters. `version` rises whenever the clips it makes change.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["gradients", "scores", "nothing"]] = "gradients"
    one_label: ClassVar[bool] = False  # whether it makes no sense where a sample may have several

    @abstractmethod
    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Return adversarial clips for a batch.

        Args:
            oracle: what may be seen of the model: gradients, or only scores, as `needs` says.
            batch: clean clips and labels.
            region: the threat set around them; `project`, `ascend` and `sample` stay inside it.
            rng: per-sample randomness; there must be no other.
        """

    @abstractmethod
    def cost(self, setting: Setting) -> Cost:
        """Return passes per sample: exactly those that `run` makes, as a contract test compares."""

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version and every parameter; part of a cell's fingerprint."""
        return {"name": ATTACKS.name_of(type(self)), "version": self.version, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        name = ATTACKS.name_of(type(self))
        return f"{name}:{','.join(changed)}" if changed else name


ATTACKS: Registry[type[Attack]] = Registry("avbench.attacks", "attack")
get: Callable[[str], TensorAttack]  # an attack to be called on a model and tensors; `avbench` itself puts it here


def parse_attack(text: str) -> Attack:
    """Read `pgd` or `pgd:steps=20,restarts=5`.

    Raises:
        UnknownName: if no attack has this name.
        BadOption: if it has no such parameter, or the value does not fit.
    """
    name, _, rest = text.partition(":")
    factory = ATTACKS.get(name)
    fields = {field.name: field for field in dataclasses.fields(factory)}
    arguments = {}
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        if ":" in value:
            raise BadOption(f"parameters are separated by commas: {name}:{rest.replace(':', ',')}")
        if key not in fields:
            raise BadOption(f"attack {name} takes {', '.join(fields) or 'no parameters'}, not {key!r}")
        arguments[key] = _convert(value, type(fields[key].default), f"{name}:{key}")
    try:
        return factory(**arguments)
    except ValueError as error:
        raise BadOption(f"attack {text}: {error}") from error


def _convert(value: str, kind: type, where: str) -> Any:
    if kind is bool and value in ("True", "False"):
        return value == "True"
    try:
        if kind in (int, str) or (kind is float and math.isfinite(float(value))):
            return kind(value)
    except ValueError:
        pass
    raise BadOption(f"{where} must be a finite {kind.__name__}, not {value!r}")
