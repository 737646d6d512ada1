"""The jobs of submitit, here processes of one machine: the same bytes, and nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import engine_runs
import pytest
from conftest import Wavy, candidate, rows_sha256
from engine_runs import SPLIT, SUITES, alive, computing, descendants, importable, plan_of, start, wait_for  # noqa: F401

from avbench.attacks import ATTACKS
from avbench.attacks.fgsm import FGSM
from avbench.engines import submitit
from avbench.engines.bench import Made
from avbench.errors import EngineUnavailable
from avbench.options import RunOptions
from avbench.runner import Run, evaluate
from avbench.suites import Suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("importable"),
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed"),
]
JOBS = {"engine": "submitit", "workers": 2}


def test_jobs_make_the_bytes_of_one_process_even_if_one_is_killed_and_keep_the_same_clips(tmp_path: Path) -> None:
    one, other, diary = tmp_path / "local", tmp_path / "jobs", tmp_path / "diary"
    engine_runs.run(one, save_adversarial=True)
    process = start(other, told={"TOLD_DIARY": str(diary), "TOLD_PAUSE": "0.05"}, save_adversarial=True, **JOBS)
    os.kill(wait_for(lambda: computing(diary, process.pid), process)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 0, errors
    assert rows_sha256(one) == rows_sha256(other)
    [sums], [others] = one.rglob("adversarial/SHA256SUMS"), other.rglob("adversarial/SHA256SUMS")
    assert sums.read_text() == others.read_text()
    assert not list(other.rglob("jobs")), "what jobs leave is removed"


def test_ctrl_c_ends_all_jobs(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    process = start(tmp_path, told={"TOLD_DIARY": str(diary), "TOLD_PAUSE": "0.2"}, **JOBS)
    wait_for(lambda: computing(diary, process.pid), process)
    pids = set(descendants(process.pid))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 130, errors
    wait_for(lambda: not alive(pids))
    assert not list(tmp_path.rglob("jobs"))


def test_a_job_gives_back_what_it_has_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that does not fit into a time limit would begin again and again."""
    from submitit.core.utils import cloudpickle_dump

    monkeypatch.setattr(submitit, "LEASE", 0.0)
    run = Run(candidate(Wavy()), SPLIT, SUITES["every"], RunOptions(output_dir=tmp_path, batch_size=8, device="cpu"))
    cloudpickle_dump(plan_of(run), tmp_path / "plan.pkl")
    work = list(run._missing(run.positions, run.references))
    [made] = submitit._work(tmp_path / "plan.pkl", work)
    assert isinstance(made, Made)
    assert (made.positions, made.cell) == (work[0].positions, run.references[0])


class Homesick(Wavy):
    """Cannot be had in another process."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ValueError("it stays at home")


def test_a_model_that_jobs_cannot_open_is_an_error_at_once(tmp_path: Path) -> None:
    options = RunOptions(output_dir=tmp_path, batch_size=8, device="cpu", engine="submitit", workers=2)
    with pytest.raises(EngineUnavailable, match=r"cannot open the model \(it stays at home\)"):
        evaluate(candidate(Homesick()), SPLIT, SUITES["every"], options, quiet=True)
    assert not list(tmp_path.rglob("jobs"))


def test_a_job_that_fails_outside_of_the_work_is_an_error_at_once(tmp_path: Path) -> None:
    options = RunOptions(output_dir=tmp_path, batch_size=8, device="cpu", engine="submitit", workers=1)
    suite = Suite("homesick", 1, "", SUITES["every"].threats, (Far(),))
    with pytest.raises(EngineUnavailable, match=r"a job failed .*it stays at home"):
        evaluate(candidate(Wavy()), SPLIT, suite, options, quiet=True)


class Far(FGSM):
    """An attack that cannot be had in another process."""

    def __reduce__(self) -> Any:
        return refuse, ()


ATTACKS.register("far")(Far)
