"""Show on standard error how far something is, if a person is there to see it; output stays clean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None, quiet: bool = False) -> Iterable[T]:
    """Show how far a loop is, of a number of steps that is known or given."""
    console = Console(stderr=True)
    return progress.track(items, what, total, transient=True, console=console, disable=quiet or not console.is_terminal)


@contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """Show that something of unknown length goes on."""
    with nullcontext() if quiet else Console(stderr=True).status(what):
        yield
