"""AV-MNIST: the official split rule, pairs that agree, and nothing read that is not pinned."""

from __future__ import annotations

import csv
import gzip
import os
import re
import wave
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import committed, made_by

from avbench import files
from avbench.datasets import Sample
from avbench.datasets.avmnist import images_in, read_recordings, read_wav
from avbench.datasets.cards import Lock, Pinned, read_card
from avbench.datasets.encoding import digest

SPLITS = ("train", "val", "test")
ID = re.compile(r"(train|val|test)-(\d{5})-((\d)_([a-z]+)_(\d+))")


@pytest.fixture
def data() -> Path:
    path = Path(os.environ.get("AVBENCH_TEST_DATA") or files.root().parent / "shared" / "data")
    if not (path / "fsdd").is_dir():
        pytest.skip(f"no real data in {path}; set AVBENCH_TEST_DATA to a folder with fsdd/recordings and mnist")
    return path


@cache
def made(path: Path, split: str) -> list[Sample]:
    return list(made_by("avmnist", split, path))


@cache
def locked(split: str) -> list[re.Match[str]]:
    found = [ID.fullmatch(row[0]) for row in committed("avmnist", split)]
    assert all(found)
    return [one for one in found if one]


# What the lock files say; no data needed.


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_the_size_its_card_says_and_every_label_is_in_the_id(split: str) -> None:
    rows = committed("avmnist", split)
    assert len(rows) == len({row[0] for row in rows}) == read_card("avmnist").splits[split]
    assert all(row[1] == int(one[4]) and one[1] == split for row, one in zip(rows, locked(split), strict=True))
    assert Lock.path("avmnist", split).stat().st_size < 1_000_000


def test_fsdd_takes_0_to_4_are_test_and_the_others_are_not() -> None:
    assert {int(one[6]) for one in locked("test")} == set(range(5))
    assert {int(one[6]) for split in ("train", "val") for one in locked(split)} == set(range(5, 50))


def test_no_recording_is_in_two_splits_and_each_is_used_about_equally_often() -> None:
    used = {split: Counter(one[3] for one in locked(split)) for split in SPLITS}
    assert {split: len(used[split]) for split in SPLITS} == {"train": 2400, "val": 300, "test": 300}
    assert len(used["train"] | used["val"] | used["test"]) == 3000
    for counts in used.values():
        for digit in "0123456789":
            some = [count for stem, count in counts.items() if stem[0] == digit]
            assert max(some) - min(some) <= 1


def test_no_image_is_used_twice() -> None:
    train, val, test = ([int(one[2]) for one in locked(split)] for split in SPLITS)
    assert len({*train, *val}) == len(train) + len(val)
    assert max(train + val) > 10000
    assert len({*test}) == len(test)
    assert max(test) < 10000


def test_every_digit_and_speaker_is_in_every_split() -> None:
    for split in SPLITS:
        counts = Counter((one[4], one[5]) for one in locked(split))
        assert len(counts) == 60
        for digit in "0123456789":
            some = [count for (spoken, _), count in counts.items() if spoken == digit]
            assert min(some) >= 0.8 * max(some)


def test_val_and_the_first_training_images_stay_when_train_grows() -> None:
    small, large = {"train": 10, "val": 5, "test": 5}, {"train": 20, "val": 5, "test": 5}
    assert images_in("val", 60, small) == images_in("val", 60, large)
    assert images_in("train", 60, small) == images_in("train", 60, large)[:10]


# What the real files give.


@pytest.mark.parametrize("split", SPLITS)
def test_the_samples_made_are_the_locked_ones(split: str, data: Path) -> None:
    rows = [Pinned(sample.id, sample.label, digest(sample)) for sample in made(data, split)]
    assert Lock(rows).rows == committed("avmnist", split)


@pytest.mark.parametrize("split", SPLITS)
def test_image_recording_and_pair_have_one_label_by_the_sources_own_word(split: str, data: Path) -> None:
    raw = gzip.decompress(
        (data / "mnist" / f"{'t10k' if split == 'test' else 'train'}-labels-idx1-ubyte.gz").read_bytes()
    )
    with (data / "fsdd" / "metadata.csv").open(encoding="utf-8") as file:
        takes = {row["file"]: row for row in csv.DictReader(file)}
    for sample in made(data, split):
        one = ID.fullmatch(sample.id)
        assert one
        assert raw[8 + int(one[2])] == int(takes[f"{one[3]}.wav"]["label"]) == sample.label
        assert (takes[f"{one[3]}.wav"]["split"] == "test") == (split == "test")


def test_a_clip_is_the_image_and_the_recording_themselves(data: Path) -> None:
    raw = gzip.decompress((data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    lengths = set()
    for sample in made(data, "test"):
        one = ID.fullmatch(sample.id)
        assert one
        assert sample.audio.shape == (8192,)
        assert sample.audio.dtype == np.int16
        assert sample.video.shape == (1, 3, 28, 28)
        assert sample.video.dtype == np.uint8
        start = 16 + 784 * int(one[2])
        assert sample.video.tobytes() == 3 * raw[start : start + 784]
        with wave.open(str(data / "fsdd" / "recordings" / f"{one[3]}.wav")) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert sample.audio.tobytes().strip(b"\0") in sound.tobytes()
        lengths.add(len(sound) > 8192)
    assert lengths == {True, False}


@pytest.mark.parametrize("split", SPLITS)
def test_every_clip_holds_its_speech_and_its_digit(split: str, data: Path) -> None:
    sounds = read_recordings(data)
    for sample in made(data, split):
        stem = sample.id.rpartition("-")[2]
        whole, kept = (np.sum(x.astype(np.int64) ** 2) for x in (read_wav(stem, sounds[stem]), sample.audio))
        assert kept > 0.99 * whole > 0, sample.id
        assert np.abs(sample.audio.astype(int)).max() > 300, sample.id
        assert sample.video.max() > 100, sample.id


def test_two_makings_are_the_same_bits(data: Path) -> None:
    again = made_by("avmnist", "val", data)
    assert [(s.id, digest(s)) for s in again] == [(s.id, digest(s)) for s in made(data, "val")]
