"""Architectures: one file each, found by `ARCHITECTURES`; every one takes `classes`, `spec` and its own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from avbench.errors import ArchitectureMismatch
from avbench.registry import Registry
from avbench.types import InputSpec

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES: Registry[type[nn.Module]] = Registry("avbench.models", "architecture")


def build(architecture: str, classes: int, spec: InputSpec, arguments: Mapping[str, Any]) -> nn.Module:
    """Make an untrained model of the zoo.

    Raises:
        UnknownName: if the architecture is not registered.
        ArchitectureMismatch: if the architecture does not take these arguments.
    """
    factory = ARCHITECTURES.get(architecture)
    known = [name for name in inspect.signature(factory).parameters if name not in ("classes", "spec")]
    if unknown := sorted(set(arguments) - set(known)):
        raise ArchitectureMismatch(
            f"{architecture} takes {', '.join(known) or 'no arguments'}, not {', '.join(unknown)}"
        )
    try:
        model = factory(classes=classes, spec=spec, **arguments)
        if not all(parameter.numel() for parameter in model.parameters()):
            raise ValueError("some of its layers would be empty")
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ArchitectureMismatch(f"{architecture} cannot be built from {dict(arguments)}: {error}") from error
    return model
