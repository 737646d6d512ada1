"""Engines: the same bytes wherever parts are computed, and nothing of them where they are not installed."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine_runs
import pytest
import torch
from conftest import Wavy, candidate, count_parts, rows_sha256
from engine_runs import SPLIT, importable  # noqa: F401  # a fixture
from torch import Tensor, nn

from avbench import files, runner, store
from avbench.device import threads
from avbench.engines.plan import sending
from avbench.errors import BadOption, OtherNumerics
from avbench.options import RunOptions
from avbench.runner import Run

PACKAGE = Path(files.__file__).resolve().parent
OPTIONAL = ("ray", "submitit")
pytestmark = pytest.mark.usefixtures("importable")


class Tricky(nn.Module):
    """Hold tensors in all ways that a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(4, 3)  # keeps its weights in a list besides
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.tied = self.alias = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.tied.weight
        self.brain = nn.Parameter(torch.randn(5).bfloat16())
        self.register_buffer("hidden", torch.randn(3), persistent=False)
        self.register_buffer("number", torch.tensor(7))
        self.plain = torch.randn(2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(self.head(self.tied(x)))
        shown = self.conv(x[None, :, :, None].expand(1, 3, 4, 4)).mean()
        return y.sum() + shown + self.brain.float().sum() + self.hidden.sum() * self.number + self.plain.sum()


@pytest.mark.usefixtures("seeded")
def test_a_model_keeps_its_answers_its_ties_and_its_layout_on_the_way_to_a_worker() -> None:
    module, clip = Tricky(), torch.randn(3, 4)
    buffers: list[pickle.PickleBuffer] = []
    with sending():
        content = pickle.dumps(module, protocol=5, buffer_callback=buffers.append)
    sizes = [t.untyped_storage().nbytes() for t in (*module.parameters(), *module.buffers(), module.plain)]
    assert sum(len(buffer.raw()) for buffer in buffers) == sum(sizes), "each value travels once, and beside the rest"
    memory = [bytearray(buffer.raw()) for buffer in buffers]
    found = pickle.loads(content, buffers=memory)
    assert torch.equal(found(clip), module(clip))
    assert found.head.weight is found.tied.weight
    assert found.conv.weight.is_contiguous(memory_format=torch.channels_last)
    for shared in memory:
        shared[:] = bytes(len(shared))
    assert torch.equal(found(clip), module(clip)), "a worker's values lie in memory of their own"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "dask"}, "--engine is one of local, ray, submitit, not 'dask'"),
        ({"workers": 2}, "--workers needs --engine ray"),
        ({"engine": "ray", "workers": 0}, "--workers must be at least 1"),
        ({"ray_address": "host:6379"}, "--ray-address needs --engine ray"),
        ({"engine": "submitit", "workers": 1, "ray_address": "host:6379"}, "--ray-address needs --engine ray"),
        ({"engine": "submitit"}, "needs --workers N"),
        *(
            ({"engine": "ray", "ray_address": one}, "--ray-address is HOST:PORT")
            for one in ("", "local", "auto", "host", "ray://host:1", ":6379", "host:6379 ", "host:port")
        ),
        ({"engine": "ray", "device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        RunOptions(**changes)


def test_only_the_file_of_an_engine_imports_it() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} & set(OPTIONAL):
                assert path == PACKAGE / "engines" / f"{name}.py"


@pytest.mark.parametrize("what", ["code", "identities", "numerics"])
def test_a_worker_that_would_compute_something_else_refuses(tmp_path: Path, what: str) -> None:
    options = RunOptions(output_dir=tmp_path, device="cpu")
    plan = engine_runs.plan_of(Run(candidate(Wavy()), SPLIT, engine_runs.SUITES["every"], options))
    assert plan.open()
    other = {
        "code": "another",
        "identities": [plan.cells[0].identity | {"attack": {"name": "fgsm", "version": 0}}, *plan.identities[1:]],
        "numerics": plan.numerics | {"answer": "another"},
    }
    with pytest.raises(OtherNumerics):
        dataclasses.replace(plan, **{what: other[what]}).open()


def test_all_that_is_opened_for_workers_is_opened_with_their_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def look(*_: object) -> None:
        raise Seen(torch.get_num_threads())

    monkeypatch.setattr(runner, "Run", look)
    with threads(2), pytest.raises(Seen, match="1"):
        engine_runs.run(tmp_path, engine="ray")


def test_what_jobs_of_a_killed_command_left_is_removed_by_any_engine(tmp_path: Path) -> None:
    folder = engine_runs.run(tmp_path)
    (folder / store.JOBS).mkdir()
    (folder / store.JOBS / "1_submitted.pkl").touch()
    engine_runs.run(tmp_path)
    assert not (folder / store.JOBS).exists()


_WITHOUT = """
from click.testing import CliRunner
from avbench.cli import main
for words in {words!r}:
    result = CliRunner().invoke(main, ["evaluate", "avbench--synthav-concat", *words, "--output-dir", {folder!r}])
    print(result.exit_code, result.output.strip().splitlines()[-1])
"""


def test_without_the_extras_a_run_needs_none_and_each_engine_says_how_to_install_it(tmp_path: Path) -> None:
    site = tmp_path / "site"  # all that is installed here, but for the engines
    site.mkdir()
    for place in map(Path, sys.path):
        for one in place.iterdir() if place.is_dir() and place.name != "tests" else ():
            if not one.name.startswith((*OPTIONAL, "__pycache__")) and not (site / one.name).exists():
                (site / one.name).symlink_to(one)
    words = [
        ["--engine", "ray"],
        ["--engine", "submitit", "--workers", "2"],
        ["--suite", "quick", "--limit", "4", "--attack", "fgsm"],
    ]
    code = _WITHOUT.format(words=words, folder=str(tmp_path / "runs"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{site}"},
    )  # fmt: skip
    ray, submitit, local = done.stdout.splitlines()
    assert ray == "2 EngineUnavailable: --engine ray is not installed: pip install 'avbench[ray]'", done.stderr
    assert submitit == "2 EngineUnavailable: --engine submitit is not installed: pip install 'avbench[slurm]'"
    assert local.startswith("0 "), local


def _publish(folder: Path, number: int, barrier: Any, found: Any) -> None:
    for turn in range(25):
        path = folder / str(turn)
        barrier.wait()
        files.publish(path, lambda temporary: temporary.write_text(str(number)), replace=False)
        found.put((turn, path.read_text()))


def test_of_four_processes_that_publish_one_part_the_first_wins_for_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_publish, args=(tmp_path, number, barrier, found)) for number in range(4)]
    for racer in racers:
        racer.start()
    seen: dict[int, set[str]] = {}
    for _ in range(4 * 25):
        turn, content = found.get(timeout=60)
        seen.setdefault(turn, set()).add(content)
    for racer in racers:
        racer.join()
    assert all(len(contents) == 1 for contents in seen.values()), "a part changed after it was published"
    assert len({content for contents in seen.values() for content in contents}) > 1, "one always won: this is no race"
    assert len(list(tmp_path.iterdir())) == 25, "nothing is left behind"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_of_ray_make_the_bytes_of_one_process_and_keep_the_same_clips(tmp_path: Path) -> None:
    one, other = tmp_path / "local", tmp_path / "ray"
    diary = tmp_path / "diary"
    engine_runs.run(one, "worst", save_adversarial=True)
    process = engine_runs.start(
        other, "worst", {"TOLD_DIARY": str(diary)}, save_adversarial=True, engine="ray", workers=2
    )
    engine_runs.wait_for(lambda: count_parts(other), process)
    pids = set(engine_runs.descendants(process.pid))
    _, errors = process.communicate(timeout=engine_runs.MOMENT)
    assert process.returncode == 0, errors
    engine_runs.wait_for(lambda: not engine_runs.alive(pids))
    assert len({line.split()[0] for line in diary.read_text().splitlines()}) == 3, "the command and two workers"
    assert rows_sha256(one) == rows_sha256(other)
    [sums], [others] = one.rglob("adversarial/SHA256SUMS"), other.rglob("adversarial/SHA256SUMS")
    assert sums.read_text() == others.read_text()
    assert {p.name for p in one.rglob("part-*")} == {p.name for p in other.rglob("part-*")}
    assert count_parts(one) > 20
