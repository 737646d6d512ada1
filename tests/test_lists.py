"""Official lists: the right splits out of the right files, a named error out of all others, and no path out of any."""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import video_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from video_sets import made, write_card

from avbench.datasets import Entry, cards, fetch
from avbench.datasets.cards import Card, Lock, Pinned, Source, read_card
from avbench.datasets.lists import read_all, read_entries
from avbench.datasets.videos import Folder, VideoDataset
from avbench.errors import BrokenClip, DataError

LISTED = [name for name in cards.names() if read_card(name).lists]
SPLITS = [(name, split) for name in LISTED for split in read_card(name).splits]


def lists_of(card: Card, split: str, real_data: Path) -> Path | None:
    """Where the lists of a card lie: beside it, or among the test data, where one that nobody has had lacks."""
    assert card.lists
    pinned = {source.file: source for source in card.sources}
    if card.lists.files[split] not in pinned:
        return None
    if not (real_data / "splits" / card.lists.files[split]).is_file():
        assert pinned[card.lists.files[split]].sha256 is None
        pytest.skip("the official file is not among the test data, and no hash of it is pinned")
    return real_data / "splits"


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_official_lists_make_the_splits_that_the_cards_promise(name: str, split: str, real_data: Path) -> None:
    card = read_card(name)
    entries = read_entries(card, split, lists_of(card, split, real_data))
    assert len(entries) == card.splits[split] == len({entry.id for entry in entries})
    labels = Counter(c for e in entries for c in ([e.label] if isinstance(e.label, int) else e.label))
    assert set(labels) == set(range(len(card.classes))), "every class occurs"
    if card.task == "multiclass":
        assert all(entry.file.split("/")[0] == card.classes[int(entry.label)] for entry in entries) or name == "grid"


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_any_changed_byte_of_a_pinned_list_is_refused(name: str, split: str, real_data: Path, tmp_path: Path) -> None:
    card = read_card(name)
    if not (folder := lists_of(card, split, real_data)):
        assert Lock.path(name, split).with_name(card.lists.files[split]).is_file(), "committed, so git pins it"
        return
    for file in {card.lists.files[split], card.lists.labels} - {None}:
        for source in card.sources:
            if (folder / source.file).is_file():
                shutil.copy(folder / source.file, tmp_path / source.file)
                (tmp_path / source.file).chmod(0o644)
        whole = (tmp_path / file).read_bytes()
        swapped = whole.replace(b"1", b"2", 1)
        for bad in (swapped, whole[:-1], whole + b"\n", b"", whole[:100] + b"\xff" + whole[101:]):
            (tmp_path / file).write_bytes(bad)
            with pytest.raises(DataError, match="is not the pinned file") as caught:
                read_entries(card, split, tmp_path)
            assert str(tmp_path / file) in str(caught.value)
        (tmp_path / file).unlink()
        with pytest.raises(DataError, match="was expected at"):
            read_entries(card, split, tmp_path)


def test_without_repeats_each_video_is_in_one_split_and_test_is_the_published_one(real_data: Path) -> None:
    both = [
        {split: read_entries(read_card(name), split, real_data / "splits") for split in ("train", "val", "test")}
        for name in ("ave", "ave-dedup")
    ]
    published, unique = ({split: {e.file: e for e in entries} for split, entries in one.items()} for one in both)
    assert both[0]["test"] == both[1]["test"]
    assert {*published["train"], *published["val"], *published["test"]} == {
        file for one in unique.values() for file in one
    }
    assert not any(set(unique[a]) & set(unique[b]) for a, b in combinations(unique, 2))
    assert published["train"].keys() & published["test"].keys(), "which is why this exists"
    repeats = [(e, entries) for entries in both[0].values() for e in entries if "#" in e.id]
    assert len(repeats) == 28
    assert all(e._replace(id=e.id.removesuffix("#2")) in entries for e, entries in repeats)


# --- Lists that nobody should have written ---

MIDS = [f"/m/0{i}" for i in range(3)]
HEADS = {
    "t21": [],
    "audioset": [["# Segments csv"], ["# num_ytids=2", " num_positive_labels=3"], ["# YTID", "start_seconds"]],
    "table": [["id", "label", "file", "seconds", "start", "end", "sha256"]],
}
ROWS = {
    "t21": [["/a/abcdefghijk.wav", "/a/abcdefghijk.mp4", "82"], ["/c/-b_defghijk.wav", "/c/-b_defghijk.mp4", "49"]],
    "audioset": [
        ["abcdefghijk", " 0.000", " 10.000", ' "/m/00,/m/02"'],
        ["-b_defghijk", " 5.000", " 9.000", ' "/m/01"'],
    ],
    "table": [["x1", "b", "a/x1.mp4", "3", "", "", ""], ["x2", "c", "x2.mp4", "", "0.5", "2", "0" * 64]],
}


def strange_card(kind: str) -> Card:
    listed = {"format": kind, "files": {"test": "list.csv"}, "labels": "labels.csv" if kind == "audioset" else None}
    task = "multilabel" if kind == "audioset" else "multiclass"
    return Card.model_validate(
        video_sets.CARD | {"name": "strange", "task": task, "lists": listed, "splits": {"test": 2}}
    )


def write_lists(folder: Path, data: bytes) -> Path:
    (folder / "labels.csv").write_text(
        "index,mid,display_name\n" + "".join(f"{i},{m},{c}\n" for i, (m, c) in enumerate(zip(MIDS, "abc", strict=True)))
    )
    (folder / "list.csv").write_bytes(data)
    return folder


def as_text(rows: list[list[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ROWS)
def test_a_list_as_it_should_be_is_read(kind: str, tmp_path: Path) -> None:
    folder = write_lists(tmp_path, as_text(HEADS[kind] + ROWS[kind]).encode())
    assert read_entries(strange_card(kind), "test", folder) == {
        "t21": [Entry("abcdefghijk", 0, "a/abcdefghijk", 10.0), Entry("-b_defghijk", 2, "c/-b_defghijk", 47 / 8)],
        "audioset": [Entry("abcdefghijk", (0, 2), "abcdefghijk", span=(0, 10)), Entry("-b_defghijk", (1,), "-b_defghijk", span=(5, 9))],
        "table": [Entry("x1", 1, "a/x1.mp4", 3.0), Entry("x2", 2, "x2.mp4", span=(0.5, 2.0), sha256="0" * 64)],
    }[kind]  # fmt: skip


WORDS = st.one_of(
    st.sampled_from(["", "..", "/etc/passwd", "../../x", "nan", "inf", "-1", "1e9", "1_0", "٣", "a\0b", '"', "a;b", "#", "9" * 400, "\ufeff", "a\r"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A list in which some fields, some rows and some bytes are not what they should be."""
    rows = [list(row) for row in HEADS[kind] + ROWS[kind]]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        what = draw(st.sampled_from(["change", "drop", "add", "join"]))
        at = draw(st.integers(0, max(len(row) - 1, 0)))
        if what == "add" or not row:
            row.insert(at, draw(WORDS))
        elif what == "drop":
            del row[at]
        else:
            row[at] = draw(WORDS) + (row[at] if what == "join" else "")
    data = bytearray(as_text(draw(st.permutations(rows)) if draw(st.booleans()) else rows).encode())
    for at, byte in draw(st.lists(st.tuples(st.integers(0, max(len(data) - 1, 0)), st.integers(0, 255)), max_size=2)):
        data[at : at + 1] = bytes([byte])
    return bytes(data)


@pytest.mark.parametrize("kind", ROWS)
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_list_gives_sound_entries_or_an_error_that_names_file_and_line(
    kind: str, data: st.DataObject
) -> None:
    card = strange_card(kind)
    with tempfile.TemporaryDirectory() as folder:
        place = write_lists(Path(folder), data.draw(damaged(kind)))
        try:
            [entries] = read_all(card, place).values()
        except DataError as error:
            assert str(place / "list.csv") in str(error)
            assert re.search(r"line \d+ |line \d+:|the first line|its header|utf-8", str(error)), error
            return
        rows = {e.id: Pinned(e.id, e.label, "") for e in entries}.values()
        (place / "lock.csv").write_text(Lock(rows).text)
        assert Lock.read(place / "lock.csv", card.task) == Lock(rows), "what is read can be written and read again"
    for entry in entries:
        assert set(range(3)) >= ({entry.label} if isinstance(entry.label, int) else set(entry.label))
        assert isinstance(entry.label, int) == (card.task == "multiclass")
        assert not entry.span or 0 <= entry.span[0] < entry.span[1]
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,190}", entry.id)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([["id", "label"]], "the first line must name"),
        ([["id", "label", "file", "start"]], "the first line must name"),
        ([["id", "id", "label", "file"], ["x", "y", "a", "f"]], "the first line must name"),
        ([["id", "label", "file", "start", "end"], ["x", "a", "f", "", "3"]], "line 2 has '' where seconds are due"),
        ([["id", "label", "file", "start", "end"], ["x", "a", "f", "3", "3"]], "line 2 ends at 3 s, before it starts"),
        ([["id", "label", "file"], ["x", "a;b", "f"]], "line 2 has 2 labels"),
        ([["id", "label", "file"], ["x", "a", "f"], ["y", "d", "f"]], "line 3 has the label 'd'"),
    ],
)
def test_a_table_that_could_be_misread_is_refused(tmp_path: Path, rows: list[list[str]], what: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'list.csv'}: {what}")):
        read_all(strange_card("table"), write_lists(tmp_path, as_text(rows).encode()))


def test_a_list_of_another_size_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = as_text(HEADS["table"] + ROWS["table"][:1]).encode()
    with pytest.raises(DataError, match="has 1 clips, its card says 2"):
        read_entries(strange_card("table"), "test", write_lists(tmp_path, data))
    monkeypatch.setattr("avbench.datasets.lists.LARGEST", len(data) - 1)
    with pytest.raises(DataError, match="is larger than"):
        read_entries(strange_card("table"), "test", tmp_path)


@pytest.mark.parametrize("counts", [(2, 4), (3, 3), (1, 3), (None, 3), (2, None)])
def test_a_header_must_agree_with_what_the_list_holds(tmp_path: Path, counts: tuple[int | None, int | None]) -> None:
    head = [
        f"# {key}={count}" for key, count in zip(("num_ytids", "num_positive_labels"), counts, strict=True) if count
    ]
    write_lists(tmp_path, as_text([head, *ROWS["audioset"]]).encode())
    with pytest.raises(
        DataError, match=r"list\.csv: its header declares .* it holds \{'num_ytids': 2, 'num_positive_labels': 3\}"
    ):
        read_entries(strange_card("audioset"), "test", tmp_path)


def test_a_list_without_a_pinned_hash_is_fetched_and_its_counts_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video_sets.enter(tmp_path, monkeypatch)
    source = Source(file="list.csv", url="https://example.org/list.csv", sha256=None, size=1000)
    labels = Source(file="labels.csv", url="https://example.org/labels.csv", sha256=None, size=1000)
    card = strange_card("audioset").model_copy(update={"sources": (source, labels)})
    fetch.folder("strange").mkdir(parents=True)
    write_lists(fetch.folder("strange"), as_text(HEADS["audioset"] + ROWS["audioset"]).encode())
    assert len(read_entries(card, "test", None)) == 2
    write_lists(fetch.folder("strange"), as_text(HEADS["audioset"] + ROWS["audioset"][:1]).encode())
    with pytest.raises(DataError, match="its header declares"):
        read_entries(card, "test", None)
    (tmp_path / "list.csv").write_bytes(b"#" * 1001)
    with pytest.raises(DataError, match="is not the pinned file: it has 1001 bytes, expected 1000 bytes"):
        read_entries(card, "test", tmp_path)


# --- Names that point elsewhere ---

HOSTILE = [
    "../outside.mkv", "../outside", "a/../../outside.mkv", "/etc/passwd", "//outside.mkv", "./../outside.mkv", "..",
    ".", "", "/", "~/outside.mkv", "%2e%2e/outside.mkv", "..\\outside.mkv", "outside.mkv\0.mkv", "\0", "x\n../outside.mkv",
    "x" * 5000, "x/" * 3000 + "outside.mkv", "inside/outside.mkv", "door/outside.mkv", "link.mkv", "file:outside.mkv",
    "concat:outside.mkv", "*.mkv", "$(touch owned).mkv", "-i outside.mkv",
]  # fmt: skip


def test_a_name_in_a_list_opens_no_file_outside_the_folder_of_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    outside = made(0).write(tmp_path / "outside.mkv")
    made(1).write(videos / "good.mkv")
    (videos / "link.mkv").symlink_to(outside)
    (videos / "door").symlink_to(tmp_path)
    names = [*HOSTILE, str(outside), f"{videos}/../outside.mkv", str(outside.relative_to("/")), "good.mkv"]
    monkeypatch.setattr("avbench.datasets.videos.Workers", video_sets.Inline)
    maker = VideoDataset(strange_card("table"), videos)
    *bad, good = maker.clips([Entry(f"x{i}", 0, name) for i, name in enumerate(names)])
    reasons = {
        name: one.reason if isinstance(one, BrokenClip) else "opened" for name, one in zip(names, bad, strict=False)
    }
    assert not isinstance(good, BrokenClip)
    assert reasons == dict.fromkeys(names[:-1], "missing") | {"link.mkv": "not-regular"}


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "/", "good", "outside", ".mkv", "\0", "door", "a", "\n", "x" * 300]), max_size=8
    )
)
def test_what_is_found_lies_inside_whatever_is_asked_for(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        videos = Path(place, "videos")
        (videos / "a").mkdir(parents=True)
        for path in ("outside.mkv", "videos/good.mkv", "videos/a/good.webm"):
            Path(place, path).touch()
        (videos / "door").symlink_to(place)
        folder = Folder(videos)
        for name in ("/".join(parts), "".join(parts)):
            found = folder.find(Entry("x", 0, name))
            assert isinstance(found, BrokenClip) or found in (videos / "good.mkv", videos / "a/good.webm")


def test_a_list_is_read_in_its_order_and_as_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video_sets.enter(tmp_path, monkeypatch)
    rows = [["id", "label", "file"], *[[f"x{i % 40}", "abc"[i % 3], f'odd, "{i}".mp4'] for i in range(60)]]
    write_card("odd", {"test": rows})
    entries = read_entries(read_card("odd"), "test", None)
    assert [e.file for e in entries] == [row[2] for row in rows[1:]]
    assert [e.id for e in entries] == [f"x{i % 40}" + "#2" * (i >= 40) for i in range(60)]
    with (tmp_path / "datasets/odd/test-list.csv").open() as file:
        assert list(csv.reader(file)) == rows
