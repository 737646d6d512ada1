"""Preparing video files: each clip is the one listed, or a gap with its reason, whoever prepares it and how often."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import video_sets
from media_clips import Made
from video_sets import Inline, contents, made, name, plain_rows, shrink_shards, write_card, write_videos

from avbench import files
from avbench.datasets import Entry, shards
from avbench.datasets.cards import canonical
from avbench.datasets.decode import decode
from avbench.datasets.prepare import Prepared, prepare, read_gaps
from avbench.datasets.shards import folder
from avbench.datasets.splits import open_split
from avbench.datasets.videos import Folder
from avbench.datasets.workers import Workers
from avbench.errors import BrokenClip, DataError, DatasetNotPrepared

av.logging.set_level(av.logging.PANIC)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("avbench.datasets.videos.Workers", Inline)
    shrink_shards(monkeypatch, 5)
    return video_sets.enter(tmp_path, monkeypatch)


def reasons(made: Prepared) -> dict[str, str]:
    return {gap.id: gap.reason for gap in made.gaps}


def snapshot(place: Path) -> dict[str, tuple[int, str]]:
    return {path.name: (path.stat().st_mtime_ns, files.sha256_file(path)) for path in place.glob("*.parquet")}


# --- Which file is whose ---


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        ([f"a/{name(1)}.mp4"], f"a/{name(1)}.mp4", 0),  # as listed
        ([f"a/{name(1)}.mkv"], f"a/{name(1)}.mp4", 0),  # in another format
        ([f"a/{name(1)}.WEBM"], f"a/{name(1)}", 0),
        ([f"a/{name(1)}.mkv", f"b/{name(1)}.mkv"], f"b/{name(1)}", 1),  # a folder for each class
        ([f"{name(1)}.mkv"], f"a/{name(1)}.mp4", 0),  # all in one folder
        ([f"deep/er/{name(1)}.mkv"], name(1), 0),
        ([f"Y{name(1)}.mp4"], name(1), 0),  # as downloaders call them
        ([f"{name(1)}_30.000_40.000.mp4"], name(1), 0),
        ([f"a/Y{name(1)}_30.mp4"], f"a/{name(1)}", 0),
        ([f"{name(1)}_000030_000040.mp4", f"{name(2)}_1_2.mp4"], f"x/{name(2)}.mp4", 1),
        ([f"{name(1)}_30_40.mp4", f"{name(1)}.mp4"], name(1), 1),  # the plain name first
        ([f"a/{name(1)}.mp4", f"a/{name(1)}.mkv"], f"a/{name(1)}.mp4", 0),
        ([f"a/{name(1)}.mp4", f"a/{name(1)}.mkv"], f"a/{name(1)}", "ambiguous"),
        ([f"x/{name(1)}.mkv", f"y/{name(1)}.mkv"], f"a/{name(1)}", "ambiguous"),
        ([f"{name(1)}_0_10.mp4", f"{name(1)}_30_40.mp4"], name(1), "ambiguous"),
        ([f"{name(1)}_30_40.mp4", f"{name(1)}.txt", f"{name(1)}.mp4.part"], name(2), "missing"),
        ([f"{name(1)}.txt", f"{name(1)}.mp4.part", name(1)], name(1), "missing"),
        ([f"{name(1)}_30_40_50.mp4", f"{name(1)}x.mp4", f"x{name(1)}.mp4"], name(1), "missing"),
        (["Yabcdefghij_3.mp4"], "Yabcdefghij", 0),
        (["Yabcdefghij_3.mp4"], "abcdefghij_", "missing"),
        ([], name(1), "missing"),
    ],
)
def test_a_file_is_found_by_path_class_folder_or_name(
    root: Path, there: list[str], asked: str, found: int | str
) -> None:
    for path in there:
        (root / "videos" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "videos" / path).touch()
    (root / "videos").mkdir(exist_ok=True)
    answer = Folder(root / "videos").find(Entry("x", 0, asked))
    expected = root / "videos" / there[found] if isinstance(found, int) else found
    assert (answer.reason if isinstance(answer, BrokenClip) else answer) == expected


# --- Gaps ---


def cut(path: Path, left: float = 0.6) -> None:
    os.truncate(path, int(left * path.stat().st_size))


SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "ambiguous": lambda path: (shutil.copy(path, path.with_suffix(".mp4")), path.rename(path.with_suffix(".webm"))),
    "empty": lambda path: path.write_bytes(b""),
    "undecodable": lambda path: path.write_text("not a video\n" * 100),
    "not-regular": lambda path: (path.rename(path.with_suffix(".away")), path.symlink_to(path.with_suffix(".away"))),
    "truncated": cut,
    "no-audio": lambda path: Made(audio_codec=None).write(path),
    "no-video": lambda path: Made(codec=None).write(path),
    "gap": lambda path: Made(audio_skip=(8000, 11025)).write(path),
    "other-length": lambda path: made(7, 4).write(path),
    "other-file": lambda path: made(8).write(path),
}


def set_of_spoilt(root: Path) -> Path:
    """Twelve good clips, and one for each thing that may be wrong."""
    videos = write_videos(root / "videos", 12)
    rows = [[*row, "", ""] for row in plain_rows(12)]
    rows[0][3:] = ["seconds", "sha256"]
    for number, spoil in enumerate(SPOILT, 12):
        path = made(number).write(videos / f"{name(number)}.mkv")
        rows.append([spoil, "b", path.name, "1.0", files.sha256_file(path) if spoil == "other-file" else ""])
        SPOILT[spoil](path)
    write_card("small", {"test": rows})
    return videos


def test_each_gap_has_its_reason_and_its_place_and_is_never_filled(root: Path) -> None:
    videos = set_of_spoilt(root)
    prepared = prepare("small", "test", videos)
    assert reasons(prepared) == {spoil: spoil for spoil in SPOILT}
    assert prepared.gaps == read_gaps("small", "test")
    assert prepared.coverage == pytest.approx(12 / (12 + len(SPOILT)))
    assert all(gap.detail for gap in prepared.gaps)
    split = open_split("small", "test")
    assert split.lock == prepared.lock
    assert list(split.ids) == sorted([*SPOILT, *map(name, range(12))], key=lambda id_: canonical(Entry(id_, 0)))
    assert {row.id for row in split.lock.rows if not row.sha256} == set(SPOILT)
    assert [split.ids[i] for i in split.present] == [id_ for id_ in split.ids if id_ not in SPOILT]
    stored = [row.id for path in sorted(folder("small").glob("test/*.parquet")) for row in shards.read_rows(path)]
    assert stored == [split.ids[i] for i in split.present], "a gap has no row"


def test_a_worker_that_crashes_or_hangs_is_a_gap_with_its_reason(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avbench.datasets.videos.Workers", Workers)
    monkeypatch.setattr("avbench.datasets.videos.work", video_sets.deadly)
    monkeypatch.setattr("avbench.datasets.videos.SECONDS", 1)
    videos = write_videos(root / "videos", 6)
    for what in ("crash", "hang"):
        made(9).write(videos / f"{what}.mkv")
    write_card("small", {"test": [*plain_rows(6), ["x1", "a", "crash.mkv"], ["x2", "a", "hang.mkv"]]})
    assert reasons(prepare("small", "test", videos)) == {"x1": "crashed", "x2": "timeout"}


def test_nothing_at_all_is_an_error_that_says_what_is_wrong(root: Path) -> None:
    write_card("small", {"test": plain_rows(3)})
    with pytest.raises(DataError, match="give their folder"):
        prepare("small", "test")
    with pytest.raises(DataError, match="is no folder"):
        prepare("small", "test", root / "nowhere")
    (root / "videos").mkdir()
    with pytest.raises(DataError, match=r"none of the 3 clips of small test could be had: 3 missing; the first, v\d+"):
        prepare("small", "test", root / "videos")
    with pytest.raises(DatasetNotPrepared, match="run `avbench data prepare small --videos DIR`"):
        open_split("small", "test")


def test_a_folder_whose_name_is_no_unicode_does_no_harm(root: Path) -> None:
    videos = write_videos(root / "videos", 3)
    odd = os.fsdecode(os.fsencode(videos) + b"/\xe9t\xe9\n")
    os.mkdir(odd)
    cut(Path(shutil.move(videos / f"{name(1)}.mkv", odd)))
    shutil.move(videos / f"{name(2)}.mkv", odd)
    write_card("small", {"test": plain_rows(3)})
    prepared = prepare("small", "test", videos)
    assert reasons(prepared) == {name(1): "truncated"}
    assert read_gaps("small", "test") == prepared.gaps


# --- Again ---


def test_a_second_call_tries_the_gaps_again_and_touches_nothing_else(root: Path) -> None:
    videos = write_videos(root / "videos", 12)
    write_card("small", {"test": plain_rows(12)})
    prepare("small", "test", videos)
    place = folder("small") / "test"
    whole = contents(place)
    before = snapshot(place)
    late = open_split("small", "test").ids[6]  # of the second shard
    shutil.rmtree(place)
    (videos / f"{late}.mkv").rename(root / "late")
    assert reasons(prepare("small", "test", videos)) == {late: "missing"}
    first = snapshot(place)
    assert {path: digest for path, (_, digest) in before.items()}["00001.parquet"] != first["00001.parquet"][1]
    assert reasons(prepare("small", "test", videos)) == {late: "missing"}
    assert snapshot(place) == first, "nothing new, nothing written"
    (root / "late").rename(videos / f"{late}.mkv")
    assert not prepare("small", "test", videos).gaps
    assert contents(place) == whole
    second = snapshot(place)
    assert {path for path in first if first[path] != second[path]} == {"00001.parquet"}
    shutil.rmtree(videos)
    videos.mkdir()
    assert not prepare("small", "test", videos).gaps, "what is stored needs no video"


@pytest.mark.parametrize("change", [{"fps": 8}, {"height": 10}, {"lists": 1}, {"labels": 1}, {"version": 1}], ids=str)
def test_what_was_made_another_way_is_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    videos = write_videos(root / "videos", 12)
    write_card("small", {"test": plain_rows(12)})
    prepare("small", "test", videos)
    rows, changes = plain_rows(12), change
    if "lists" in change:
        rows[1:] = [[*row[:2], name((number + 1) % 12)] for number, row in enumerate(rows[1:])]
    if "labels" in change:
        rows[1:] = [[row[0], "c", row[2]] for row in rows[1:]]
    if "version" in change:
        monkeypatch.setattr("avbench.datasets.prepare.VERSION", 99)
    if not {"fps", "height"} & change.keys():
        changes = {}
    write_card("small", {"test": rows}, **changes)
    if "version" not in change:
        asked: list[Entry] = []
        plain = Folder.find
        monkeypatch.setattr(Folder, "find", lambda self, entry: asked.append(entry) or plain(self, entry))
        prepare("small", "test", videos)
        assert len(asked) == 12
    prepare("small", "test", videos)
    split = open_split("small", "test")
    for index, row in enumerate(split.lock.rows):
        listed = next(one for one in rows if one[0] == row.id)
        clip = decode(videos / f"{listed[2].removesuffix('.mkv')}.mkv", split.card.spec)
        assert split.stored(index).label == split.card.classes.index(listed[1])
        np.testing.assert_array_equal(split.stored(index).video, clip.video)
        np.testing.assert_array_equal(split.stored(index).audio, clip.audio)


def test_a_split_that_became_smaller_leaves_no_shard_behind(root: Path) -> None:
    videos = write_videos(root / "videos", 12)
    write_card("small", {"test": plain_rows(12)})
    prepare("small", "test", videos)
    write_card("small", {"test": plain_rows(4)})
    prepare("small", "test", videos)
    assert set(contents(folder("small") / "test")) == {"00000.parquet", "gaps.csv", "lock.csv"}
    assert len(open_split("small", "test").present) == 4


def test_neither_workers_nor_the_file_system_change_a_byte(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_of_spoilt(root)
    place = folder("small") / "test"
    walk = os.walk

    def shuffled(top: str | Path) -> Iterator[Any]:
        for at, folders, names in walk(top):
            random.shuffle(names)
            yield at, folders, names

    found = []
    monkeypatch.setattr(os, "walk", shuffled)
    for workers in (Inline, partial(Workers, count=2)):
        monkeypatch.setattr("avbench.datasets.videos.Workers", workers)
        random.seed(len(found))
        prepare("small", "test", root / "videos")
        found.append(contents(place))
        shutil.rmtree(place)
    assert found[0] == found[1]


# --- Parts of longer videos, and promised lengths ---


@pytest.mark.parametrize("span", [(3.0, 7.0), (0.0, 4.0), (8.0, 12.0)])
def test_a_span_of_a_long_video_is_the_clip_that_was_cut_before(root: Path, span: tuple[float, float]) -> None:
    (root / "videos").mkdir()
    made(1, 12).write(root / "videos/whole.mkv")
    made(1, 4, start=span[0]).write(root / "videos/part.mkv")
    rows = [["id", "label", "file", "start", "end"], *([w, "a", f"{w}.mkv", *span] for w in ("whole", "part"))]
    write_card("small", {"test": rows}, samples=20_000, frames=6)
    prepared = prepare("small", "test", root / "videos")
    assert not prepared.gaps
    assert len({row.sha256 for row in prepared.lock.rows}) == 1


def test_a_file_that_is_neither_whole_nor_part_or_of_another_length_is_a_gap(root: Path) -> None:
    (root / "videos").mkdir()
    made(1, 6).write(root / "videos/six.mkv")
    timed = {"6.2": None, "6.3": "truncated", "4.5": None, "4.4": "other-length"}
    parts = {
        "0-4": None,
        "2-6": None,
        "2.5-6.2": None,
        "3-6.3": "other-length",
        "20-30": "other-length",
        "20-26.9": None,
    }
    rows = [["id", "label", "file", "seconds", "start", "end"]]
    rows += [[f"s{length}", "a", "six.mkv", length, "", ""] for length in timed]
    rows += [[f"p{part}", "a", "six.mkv", "", *part.split("-")] for part in parts]
    write_card("small", {"test": rows})
    expected = {f"s{key}": why for key, why in timed.items()} | {f"p{key}": why for key, why in parts.items()}
    assert reasons(prepare("small", "test", root / "videos")) == {key: why for key, why in expected.items() if why}
