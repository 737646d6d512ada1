"""Prepared splits: what is read is what was decoded, in the order of the lock, by us and by tools that know us not."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import struct
import threading
import time
import wave
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import video_sets
from conftest import TEST_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_sets import Inline, name, plain_rows, shrink_shards, write_card, write_videos

from avbench.datasets import encoding, shards, splits
from avbench.datasets.cards import Lock, Pinned
from avbench.datasets.decode import decode
from avbench.datasets.encoding import Clip, digest
from avbench.datasets.lists import read_entries
from avbench.datasets.prepare import prepare
from avbench.datasets.shards import folder
from avbench.datasets.splits import Split, open_split, read_ahead, to_batch
from avbench.errors import BadOption, CorruptShard, DatasetNotPrepared
from avbench.types import InputSpec

av.logging.set_level(av.logging.PANIC)
CLIPS, GAPS = 37, (5, 11, 12, 30)  # in shards of 15, which have row groups of 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two prepared splits of the same clips, of which some are gaps: of one label each, and of several."""
    patch = pytest.MonkeyPatch()
    root = video_sets.enter(tmp_path_factory.mktemp("splits"), patch)
    patch.setattr("avbench.datasets.videos.Workers", Inline)
    shrink_shards(patch, 15)
    videos = write_videos(root / "videos", CLIPS)
    for number in GAPS:
        (videos / f"{name(number)}.mkv").unlink()
    rows = plain_rows(CLIPS)
    write_card("one", {"test": rows})
    several = [[row[0], ("a;c", "b", "c;a;b")[number % 3], row[2]] for number, row in enumerate(rows[1:])]
    write_card("several", {"test": [rows[0], *several]}, task="multilabel")
    for dataset in ("one", "several"):
        prepare(dataset, "test", videos)
    yield root
    patch.undo()


@pytest.fixture(params=["one", "several"])
def split(request: pytest.FixtureRequest, made: Path) -> Split:
    return open_split(request.param, "test")


def original(split: Split, made: Path, index: int) -> Clip:
    return decode(made / "videos" / f"{split.ids[index]}.mkv", split.card.spec)


def test_what_is_read_is_what_decoding_the_original_gives_bit_by_bit(split: Split, made: Path) -> None:
    assert len(split.present) == CLIPS - len(GAPS)
    for index in split.present:
        sample, clip = split.stored(index), original(split, made, index)
        number = int(sample.id[1:])
        assert (sample.audio.dtype, sample.video.dtype) == (np.int16, np.uint8)
        np.testing.assert_array_equal(sample.audio, clip.audio)
        np.testing.assert_array_equal(sample.video, clip.video)
        assert sample.label == (number % 3 if split.card.name == "one" else ((0, 2), (1,), (0, 1, 2))[number % 3])
    assert len({row.sha256 for row in split.lock.rows}) == len(split.present) + 1, "the clips differ"


def test_a_missing_clip_is_never_served(split: Split) -> None:
    missing = set(range(CLIPS)) - set(split.present)
    assert {split.ids[index] for index in missing} == set(map(name, GAPS))
    for index in missing:
        with pytest.raises(CorruptShard):
            split.stored(index)
        with pytest.raises(CorruptShard):
            split.batch([split.present[0], index])


def test_any_order_gives_the_same_samples(split: Split) -> None:
    order = list(split.present)
    plain = {index: split.stored(index) for index in order}
    random.Random(0).shuffle(order)
    for index in order:
        again = split.stored(index)
        assert (again.id, again.label) == (plain[index].id, plain[index].label)
        np.testing.assert_array_equal(again.video, plain[index].video)


def test_batches_read_ahead_are_those_read_at_once(split: Split) -> None:
    order = split.present[::-1]
    chunks = [order[start : start + 7] for start in range(0, len(order), 7)]
    for chunk, ahead in zip(chunks, split.batches(iter(chunks)), strict=True):
        now = split.batch(chunk)
        assert ahead.ids == now.ids == tuple(split.ids[index] for index in chunk)
        assert torch.equal(ahead.labels, now.labels)
        assert torch.equal(ahead.inputs.audio, now.inputs.audio)
        assert torch.equal(ahead.inputs.video, now.inputs.video)


def test_a_batch_is_what_a_model_sees(split: Split) -> None:
    batch = split.batch(split.present[:9])
    samples = [split.stored(index) for index in split.present[:9]]
    assert batch.inputs.audio.dtype == batch.inputs.video.dtype == torch.float32
    assert batch.inputs.audio.shape == (9, 4000)
    assert batch.inputs.video.shape == (9, 2, 3, 12, 16)
    np.testing.assert_array_equal(batch.inputs.audio * 32768, np.stack([s.audio for s in samples]))
    np.testing.assert_array_equal((batch.inputs.video * 255).round(), np.stack([s.video for s in samples]))
    if split.card.task == "multiclass":
        assert batch.labels.tolist() == [s.label for s in samples]
        assert batch.labels.dtype == torch.int64
    else:
        assert batch.labels.dtype == torch.float32
        assert batch.labels.tolist() == [[float(c in s.label) for c in range(3)] for s in samples]  # type: ignore[operator]


def test_threads_read_the_same_and_never_one_file_at_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that do crash the process, now and then."""
    reading, read = threading.Lock(), pq.ParquetFile.read_row_group
    done: list[int] = []

    def alone(file: pq.ParquetFile, group: int) -> Any:
        assert reading.acquire(blocking=False), "another thread reads"
        time.sleep(0.0005)
        found = read(file, group)
        reading.release()
        return found

    def check(seed: int) -> None:
        for index in random.Random(seed).sample(split.present, len(split.present)):
            sample = split.stored(index)
            assert digest(Clip(sample.audio, sample.video)) == split.lock.rows[index].sha256
        done.append(seed)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", alone)
    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]


def test_reading_ahead_keeps_order_stops_with_its_reader_and_passes_errors_on() -> None:
    read: list[int] = []
    ahead = read_ahead(lambda item: read.append(item) or 1 / (item - 20), range(100))
    assert [next(ahead) for _ in range(5)] == [1 / (item - 20) for item in range(5)]
    assert len(read) <= 5 + splits.AHEAD + 1, "a few items ahead and no more"
    with pytest.raises(ZeroDivisionError):
        list(ahead)
    stopped = read_ahead(read.append, iter(range(1000, 1100)))
    next(stopped)
    stopped.close()
    assert max(read) < 1010
    assert not [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name]


def test_a_split_that_is_not_there_is_a_named_error(made: Path) -> None:
    with pytest.raises(BadOption, match="one has the splits test, not 'val'"):
        open_split("one", "val")
    write_card("later", {"test": plain_rows(3)})
    with pytest.raises(DatasetNotPrepared, match="run `avbench data prepare later --videos DIR`"):
        open_split("later", "test")
    card = (made / "datasets/one/card.yaml").read_text()
    (made / "datasets/one/card.yaml").write_text(card.replace("test: 37", "test: 36"))
    with pytest.raises(DatasetNotPrepared, match="prepared for another list"):
        open_split("one", "test")
    (made / "datasets/one/card.yaml").write_text(card)


# --- Tools that know nothing of avbench ---


def test_pandas_wave_and_pillow_read_the_same_clips(split: Split) -> None:
    tables = [pd.read_parquet(path) for path in sorted((folder(split.card.name) / "test").glob("*.parquet"))]
    table = pd.concat(tables, ignore_index=True)
    assert list(table.columns) == ["id", "label", "audio", "frames", "sha256"]
    assert list(table["id"]) == [split.ids[index] for index in split.present]
    assert list(table["sha256"]) == [split.lock.rows[index].sha256 for index in split.present]
    for index, row in zip(split.present, table.itertuples(), strict=True):
        sample = split.stored(index)
        assert (tuple(row.label) if split.card.task == "multilabel" else row.label) == sample.label
        assert row.audio["path"] is None
        with wave.open(io.BytesIO(row.audio["bytes"])) as sound:
            assert sound.getparams()[:4] == (1, 2, split.card.sample_rate, split.card.samples)
            np.testing.assert_array_equal(np.frombuffer(sound.readframes(10**6), "<i2"), sample.audio)
        frames = [np.asarray(Image.open(io.BytesIO(frame["bytes"]))).transpose(2, 0, 1) for frame in row.frames]
        np.testing.assert_array_equal(np.stack(frames), sample.video)


# What `datasets.Features(...).arrow_schema` of Hugging Face datasets 5.2.0 writes as the key `huggingface` for
# Value("string"), ClassLabel or List(ClassLabel), Audio(sampling_rate=8000), List(Image()), Value("string").
CLASS_LABEL = '{"names": ["a", "b", "c"], "_type": "ClassLabel"}'
WRITTEN = (
    '{"info": {"features": {"id": {"dtype": "string", "_type": "Value"}, "label": LABEL, "audio": {"sampling_rate": 8000, '
    '"_type": "Audio"}, "frames": {"feature": {"_type": "Image"}, "_type": "List"}, "sha256": {"dtype": "string", "_type": "Value"}}}}'
)
ARROW = (
    "id: string|label: LABEL|audio: struct<bytes: binary, path: string>|"
    "frames: list<item: struct<bytes: binary, path: string>>|sha256: string"
)


def test_a_shard_says_what_hugging_face_datasets_would_have_it_say(split: Split) -> None:
    several = split.card.task == "multilabel"
    label = f'{{"feature": {CLASS_LABEL}, "_type": "List"}}' if several else CLASS_LABEL
    for path in (folder(split.card.name) / "test").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert schema.metadata[b"huggingface"].decode() == WRITTEN.replace("LABEL", label)
        columns = [f"{column.name}: {column.type}".replace("element:", "item:") for column in schema]
        assert "|".join(columns) == ARROW.replace("LABEL", "list<item: int64>" if several else "int64")


# --- Storing ---

SHAPES = st.builds(
    InputSpec, st.sampled_from([8000, 11025, 48000]), st.integers(1, 50), st.integers(1, 3), st.just(8.0), st.integers(1, 9), st.integers(1, 9)
)  # fmt: skip


def noise(spec: InputSpec, seed: int) -> Clip:
    chance = np.random.default_rng(seed)
    sound = chance.integers(-32768, 32768, spec.samples).astype(np.int16)
    return Clip(sound, chance.integers(0, 256, (spec.frames, 3, spec.height, spec.width)).astype(np.uint8))


@settings(deadline=None)
@given(SHAPES, st.integers(0, 99), st.data())
def test_a_clip_is_stored_without_loss_and_what_is_damaged_is_an_error(
    spec: InputSpec, seed: int, data: st.DataObject
) -> None:
    clip = noise(spec, seed)
    stored = encoding.encode(clip, spec.sample_rate)
    back = encoding.decode(stored.audio, stored.frames, spec)
    np.testing.assert_array_equal(back.audio, clip.audio)
    np.testing.assert_array_equal(back.video, clip.video)
    assert digest(back) == stored.sha256 == hashlib.sha256(clip.audio.tobytes() + clip.video.tobytes()).hexdigest()
    parts = [bytearray(stored.audio), *map(bytearray, stored.frames)]
    part = data.draw(st.sampled_from(parts))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(part) - 1), st.integers(0, 255)), max_size=3)):
        part[at] = byte
    del part[data.draw(st.integers(0, len(part)) | st.just(len(part))) :]
    try:
        spoilt = encoding.decode(bytes(parts[0]), [bytes(frame) for frame in parts[1:]], spec)
        assert [a.shape for a in spoilt] == [a.shape for a in clip]
    except ValueError:
        pass  # named; any other exception is a bug


def test_a_header_that_lies_is_a_named_error() -> None:
    spec = InputSpec(8000, 400, 1, 8.0, 12, 16)
    whole = encoding.encode(noise(spec, 0), spec.sample_rate)
    size = struct.pack(">II", 60_000, 60_000)
    bomb = whole.frames[0][:16] + size + whole.frames[0][24:29]
    lies = [(whole.audio, bomb + struct.pack(">I", zlib.crc32(bomb[12:])) + whole.frames[0][33:])]
    for at, byte in itertools.product(range(60), (0, 1, 128, 255)):
        lies.append((whole.audio[:at] + bytes([byte]) + whole.audio[at + 1 :], whole.frames[0]))
        lies.append((whole.audio, whole.frames[0][:at] + bytes([byte]) + whole.frames[0][at + 1 :]))
    refused = 0
    for audio, frame in lies:
        try:
            encoding.decode(audio, [frame], spec)
        except ValueError:
            refused += 1
    assert refused > 200


def test_the_real_clips_of_grid_are_read_as_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (source := TEST_DATA / "grid_s1_pack").is_dir():
        pytest.skip(f"no test data at {TEST_DATA} (set AVBENCH_TEST_DATA)")
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("avbench.datasets.videos.Workers", Inline)
    assert not prepare("grid", "val", source).gaps
    split = open_split("grid", "val")
    listed = {entry.id: entry for entry in read_entries(split.card, "val", None)}
    for index in split.present[::10]:
        entry = listed[split.ids[index]]
        clip = decode(source / "grid_s1" / Path(entry.file).name, split.card.spec, None, entry.span)
        np.testing.assert_array_equal(split.stored(index).video, clip.video)
        np.testing.assert_array_equal(split.stored(index).audio, clip.audio)
    batch = to_batch([split.stored(index) for index in split.present], split.card)
    assert batch.inputs.audio.abs().amax(1).min() > 0.01, "somebody speaks in each"
    assert batch.inputs.video.std((1, 2, 3, 4)).min() > 0.05
    assert len({row.sha256 for row in split.lock.rows}) == 97


def test_a_shard_holds_row_groups_of_a_few_clips(split: Split) -> None:
    paths = sorted((folder(split.card.name) / "test").glob("*.parquet"))
    for path in paths:
        groups = pq.read_metadata(path)
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        assert all(size == shards.ROW_GROUP for size in sizes[:-1])
        assert 0 < sizes[-1] <= shards.ROW_GROUP
    there = [sum(bool(row.sha256) for row in split.lock.rows[start : start + 15]) for start in range(0, CLIPS, 15)]
    assert [shards.count_rows(path) for path in paths] == there


def test_pictures_lie_in_memory_as_their_shape_says() -> None:
    """Torch 2.11 crashes in the backward pass of a 1 x 1 convolution on some transposed pictures."""
    split = open_split("synthav", "val")
    assert split.batch([0, 1, 2]).inputs.video.is_contiguous()
    assert split.stored(0).video.flags["C_CONTIGUOUS"]


def test_a_split_of_another_list_with_the_same_name_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "cache" / "data" / "grid" / "val"
    place.mkdir(parents=True)
    rows = [Pinned(f"other-{i}", 0, "0" * 64) for i in range(97)]
    (place / "lock.csv").write_text(Lock(rows).text)
    with pytest.raises(DatasetNotPrepared, match="another list"):
        open_split("grid", "val")


def test_the_beginning_of_a_split_is_a_split_of_the_same_samples_with_an_identity_of_its_own() -> None:
    whole, part = open_split("synthav", "test"), open_split("synthav", "test-7")
    assert part.ids == whole.ids[:7]
    assert len(part) == 7
    assert part.stored(6).id == whole.stored(6).id
    assert torch.equal(part.batch([2, 3]).inputs.video, whole.batch([2, 3]).inputs.video)
    assert len({part.lock.sha256, whole.lock.sha256, open_split("synthav", "test-8").lock.sha256}) == 3


@pytest.mark.parametrize(
    "split", ["test-0", "test-500", "test-501", "test-07", "test--7", "test-", "tests", "no-7", "test-7-3"]
)
def test_what_is_no_beginning_of_a_split_is_refused(split: str) -> None:
    with pytest.raises(BadOption, match="synthav has the splits train, val, test, not"):
        open_split("synthav", split)
