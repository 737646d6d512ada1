"""The same clips become one dataset, however they are given."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import video_sets
from hypothesis import given
from hypothesis import strategies as st
from own_clips import FORMS, MINE, as_csv, bytes_of, outcome, put, root, table

from avbench import files
from avbench.datasets.clips import Look, _ids
from avbench.datasets.lists import read_all
from avbench.datasets.new import new_dataset
from avbench.datasets.prepare import prepare
from avbench.datasets.sources import Found


@pytest.mark.parametrize("said", [True, False], ids=["splits", "none"])
def test_the_same_clips_make_the_same_dataset_however_they_are_given(
    root: Path, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    found = []
    for form in FORMS:
        place = root / form.__name__
        place.mkdir()
        video_sets.enter(place, monkeypatch)
        kind, source = form(put, place / "source", said)
        found.append(outcome("mine", new_dataset("mine", kind, str(source), frames=2, size=12)))
    first = found[0]
    for form, other in zip(FORMS, found, strict=True):
        assert other == first, form.__name__
    rows = [row for entries in first["lists"].values() for row in entries]
    assert len({row[0] for row in rows}) == len(MINE)
    assert {row[2] for row in rows} == {files.sha256_file(path) for path in (root / "as_folder/source").rglob("*.mkv")}
    assert Counter(row[1] for row in rows) == Counter("ab".index(clip.label) for clip in MINE)
    if said:
        assert first["card"]["splits"] == Counter(clip.split for clip in MINE)
        assert {row[0] for row in first["lists"]["val"]} > {f"clip_{n}" for n in range(6, 28) if n // 2 % 4 == 2}
    ids = {row[0] for row in rows}
    assert {f"clip_{n}" for n in range(28) if n not in (4, 5)} < ids
    assert sorted(re.sub("[0-9a-f]{8}", "#", id_) for id_ in ids if not id_.startswith("clip")) == [
        "same-#", "same-#", "twice-#", "twice-#-2"]  # fmt: skip


def test_a_split_is_drawn_from_name_and_id_alone_as_that_of_grid_was(root: Path, put: Callable[..., Path]) -> None:
    kind, source = as_csv(put, root / "clips", said=False)
    card = new_dataset("mine", kind, str(source)).card
    for split, entries in read_all(card, None).items():
        for entry in entries:
            digit = int(hashlib.sha256(f"mine/{entry.id}".encode()).hexdigest(), 16) % 10
            assert split == ("test" if digit < 2 else "val" if digit == 2 else "train")


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b c", "..", "é", "", "a-00000000", "x" * 300]), st.integers(0, 2)), max_size=12
    )
)
def test_ids_are_fit_unique_and_of_the_clips_alone(clips: list[tuple[str, int]]) -> None:
    looks = {f"{n}.mp4": Look(f"{number:064}", None) for n, (_, number) in enumerate(clips)}
    found = [Found(f"{n}.mp4", f"{number}", id=id_) for n, (id_, number) in enumerate(clips)]
    ids = _ids(found, looks)
    assert sorted(ids.values()) == sorted(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,190}", id_) for id_ in ids)
    random.Random(0).shuffle(found)
    assert _ids(found, looks) == ids


def test_spans_several_labels_and_ids_come_from_the_table(root: Path, put: Callable[..., Path]) -> None:
    put(root / "v", "long.mkv", "short.mkv")
    rows = [["file", "what", "start", "end", "id", "split"]]
    for n, split in enumerate(["train", "test", "Validation", "train"]):
        rows += [
            ["long.mkv", "a; b", f"{0.25 * n}", f"{0.25 * n + 0.25}", f"l/{n}", split],
            ["short.mkv", "b", "", "", "", split],
        ]
    source = root / "t.csv"
    source.write_bytes(b"\xef\xbb\xbf" + table(source, rows).read_bytes())  # as a spreadsheet saves it
    given = new_dataset("mine", "csv", str(source), root / "v", "what")
    assert given.card.task == "multilabel"
    entries = {entry.id: entry for entries in read_all(given.card, None).values() for entry in entries}
    assert entries["l_1"].label == (0, 1)
    assert entries["l_1"].span == (0.25, 0.5)
    assert {entry.label for id_, entry in entries.items() if id_.startswith("short")} == {(1,)}
    assert given.card.samples == round((0.25 + 1) / 2 * 11025), "the median of lengths and spans"
    assert given.card.splits == {"train": 4, "val": 2, "test": 2}
    assert not prepare("mine", "train", given.videos).gaps
