"""A worker process, seen from the parent: it is started, asked, watched while it answers, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avbench import errors, files
from avbench.errors import (
    AvbenchError,
    BadModel,
    BadReply,
    BrokenClip,
    SandboxError,
    SandboxUnavailable,
    WorkerDied,
    WorkerTimeout,
)
from avbench.sandbox import bubblewrap, wire
from avbench.sandbox.wire import Message, Wire, escaped
from avbench.types import Modality

TEXT = 64_000  # bytes of an answer in words
TAIL = 4096  # bytes of output that are kept
Word = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
_WATCH = 0.1  # seconds between two looks at a worker that computes
# What decides the last bits of a result in torch's libraries; the worker has to have the same.
_NUMERICS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@dataclass(frozen=True)
class Limits:
    """How much a worker may take."""

    start: float = 120  # seconds to start and load the model
    call: float = 300  # seconds to answer one call
    memory: int = 10 << 30  # bytes of address space, of which torch and the shared memory take about 4 GiB
    file: int = bubblewrap.SCRATCH  # bytes of one file
    files: int = 256  # open at once
    threads: int = 256


class Hello(BaseModel):
    """What a worker says of its model; only of a model of avbench's own formats does it say which one that is."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    parts: tuple[Literal[wire.PARTS], ...]  # type: ignore[valid-type]
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)]
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,120}$")] = ""
    dataset: Word = ""
    architecture: Word = ""
    arguments: dict[Word, Word | bool | int | float] = Field(default_factory=dict)
    weights_sha256: str = ""


class Worker:
    """A process that holds one model and answers calls on it.

    Raises:
        SandboxUnavailable: if the walls cannot be built here.
        AvbenchError: the worker's own named error, if the model cannot be loaded.
        WorkerDied, WorkerTimeout, BadReply: as they say; the process is ended, and every later call says so too.
    """

    def __init__(self, load: Mapping[str, Any], visible: Iterable[Path], limits: Limits) -> None:
        self.load, self.visible, self.limits = dict(load), tuple(visible), limits
        self._failure: SandboxError | None = None
        self._output = b""
        self._ticket = 0
        self._dropped: list[int] = []
        self._process, self._pid, self._wire = _start(self.visible, limits)
        assert self._process.stdout is not None
        self._channel, self._stdout = self._wire.channel.fileno(), [self._process.stdout.fileno()]
        self._end = weakref.finalize(self, _end, self._process, self._pid, self._wire)
        started = time.monotonic()
        try:
            self._wait(limits.start, wire.READY, "start")
        except WorkerDied as error:
            raise SandboxUnavailable(f"the sandbox does not work here: {error}; {bubblewrap.ADVICE}") from error
        self._send(Message(wire.LOAD), json.dumps(load).encode())
        reply = self._wait(limits.start - (time.monotonic() - started), wire.DONE, "load the model")
        try:
            self.hello = Hello.model_validate_json(self._wire.text(reply, TEXT))
        except (ValidationError, BadReply) as error:
            self.stop()
            raise BadReply("the worker does not say in the agreed form what its model is") from error

    def call(self, message: Message) -> Message:
        """Send a question and return the answer; randomness goes there and comes back."""
        if self._failure:
            raise self._failure
        while self._dropped:
            self._send(Message(wire.DROP, ticket=self._dropped.pop()))
        self._send(message)
        reply = self._wait(self.limits.call, wire.DONE, "answer")
        self._wire.draw_on()
        return reply

    def ticket(self) -> int:
        """Count calls, so that a later one can mean this one's graph."""
        self._ticket += 1
        return self._ticket

    def drop(self, ticket: int) -> None:
        """Let the worker forget a graph, before the next call."""
        self._dropped.append(ticket)

    def refuse(self, what: str) -> BadReply:
        """End the worker and return the error that says why."""
        self._failure = error = BadReply(f"the worker broke its word: {what}")
        self.stop()
        return error

    def stop(self) -> None:
        """End the process."""
        self._end()

    def _send(self, message: Message, text: bytes = b"") -> None:
        with contextlib.suppress(OSError):  # who does not listen does not answer either, which `_wait` tells
            self._wire.send(message, text)

    def _wait(self, seconds: float, kind: int, what: str) -> Message:
        deadline = time.monotonic() + seconds
        try:
            while True:
                if (left := deadline - time.monotonic()) <= 0:
                    raise WorkerTimeout(f"the worker did not {what} within {seconds:.0f} s{self._said()}")
                readable, _, _ = select.select([self._channel, *self._stdout], [], [], min(left, _WATCH))
                for output in set(self._stdout) & set(readable):
                    self._listen(output)
                if self._channel in readable:
                    return self._expect(kind, what)
                if (threads := _threads(self._pid)) > self.limits.threads:
                    raise WorkerDied(f"the worker started {threads} threads, {self.limits.threads} are allowed")
        except SandboxError as error:
            self._failure = error
            self._end()
            raise

    def _expect(self, kind: int, what: str) -> Message:
        try:
            reply = self._wire.receive()
        except OSError:
            reply = None
        if reply is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # for its code, if it is ending
            self._end()
            raise WorkerDied(f"the worker ended with code {self._process.returncode} and did not {what}{self._said()}")
        if reply.kind == wire.FAILED:
            raise _named(self._wire.text(reply, TEXT))
        if reply.kind != kind:
            raise BadReply("the worker answered something that was not asked")
        return reply

    def _listen(self, output: int) -> None:
        """Keep the end of what the worker prints; a full pipe would stop it."""
        self._output = (self._output + (more := os.read(output, 1 << 16)))[-TAIL:]
        if not more:
            self._stdout = []  # closed

    def _said(self) -> str:
        for output in select.select(self._stdout, [], [], 0)[0]:
            self._listen(output)
        return f"; its last words: {escaped(self._output[-600:])}" if self._output else ""


def _start(visible: Iterable[Path], limits: Limits) -> tuple[subprocess.Popen[bytes], int, Wire]:
    """Start a worker within the walls; return its process, a descriptor of it, and the wire."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = wire.shared()
    told, tell = os.pipe()
    with bubblewrap.write_filter() as rules, theirs:
        threads = torch.get_num_threads()
        environment = {"HOME": bubblewrap.HOME, "USER": "worker", "LOGNAME": "worker", "LANG": "C.UTF-8"}
        environment |= {"OMP_NUM_THREADS": str(threads)}
        environment |= {name: os.environ[name] for name in _NUMERICS if name in os.environ}
        passed = (theirs.fileno(), memory, rules.fileno(), tell)
        limit = [limits.memory, limits.file, limits.files, limits.threads]
        code = (
            f"import sys; sys.path.insert(0, {str(Path(files.__file__).resolve().parents[1])!r}); "
            f"from avbench.sandbox.worker import main; main({theirs.fileno()}, {memory}, {threads}, {limit})"
        )
        words = bubblewrap.command(tuple(visible), environment, rules.fileno(), tell)
        process = subprocess.Popen(
            [*words, sys.executable, "-I", "-B", "-c", code],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=passed,
            start_new_session=True,
        )  # fmt: skip
    os.close(tell)
    ours.settimeout(limits.call)
    connection = Wire(ours, memory)
    os.close(memory)
    with os.fdopen(told, "rb") as file:
        about = file.read()  # ends when bubblewrap has said all, or has ended
    try:
        return process, os.pidfd_open(json.loads(about)["child-pid"]), connection
    except (ValueError, OSError):
        assert process.stdout is not None
        said = escaped(process.stdout.read(TAIL))
        process.kill()
        process.wait()
        raise SandboxUnavailable(f"bubblewrap cannot build the sandbox here ({said}); {bubblewrap.ADVICE}") from None


def _end(process: subprocess.Popen[bytes], pid: int, connection: Wire) -> None:
    """Kill the first process of the worker's namespace, and with it all that is in there."""
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pid, signal.SIGKILL)
    process.kill()
    process.wait()
    connection.close()
    os.close(pid)


def _threads(pid: int) -> int:
    """Count the threads of a process by its descriptor."""
    try:
        about = Path(f"/proc/self/fdinfo/{pid}").read_text(encoding="ascii")
        number = about.partition("\nPid:")[2].split()[0]
        return int(Path(f"/proc/{number}/status").read_text(encoding="utf-8").partition("\nThreads:")[2].split()[0])
    except (OSError, IndexError):  # it has just ended
        return 0


def _named(text: bytes) -> AvbenchError:
    """Make the named error that a worker reports, or BadModel where it has no name of ours."""
    name, _, what = escaped(text[:1000]).partition(": ")
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, AvbenchError)) or issubclass(kind, SandboxError | BrokenClip):
        return BadModel(f"in its worker: {name}: {what}")
    return kind(what)
