"""Worker processes: what a task does to its process costs that task alone, and no process is left behind."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_tasks import Job, act, alive, children

from avbench.datasets import workers
from avbench.datasets.workers import AHEAD, Workers
from avbench.errors import BrokenClip, CorruptShard

pytestmark = pytest.mark.filterwarnings("error")  # what goes wrong in a thread or on the way out is a warning
EXPECTED = {
    "broken": ("gap", "broken 1: jumps"), "die": ("crashed", "code -11"), "killed": ("crashed", "code -9"),
    "exit": ("crashed", "code 3"), "leave": ("crashed", "code 4"), "fail": ("crashed", "code 1"),
    "hang": ("timeout", "longer than 1.5 s"), "grow": ("too-large", "needs more than"),
    "unpicklable": ("crashed", "code 1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def two() -> Iterator[Workers[Job, object]]:
    others = children(os.getpid())  # of tests before
    with Workers(act, 1.5, 2) as made:
        yield made
        pids = children(os.getpid()) - others - {_tracker()}
    assert not any(map(alive, pids)), "stopping leaves no process"


@pytest.mark.parametrize("harm", EXPECTED)
def test_a_harmful_task_costs_itself_and_no_other(two: Workers[Job, object], harm: str) -> None:
    jobs = [Job("answer", i) for i in range(12)]
    jobs[4:4] = [Job(harm, 1)]
    found = list(two.map(jobs))
    error = found.pop(4)
    assert isinstance(error, BrokenClip), error
    assert error.reason == EXPECTED[harm][0]
    assert f"{harm} 1" in str(error)
    assert EXPECTED[harm][1] in str(error)
    assert found == [i**2 for i in range(12)]


def test_all_may_be_harmed_at_once_and_nothing_stays_open(two: Workers[Job, object]) -> None:
    jobs = [Job("die", i) for i in range(4)] + [Job("answer", 7), Job("answer", 8)]
    opened = set[int]()
    for _ in range(2):
        found = list(two.map(jobs))
        assert [getattr(one, "reason", one) for one in found] == ["crashed"] * 4 + [49, 64]
        opened.add(len(os.listdir("/proc/self/fd")))
    assert len(opened) == 1


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=40))
def test_results_come_in_the_order_of_the_tasks(two: Workers[Job, object], numbers: list[int]) -> None:
    assert list(two.map(Job("answer", n) for n in numbers)) == [n**2 for n in numbers]


def test_tasks_are_taken_a_few_at_a_time_so_that_memory_is_bounded(two: Workers[Job, object]) -> None:
    taken = itertools.count()
    results = two.map(Job("answer", next(taken)) for _ in range(100))
    for done, _ in enumerate(results, 1):
        assert next(taken) - done <= AHEAD * 2 + done, "each look at the counter moves it by one"


def test_a_large_result_comes_whole(two: Workers[Job, object]) -> None:
    assert [len(one) for one in two.map([Job("big")] * 3)] == [20 << 20] * 3  # type: ignore[arg-type]


def test_a_worker_may_use_no_more_than_its_memory_and_dumps_no_core(two: Workers[Job, object]) -> None:
    assert list(two.map([Job("limits")])) == [(workers.MEMORY, 0)]


def test_two_workers_work_at_the_same_time(two: Workers[Job, tuple[float, float]]) -> None:
    naps = sorted(nap for nap in two.map([Job("nap")] * 6) if not isinstance(nap, BrokenClip))
    assert any(before[1] > after[0] for before, after in itertools.pairwise(naps)), naps
    assert not any(before[1] > after[0] for before, after in zip(naps, naps[2:], strict=False)), "but no three"


def test_a_caller_that_stops_waits_for_nobody_and_leaves_no_process() -> None:
    before = children(os.getpid())
    started = threading.active_count()
    with Workers(act, 60, 2) as some:
        results = some.map([Job("answer"), *[Job("hang")] * 7])
        assert next(results) == 0
        pids = children(os.getpid()) - before
        start = time.monotonic()
        results.close()
    assert time.monotonic() - start < 10
    assert len(pids) >= 2
    assert not any(map(alive, pids - {_tracker()}))
    assert threading.active_count() == started


def test_an_error_of_the_caller_ends_the_processes() -> None:
    before = children(os.getpid())
    pids: set[int] = set()

    def fail(result: object) -> None:
        pids.update(children(os.getpid()) - before)
        raise KeyError

    with pytest.raises(KeyError), Workers(act, 60, 2) as some:
        list(map(fail, some.map([Job("answer"), *[Job("hang")] * 7])))
    assert len(pids) >= 2
    assert not any(map(alive, pids - {_tracker()}))


def test_an_error_of_the_tasks_is_the_callers(two: Workers[Job, object]) -> None:
    def tasks() -> Iterator[Job]:
        yield Job("answer", 3)
        raise CorruptShard("no more")

    with Workers(act, 60, 1) as some, pytest.raises(CorruptShard, match="no more"):
        list(some.map(tasks()))


def test_ctrl_c_is_for_the_parent(two: Workers[Job, object]) -> None:
    [pid] = two.map([Job("pid")])
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGINT)
    assert list(two.map([Job("answer", i) for i in range(4)])) == [0, 1, 4, 9]


def test_a_worker_ends_with_its_parent() -> None:
    """A parent that is killed stops nobody; its end of the pipe closes."""
    reader, writer = os.pipe()
    parent = os.fork()
    if not parent:
        try:
            os.write(writer, pickle.dumps(list(Workers(act, 60, 2).map([Job("pid")] * 8))))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    pids = set(pickle.loads(os.read(reader, 10_000)))
    os.close(reader)
    os.close(writer)
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert pids
    assert not any(map(alive, pids))


def test_by_default_there_is_a_worker_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert Workers(act, 60).count == 3


def _tracker() -> int:
    """The process of multiprocessing itself that stays for ever."""
    from multiprocessing.resource_tracker import _resource_tracker

    return _resource_tracker._pid or 0  # type: ignore[attr-defined]
