"""Ray's workers: killed anywhere, stopped at any moment, on one node or two, a run ends with the same bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import engine_runs
import pytest
from conftest import candidate, count_parts, hear_ctrl_c, rows_sha256
from engine_runs import (
    SPLIT,
    SUITES,
    TESTS,
    Told,
    alive,
    assert_kept,
    computing,
    descendants,
    environment,
    importable,  # noqa: F401  # a fixture
    listening,
    parts,
    plan_of,
    start,
    surrounding,
    wait_for,
)

from avbench import store
from avbench.engines import drive
from avbench.engines.ray import RayWorkers
from avbench.errors import BudgetViolation, OtherNumerics, WorkFailed
from avbench.options import RunOptions
from avbench.runner import Run, evaluate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("importable"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
RAY = {"engine": "ray", "workers": 2}
SLOWLY = {"TOLD_PAUSE": "0.05"}  # so that there is a middle
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hash of the rows that one undisturbed process makes."""
    folder = tmp_path_factory.mktemp("calm")
    engine_runs.run(folder)
    return rows_sha256(folder)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Address of a cluster of two nodes of one core each, the processes of both, and where those that compute say so."""
    diary = str(tmp_path / "diary")
    process = subprocess.Popen(
        [sys.executable, TESTS / "engine_cluster.py"], env=environment(**SLOWLY, TOLD_DIARY=diary), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    told = ""
    while not told.startswith("{"):
        told = process.stdout.readline()
        assert told, "there is no cluster"
    before = set(descendants(process.pid))
    yield json.loads(told) | {"diary": diary}
    process.stdin.close()
    process.wait(60)
    wait_for(lambda: not alive(before))


def working(pid: int) -> list[int]:
    """Worker processes that compute."""
    return [child for child, title in descendants(pid).items() if title.startswith("ray::_work")]


def test_one_worker_makes_the_bytes_of_one_process(tmp_path: Path, calm: str) -> None:
    engine_runs.run(tmp_path, engine="ray", workers=1)
    assert rows_sha256(tmp_path) == calm


def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path: Path, calm: str) -> None:
    process = start(tmp_path, told=SLOWLY, **RAY)
    for made in (5, 15):
        busy = wait_for(lambda made=made: count_parts(tmp_path) > made and working(process.pid), process)  # type: ignore[misc]
        os.kill(busy[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 0, errors
    assert rows_sha256(tmp_path) == calm


def test_a_private_cluster_is_loopback_only_dies_with_its_driver_and_its_run_resumes(tmp_path: Path, calm: str) -> None:
    process = start(tmp_path, told=SLOWLY | {"HOME": str(tmp_path)}, **RAY)
    wait_for(lambda: count_parts(tmp_path) > 5, process)
    titles = descendants(process.pid)
    pids = set(titles)
    [raylet] = [pid for pid, title in titles.items() if title.partition(" ")[0].endswith("raylet/raylet")]
    told = surrounding(raylet)
    assert (told["RAY_AUTH_MODE"], told["RAY_USAGE_STATS_ENABLED"], len(told["RAY_AUTH_TOKEN"])) == ("token", "0", 64)
    assert not (tmp_path / ".ray").exists(), "the secret was written"
    found = listening(pids | {process.pid})
    assert found, "nothing listens, so this test looks at the wrong processes"
    assert found <= LOOPBACK
    process.kill()
    process.wait()
    wait_for(lambda: not alive(pids))
    kept = parts(tmp_path)
    engine_runs.run(tmp_path)
    assert rows_sha256(tmp_path) == calm
    assert_kept(kept)


def test_two_nodes_make_the_bytes_of_one_process_even_if_one_is_killed(
    tmp_path: Path, calm: str, cluster: dict[str, Any]
) -> None:
    joined = {"engine": "ray", "ray_address": cluster["address"]}
    diary = Path(cluster["diary"])
    whole = start(tmp_path / "whole", **joined)
    _, errors = whole.communicate(timeout=engine_runs.MOMENT)
    assert whole.returncode == 0, errors
    assert rows_sha256(tmp_path / "whole") == calm
    assert len({line.split()[0] for line in diary.read_text().splitlines()}) == 2, "a node had nothing to do"
    diary.unlink()
    process = start(tmp_path / "half", **joined)
    wait_for(lambda: count_parts(tmp_path / "half") > 10 and computing(diary, *cluster["node"]), process)
    for pid in cluster["node"]:
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 0, errors
    assert rows_sha256(tmp_path / "half") == calm


def test_a_run_whose_cluster_loses_its_head_ends_and_resumes(
    tmp_path: Path, calm: str, cluster: dict[str, Any]
) -> None:
    process = start(tmp_path, engine="ray", ray_address=cluster["address"])
    wait_for(lambda: count_parts(tmp_path) > 10, process)
    for pid in cluster["head"]:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode != 0
    kept = parts(tmp_path)
    assert len(kept) > 10
    engine_runs.run(tmp_path)
    assert rows_sha256(tmp_path) == calm
    assert_kept(kept)


def test_work_that_kills_its_workers_is_named_and_all_other_is_done(
    tmp_path: Path, calm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLD_POISON", "1")
    with pytest.raises(
        WorkFailed,
        match=r"killed its worker 6 times was left out: clean silence-video on samples 16 to 23 \([^;]*\)\. All",
    ):
        engine_runs.run(tmp_path, **RAY)
    assert count_parts(tmp_path) == 7 * 7 - 1
    monkeypatch.delenv("TOLD_POISON")
    engine_runs.run(tmp_path)
    assert rows_sha256(tmp_path) == calm


def test_ctrl_c_stops_all_and_the_same_command_continues(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "avbench", "evaluate", "avbench--synthav-concat", "--suite", "cvpr21-defense"]
    words += ["--batch-size", "2", "--limit", "16"]
    process = subprocess.Popen(
        [*words, "--output-dir", str(tmp_path / "run"), "--engine", "ray", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: count_parts(tmp_path) > 5, process)
    pids = set(descendants(process.pid))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    wait_for(lambda: not alive(pids))
    kept = parts(tmp_path)
    for place in ("run", "whole"):  # here what is left, there all
        subprocess.run([*words, "--output-dir", str(tmp_path / place)], check=True, capture_output=True)
    assert rows_sha256(tmp_path / "run") == rows_sha256(tmp_path / "whole")
    assert_kept(kept)


def test_each_of_two_gpus_has_one_process_for_all_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of GPUs that Ray was told of; arithmetic is on the CPU."""
    monkeypatch.setenv("TOLD_DIARY", str(tmp_path / "diary"))
    options = RunOptions(output_dir=tmp_path, batch_size=8, device="cpu")
    run = Run(candidate(Told()), SPLIT, SUITES["every"], options)
    workers = RayWorkers(partial(plan_of, run), None, 2, gpus=1)
    try:
        workers.start()
        (tmp_path / "diary").unlink()  # of this process
        work = list(run._missing(run.positions, [*run.references, *run.cells]))
        assert len(list(drive.drive(workers, work))) == 7 * 7
    finally:
        workers.stop()
    places = Counter((tmp_path / "diary").read_text().splitlines())
    assert len(places) == 2
    assert {place.partition(" ")[2] for place in places} == {"0", "1"}


def test_how_much_a_worker_takes_at_once_may_change_in_mid_run(
    tmp_path: Path, calm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayWorkers, "size", lambda *_: 3)
    process = start(tmp_path, told=SLOWLY, **RAY)  # in units of its own measure
    wait_for(lambda: count_parts(tmp_path) > 15, process)
    process.kill()
    process.wait()
    kept = parts(tmp_path)
    engine_runs.run(tmp_path, **RAY)
    assert rows_sha256(tmp_path) == calm
    assert_kept(kept)


def test_an_error_of_a_worker_has_its_name_here(tmp_path: Path) -> None:
    """One of a clip, and that of a worker whose bits would differ."""
    from test_runner import Cheat

    from avbench.suites import Suite
    from avbench.threats import parse_threat

    suite = Suite("cheats", 1, "", (parse_threat("XA:linf:0.01"),), (Cheat(),))
    how = RunOptions(output_dir=tmp_path, batch_size=8, device="cpu", **RAY)
    with pytest.raises(BudgetViolation, match=r"left XA:linf:0\.01"):
        evaluate(candidate(Told()), SPLIT, suite, how, quiet=True)
    run = Run(candidate(Told()), SPLIT, SUITES["every"], how)
    plan = plan_of(run)
    plan.numerics["answer"] = "another"
    workers = RayWorkers(lambda: plan, None, 1, gpus=0)
    try:
        with pytest.raises(OtherNumerics, match=r"answer is .*, not another"):
            list(drive.drive(workers, run._missing(run.positions, run.references)))
    finally:
        workers.stop()


def test_a_model_behind_walls_a_fitted_attack_and_a_transfer_go_to_workers_too(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "avbench", "evaluate", "avbench--synthav-concat", "--sandbox", "--limit", "8"]
    words += ["--batch-size", "4", "--device", "cpu"]
    protocols = {
        "fitted": ["--threat", "XA:linf:0.006", "--attack", "universal:epochs=1"],
        "transfer": ["--threat", "XA:linf:0.006@transfer", "--attack", "transfer:surrogates=avbench--synthav-sum"],
    }
    for name, protocol in protocols.items():
        for engine in (["--engine", "local"], ["--engine", "ray", "--workers", "2"]):
            folder = tmp_path / name / engine[1]
            done = subprocess.run(
                [*words, *protocol, *engine, "--output-dir", folder], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        assert rows_sha256(tmp_path / name / "local") == rows_sha256(tmp_path / name / "ray")
        [run] = {path.parent for path in (tmp_path / name / "ray").rglob("run.json")}
        assert store.read_record(run)["numerics"]["threads"] == 1
