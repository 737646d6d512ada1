"""Names, layouts and tables of strangers: kept as they are, or refused by a named error."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_clips import bytes_of, put, refused, root, table

from avbench.datasets.cards import read_card
from avbench.datasets.lists import read_all
from avbench.datasets.new import Kind, new_dataset
from avbench.datasets.prepare import prepare
from avbench.datasets.splits import open_split
from avbench.defenses.train import read_recipe
from avbench.errors import BadOption

ODD = [
    "yes", "null", "1e3", "-", "--help", "...", "~", "'quoted' \"twice\"", "a, b", "{a: b}", "# not a comment", "*alias",
    "!!python/object/apply:os.system [touch hacked]", "<script>alert(1)</script>", "été", "عربي", "日本", "$(touch hacked)",
    "a: b", "%s %(x)s {0}", "\\n", "x" * 100,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_odd_names_of_classes_and_files_are_kept_as_they_are(root: Path, put: Callable[..., Path], kind: Kind) -> None:
    called = ["-rf", "!!python", "a'b\"c", "a,b", "x..", "\u202egpj", "é", " lead", "= 1+1", "x" * 200, "%00", "{}"]
    classes = [label for label in ODD if kind == "csv" or not ("/" in label or label[0] == ".")]
    rows = [["file", "label", "split"]]
    for n, label in enumerate(classes):
        for split in ("train", "test"):
            rows.append([f"{split}/{n if kind == 'csv' else label}/{called[n % len(called)]}.mkv", label, split])
            put(root / "clips", rows[-1][0], number=n)
    given = new_dataset("mine", kind, str(table(root / "clips/t.csv", rows) if kind == "csv" else "clips"), size=8)
    assert given.card.classes == tuple(sorted(classes))
    assert read_card("mine") == given.card
    for split in given.card.splits:
        assert not prepare("mine", split, given.videos).gaps
        opened = open_split("mine", split)
        assert Counter(row.label for row in opened.lock.rows) == dict.fromkeys(range(len(classes)), 1)
    assert not [*root.rglob("hacked*")]
    assert read_recipe(root / "datasets/mine/recipe.yaml").dataset == "mine"


BAD = [
    "a\nb",
    "tab\t",
    "bell\a",
    "rtl\u202eevil",
    "zero\u200bwidth",
    "end ",
    " start",
    "x" * 101,
    "a;b",
    "line\u2028",
    "nbsp\xa0",
]


@pytest.mark.parametrize("label", BAD)
def test_names_of_classes_that_cannot_be_seen_are_refused(root: Path, put: Callable[..., Path], label: str) -> None:
    put(root / "clips", f"{label}/1.mkv", "b/2.mkv")
    said = refused("rename", "mine", "folder", "clips")
    assert said.isprintable()
    if ";" not in label and label == label.strip():
        rows = [["file", "label"], ["a.mkv", label], ["b.mkv", "b"]]
        put(root, "a.mkv", "b.mkv")
        refused("rename", "mine", "csv", str(table(root / "t.csv", rows)))


@pytest.mark.parametrize("file", ["a\nb", "a\rb", "a\u2028b", "a\x85b", os.fsdecode(b"\xe9\xff")])
def test_names_of_files_that_a_list_cannot_hold_are_refused(root: Path, put: Callable[..., Path], file: str) -> None:
    put(root / "clips", f"a/{file}.mkv", "b/2.mkv")
    assert refused("1 files have .* rename them", "mine", "folder", "clips").isprintable()


@pytest.mark.parametrize(
    "file", ["../secret.mkv", "/{root}/secret.mkv", "clips/../../secret.mkv", "./1.mkv", "link/secret.mkv", "1"]
)
def test_a_table_reaches_no_file_outside_its_folder(root: Path, put: Callable[..., Path], file: str) -> None:
    put(root, "secret.mkv")
    put(root / "clips", "1.mkv", "2.mkv")
    (root / "clips/link").symlink_to(root)
    rows = [["file", "label"], [file.format(root=root), "a"], ["2.mkv", "b"]]
    refused("1 of 2 files are not below", "mine", "csv", str(table(root / "clips/t.csv", rows)))
    table(root / "clips/metadata.csv", [["file_name", "label"], *rows[1:]])
    refused("1 of 2 files are not below", "mine", "hf", "clips")


def test_missing_files_are_counted_and_the_first_named(root: Path, put: Callable[..., Path]) -> None:
    put(root, "0.mkv")
    rows = [["file", "label"], *([f"{n}.mkv", "ab"[n % 2]] for n in range(8))]
    said = refused("7 of 8 files", "mine", "csv", str(table(root / "t.csv", rows)))
    assert "'1.mkv', '2.mkv', '3.mkv', ..." in said


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (["1.mkv", "2.mkv"], r"must hold <class>/<clip>, or .* but holds '1.mkv', '2.mkv'"),
        (["x/train/a/1.mkv", "x/test/b/1.mkv"], "but holds 'x/test/b/1.mkv'"),
        (["a/1.mkv", "a/2.mkv", "b/3.mkv", "b/deep/4.mkv"], "but holds 'b/deep/4.mkv'$"),
        (["a/1.mkv", "b/2.mkv", "3.mkv"], "but holds '3.mkv'$"),
        (["train/a/1.mkv", "test/b/2.mkv", "a/3.mkv"], "but holds 'a/3.mkv'$"),
        (["train/a/1.mkv", "other/a/2.mkv"], "but holds 'other/a/2.mkv'$"),
        (["train/a/1.mkv", "train/b/2.mkv"], "but holds train$"),
        (["train/a/1.mkv", "val/b/2.mkv"], "but holds train, val$"),
        (["a/1.mkv", "b/2.mkv", "c/notes.txt"], r"'c' of clips hold no video files"),
        (["train/a/1.mkv", "test/a/1.mkv", "test/b/.hidden.mkv"], r"'test/b' of clips hold no video files"),
        (["a/.mkv", "a/._1.mkv", ".git/1.mkv", "a/1.mkv.part"], "holds no video files"),
        (["a/1.mkv", "a/2.mkv"], "at least two classes"),
    ],
)
def test_another_layout_is_refused_with_what_was_expected(
    root: Path, put: Callable[..., Path], paths: list[str], match: str
) -> None:
    put(root / "clips", *paths)
    refused(match, "mine", "folder", "clips")


def test_a_class_may_be_called_train(root: Path, put: Callable[..., Path]) -> None:
    put(root / "clips", *(f"{label}/{n}{label}.mkv" for label in ("bus", "train") for n in range(20)), number=0)
    assert new_dataset("mine", "folder", "clips").card.classes == ("bus", "train")


def test_a_class_without_a_clip_to_train_or_test_on_is_named(root: Path, put: Callable[..., Path]) -> None:
    put(root / "clips", "train/a/1.mkv", "train/b/2.mkv", "train/c/3.mkv", "test/a/4.mkv", "test/b/5.mkv")
    refused(r"1 of 3 classes have no clip in test that can be used: 'c'; add clips", "mine", "folder", "clips")
    put(root / "clips", "test/c/6.mkv")
    (root / "clips/train/c/3.mkv").write_text("no video")
    refused(r"1 of 3 classes have no clip in train that can be used: 'c'", "mine", "folder", "clips")


def test_labels_without_number_are_shown_in_few_words_or_make_a_dataset(root: Path, put: Callable[..., Path]) -> None:
    count = 1500
    put(root, "1.mkv")
    rows = [["1.mkv", f"class {n}", split] for n in range(count) for split in ("train", "test")]
    source = str(table(root / "t.csv", [["file", "label", "split"], *rows[:-1]]))
    assert len(refused(rf"1 of {count} classes have no clip in test", "mine", "csv", source)) < 400
    source = str(table(root / "t.csv", [["file", "label", "split"], *rows[::2]]))
    assert (
        len(refused(r"classes have no clip in train .*, \.\.\.; add clips.*right column", "mine", "csv", source)) < 400
    )
    source = str(table(root / "t.csv", [["file", "label", "split"], *rows]))
    card = new_dataset("mine", "csv", source).card
    assert len(card.classes) == count
    assert [len(entries) for entries in read_all(card, None).values()] == [count, count]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([["name", "label"]], "no column 'file' but 'name', 'label'"),
        ([["file", "colour"]], r"no column 'label' .*\(--label\)"),
        ([["file", "label"], ["1.mkv"]], "line 2 has 1 fields"),
        ([["file", "label"], ["1.mkv", " "]], "row 2 of the table cannot be used: its label is empty"),
        ([["file", "label", "split"], ["1.mkv", "a", "extra"]], "row 2 .* 'extra' is no split"),
        ([["file", "label", "split"], ["1.mkv", "a", "train"], ["2.mkv", "b", ""]], "of the splits none, train"),
        ([["file", "label", "split"], ["1.mkv", "a", "train"], ["2.mkv", "b", "dev"]], "of the splits train, val"),
        ([["file", "label", "start", "end"], ["1.mkv", "a", "1", ""]], "row 2 .* no seconds"),
        ([["file", "label", "start", "end"], ["1.mkv", "a", "-1", "nan"]], "row 2 .* no seconds"),
        ([["file", "label"], ["1.mkv", "a;;b"], ["2.mkv", "b"]], "1 class names are empty"),
        ([["file", "label"]], "none of the 0 clips"),
        ([["file", "label"], ["1.mkv", "x" * 200_000]], "line 2: field larger"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_by_its_row(
    root: Path, put: Callable[..., Path], rows: list[list[str]], match: str
) -> None:
    put(root, "1.mkv", "2.mkv")
    refused(match, "mine", "csv", str(table(root / "t.csv", rows)))


def test_what_is_no_table_folder_or_repository_is_refused(root: Path) -> None:
    refused("cannot be read", "mine", "csv", "nowhere.csv")
    (root / "latin.csv").write_bytes(b"file,label\n\xe9\n")
    refused("cannot be read as UTF-8", "mine", "csv", "latin.csv")
    refused("is no folder", "mine", "folder", "nowhere", error=BadOption)
    for source in ("org/name", "org/name@main", "nowhere", f"../x@{'0' * 40}x"):
        refused("neither a folder nor ORG/NAME@REVISION", "mine", "hf", source, error=BadOption)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"seconds": 0.1}, "0.19 to 5.94 seconds"),
        ({"seconds": float("nan")}, "0.19 to 5.94 seconds"),
        ({"seconds": 6.0}, "0.19 to 5.94 seconds"),
        ({"frames": 0}, "at least one frame"),
        ({"size": -1}, "at least one frame"),
        ({"videos": Path()}, "belongs to --from csv"),
        ({"kind": "zip"}, "none of folder, csv, hf"),
    ],
)
def test_values_that_make_no_clip_are_refused(root: Path, more: dict[str, Any], match: str) -> None:
    refused(match, **({"name": "mine", "kind": "folder", "source": "."} | more), error=BadOption)
