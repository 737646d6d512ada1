"""Whatever workers do, all work is done once, and what kills them is tried six times, named and left out."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avbench.attacks import parse_attack
from avbench.cells import REFERENCES, Cell
from avbench.engines import drive
from avbench.engines.bench import Made, Work
from avbench.engines.drive import Ended, Event, Lost
from avbench.errors import BadModel, WorkFailed
from avbench.store import Part
from avbench.threats import parse_threat

CELLS = (*REFERENCES, *(Cell(parse_threat("XA:linf:0.01"), parse_attack(name)) for name in ("fgsm", "pgd")))
Where = tuple[tuple[int, ...], Cell]


class Mortal:
    """Workers that die so often of each part, or end early; events of units come in any order, those of one in theirs."""

    def __init__(self, slots: int, deaths: dict[Where, float], seed: int) -> None:
        self.slots, self.deaths = slots, deaths
        self.random = random.Random(seed)
        self.lease = self.random.choice([1, 3, 99])  # parts after which a unit ends early
        self.tried = Counter[Where]()
        self.events: dict[int, deque[Event]] = {}
        self.started = 0

    def start(self) -> None:
        self.started += 1

    def size(self, waiting: Sequence[Work], free: int) -> int:
        return self.random.randint(1, 5)

    def submit(self, units: Sequence[list[Work]]) -> list[int]:
        return [self.begin(unit) for unit in units]

    def begin(self, unit: list[Work]) -> int:
        name = len(self.tried) + sum(self.tried.values()) * 1000 + len(self.events)
        assert name not in self.events
        assert len(self.events) < self.slots, "more units than workers"
        self.events[name] = deque(self.of(unit))
        return name

    def of(self, unit: list[Work]) -> Iterator[Event]:
        places = [(one.positions, cell) for one in unit for cell in one.cells]
        for place in places[: self.lease]:
            self.tried[place] += 1
            if self.tried[place] <= self.deaths.get(place, 0):
                yield Lost("it died")
                return
            yield Made(*place, Part(pd.DataFrame(), 0, 0, 0.0), None)
        yield Ended()

    def poll(self, units: Sequence[int], seconds: float) -> Iterator[tuple[int, Event]]:
        name = self.random.choice(list(units))
        event = self.events[name].popleft()
        if not isinstance(event, Made):
            del self.events[name]
        yield name, event


def work_of(batches: int, cells: Sequence[Cell] = CELLS) -> list[Work]:
    return [Work((2 * number, 2 * number + 1), dict.fromkeys(cells)) for number in range(batches)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 30), st.integers(1, 9), st.integers(0, 2**32), st.data())
def test_all_is_made_once_but_what_kills_each_time(batches: int, slots: int, seed: int, data: st.DataObject) -> None:
    work = work_of(batches)
    places = [(one.positions, cell) for one in work for cell in one.cells]
    often = st.sampled_from([1, 4, drive.RETRIES, drive.RETRIES + 1, float("inf")])
    deaths = data.draw(st.dictionaries(st.sampled_from(places), often, max_size=10)) if places else {}
    poison = {place for place, times in deaths.items() if times > drive.RETRIES}
    workers, made, error = Mortal(slots, deaths, seed), Counter[Where](), ""
    try:
        for one in drive.drive(workers, work):
            made[one.positions, one.cell] += 1
    except WorkFailed as failed:
        error = str(failed)
    assert made == Counter(set(places) - poison)
    assert bool(error) == bool(poison)
    for positions, cell in poison:
        assert f"{' '.join(cell.columns)} on samples {positions[0]} to {positions[1]} (it died)" in error
    assert all(workers.tried[place] == drive.RETRIES + 1 for place in poison)
    assert workers.started == bool(batches)


def test_it_gives_up_when_everything_kills() -> None:
    work = work_of(40)
    workers = Mortal(2, {(one.positions, cell): 99 for one in work for cell in one.cells}, 0)
    with pytest.raises(WorkFailed):
        list(drive.drive(workers, work))
    assert len(workers.tried) < 2 * drive.MOST_FAILED, "it went on for nothing"


def test_an_error_with_a_name_ends_it_after_what_was_made() -> None:
    class Failing(Mortal):
        def of(self, unit: list[Work]) -> Iterator[Any]:
            yield from [*super().of(unit)][:-1]
            yield BadModel("what it says")

    found = drive.drive(Failing(1, {}, 0), work_of(8))
    assert isinstance(next(found), Made)
    with pytest.raises(BadModel, match="what it says"):
        list(found)
