"""What a hostile model tries, behind the walls: it gets nothing, costs a bounded share, and ends in a named error."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_split
from sandboxed import BATCH, CPU, HOSTILE, answers, gradient, local, needs_sandbox, remote

import avbench.judge
from avbench.errors import (
    AvbenchError,
    BadModel,
    BadOption,
    BadReply,
    NonFiniteOutput,
    SandboxError,
    WorkerDied,
    WorkerTimeout,
)
from avbench.judge import judge
from avbench.oracle import Victim
from avbench.sandbox.process import TAIL, Limits

pytestmark = needs_sandbox
LINUX_64 = os.uname().machine == "x86_64"


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """What there is to reach on this host: a home, listeners on loopback and on two unix sockets."""
    (tmp_path / "secret").write_text("treasure")
    name = f"avbench-{os.getpid()}"
    listeners = [socket.create_server(("127.0.0.1", 0))]
    for address in (str(tmp_path / "unix"), "\0" + name):
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(address)
        listeners[-1].listen()
    yield {
        "home": str(tmp_path),
        "folder": str(tmp_path),
        "port": listeners[0].getsockname()[1],
        "path": str(tmp_path / "unix"),
        "address": name,
    }
    for one in listeners:
        one.close()


DEEDS = {
    "reads:Shadow": [], "reads:Home": ["home"], "reads:Environment": [], "reads:Processes": [], "reads:Labels": [],
    "reads:Writable": ["folder"], "reads:Remount": [], "reads:Trace": [],
    "sockets:Loopback": ["port"], "sockets:Unix": ["path"], "sockets:Abstract": ["address"], "sockets:Netlink": [],
    "sockets:Families": [], "sockets:Pair": [],
    "greedy:ForkBomb": [], "greedy:Program": [], "greedy:RawClone": [], "greedy:BigFile": [], "greedy:ManyFiles": [],
    "greedy:HiddenMemory": [], "greedy:Descriptors": [], "greedy:Flood": [],
}  # fmt: skip
# Of these the same code does the deed in process, so that a test of the walls cannot pass for another reason.
HARMLESS = [name for name in DEEDS if name.startswith("sockets:")] + [
    "reads:Home", "reads:Environment", "reads:Processes", "reads:Labels", "greedy:HiddenMemory"
]  # fmt: skip


LINUX_64_ONLY = {"reads:Trace", "greedy:RawClone"}  # the numbers of these system calls are those of x86-64
GREEDY = {"greedy:ManyFiles", "greedy:Descriptors", "greedy:Flood"}  # what they take, others would miss


def test_no_deed_that_leaves_nothing_behind_succeeds_behind_the_walls(world: dict[str, Any]) -> None:
    chosen = [name for name in DEEDS if name not in GREEDY and (LINUX_64 or name not in LINUX_64_ONLY)]
    model = remote("many:Many", deeds={name: {key: world[key] for key in DEEDS[name]} for name in chosen})
    for _ in range(2):  # the worker goes on
        marks = answers(model).flatten().tolist()
        assert [name for name, mark in zip(chosen, marks, strict=False) if mark] == []
    assert not list(Path(world["folder"]).glob("canary"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "greedy:Flood" else pytest.mark.slow) for name in DEEDS]
)
def test_a_deed_fails_behind_the_walls(name: str, world: dict[str, Any]) -> None:
    if name in LINUX_64_ONLY and not LINUX_64:
        pytest.skip("x86-64 only")
    model = remote(name, **{key: world[key] for key in DEEDS[name]})
    assert torch.equal(answers(model), torch.zeros(12, 3))
    assert answers(model).shape == (12, 3), "the worker goes on"
    assert not list(Path(world["folder"]).glob("canary"))
    assert len(model.worker._output) <= TAIL


@pytest.mark.parametrize("name", HARMLESS)
def test_the_same_deed_succeeds_without_walls(name: str, world: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(HOSTILE)
    model = local(name, **{key: world[key] for key in DEEDS[name]})
    assert torch.equal(answers(model), torch.ones(12, 3))


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


ERRORS = {
    "greedy:Memory": (BadModel, "MemoryError"),
    "greedy:ThreadBomb": ((WorkerDied, BadModel), "thread"),
    "liars:Exits": (BadModel, "SystemExit"),
    "liars:HardExits": (WorkerDied, "code 7.*farewell"),
    "liars:Escapes": (BadModel, "RuntimeError"),
    "liars:Nan": (NonFiniteOutput, "sample toy-"),
    "liars:MoreClasses": (BadModel, r"\(12, 3\) logits, it answered \(12, 6\)"),
    "liars:FewerSamples": (BadReply, "broke its word"),
    "liars:NoTensor": (BadModel, "dict"),
    "liars:Huge": (BadOption, "batch-size"),
    "liars:SpoofShape": (BadReply, "broke its word"),
    "liars:SpoofTwo": (BadReply, "broke its word"),
    "liars:SpoofNothing": (BadReply, "broke its word"),
    "liars:SpoofKind": (BadReply, "not asked"),
    "liars:SpoofText": (BadReply, "bytes"),
    "liars:SpoofDimensions": (BadReply, "tensor"),
    "liars:SpoofDtype": (BadReply, "tensor"),
    "liars:SpoofShort": (BadReply, "bytes"),
    "liars:SpoofLong": (BadReply, "bytes"),
    "liars:SpoofGenerator": (BadReply, "generator"),
    "liars:SpoofName": (BadReply, "agreed form"),
    "liars:SpoofHello": (BadReply, "agreed form"),
    "liars:Deaf": (WorkerDied, "ended"),
    "liars:NanGradient": (NonFiniteOutput, "gradient to the audio of sample toy-"),
    "liars:SpoofGradient": (BadReply, "gradient"),
    "liars:Rewrites": (AvbenchError, ""),
}
OFTEN = {
    "greedy:Memory", "liars:HardExits", "liars:Nan", "liars:FewerSamples", "liars:SpoofShape", "liars:SpoofName",
    "liars:SpoofGradient",
}  # fmt: skip


def ask(name: str) -> None:
    """Look at a model, again and again where its lie is a race."""
    model = remote(name)
    for _ in range(50 if name == "liars:Rewrites" else 1):
        (gradient if "Gradient" in name else answers)(model)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in ERRORS]
)
def test_a_lie_or_a_failure_is_a_named_error_and_the_parent_lives(name: str) -> None:
    kind, words = ERRORS[name]
    before, started = resident(), time.monotonic()
    kept = [clip.clone() for clip in BATCH.inputs]
    with pytest.raises(kind) as caught:
        ask(name)
    text = str(caught.value)
    assert re.search(words, text)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 2000
    assert time.monotonic() - started < 20
    assert resident() - before < 1 << 30
    assert all(torch.equal(*pair) for pair in zip(kept, BATCH.inputs, strict=True))


def number_of(model: Any) -> int:
    """Process id of a worker, as this process sees it."""
    about = Path(f"/proc/self/fdinfo/{model.worker._pid}").read_text()
    return int(about.partition("\nPid:")[2].split()[0])


def gone(number: int) -> bool:
    """Whether a process has ended, or does so within ten seconds, as on a busy machine."""
    for _ in range(200):
        if not Path(f"/proc/{number}").exists():
            return True
        time.sleep(0.05)
    return False


def test_a_worker_that_sleeps_and_ignores_signals_is_killed_in_time() -> None:
    model = remote("greedy:Sleeper", Limits(call=1))
    number, started = number_of(model), time.monotonic()
    with pytest.raises(WorkerTimeout, match="within 1 s"):
        answers(model)
    assert time.monotonic() - started < 5
    assert gone(number)
    with pytest.raises(SandboxError):
        answers(model)  # and it says so again


@pytest.mark.slow
def test_a_model_that_never_finishes_loading_is_killed_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(WorkerTimeout, match="load the model"):
        remote("greedy:SlowStart", Limits(start=8))
    assert time.monotonic() - started < 15


def test_a_worker_ends_with_its_model() -> None:
    model = remote("honest:Small")
    number = number_of(model)
    del model
    assert gone(number)


ORPHAN = """
import sys
sys.path[:0] = [{tests!r}]
from sandboxed import remote, answers
from test_sandbox_hostile import number_of
model = remote("greedy:Orphan")
print(number_of(model), flush=True)
answers(model)
"""


def test_no_worker_outlives_a_parent_that_is_killed() -> None:
    code = ORPHAN.format(tests=str(HOSTILE.parent))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert select.select([parent.stdout], [], [], 60)[0]
        number = int(parent.stdout.readline())
        time.sleep(1)
        assert Path(f"/proc/{number}").exists()
        assert parent.poll() is None
        parent.send_signal(signal.SIGKILL)
    assert gone(number)


def test_sizes_of_the_shared_memory_stay_as_they_are() -> None:
    model = remote("liars:Truncates")
    assert answers(model).isfinite().all()


def accuracy(model: torch.nn.Module) -> float:
    batch = make_split(60, 3).batch(range(60))
    return float(judge(Victim(model, 3, CPU), batch, batch.inputs, {})["correct"].mean())


def test_a_model_that_walks_frames_for_labels_knows_all_in_process_and_nothing_behind_the_wire() -> None:
    assert accuracy(local("liars:FrameWalker")) == 1
    assert accuracy(remote("liars:FrameWalker")) <= 0.4


def test_a_model_that_replaces_the_judge_does_so_in_process_and_not_from_the_worker(monkeypatch: Any) -> None:
    behind = accuracy(remote("liars:Monkey"))
    assert behind < 0.7
    for module in (avbench.judge, avbench.objectives):
        monkeypatch.setattr(module, "margin", module.margin)  # restores it after the test
    assert accuracy(local("liars:Monkey")) == 1
