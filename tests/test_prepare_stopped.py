"""Preparing, disturbed: killed, interrupted, twice at once, on a full disk, over damaged shards, with many clips."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import video_sets
from conftest import hear_ctrl_c, kill_9
from video_sets import Inline, contents, name, plain_rows, shrink_shards, write_card, write_videos
from worker_tasks import alive, children

from avbench.cli import main
from avbench.datasets import shards, videos
from avbench.datasets.encoding import Clip, digest
from avbench.datasets.prepare import prepare
from avbench.datasets.shards import folder
from avbench.datasets.splits import open_split
from avbench.datasets.workers import Workers
from avbench.errors import CorruptShard

CLIPS = 30
COMMAND = ["data", "prepare", "small", "--videos", "videos"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("avbench.datasets.videos.Workers", Inline)
    shrink_shards(monkeypatch, 5)
    video_sets.enter(tmp_path, monkeypatch)
    write_videos(tmp_path / "videos", CLIPS - 1)  # the last one is a gap
    write_card("small", {"test": plain_rows(CLIPS)})
    return tmp_path


def calm(root: Path) -> dict[str, bytes]:
    """What an undisturbed call makes."""
    prepare("small", "test", root / "videos")
    found = contents(folder("small") / "test")
    (root / "cache").rename(root / "calm")
    return found


def start(target: Callable[..., object], *args: object) -> Any:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)  # at once, without imports
    process.start()
    return process


def test_kill_9_at_random_moments_then_the_same_command_gives_the_same_bytes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, place = calm(root), folder("small") / "test"

    def slow(task: videos.Task, work: Callable[[videos.Task], object] = videos.work) -> object:
        time.sleep(0.01)
        return work(task)

    monkeypatch.setattr(videos, "work", slow)
    start(main, COMMAND).join()
    assert contents(place) == expected
    moments, seen = random.Random(0), set[str]()
    for _ in range(15):
        for path in sorted(place.glob("*.parquet"))[:: moments.randint(1, 4)]:
            path.unlink()
        kill_9(start(main, COMMAND), lambda: len(list(place.glob("*.parquet"))), moments, delay=0.1, least=0)
        seen.add(" ".join(sorted(contents(place))))
    assert len(seen) > 5, "the kills must fall at different moments, or this test is idle"
    process = start(main, COMMAND)
    process.join()
    assert process.exitcode == 0
    assert contents(place) == expected, "and nothing half-written is left"


def test_a_lock_is_there_only_while_all_its_shards_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm(root)
    (root / "calm").rename(root / "cache")
    place = folder("small") / "test"
    (place / "00003.parquet").unlink()
    (place / ".00003.parquet.1234.tmp").write_bytes(b"half")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("avbench.datasets.shards.write", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare("small", "test", root / "videos")
    assert not (place / "lock.csv").exists()
    prepare("small", "test", root / "videos")
    assert set(contents(place)) == {*(f"0000{i}.parquet" for i in range(6)), "gaps.csv", "lock.csv"}


def test_two_processes_at_once_share_the_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = calm(root)

    def logged(task: videos.Task, work: Callable[[videos.Task], object] = videos.work) -> object:
        with (root / "log").open("a") as log:
            print(task.path, file=log)
        return work(task)

    monkeypatch.setattr(videos, "work", logged)
    processes = [start(main, COMMAND) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert contents(folder("small") / "test") == expected
    assert len((root / "log").read_text().splitlines()) == CLIPS - 1, "each clip is decoded once"


# In place of `avbench`, so that shards are small.
AVBENCH = (
    "from avbench.datasets import shards; shards.SHARD = 5; from avbench.cli import main; main(prog_name='avbench')"
)


@pytest.mark.parametrize("moment", [pytest.param("a worker starts", marks=pytest.mark.slow), "a shard is written"])
def test_ctrl_c_stops_at_once_without_a_trace_and_the_same_command_continues(root: Path, moment: str) -> None:
    rows = [["id", "label", "file"], *([f"x{i}", "a", f"{name(i % 20)}.mkv"] for i in range(120))]
    write_card("small", {"test": rows})
    process = subprocess.Popen(
        [sys.executable, "-c", AVBENCH, *COMMAND],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    shard = folder("small") / "test/00000.parquet"
    pids: set[int] = set()
    while not (shard.exists() if moment == "a shard is written" else len(pids) > 1):
        assert process.poll() is None, process.stderr and process.stderr.read()
        pids = children(process.pid)
        time.sleep(0.01)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begun < 20
    assert process.returncode == 130
    assert said.strip() == "stopped; what is finished is kept, and the same command continues"
    deadline = time.monotonic() + 2  # the tracker of multiprocessing ends by itself
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pids
    assert not any(map(alive, pids))
    finished = set((folder("small") / "test").glob("*.parquet"))
    assert len(finished) < 24
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert not prepare("small", "test", root / "videos").gaps
    assert {path: path.stat().st_mtime_ns for path in finished} == before


def test_an_error_ends_the_workers_at_once_though_its_traceback_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("avbench.datasets.shards.write", stop)
    monkeypatch.setattr(videos, "Workers", partial(Workers, count=1))
    before = children(os.getpid())
    with pytest.raises(KeyboardInterrupt) as kept:
        prepare("small", "test", root / "videos")
    assert kept.traceback
    assert len(children(os.getpid()) - before) <= 1, "but for the tracker of multiprocessing"


FULL_DISK = """
import subprocess, sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import video_sets
from avbench.datasets import prepare, shards, videos
from avbench.errors import DiskFull
prepare.SHARD, videos.Workers = 5, video_sets.Inline
try:
    prepare.prepare("small", "test", Path("videos"))
except DiskFull as error:
    print("DiskFull", error)
    print(len(list(Path("cache").rglob("*.parquet"))), len(list(Path("cache").rglob(".*.tmp"))))
    subprocess.run(["mount", "-o", "remount,size=64m", "cache"], check=True)
    print(len(prepare.prepare("small", "test", Path("videos")).gaps))
    print({{p.name: p.read_bytes() for p in shards.folder("small").rglob("[0gl]*.*")}} == {{p.name: p.read_bytes() for p in Path("calm").rglob("[0gl]*.*")}})
"""


def test_a_full_disk_is_a_named_error_and_the_same_command_continues(root: Path) -> None:
    """On a real, tiny file system."""
    calm(root)
    (root / "cache").mkdir()
    (root / "fill.py").write_text(FULL_DISK.format(tests=str(Path(__file__).parent)))
    mount = 'mount -t tmpfs -o size=200k none cache && exec "$1" fill.py'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no private mounts here: {done.stderr.strip()}")
    said, left, gaps, same = (line for line in done.stdout.splitlines() if line)
    assert said.startswith("DiskFull no space left"), done.stderr
    finished, leftovers = map(int, left.split())
    assert 0 < finished < 6
    assert leftovers == 0
    assert (gaps, same) == ("1", "True")


def test_any_changed_byte_of_a_shard_is_harmless_or_noticed_and_then_mended(root: Path) -> None:
    expected = calm(root)
    (root / "calm").rename(root / "cache")
    shard, chance = folder("small") / "test/00002.parquet", random.Random(0)
    split, noticed = open_split("small", "test"), 0
    whole = shard.read_bytes()
    label = whole.index(struct.pack("<qq", *(row.label for row in split.lock.rows[10:12])))
    names = [found.start() for found in re.finditer(b"audio|path", whole)]
    for at, bit in [
        (label, 1),
        *((at, 7) for at in names),
        *((chance.randrange(len(whole)), at % 8) for at in range(60)),
    ]:
        data = bytearray(whole)
        data[at] ^= 1 << bit
        shard.write_bytes(data)
        bad = False
        for index in range(10, 15):
            try:
                sample = split.stored(index)
                assert (sample.id, sample.label, digest(Clip(*sample[2:]))) == split.lock.rows[index]
            except CorruptShard as error:
                assert "repeat `avbench data prepare small`" in str(error)
                bad = True
        noticed += bad
        if bad:
            prepare("small", "test", root / "videos")
            assert contents(folder("small") / "test") == expected, f"byte {at} of {len(whole)}"
            assert split.batch(range(10, 15)).ids == split.ids[10:15]
    assert noticed > 30


@pytest.mark.parametrize("spoil", ["cut", "empty", "text", "missing", "other"])
def test_a_spoilt_shard_is_noticed_and_mended(root: Path, spoil: str) -> None:
    expected = calm(root)
    (root / "calm").rename(root / "cache")
    shard = folder("small") / "test/00002.parquet"
    whole, other = shard.read_bytes(), shard.with_name("00003.parquet").read_bytes()
    shard.write_bytes({"cut": whole[:-20], "empty": b"", "text": b"no shard", "missing": b"", "other": other}[spoil])
    if spoil == "missing":
        shard.unlink()
    with pytest.raises(CorruptShard, match="repeat `avbench data prepare small`"):
        open_split("small", "test").stored(10)
    prepare("small", "test", root / "videos")
    assert contents(folder("small") / "test") == expected


def test_a_damaged_clip_whose_video_is_gone_becomes_a_gap_and_harms_no_other(root: Path) -> None:
    calm(root)
    (root / "calm").rename(root / "cache")
    shard, split = folder("small") / "test/00002.parquet", open_split("small", "test")
    stored = next(row.clip.audio for row in shards.read_rows(shard) if row.id == split.ids[11])
    shard.write_bytes(shard.read_bytes().replace(stored[44:], stored[45:] + b"x"))
    (root / "videos" / f"{split.ids[11]}.mkv").unlink()
    assert split.ids[11] in {gap.id for gap in prepare("small", "test", root / "videos").gaps}
    mended = open_split("small", "test")
    assert set(split.present) - set(mended.present) == {11}
    for index in mended.present:
        assert digest(Clip(*mended.stored(index)[2:])) == split.lock.rows[index].sha256


MEMORY = """
import resource, sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import video_sets
from avbench.datasets import prepare, videos
prepare.SHARD, videos.Workers = 20, video_sets.Inline
for split in ("few", "many"):
    prepare.prepare("large", split, Path("videos"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clips(root: Path) -> None:
    clips = [[f"x{i}", "a", f"{name(i % 20)}.mkv"] for i in range(300)]
    head = ["id", "label", "file"]
    write_card("large", {"few": [head, *clips[:60]], "many": [head, *clips]}, samples=150_000)  # 300 kB a clip
    code = MEMORY.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = (int(line) / 1024 for line in done.stdout.split())
    assert many - few < 30, (few, many)  # MB; the clips have 72 MB more
