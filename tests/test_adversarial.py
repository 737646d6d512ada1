"""Kept clips are those that were judged, bit for bit; their budgets hold in integers; a hostile file costs nothing."""

from __future__ import annotations

import io
import math
import os
import random
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    FRAMES,
    SAMPLES,
    SIDE,
    Wavy,
    assert_same_rows,
    candidate,
    count_parts,
    kill_9,
    make_split,
    start_clean,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avbench import store
from avbench.adversarial import Kept, read_clips, write_clips
from avbench.attacks import parse_attack
from avbench.errors import AvbenchError, BudgetViolation, DataError
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.suites import Suite, find_suite
from avbench.threats import BUDGETS, ThreatModel, parse_threat
from avbench.threats.linf import IMAGENET_STD
from avbench.threats.presets import linf_triple
from avbench.threats.region import Region
from avbench.types import AVInput, Batch

SPLIT = make_split(50, 3)
SPEC = SPLIT.card.spec
EVERY = find_suite(None, ("XA:linf:0.01", "XAV:l2:0.05:linf:0.02", "XV:linf-normalized:0.03"), ("fgsm", "pgd:steps=2"))
WORST = Suite("worst", 1, "", linf_triple(0.06, 0.06), (parse_attack("fgsm"), parse_attack("pgd")), "worst-case")
ONE = parse_threat("XAV:linf:2:linf:1")


def run_of(folder: Path, suite: Suite = EVERY, model: torch.nn.Module | None = None, **changes: Any) -> Path:
    how: dict[str, Any] = {"batch_size": 8, "device": "cpu", "save_adversarial": True} | changes
    return evaluate(candidate(model or Wavy()), SPLIT, suite, RunOptions(output_dir=folder, **how), quiet=True)


def kept_files(run: Path) -> dict[str, bytes]:
    names = [path for path in (run / "adversarial").rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in [*names, run / "rows.parquet"]}


@pytest.mark.parametrize("suite", [EVERY, WORST], ids=["every", "worst-case"])
def test_what_is_kept_is_what_was_judged_bit_for_bit(tmp_path: Path, suite: Suite) -> None:
    seen: set[bytes] = set()

    class Watching(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            seen.update(
                a.numpy().tobytes() + v.numpy().tobytes() for a, v in zip(audio.detach(), video.detach(), strict=True)
            )
            return super().forward(audio, video)  # fmt: skip

    run = run_of(tmp_path, suite, Watching())
    rows = store.read_rows(run)
    found = 0
    for path in run.glob("adversarial/*/*.npz"):
        kept = read_clips(path, SPEC)
        batch = SPLIT.batch([SPLIT.ids.index(name) for name in kept.samples])
        for name, audio, video in zip(kept.samples, *kept.restore(batch.inputs), strict=True):
            assert audio.numpy().tobytes() + video.numpy().tobytes() in seen, name
            found += 1
    assert found == (rows["threat"] != "clean").sum() > 30


def test_without_the_flag_nothing_is_kept_and_the_rows_have_the_same_bytes(tmp_path: Path) -> None:
    run, plain = run_of(tmp_path / "a"), run_of(tmp_path / "b", save_adversarial=False)
    assert_same_rows(tmp_path / "a", tmp_path / "b")
    assert not (plain / "adversarial").exists()
    assert store.read_record(plain)["adversarial_sha256"] is None
    assert store.read_record(run)["adversarial_sha256"]


def test_clips_come_later_stay_and_are_made_again_if_they_are_lost_or_torn(tmp_path: Path) -> None:
    first = kept_files(run_of(tmp_path / "first"))
    run = run_of(tmp_path / "run", save_adversarial=False)
    assert kept_files(run_of(tmp_path / "run")) == first, "a run that kept none can be told to"
    record = store.read_record(run)
    run_of(tmp_path / "run", save_adversarial=False)
    assert kept_files(run) == first
    assert store.read_record(run)["adversarial_sha256"] == record["adversarial_sha256"], "and they are not forgotten"
    shards = sorted(run.glob("adversarial/*/*.npz"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    run_of(tmp_path / "run")
    assert kept_files(run) == first
    shards[2].unlink()
    run_of(tmp_path / "run", save_adversarial=False)
    assert store.read_record(run)["adversarial_sha256"] is None, "a record never names what is not there"


@pytest.mark.parametrize("suite", [EVERY, WORST], ids=["every", "worst-case"])
def test_a_limited_run_continues_into_the_full_one_with_the_same_clips(tmp_path: Path, suite: Suite) -> None:
    straight = kept_files(run_of(tmp_path / "straight", suite))
    run_of(tmp_path / "steps", suite, limit=19)
    assert kept_files(run_of(tmp_path / "steps", suite)) == straight, "and nothing of the limited run's last part"


class Slow(Wavy):
    """The same answers, slowly enough to be interrupted anywhere."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        time.sleep(0.002)
        return super().forward(audio, video)


def test_kill_9_at_random_moments_then_resume_gives_the_same_clips(tmp_path: Path) -> None:
    straight = kept_files(run_of(tmp_path / "straight", WORST, Slow()))
    folder, moments, killed = tmp_path / "killed", random.Random(1), 0
    for _ in range(10):
        killed += kill_9(start_clean(run_of, folder, WORST, Slow()), lambda: count_parts(folder), moments)  # type: ignore[arg-type]
    assert killed >= 5
    assert kept_files(run_of(folder, WORST, Slow())) == straight


def batch_of(audio: np.ndarray, video: np.ndarray) -> Batch:
    clips = AVInput(torch.from_numpy(audio), torch.from_numpy(video))
    return Batch(tuple(f"s{i}" for i in range(len(audio))), clips, torch.zeros(len(audio), dtype=torch.int64))


def floats(low: float, high: float) -> Any:
    """Numbers of a box, with its ends, both zeros and numbers below the least normal one."""
    rare = st.sampled_from([low, high, 0.0, -0.0, 1e-45, 1e-38, 2.0**-37, 2.0**-38 * 1.5, 0.5, 1 / 255])
    return st.one_of(st.floats(low, high, width=32), rare)


@given(st.data())
def test_every_float32_comes_back_with_the_same_bits(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("x") / "clips.npz"
    size = FRAMES * 3 * SIDE * SIDE
    draw = {
        (name, low): np.array(data.draw(st.lists(floats(low, 1), min_size=n, max_size=n)), np.float32)
        for name in ("clean", "clip")
        for low, n in ((-1.0, SAMPLES), (0.0, size))
    }
    clean, clip = (
        (draw[name, -1.0][None], draw[name, 0.0].reshape(1, FRAMES, 3, SIDE, SIDE)) for name in ("clean", "clip")
    )
    batch = batch_of(*clean)
    write_clips(path, ONE, batch, AVInput(*map(torch.from_numpy, clip)))
    back = read_clips(path, SPEC).restore(batch.inputs)
    for mine, theirs in zip(back, clip, strict=True):
        assert mine.numpy().tobytes() == theirs.tobytes()


def exact(norm: str, clean: np.ndarray, clip: np.ndarray) -> Fraction:
    """Length of a change as a fraction: of linf itself, of l2 its square."""
    change = [abs(Fraction(float(a)) - Fraction(float(b))) for a, b in zip(clip.ravel(), clean.ravel(), strict=True)]
    if norm == "l2":
        return sum((one * one for one in change), Fraction(0))
    if norm == "linf":
        return max(change)
    stds = np.broadcast_to(np.array(IMAGENET_STD)[:, None, None], clean.shape).ravel()
    return max(one / Fraction(float(std)) for one, std in zip(change, stds, strict=True))


@given(norm=st.sampled_from(sorted(BUDGETS.names())), seed=st.integers(0, 2**32), share=st.floats(0.5, 1.5))
def test_the_integers_agree_with_fractions_on_both_sides_of_the_radius(norm: str, seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    clean = (draw.integers(0, 256, (2, FRAMES, 3, SIDE, SIDE)) / np.float32(255)).astype(np.float32)
    clip = np.clip(clean + draw.normal(0, 0.02, clean.shape), 0, 1).astype(np.float32)
    batch = batch_of(np.zeros((2, SAMPLES), np.float32), clean)
    true = [exact(norm, one, other) for one, other in zip(clean, clip, strict=True)]
    nearly = math.sqrt(true[0]) if norm == "l2" else float(true[0])
    radii = [nearly * share, nearly, math.nextafter(nearly, 0), math.nextafter(nearly, 1)]
    for radius in radii:
        threat = ThreatModel(video=BUDGETS.get(norm)(radius))
        outside = [t > Fraction(radius) ** (2 if norm == "l2" else 1) for t in true]
        try:
            Kept(batch.ids, threat, {}).check(batch.inputs, AVInput(batch.inputs.audio, torch.from_numpy(clip)))
            refused = None
        except BudgetViolation as error:
            refused = str(error)
        # A root in whole units of 2**-61 is rounded up; a radius closer than that to the truth may be refused.
        near = norm == "l2" and any(abs(math.sqrt(t) - radius) < 1e-17 for t in true)
        assert near or (refused is not None) == any(outside)
        assert refused is None or near or f"sample s{outside.index(True)}" in refused


@pytest.mark.parametrize(
    "text", ["XA:linf:0.006", "XV:linf:0.006", "XV:l2:0.3", "XV:linf-normalized:0.02", "XA:l2:0.1"]
)
def test_what_the_projection_calls_legal_is_legal_in_integers_and_the_next_number_is_not(text: str) -> None:
    batch = SPLIT.batch(range(20))
    threat = parse_threat(text)
    region = Region(threat, batch.inputs)
    [modality] = threat.budgets
    far = AVInput(*(x + 0.5 * torch.sign(torch.sin(1e4 * x)) for x in batch.inputs))
    legal = batch.inputs._replace(**{modality: getattr(region.project(far), modality)})
    used = Kept(batch.ids, threat, {}).check(batch.inputs, legal)
    assert 0.99 < used[modality] <= 1
    if "linf" not in text:
        return
    one = getattr(legal, modality).clone()
    clean = getattr(batch.inputs, modality)
    place = (3, *np.argwhere((one[3] - clean[3]).abs().numpy() > 0.003)[0])
    away = torch.tensor(9.0) * (one[place] - clean[place]).sign()
    one[place] = one[place].nextafter(away)
    with pytest.raises(BudgetViolation, match=f"the {modality} of sample {batch.ids[3]} is .* outside {text}"):
        Kept(batch.ids, threat, {}).check(batch.inputs, batch.inputs._replace(**{modality: one}))


def test_who_writes_clips_hears_what_is_wrong_with_them(tmp_path: Path) -> None:
    batch = SPLIT.batch(range(4))
    moved = AVInput(batch.inputs.audio + 0.01, batch.inputs.video)
    with pytest.raises(BudgetViolation, match=r"outside XA:linf:0.006"):
        write_clips(tmp_path / "x.npz", "XA:linf:0.006", batch, moved)
    with pytest.raises(BudgetViolation, match=r"the audio is changed, and XV:linf:0.006 leaves it alone"):
        write_clips(tmp_path / "x.npz", "XV:linf:0.006", batch, moved)
    beyond = batch.inputs._replace(audio=batch.inputs.audio + 2)
    for clips in (beyond, batch.inputs._replace(audio=batch.inputs.audio * math.nan)):
        with pytest.raises(BudgetViolation, match=f"sample {batch.ids[0]} is outside"):
            write_clips(tmp_path / "x.npz", "XA:linf:2", batch, clips)
    assert not list(tmp_path.iterdir())


def honest(**changes: Any) -> dict[str, Any]:
    steps = np.zeros((3, SAMPLES), np.int32)
    return {"samples": np.array(["a", "b", "c"]), "threat": np.array("XA:linf:0.01"), "audio": steps} | changes


def packed(arrays: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def zipped(kind: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return data.getvalue()


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, array, version)
    return data.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


BASE = {name: npy(array) for name, array in honest().items()}
ZEROS = bytes(200 << 20)
MEMBERS = (b"PK\1\2" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"a.npy") * 400_000  # a list of nothing else
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"PK" * 1000,
    "truncated": lambda: packed(honest())[:-40],
    "a comment": lambda: packed(honest())[:-2] + b"\3\0abc",
    "no samples": lambda: packed(honest(samples=np.array([], "<U1"), audio=np.zeros((0, SAMPLES), np.int32))),
    "too many samples": lambda: packed(
        honest(samples=np.array([str(i) for i in range(1025)]), audio=np.zeros((1025, SAMPLES), np.int32))
    ),
    "a sample twice": lambda: packed(honest(samples=np.array(["a", "b", "a"]))),
    "numbers as samples": lambda: packed(honest(samples=np.arange(3))),
    "long names": lambda: packed(honest(samples=np.array(["a" * 201, "b", "c"]))),
    "objects": lambda: zipped(**BASE | {"samples": header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }")}),
    "no such threat": lambda: packed(honest(threat=np.array("XA:linf"))),
    "another norm": lambda: packed(honest(threat=np.array("XA:l7:0.01"))),
    "no budget at all": lambda: packed(honest(threat=np.array("XA:linf:nan"))),
    "several threats": lambda: packed(honest(threat=np.array(["XA:linf:0.01"]))),
    "one modality too few": lambda: packed(honest(threat=np.array("XAV:linf:0.01:linf:0.01"))),
    "one too many": lambda: packed(honest(video=np.zeros((3, *SPEC.shape("video")), np.int32))),
    "five arrays": lambda: packed(honest(more=np.zeros(1), moremore=np.zeros(1))),
    "another shape": lambda: packed(honest(audio=np.zeros((3, SAMPLES + 1), np.int32))),
    "floats": lambda: packed(honest(audio=np.zeros((3, SAMPLES), np.float32))),
    "64 bits": lambda: packed(honest(audio=np.zeros((3, SAMPLES), np.int64))),
    "big-endian": lambda: packed(honest(audio=np.zeros((3, SAMPLES), ">i4"))),
    "columns first": lambda: packed(honest(audio=np.asfortranarray(np.zeros((3, SAMPLES), np.int32)))),
    "a shape of 2**40": lambda: zipped(**BASE | {"audio": header("{'descr': '<i4', 'fortran_order': False, 'shape': (1099511627776, 24), }")}),
    "code in a header": lambda: zipped(**BASE | {"audio": header("__import__('os').system('touch canary')")}),
    "a deep header": lambda: zipped(**BASE | {"audio": header("(" * 900 + ")" * 900)}),
    "a header of 60 kB": lambda: zipped(**BASE | {"audio": header(" " * 60_000)}),
    "version 3": lambda: zipped(**BASE | {"audio": npy(np.zeros((3, SAMPLES), np.int32), (3, 0))}),
    "200 MB of zeros": lambda: zipped(**BASE | {"audio": BASE["audio"] + ZEROS}),
    "too short": lambda: zipped(**BASE | {"audio": BASE["audio"][:-1]}),
    "one byte too long": lambda: zipped(**BASE | {"audio": BASE["audio"] + b"\0"}),
    "lzma": lambda: zipped(zipfile.ZIP_LZMA, **BASE),
    "bzip2": lambda: zipped(zipfile.ZIP_BZIP2, **BASE),
    "a flipped bit": lambda: (lambda d: d[:400] + bytes([d[400] ^ 1]) + d[401:])(packed(honest())),
    "encrypted": lambda: packed(honest()).replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0", 1).replace(b"PK\1\2\x2d\x03\x2d\0\0\0", b"PK\1\2\x2d\x03\x2d\0\1\0", 1),
    "400,000 members": lambda: MEMBERS + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, len(MEMBERS), 0, 0),
    "400,000 members by zip64": lambda: MEMBERS
    + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 4, 4, len(MEMBERS), 0)
    + struct.pack("<4sLQL", b"PK\6\7", 0, len(MEMBERS), 1)
    + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, 100, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_named_error_in_little_time_and_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "clips.npz"
    path.write_bytes(HOSTILE[name]())
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(AvbenchError):
        read_clips(path, SPEC)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"
    assert not Path("canary").exists()


def test_the_honest_file_that_the_hostile_ones_are_made_of_is_read(tmp_path: Path) -> None:
    for name, content in (("a.npz", packed(honest())), ("b.npz", zipped(**BASE)), ("c.npz", zipped(0, **BASE))):
        (tmp_path / name).write_bytes(content)
        assert read_clips(tmp_path / name, SPEC).samples == ("a", "b", "c")


def test_what_is_no_regular_file_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "real.npz").write_bytes(packed(honest()))
    (tmp_path / "link.npz").symlink_to("real.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in ("link", "pipe", "folder", "none"):
        with pytest.raises(DataError, match=f"{name}.npz is no file of adversarial clips"):
            read_clips(tmp_path / f"{name}.npz", SPEC)
