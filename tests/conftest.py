"""Small real things that tests share: a split in memory, linear and non-convex models, a place for runs."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # small tensors; threads would only wait, and a forked child would hang

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from avbench import files
from avbench.checkpoint import Candidate, state_sha256
from avbench.datasets import Sample
from avbench.datasets.cards import Card, Lock, Pinned, read_card
from avbench.datasets.encoding import decode, digest
from avbench.datasets.prepare import find_dataset
from avbench.datasets.splits import Split
from avbench.errors import BrokenClip
from avbench.models.two_stage import TwoStage
from avbench.types import AVInput, InputSpec

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines may be
settings.load_profile("busy")

SAMPLES, FRAMES, SIDE = 24, 2, 3
TEST_DATA = Path(os.environ.get("AVBENCH_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class MemorySplit(Split):
    """A split whose samples are made from their id; all else is the real Split."""

    def stored(self, index: int) -> Sample:
        name, label, pinned = self.lock.rows[index]
        sample = make_sample(name, label)
        assert digest(sample) == pinned
        return sample


def thinned(values: Iterable[Any], every: int) -> list[Any]:
    """Leave one of so many parameters that are alike to the fast tests; the others are slow."""
    slow = pytest.mark.slow
    return [pytest.param(value, marks=slow if number % every else ()) for number, value in enumerate(values)]


def make_sample(name: str, label: int) -> Sample:
    """A clip well inside the box, so that a budget and not the box limits an attack."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    audio = random.integers(-16000, 16000, SAMPLES).astype(np.int16)
    return Sample(name, label, audio, random.integers(64, 192, (FRAMES, 3, SIDE, SIDE)).astype(np.uint8))


def committed(dataset: str, split: str) -> list[Pinned]:
    """The rows of a lock in the repository, all of datasets that are not multi-label."""
    return Lock.read(Lock.path(dataset, split), "multiclass").rows


def made_by(dataset: str, split: str, source: Path | None) -> Iterator[Sample]:
    """What the code of a dataset makes, before anything is stored."""
    card = read_card(dataset)
    maker = find_dataset(card, source)
    entries = maker.entries(split)
    for entry, clip in zip(entries, maker.clips(entries), strict=True):
        assert not isinstance(clip, BrokenClip)
        yield Sample(entry.id, entry.label, *decode(clip.audio, clip.frames, card.spec))


def make_split(n: int = 60, classes: int = 2, name: str = "toy") -> MemorySplit:
    card = Card(
        name=name, title="Toy", summary="For tests", license="MIT", task="multiclass", sample_rate=8000,
        samples=SAMPLES, frames=FRAMES, fps=1, height=SIDE, width=SIDE, splits={"test": n},
        classes=tuple(f"class {i}" for i in range(classes)),
    )  # fmt: skip
    samples = [make_sample(f"{name}-{i:04d}", i % classes) for i in range(n)]
    return MemorySplit(card, "test", Lock(Pinned(s.id, s.label, digest(s)) for s in samples))


class Linear(TwoStage):
    """Two logits, 0 and w_a.a + w_v.v + b: its worst case under every budget has a closed form."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.audio = nn.Parameter(torch.randn(SAMPLES, generator=random) / 4)
        self.video = nn.Parameter(torch.randn(FRAMES * 3 * SIDE * SIDE, generator=random) / 4)
        self.bias = nn.Parameter(-(self.video.detach().sum() / 2))

    def encode_audio(self, audio: Tensor) -> Tensor:
        return audio @ self.audio[:, None]

    def encode_video(self, video: Tensor) -> Tensor:
        return video.flatten(1) @ self.video[:, None]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        score = audio + video + self.bias
        return torch.cat([torch.zeros_like(score), score], dim=1)


class Wavy(nn.Module):
    """A smooth, non-convex model of three classes that offers logits only."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        size = SAMPLES + FRAMES * 3 * SIDE * SIDE
        self.first = nn.Parameter(torch.randn(size, 32, generator=random))
        self.second = nn.Parameter(torch.randn(32, classes, generator=random))

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return torch.sin(3 * torch.cat([audio, video.flatten(1)], dim=1) @ self.first) @ self.second


def candidate(module: nn.Module, name: str = "toy") -> Candidate:
    return Candidate(name, module, type(module).__name__, {}, state_sha256(module))


@pytest.fixture
def split() -> MemorySplit:
    return make_split()


@pytest.fixture
def real_data() -> Path:
    if not TEST_DATA.is_dir():
        pytest.skip(f"no test data at {TEST_DATA} (set AVBENCH_TEST_DATA)")
    return TEST_DATA


@pytest.fixture(autouse=True)
def _no_global_randomness() -> Iterator[None]:
    """No code under test may draw from the global generators."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global generator of torch was used"


def start_clean(work: Callable[..., object], *arguments: object) -> Any:
    """Start a process that has little to import before its work.

    It is forked from one that has asked autograd nothing: from here that would fail after any test whose gradients
    took threads. What a test has patched is not patched there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "avbench.runner"])
    process = context.Process(target=work, args=arguments)
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11 tells the one that forks nothing of sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        process.start()
    return process


def kill_9(
    process: Any, progress: Callable[[], int], moments: random.Random, delay: float = 0.01, least: int = 1
) -> bool:
    """Kill a process at a random moment of its own progress, not of the clock, which a busy machine stretches.

    So much progress at least is waited for: killing its imports would test nothing. Return False if it finished before.
    """
    wanted = progress() + moments.randrange(least, 6)
    while process.is_alive() and progress() < wanted:
        time.sleep(0.0005)
    process.join(moments.uniform(0, delay))
    if alive := process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return alive


def hear_ctrl_c() -> None:
    """Undo, in a child, that what a shell starts in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def count_parts(folder: Path) -> int:
    return len(list(folder.rglob("part-*")))


def rows_sha256(folder: Path) -> str:
    """Hash of the rows of the one run in a folder of results."""
    [rows] = folder.rglob("rows.parquet")
    return files.sha256_file(rows)


def assert_same_rows(one: Path, other: Path) -> None:
    """Two folders of results hold one run each, with the same bytes."""
    assert rows_sha256(one) == rows_sha256(other)


@pytest.fixture
def seeded() -> Iterator[None]:
    """Let a test draw weights from torch's global generator, the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def random_clips(spec: InputSpec, n: int = 3) -> AVInput:
    return AVInput(torch.rand(n, spec.samples) * 2 - 1, torch.rand(n, *spec.shape("video")))
