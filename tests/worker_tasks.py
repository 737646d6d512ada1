"""What tests ask worker processes to do; a module of its own, because a worker that imports little starts at once."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from avbench.datasets import workers
from avbench.errors import BrokenClip


class Job(NamedTuple):
    """What a worker is asked to do, and with what number."""

    what: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.what} {self.number}"


class Unpicklable:
    def __reduce__(self) -> str:
        raise ValueError("cannot be sent")


def act(job: Job) -> object:
    return ACTS[job.what](job)


def _answer(job: Job) -> int:
    time.sleep(0.02 * (job.number % 3))  # so that they end in another order
    return job.number**2


def _broken(job: Job) -> int:
    raise BrokenClip("gap", f"{job}: jumps")


def _hang(job: Job) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})  # as deaf as a loop in C
    time.sleep(600)
    return 0


def _fail(job: Job) -> int:
    raise RuntimeError("a bug")


ACTS: dict[str, Callable[[Job], object]] = {
    "answer": _answer,
    "broken": _broken,
    "die": lambda job: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": lambda job: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda job: os._exit(3),
    "leave": lambda job: exit(4),
    "fail": _fail,
    "hang": _hang,
    "grow": lambda job: len(bytearray(workers.MEMORY + 1)),
    "unpicklable": lambda job: Unpicklable(),
    "pid": lambda job: os.getpid(),
    "nap": lambda job: (time.monotonic(), time.sleep(0.3), time.monotonic())[::2],
    "limits": lambda job: (resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)[0]),
    "big": lambda job: bytes(20 << 20),
}


def children(pid: int) -> set[int]:
    """Processes that a process has started, at any depth."""
    found: set[int] = set()
    for task in Path("/proc").glob(f"{pid}/task/*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | children(child)
    return found


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended but was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
