"""The jobs of submitit, here processes of one machine: the same bytes, and nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import engine_runs
import pytest
from engine_runs import alive, descendants, digest, environment, start, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed"),
]
JOBS = {"engine": "submitit", "workers": 2}


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    """Let jobs find these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        yield


def computing(process: subprocess.Popen[str], diary: Path) -> list[int]:
    """Processes that have asked the model, other than the one that started them."""
    told = {int(line.split()[0]) for line in diary.read_text().splitlines()} if diary.exists() else set()
    return sorted(alive(told & set(descendants(process.pid))))


def test_jobs_make_the_bytes_of_one_process_even_if_one_is_killed_and_keep_the_same_clips(tmp_path: Path) -> None:
    one, other, diary = tmp_path / "local", tmp_path / "jobs", tmp_path / "diary"
    engine_runs.run(one, save_adversarial=True)
    process = start(other, told={"TOLD_DIARY": str(diary), "TOLD_PAUSE": "0.05"}, save_adversarial=True, **JOBS)
    os.kill(wait_for(lambda: computing(process, diary), process)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 0, errors
    assert digest(one) == digest(other)
    [sums], [others] = one.rglob("adversarial/SHA256SUMS"), other.rglob("adversarial/SHA256SUMS")
    assert sums.read_text() == others.read_text()
    assert not list(other.rglob("jobs")), "what jobs leave is removed"


def test_ctrl_c_ends_all_jobs(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    process = start(tmp_path, told={"TOLD_DIARY": str(diary), "TOLD_PAUSE": "0.2"}, **JOBS)
    wait_for(lambda: computing(process, diary), process)
    pids = set(descendants(process.pid))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 130, errors
    wait_for(lambda: not alive(pids))
    assert not list(tmp_path.rglob("jobs"))
