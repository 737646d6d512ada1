"""JSON from strangers: each key once, no NaN, numbers that can be held, and no nesting that breaks the reader."""

from __future__ import annotations

import json
import math
from typing import Any

from avbench.errors import CheckpointError

LARGEST = 2**53  # magnitude of an integer


def parse(data: bytes, what: str, error: type[CheckpointError] = CheckpointError, largest: int = LARGEST) -> Any:
    """Read bounded bytes of JSON strictly.

    Args:
        data: UTF-8.
        what: it is, for messages.
        error: that is raised.
        largest: magnitude of an integer.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise error(f"a key of {what} is given twice")
        return found

    def integer(text: str) -> int:
        if len(text) > 20 or abs(value := int(text)) > largest:
            raise error(f"{what} has an integer beyond {largest}: {text[:24]}")
        return value

    def number(text: str) -> float:
        if len(text) > 40 or not math.isfinite(value := float(text)):
            raise error(f"{what} has a number that cannot be held: {text[:24]}")
        return value

    def constant(text: str) -> float:
        raise error(f"{what} has {text}, which is not JSON")

    try:
        return json.loads(
            data.decode(), object_pairs_hook=unique, parse_int=integer, parse_float=number, parse_constant=constant
        )
    except RecursionError as problem:
        raise error(f"{what} is nested too deeply") from problem
    except ValueError as problem:  # UnicodeDecodeError and JSONDecodeError are of this kind
        raise error(f"{what} is not JSON ({str(problem)[:100]!r})") from problem
