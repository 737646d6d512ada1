"""A run of a small model by any engine, as a process of its own that can be killed, and what such tests look at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Wavy, candidate, hear_ctrl_c, make_split
from torch import Tensor

from avbench.attacks import parse_attack
from avbench.engines.plan import Plan
from avbench.errors import AvbenchError
from avbench.options import RunOptions
from avbench.runner import Run, evaluate
from avbench.suites import Suite, find_suite
from avbench.threats.presets import linf_triple

TESTS = Path(__file__).resolve().parent
SPLIT = make_split(50, 3)
SUITES = {
    "every": find_suite(None, ("XA:linf:0.01", "XAV:linf:0.01:linf:0.02"), ("fgsm", "noise:draws=2")),
    "worst": Suite("worst", 1, "", linf_triple(0.06, 0.06), (parse_attack("fgsm"), parse_attack("pgd")), "worst-case"),
}
POISON = 17  # position of the sample that a model may die of
MOMENT = 900  # seconds, after which a test gives up waiting; pytest has a timeout besides


class Told(Wavy):
    """Answer as ever, but do what the environment of its process says: take time, write down where, die."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("TOLD_PAUSE", "0")))
        if diary := os.environ.get("TOLD_DIARY"):
            with open(diary, "a") as file:
                file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        if os.environ.get("TOLD_POISON"):
            first = SPLIT.batch([POISON]).inputs.audio[0, 0]
            if (audio[:, 0] == first).any() and not video.any():
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(audio, video)


def run(folder: Path, suite: str = "every", **changes: Any) -> Path:
    options = RunOptions(output_dir=folder, **{"batch_size": 8, "device": "cpu", **changes})
    return evaluate(candidate(Told()), SPLIT, SUITES[suite], options, quiet=True)


def main(folder: str, suite: str, changes: str) -> None:
    """Run as the command line does, with its exit codes."""
    try:
        run(Path(folder), suite, **json.loads(changes))
    except AvbenchError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def environment(**more: str) -> dict[str, str]:
    """Let a process, and the workers that it has, find these tests, and nothing of what Ray was told here."""
    paths = [str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return clean | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))} | more


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Let workers find these tests; what Ray was told is forgotten afterwards."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    yield
    os.environ.clear()
    os.environ.update(before)


def start(
    folder: Path, suite: str = "every", told: dict[str, str] | None = None, **changes: Any
) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", "import sys, engine_runs; engine_runs.main(*sys.argv[1:])"]
    return subprocess.Popen(
        [*words, str(folder), suite, json.dumps(changes)], env=environment(**(told or {})), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait until something is so; it never will be when the process is over."""
    deadline = time.monotonic() + MOMENT
    while not (found := what()):
        over = process is not None and process.poll() is not None
        assert not over, f"it ended with {process.returncode}: {process.communicate()}"  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Processes that a process started, directly or not, with their titles."""
    parents, titles = {}, {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(one.name)] = int((one / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(one.name)] = (one / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, IndexError):
            continue  # it has just ended

    def below(parent: int) -> Iterator[int]:
        for child in [child for child, its in parents.items() if its == parent]:
            yield child
            yield from below(child)

    return {child: titles[child] for child in below(pid)}


def alive(pids: set[int]) -> set[int]:
    """Those that have not ended; who has ended but was not waited for has."""
    found = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.add(pid)
        except OSError:
            continue
    return found


def listening(pids: set[int]) -> set[str]:
    """Addresses, as the kernel writes them, on which processes listen by TCP."""
    held = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                held.add(os.readlink(link))
            except OSError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in held}


def surrounding(pid: int) -> dict[str, str]:
    """The environment that a process began with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def computing(diary: Path, *above: int) -> list[int]:
    """Processes below these that have asked the model, and live."""
    told = {int(line.split()[0]) for line in diary.read_text().splitlines()} if diary.exists() else set()
    return sorted(alive(told & {child for pid in above for child in descendants(pid)}))


def plan_of(run: Run) -> Plan:
    """What workers of a run are sent."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run._prepare()
    return Plan.of(run.candidate, run.split, run.cells, run.bench, run.numerics)


def parts(folder: Path) -> dict[Path, int]:
    """Files of parts, and when each was written, ns."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("part-*")}


def assert_kept(before: dict[Path, int]) -> None:
    """None of these parts was made again."""
    assert before
    assert all(path.stat().st_mtime_ns == modified for path, modified in before.items()), "a part was made again"
