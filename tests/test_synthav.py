"""synthav is the same bits everywhere, and its sound and its sight each tell exactly half of the label."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import committed

from avbench.datasets import DATASETS, synthav
from avbench.datasets.cards import Lock, read_card
from avbench.datasets.encoding import digest
from avbench.datasets.prepare import prepare
from avbench.datasets.splits import open_split

SPLITS = tuple(synthav.SIZES)
CARD = read_card("synthav")
EXACT = {"arange", "array", "zeros", "floor", "sqrt", "abs", "clip", "maximum", "minimum", "rint", "roll", "prod"}
TYPES = {"random", "typing", "float64", "int16", "uint8", "uint64"}
DIGESTS = """
from avbench.datasets import synthav
from avbench.datasets.encoding import digest
print(*(digest(synthav.make("test", index, index % 8)) for index in range(24)))
"""


@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_the_ones_that_the_lock_pins(split: str) -> None:
    rows = {id_: (label, sha256) for id_, label, sha256 in committed("synthav", split)}
    assert len(rows) == synthav.SIZES[split] == CARD.splits[split]
    for index in range(0, synthav.SIZES[split], 13):
        clip = synthav.make(split, index, index % 8)
        assert rows[f"{split}-{index:05d}"] == (index % 8, digest(clip))


def test_another_process_makes_the_same_bits() -> None:
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    root = Path(synthav.__file__).parents[2]
    command = [sys.executable, "-c", DIGESTS]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(synthav.make("test", index, index % 8)) for index in range(24)]


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    np.random.seed(0)
    before = digest(synthav.make("val", 5, 5))
    assert np.random.random() == np.random.RandomState(0).random_sample()
    assert digest(synthav.make("val", 5, 5)) == before


def test_only_operations_that_ieee_754_rounds_exactly_are_used() -> None:
    tree = ast.parse(Path(synthav.__file__).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "np"}
    assert used <= EXACT | TYPES
    math = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "math"]
    assert [alias.name for node in math for alias in node.names] == ["sqrt"]
    assert not {node.attr for node in nodes} & {"sum", "mean", "std", "dot", "normal", "random", "Generator"}
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    assert [ast.unparse(node) for node in powers] == ["2.0 ** (-53)"]


def test_noise_is_the_raw_philox_stream() -> None:
    key = bytes(range(16))
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(5)
    pieces = [sum(int(bits) >> shift & 0xFFFF for shift in (0, 16, 32, 48)) for bits in raw]
    assert np.array_equal(synthav.Draws(key).noise(5), (np.array(pieces) - 131070.0) / (65536 / np.sqrt(3)))
    assert synthav.Draws(key).uniform(0, 1) == (int(raw[0]) >> 11) / 2**53


@pytest.mark.parametrize("label", range(8))
def test_samples_are_integers_of_the_shape_on_the_card(label: int) -> None:
    sample = synthav.make("test", label, label)
    assert sample.audio.dtype == np.int16
    assert sample.audio.shape == CARD.spec.shape("audio")
    assert sample.video.dtype == np.uint8
    assert sample.video.shape == CARD.spec.shape("video")
    assert (CARD.sample_rate, CARD.samples) == (synthav.RATE, synthav.SAMPLES)
    assert (np.abs(sample.audio.astype(int)) == 32767).mean() < 0.001  # hardly clipped
    assert np.isin(sample.video, (0, 255)).mean() < 0.05


def test_card_names_the_classes_by_what_they_are() -> None:
    assert CARD.classes == synthav.CLASSES
    assert all(name == "+".join(synthav.kinds(label)) for label, name in enumerate(CARD.classes))


def test_each_modality_leaves_two_classes_and_both_leave_one() -> None:
    pairs = [synthav.kinds(label) for label in range(8)]
    assert len(set(pairs)) == 8
    assert Counter(sound for sound, _ in pairs) == dict.fromkeys(synthav.SOUNDS, 2)
    assert Counter(shape for _, shape in pairs) == dict.fromkeys(synthav.SHAPES, 2)


@pytest.mark.parametrize("index", range(6))
def test_audio_tells_only_the_sound_and_video_only_the_shape(index: int) -> None:
    made = [synthav.make("val", index, label) for label in range(8)]
    audio = {(synthav.kinds(label).sound, clip.audio.tobytes()) for label, clip in enumerate(made)}
    video = {(synthav.kinds(label).shape, clip.video.tobytes()) for label, clip in enumerate(made)}
    assert len(audio) == len(video) == 4  # one stream for each kind
    assert len({stream for _, stream in audio}) in (1, 4)  # 1: background only
    assert len({stream for _, stream in video}) in (1, 4)


def test_one_in_25_clips_lacks_its_sound_and_independently_its_shape() -> None:
    def lacks(index: int) -> tuple[bool, bool]:
        one, other = synthav.make("test", index, 0), synthav.make("test", index, 3)
        return np.array_equal(one.audio, other.audio), np.array_equal(one.video, other.video)

    missing = np.array([lacks(index) for index in range(500)])
    expected = 500 * (1 - synthav.PRESENT)
    assert np.all(np.abs(missing.sum(axis=0) - expected) < 4 * np.sqrt(expected))
    assert missing.all(axis=1).sum() <= 5


def test_ceilings_on_the_card_are_those_of_the_best_possible_observer() -> None:
    q = synthav.PRESENT
    mass: dict[str, Counter[tuple[object, int]]] = {"audio": Counter(), "video": Counter(), "joint": Counter()}
    for label, heard, seen in itertools.product(range(8), (True, False), (True, False)):
        sound, shape = synthav.kinds(label)
        observed = (sound if heard else None, shape if seen else None)
        probability = (q if heard else 1 - q) * (q if seen else 1 - q) / 8
        for name, what in (("audio", observed[0]), ("video", observed[1]), ("joint", observed)):
            mass[name][what, label] += probability  # type: ignore[assignment]
    for name, table in mass.items():
        best = sum(max(table[what, label] for label in range(8)) for what in {what for what, _ in table})
        assert CARD.ceilings[name] == pytest.approx(100 * best, abs=1e-9)
    assert CARD.ceilings["joint"] == pytest.approx(100 * (q * q + q * (1 - q) + (1 - q) ** 2 / 8), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_sounds_are_what_they_are_called(seed: int) -> None:
    made = {kind: synthav.sound(synthav.Draws(bytes([seed] * 16)), kind) for kind in synthav.SOUNDS}
    power = {kind: np.abs(np.fft.rfft(wave)) ** 2 + 1e-9 for kind, wave in made.items()}
    bins = {kind: (p > 0.01 * p.max()).sum() for kind, p in power.items()}
    assert max(bins, key=lambda kind: bins[kind]) == "burst"
    assert bins["chirp"] > 2 * bins["chime"]  # the chirp sweeps over frequencies, the chime stays on its harmonics
    assert min(bins, key=lambda kind: bins[kind]) in ("tremolo", "chime")
    rms = {kind: np.sqrt((wave[4096:].reshape(-1, 512) ** 2).mean(axis=1)) for kind, wave in made.items()}
    assert rms["tremolo"].min() / rms["tremolo"].max() > rms["chime"].min() / rms["chime"].max()


@pytest.mark.parametrize("seed", range(5))
def test_shapes_are_what_they_are_called(seed: int) -> None:
    masks = {kind: synthav.mask(synthav.Draws(bytes([seed] * 16)), kind)[:, 0] for kind in synthav.SHAPES}
    y, x = np.mgrid[:48, :48]
    disc = masks["disc"]
    for frame in range(4):
        total = disc[frame].sum()
        middle = round((disc[frame] * y).sum() / total), round((disc[frame] * x).sum() / total)
        assert [masks[kind][frame][middle] for kind in synthav.SHAPES] == [1, 0, 1, 1]
    spread = {
        kind: ((mask[0] * (y - middle[0]) ** 2).sum() + (mask[0] * (x - middle[1]) ** 2).sum()) / mask[0].sum() ** 2
        for kind, mask in masks.items()
    }
    assert min(spread, key=lambda kind: spread[kind]) == "disc"  # of all shapes of its area the most compact
    assert max(spread, key=lambda kind: spread[kind]) == "ring"
    assert all(0.6 < mask.sum() / disc.sum() < 1.6 for mask in masks.values())  # size does not give the shape away
    assert all(np.abs(mask[3] - mask[0]).sum() > 1 for mask in masks.values())  # it moves


def test_labels_are_balanced_and_splits_are_disjoint_by_content() -> None:
    seen: set[str] = set()
    for split in SPLITS:
        rows = committed("synthav", split)
        counts = Counter(label for _, label, _ in rows)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == 8
        seen |= {sha256 for _, _, sha256 in rows}
    assert len(seen) == sum(synthav.SIZES.values())


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_no_single_stream_occurs_twice(modality: str) -> None:
    made = [synthav.make(split, index, 0) for split in SPLITS for index in range(40)]
    assert len({getattr(sample, modality).tobytes() for sample in made}) == len(made)


def test_lock_files_are_small() -> None:
    assert all(Lock.path("synthav", split).stat().st_size < 1_000_000 for split in SPLITS)


def test_the_split_is_built_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path))
    assert DATASETS.get("synthav").embedded
    split = open_split("synthav", "val")
    assert prepare("synthav", "val").lock == split.lock
    monkeypatch.setattr("avbench.datasets.splits.prepare", None)
    again = open_split("synthav", "val")
    assert [digest(again.stored(index)) for index in (0, 399)] == [split.lock.rows[index][2] for index in (0, 399)]
