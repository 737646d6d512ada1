"""Worker processes for files of strangers: one that crashes, hangs or eats memory costs its own clip and no other."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Generic, TypeVar

from avbench.errors import BrokenClip

T = TypeVar("T")
R = TypeVar("R")
MEMORY = 8 << 30  # bytes of address space of one worker
AHEAD = 4  # tasks a worker that may be done before the first of them is taken


class Workers(Generic[T, R]):
    """Apply a function, which a worker can import, to many tasks in parallel; results come in the tasks' order."""

    def __init__(self, function: Callable[[T], R], seconds: float, count: int | None = None) -> None:
        """Choose how many processes there are; each starts when a task first needs it.

        Args:
            function: of a module's top level.
            seconds: how long one task may take.
            count: processes; by default one for each core that this process may use.
        """
        self._function, self._seconds = function, seconds
        self.count = count or len(os.sched_getaffinity(0))
        self._idle: SimpleQueue[_Worker[T, R] | None] = SimpleQueue()
        for _ in range(self.count):
            self._idle.put(None)
        self._all: list[_Worker[T, R]] = []
        self._stopped = False
        self._lock = Lock()  # of the last two

    def __enter__(self) -> Workers[T, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            self._stopped = True
            for worker in self._all:
                worker.stop()

    def map(self, tasks: Iterable[T]) -> Iterator[R | BrokenClip]:
        """Yield each result, or why there is none; holds only a few tasks' results at a time."""
        pending: deque[Future[R | BrokenClip]] = deque()
        with ThreadPoolExecutor(self.count) as threads:
            try:
                for task in tasks:
                    pending.append(threads.submit(self._ask, task))
                    if len(pending) >= AHEAD * self.count:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BaseException:  # the caller stopped: do not wait for what nobody takes
                for future in pending:
                    future.cancel()
                self.stop()
                raise

    def _ask(self, task: T) -> R | BrokenClip:
        """Let a worker do one task; runs in a thread, so that Ctrl-C does not stop a process half-way into life."""
        worker = self._idle.get()
        try:
            with self._lock:
                if self._stopped:
                    raise RuntimeError("the workers were stopped")
                if worker is None or not worker.alive:
                    self._all = [other for other in self._all if other is not worker]
                    worker = _Worker(self._function)
                    self._all.append(worker)
            return worker.ask(task, self._seconds)
        finally:
            self._idle.put(worker)


class _Worker(Generic[T, R]):
    """One process and the pipe to it."""

    def __init__(self, function: Callable[[T], R]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        resource_tracker.ensure_running()  # else it starts now, and lets Ctrl-C through again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # inherited: Ctrl-C is for the parent
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.alive, self._ready = True, False

    def ask(self, task: T, seconds: float) -> R | BrokenClip:
        try:
            if not self._ready:
                self._ready = self._pipe.recv()  # what it imports takes none of the task's time
            self._pipe.send(task)
            if self._pipe.poll(seconds):
                answer: R | BrokenClip = self._pipe.recv()
                return answer
            reason = BrokenClip("timeout", f"{task}: took longer than {seconds:g} s")
        except (EOFError, OSError):
            self._process.join(1)
            reason = BrokenClip("crashed", f"{task}: its process ended with code {self._process.exitcode}")
        self.stop()
        return reason

    def stop(self) -> None:
        """End the process; the pipe closes with the last reference, since another thread may just be reading it."""
        self.alive = False
        self._process.kill()
        self._process.join()


def _serve(function: Callable[[T], R], pipe: Connection) -> None:
    """Answer tasks until the other end is closed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send(True)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(function(task))
        except BrokenClip as error:
            pipe.send(error)
        except MemoryError:
            pipe.send(BrokenClip("too-large", f"{task}: needs more than {MEMORY} bytes of memory"))
