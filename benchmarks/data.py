"""Measure preparing and reading of video datasets: `python benchmarks/data.py [--clips N]` prints Markdown tables.

GRID is read from ../shared/data (or $AVBENCH_TEST_DATA); all other clips are made. torchcodec is compared if it can
be imported. CPU time is that of all processes and threads: on a busy machine it says more than the time that passed.
See benchmarks/data.md for figures.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

try:
    from torchcodec.decoders import AudioDecoder, VideoDecoder
except ImportError:
    VideoDecoder = None

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import av
import video_sets
from media_clips import T21, Made, ramp

from avbench.datasets import prepare, shards, videos
from avbench.datasets.cards import read_card
from avbench.datasets.decode import decode
from avbench.datasets.lists import read_entries
from avbench.datasets.splits import Split, open_split
from avbench.datasets.workers import Workers
from avbench.types import InputSpec

GRID = Path(os.environ.get("AVBENCH_TEST_DATA", ROOT.parent / "shared/data")) / "grid_s1_pack"
FILES, ROWS, BATCH = 12, 120, 32  # distinct clips of the size of [T21], how often they are listed, samples a batch
PROTOCOL = {"sample_rate": T21.sample_rate, "samples": T21.samples, "frames": 1, "fps": 8, "height": 224, "width": 224}
TINY = {"sample_rate": 8000, "samples": 4000, "frames": 1, "fps": 8, "height": 48, "width": 64}


class Took(NamedTuple):
    """Seconds between two moments."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Took:
        used = os.times()
        return cls(time.perf_counter(), used.user + used.system + used.children_user + used.children_system)

    def since(self, start: Took) -> Took:
        return Took(self.wall - start.wall, self.cpu - start.cpu)


@lru_cache(maxsize=4)
def texture(number: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    grain = np.random.default_rng(number).integers(0, 24, (height, width))
    luma = 116 + 80 * np.sin((columns + 17 * number) / 19) * np.cos(rows / 13) + grain
    return luma.clip(16, 235).astype(np.uint8)


def picture(number: int, i: int, height: int, width: int, high: bool) -> list[np.ndarray]:
    """A moving texture with grain, so that encoding and decoding have something to do."""
    chroma = np.full((height // 2, width // 2), 100 + number % 50, np.uint8)
    return [np.roll(texture(number, height, width), (2 * i, 3 * i), (0, 1)), chroma, chroma]


def make_large(folder: Path, number: int) -> None:
    """10 s of 640 x 360 pixels, H.264 and AAC, as a clip from YouTube is."""
    sound = np.random.default_rng(number).normal(0, 3000, 441_000).clip(-32768, 32767).astype(np.int16)
    options = (("preset", "veryfast"), ("crf", "26"))
    Made(
        frames=250, size=(360, 640), codec="libx264", options=options, draw=partial(picture, number), sound=sound,
        audio_codec="aac", rate=44100,
    ).write(folder / f"{video_sets.name(number)}.mp4")  # fmt: skip


def make_tiny(folder: Path, number: int) -> None:
    """1 s of 64 x 48 pixels; every one differs from all others."""
    sound = ramp(8000 + number)[number:]
    Made(
        frames=8, fps=8, size=(48, 64), codec="mpeg4", draw=partial(picture, number), sound=sound, rate=8000,
    ).write(folder / f"{number % 100:02d}" / f"{video_sets.name(number)}.mkv")  # fmt: skip


def make(function: Callable[[Path, int], None], folder: Path, count: int) -> Path:
    for number in range(min(count, 100)):
        (folder / f"{number:02d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(function, folder), range(count), chunksize=8))
    return folder


def table_of(count: int, files: int, extension: str) -> list[list[str]]:
    rows = [[f"x{i}", "abc"[i % 3], f"{video_sets.name(i % files)}.{extension}"] for i in range(count)]
    return [["id", "label", "file"], *rows]


# --- Preparing ---


def measure_preparing(large: Path) -> None:
    rows = []
    for workers in (1, 2):
        videos.Workers = partial(Workers, count=workers)  # type: ignore[misc, assignment]
        for dataset, split, source in (("grid", "train", GRID), ("large", "test", large)):
            if not source.is_dir():
                continue
            os.environ["AVBENCH_CACHE"] = str(Path(f"cache-{workers}").absolute())
            start = Took.now()
            made = prepare.prepare(dataset, split, source)
            took = Took.now().since(start)
            assert not made.gaps
            size = sum(path.stat().st_size for path in (shards.folder(dataset) / split).iterdir())
            count = len(made.lock.rows)
            rows.append(
                [dataset, workers, count, *took, count / took.wall, 1000 * took.cpu / count, size / count / 1000]
            )
    head = ["dataset", "workers", "clips", "s", "CPU s", "clips/s", "CPU ms a clip", "kB a clip, stored"]
    print("\n### Preparing\n\n" + tabulate(rows, head, "github", floatfmt=".1f"), flush=True)


# --- Reading ---


def measure(what: Iterable[int]) -> list[float]:
    """Samples a second and CPU time of one; each item says how many samples it holds."""
    start = Took.now()
    count = sum(what)
    took = Took.now().since(start)
    return [count, count / took.wall, 1000 * took.cpu / count]


def stored(split: Split, order: Sequence[int]) -> Iterator[int]:
    for index in order:
        split.stored(index)
        yield 1


def ahead(split: Split, order: Sequence[int]) -> Iterator[int]:
    for batch in split.batches(order[start : start + BATCH] for start in range(0, len(order), BATCH)):
        yield len(batch.ids)


Source = tuple[Path, "tuple[float, float] | None"]


def originals(sources: Sequence[Source], spec: InputSpec) -> Iterator[int]:
    for path, span in sources:
        decode(path, spec, None, span)
        yield 1


def torchcodec(sources: Sequence[Source], spec: InputSpec) -> Iterator[int]:
    """As a user of torchcodec would write it; it checks nothing, and does not tell a broken file from a whole one."""
    for path, span in sources:
        video = VideoDecoder(path)
        start, end = span or (0.0, video.metadata.duration_seconds)
        middle = (start + end) / 2
        times = [middle + (i - spec.frames // 2) / spec.fps for i in range(spec.frames)]
        frames = video.get_frames_played_at(times).data
        side = [spec.height]
        frames = center_crop(resize(frames, side, InterpolationMode.BICUBIC), [spec.height, spec.width])
        half = spec.samples / spec.sample_rate / 2
        sound = AudioDecoder(path, sample_rate=spec.sample_rate, num_channels=1)
        window = sound.get_samples_played_in_range(max(middle - half, 0.0), middle + half).data
        assert frames.shape[1:] == (3, spec.height, spec.width)
        assert window.shape[1] > 0.9 * spec.samples
        yield 1


def measure_reading(large: Path) -> None:
    rows = []
    os.environ["AVBENCH_CACHE"] = str(Path("cache-2").absolute())
    for dataset, split_name in (("large", "test"), ("grid", "train")):
        if dataset == "grid" and not GRID.is_dir():
            continue
        split, card = open_split(dataset, split_name), read_card(dataset)
        folder = videos.Folder(GRID if dataset == "grid" else large)
        sources = [(folder.find(entry), entry.span) for entry in read_entries(card, split_name, None)][:ROWS]
        order = list(split.present)
        shuffled = random.Random(0).sample(order, len(order))
        ways: list[tuple[str, Callable[[], Iterator[int]]]] = [
            ("`Split.stored`, in order", lambda: stored(split, order)),  # noqa: B023, called at once
            ("`Split.stored`, shuffled", lambda: stored(split, shuffled)),  # noqa: B023
            (f"`Split.batches` of {BATCH}, in order", lambda: ahead(split, order)),  # noqa: B023
            (f"`Split.batches` of {BATCH}, shuffled", lambda: ahead(split, shuffled)),  # noqa: B023
            ("avbench's decoder, each time", lambda: originals(sources, card.spec)),  # type: ignore[arg-type]  # noqa: B023
            ("torchcodec, each time", lambda: torchcodec(sources, card.spec)),  # type: ignore[arg-type]  # noqa: B023
        ]
        for what, way in ways:
            if VideoDecoder or not what.startswith("torchcodec"):
                rows.append([dataset, what, *measure(way())])
    head = ["dataset", "way", "samples", "samples/s", "CPU ms a sample"]
    print("\n### Reading\n\n" + tabulate(rows, head, "github", floatfmt=("", "", ".0f", ".0f", ".2f")), flush=True)


# --- Many clips ---


def peak() -> float:
    """Highest resident memory since the last call, in MB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return int(lines["VmHWM"].split()[0]) / 1024


def measure_many(count: int) -> None:
    start = Took.now()
    folder = make(make_tiny, Path("tiny").absolute(), count)
    took = Took.now().since(start)
    size = sum(path.stat().st_size for path in folder.rglob("*.mkv"))
    print(
        f"\n### {count} clips\n\nMade in {took.wall:.0f} s ({took.cpu:.0f} s CPU), {size / 1e6:.0f} MB.\n", flush=True
    )
    video_sets.write_card("tiny", {"test": table_of(count, count, "mkv")}, **TINY)
    os.environ["AVBENCH_CACHE"] = str(Path("cache-many").absolute())
    videos.Workers = Workers  # type: ignore[misc]
    rows = []
    done, write = [0], shards.write
    quarters = [round(count * part / 4) for part in (1, 2, 3, 4)]

    def written(path: Path, card: object, clips: Sequence[object], meta: object) -> None:
        write(path, card, clips, meta)  # type: ignore[arg-type]
        done[0] += len(clips)
        if quarters_left and done[0] >= quarters_left[0]:
            peaks.append(peak())
            quarters_left.pop(0)

    shards.write = written  # type: ignore[assignment]
    for what in ("prepare", "prepare again", "read in order"):
        peaks: list[float] = []
        quarters_left = list(quarters)
        peak()
        start = Took.now()
        if what == "read in order":
            split = open_split("tiny", "test")
            for number, batch in enumerate(split.batches(split.present[i : i + 50] for i in range(0, count, 50)), 1):
                if quarters_left and number * 50 >= quarters_left[0]:
                    peaks.append(peak())
                    quarters_left.pop(0)
                assert len(batch.ids) <= 50
        else:
            made = prepare.prepare("tiny", "test", folder)
            assert not made.gaps
            assert len({row.sha256 for row in made.lock.rows}) == count
        took = Took.now().since(start)
        peaks += [peak()] * (4 - len(peaks))
        rows.append([what, *took, count / took.wall, *peaks])
    head = ["what", "s", "CPU s", "clips/s", *(f"MB at {part} %" for part in (25, 50, 75, 100))]
    print(tabulate(rows, head, "github", floatfmt=".0f"))
    size = sum(path.stat().st_size for path in (shards.folder("tiny") / "test").iterdir())
    print(f"\nStored: {size / 1e6:.0f} MB in {len(list((shards.folder('tiny') / 'test').glob('*.parquet')))} shards.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--clips", type=int, default=20_000, help="clips of the last part; 0 leaves it out")
    parser.add_argument("--only-many", action="store_true", help="the last part alone")
    given = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        if not given.only_many:
            large = make(make_large, Path("large").absolute(), FILES)
            video_sets.write_card("large", {"test": table_of(ROWS, FILES, "mp4")}, **PROTOCOL)
            measure_preparing(large)
            measure_reading(large)
        if given.clips:
            measure_many(given.clips)
        os.chdir(ROOT)


if __name__ == "__main__":  # the workers import this file
    main()
