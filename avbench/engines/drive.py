"""Keep workers busy until all work is done: hand out units, take what comes, try again what was lost, hear Ctrl-C."""

from __future__ import annotations

import itertools
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

from avbench.cells import Cell
from avbench.engines.bench import Made, Work
from avbench.errors import AvbenchError, WorkFailed

RETRIES = 5  # of a unit in which nothing more gets done
POLL = 0.5  # seconds between two looks at Ctrl-C
MOST_FAILED = 16  # cells of micro-batches, after which there is no use in going on
DEAL = 4  # micro-batches for each worker, below which their cells are dealt out one by one


class Lost(NamedTuple):
    """Whatever computed a unit died."""

    reason: str


class Ended(NamedTuple):
    """No more comes of a unit, be all of it there or not."""


Event = Made | AvbenchError | Lost | Ended
H = TypeVar("H")


class Workers(Protocol[H]):
    """What an engine has to offer; a unit is computed in its order."""

    slots: int  # units at once

    def start(self) -> None:
        """Start, unless that was done."""

    def size(self, waiting: Sequence[Work], free: int) -> int:
        """Say how much of the work that waits the next unit takes."""

    def submit(self, units: Sequence[list[Work]]) -> list[H]:
        """Begin to compute units."""

    def poll(self, units: Sequence[H], seconds: float) -> Iterator[tuple[H, Event]]:
        """Wait for something to happen, so long at most; after Lost, Ended or an error nothing more comes of a unit."""


class _Unit:
    """What was handed out and is not done, in its order."""

    def __init__(self, work: Iterable[Work], tries: int = 0) -> None:
        self._left = {(one.positions, cell): attack for one in work for cell, attack in one.cells.items()}
        self.tries = tries  # that failed since a part was made
        self.moved = False

    def take(self, made: Made) -> None:
        """Strike out a part."""
        self._left.pop((made.positions, made.cell), None)
        self.tries, self.moved = 0, True

    @property
    def left(self) -> list[Work]:
        """What is not done, by micro-batch."""
        groups = itertools.groupby(self._left.items(), key=lambda one: one[0][0])
        return [Work(positions, {cell: attack for (_, cell), attack in group}) for positions, group in groups]


def drive(workers: Workers[H], work: Iterable[Work]) -> Generator[Made, None, None]:
    """Have all work done; of what was lost only the rest is tried again, at most RETRIES times without progress.

    Raises:
        WorkFailed: naming the parts that no try could make, after all others.
        KeyboardInterrupt: after Ctrl-C, at a moment that harms nothing; a second one does not wait for it.
        AvbenchError: what a worker raises.
    """
    waiting = list(work)
    if not waiting:
        return
    with _interruptible() as check:
        workers.start()
        check()
        if len(waiting) < DEAL * workers.slots:
            waiting = [piece for one in waiting for piece in one.split()]
        yield from _drive(workers, deque(waiting), check)


def _drive(workers: Workers[H], waiting: deque[Work], check: Callable[[], None]) -> Iterator[Made]:
    running: dict[H, _Unit] = {}
    again: list[_Unit] = []
    failed: list[str] = []
    while waiting or running or again:
        for handle, unit in _hand_out(workers, waiting, again, workers.slots - len(running)):
            running[handle] = unit
        for handle, event in workers.poll(list(running), POLL):
            check()
            if isinstance(event, AvbenchError):
                raise event
            if isinstance(event, Made):
                running[handle].take(event)
                yield event
                continue
            failed += _retry(running.pop(handle), event, again)
            if len(failed) >= MOST_FAILED:
                raise _error(failed)
        check()
    if failed:
        raise _error(failed)


def _hand_out(workers: Workers[H], waiting: deque[Work], again: list[_Unit], free: int) -> Iterator[tuple[H, _Unit]]:
    units, again[:] = again[:free], again[free:]
    while waiting and len(units) < free:
        size = workers.size(waiting, free - len(units))
        units.append(_Unit(waiting.popleft() for _ in range(min(size, len(waiting)))))
    if units:
        yield from zip(workers.submit([unit.left for unit in units]), units, strict=True)


def _retry(unit: _Unit, event: Lost | Ended, again: list[_Unit]) -> list[str]:
    """Let the rest of a unit be tried again, without its first part if that failed often enough; name that one.

    One that ends after some parts has not failed.
    """
    if not (left := unit.left):
        return []
    tries = unit.tries + (isinstance(event, Lost) or not unit.moved)
    if tries <= RETRIES:
        again.append(_Unit(left, tries))
        return []
    first, *rest = left[0].split()
    if rest := [*rest, *left[1:]]:
        again.append(_Unit(rest))
    [cell] = first.cells
    reason = event.reason if isinstance(event, Lost) else "it ended too early"
    return [f"{_name(cell)} on samples {first.positions[0]} to {first.positions[-1]} ({reason})"]


def _name(cell: Cell) -> str:
    return " ".join(cell.columns)


def _error(failed: Sequence[str]) -> WorkFailed:
    return WorkFailed(
        f"what killed its worker {RETRIES + 1} times was left out: {'; '.join(failed)}. "
        "All else that was made is kept; the same command tries the rest again"
    )


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Note Ctrl-C instead of raising wherever it falls; what is yielded raises it. The second one falls as ever."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def note(number: int, _: object) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, before)

    def check() -> None:
        if noted:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
