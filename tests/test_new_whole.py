"""A dataset is made whole or not at all, and its author is told what is left to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_clips import MINE, as_csv, bytes_of, put, put_all, refused, root, write_parquet

from avbench import files
from avbench.datasets.cards import names, read_card
from avbench.datasets.lists import read_all
from avbench.datasets.new import _recipe, new_dataset
from avbench.datasets.prepare import prepare
from avbench.defenses.train import Recipe
from avbench.errors import BadOption, DiskFull


@pytest.mark.parametrize("name", ["synthav", "grid", "avmnist", "there", "", "A", "../x", "a/b", "a" * 65, "-a", "a\n"])
def test_a_name_that_is_taken_or_none_is_refused(root: Path, put: Callable[..., Path], name: str) -> None:
    put_all(put, root / "clips")
    (root / "datasets/there").mkdir(parents=True)
    refused("already|is no name", name, "folder", "clips", error=BadOption)


def test_the_same_again_is_refused_and_changes_nothing(root: Path, put: Callable[..., Path]) -> None:
    put_all(put, root / "clips")
    new_dataset("mine", "folder", "clips")
    before = {path: path.read_bytes() for path in Path("datasets/mine").iterdir()}
    assert {path.name for path in before} == {
        "card.yaml",
        "recipe.yaml",
        "list-train.csv",
        "list-val.csv",
        "list-test.csv",
    }
    with pytest.raises(BadOption, match=r"already; .* data prepare mine --videos DIR.* remove datasets/mine"):
        new_dataset("mine", "folder", "clips", frames=3)
    assert {path: path.read_bytes() for path in Path("datasets/mine").iterdir()} == before


@pytest.mark.parametrize("after", range(7))
def test_killed_at_any_moment_there_is_a_whole_dataset_or_none(
    root: Path, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    put_all(put, root / "clips")
    child = os.fork()
    if not child:  # killed before its first, second, ... step of writing
        steps = iter(range(10))

        def stepping(plain: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **more: Any) -> Any:
                if next(steps) == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(*args, **more)

            return step

        try:
            monkeypatch.setattr(files, "publish_text", stepping(files.publish_text))
            monkeypatch.setattr("avbench.datasets.new.os.rename", stepping(os.rename))
            monkeypatch.setattr("avbench.datasets.new.shutil.rmtree", stepping(shutil.rmtree))
            new_dataset("mine", "folder", "clips")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "else it never came that far"
    assert ("mine" in names()) == (after == 6)
    assert all(read_card(name) for name in names())
    if after < 6:
        new_dataset("mine", "folder", "clips")
    assert {split: len(entries) for split, entries in read_all(read_card("mine"), None).items()} == read_card(
        "mine"
    ).splits


def test_a_full_disk_has_a_name_and_leaves_nothing(
    root: Path, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(put, root / "clips")
    write_parquet(put, root / "hub/all.parquet", MINE)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("avbench.files.os.fsync", full)
    refused("no space left", "mine", "folder", "clips", error=DiskFull)
    refused("no space left", "mine", "hf", "hub", error=DiskFull)
    assert not [*files.cache().rglob("*.mkv")]


def test_broken_clips_stay_in_the_list_as_gaps_and_are_told(root: Path, put: Callable[..., Path]) -> None:
    put_all(put, root / "clips")
    (root / "clips/a/clip 0.mkv").write_text("no video")
    (root / "clips/b/notes.txt").touch()
    given = new_dataset("mine", "folder", "clips")
    assert given.remarks[0] == "ignored: 1 files that are no videos"
    assert given.remarks[1].startswith(
        "1 clips cannot be used and will be missing, first clips/a/clip 0.mkv: Invalid data"
    )
    assert re.fullmatch(
        r"this is little: \d+ clips to test on, .* to about \d\d points, and \d+ clips of .*", given.remarks[2]
    )
    gaps = [gap.id for split in given.card.splits for gap in prepare("mine", split, given.videos).gaps]
    assert gaps == ["clip_0"]
    put(root / "clips", "a/clip 0.mkv", number=0)
    assert not any(prepare("mine", split, given.videos).gaps for split in given.card.splits), "mended, it is had"


def test_a_source_without_any_usable_clip_is_an_error_with_the_reasons(root: Path) -> None:
    for label in "ab":
        (root / "clips" / label).mkdir(parents=True)
        (root / f"clips/{label}/{label}.mkv").write_text("no video")
        (root / f"clips/{label}/link.mkv").symlink_to("a.mkv")
    refused("none of the 4 clips .* 2 undecodable, 2 not-regular", "mine", "folder", "clips")


@pytest.mark.parametrize("clips", [2, 3, 4, 7, 8, 33, 127, 128, 700, 20_000])
def test_the_recipe_is_valid_and_no_larger_than_what_it_trains_on(clips: int) -> None:
    recipe = Recipe.model_validate(_recipe("mine", clips, samples=2048, size=4))
    assert 2 <= recipe.batch_size <= max(2, clips // 2)
    assert 10 <= recipe.epochs <= 100


def test_the_card_asks_its_author_and_says_how_it_was_made(root: Path, put: Callable[..., Path]) -> None:
    kind, source = as_csv(put, root / "my clips", said=True)
    card = new_dataset("mine", kind, str(source), seconds=0.5, frames=3, size=16).card
    assert (card.license, card.media, card.sample_rate, card.samples) == ("not stated", "none", 11025, 5512)
    assert (card.frames, card.fps, card.height, card.width, card.task) == (3, 8, 16, 16, "multiclass")
    notes = "\n".join(card.notes)
    assert "title, summary and license" in notes
    assert (
        "30 clips by `avbench data new mine --from csv t.csv --label label --seconds 0.49995 --frames 3 --size 16`"
        in notes
    )
    assert round(0.49995 * card.sample_rate) == card.samples
    assert str(root) not in (root / "datasets/mine/card.yaml").read_text()
