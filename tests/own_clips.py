"""A user's clips in all the forms in which they can be given."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import video_sets
from video_sets import Inline, made

from avbench.datasets.cards import names, read_card
from avbench.datasets.lists import read_all
from avbench.datasets.new import Kind, NewDataset, new_dataset
from avbench.datasets.prepare import prepare
from avbench.errors import AvbenchError, DataError

DOCS = Path(__file__).resolve().parent.parent / "docs" / "datasets.md"
av.logging.set_level(av.logging.PANIC)


class Mine:
    """One clip that a user has."""

    def __init__(self, path: str, label: str, split: str, number: int) -> None:
        self.path, self.label, self.split, self.number = path, label, split, number


# 30 clips of two classes; two pairs have one name in both classes, and one clip is there twice.
MINE = [
    Mine(
        f"{'ab'[n % 2]}/{'same' if n in (4, 5) else f'clip {n}'}.mkv",
        "ab"[n % 2],
        ["train", "test", "val", "train"][n // 2 % 4],
        n,
    )
    for n in range(28)
] + [Mine("a/twice.mkv", "a", "train", 1000), Mine("b/twice.mkv", "b", "test", 1000)]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    for module in ("videos", *(() if "workers" in request.fixturenames else ("clips", "hf"))):
        monkeypatch.setattr(f"avbench.datasets.{module}.Workers", Inline)
    return video_sets.enter(tmp_path, monkeypatch)


@pytest.fixture
def workers() -> None:
    """Ask for the real worker processes; but for decoding, which test_prepare has."""


@pytest.fixture(scope="session")
def bytes_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """The files of clips by number, each made once."""
    place, known = tmp_path_factory.mktemp("clips"), dict[int, bytes]()

    def of(number: int) -> bytes:
        if number not in known:
            known[number] = made(number).write(place / f"{number}.mkv").read_bytes()
        return known[number]

    return of


@pytest.fixture
def put(bytes_of: Callable[[int], bytes]) -> Callable[..., Path]:
    """Write clips below a folder; equal numbers are equal files."""

    def write(place: Path, *paths: str, number: int | None = None) -> Path:
        for count, path in enumerate(paths):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(bytes_of(count if number is None else number))
        return place

    return write


def put_all(put: Callable[..., Path], place: Path, clips: Sequence[Mine] = MINE) -> Path:
    for clip in clips:
        put(place, clip.path, number=clip.number)
    return place


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def tree(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*")} if place.exists() else set()


def refused(match: str, *args: Any, error: type[AvbenchError] = DataError, **more: Any) -> str:
    """A call that fails with a named error, and leaves nothing."""
    before = tree(Path("datasets"))
    with pytest.raises(error, match=match) as caught:
        new_dataset(*args, **more)
    assert tree(Path("datasets")) == before
    assert "mine" not in names()
    return str(caught.value)


def as_folder(put: Callable[..., Path], place: Path, said: bool) -> tuple[Kind, Path]:
    for clip in MINE:
        put(place, f"{clip.split}/{clip.path}" if said else clip.path, number=clip.number)
    (place / "readme.txt").touch()
    return "folder", place


def as_csv(put: Callable[..., Path], place: Path, said: bool) -> tuple[Kind, Path]:
    put_all(put, place)
    rows = [[clip.split, clip.path, "x", clip.label] for clip in reversed(MINE)]
    return "csv", table(place / "t.csv", [["split" if said else "other", "file", "more", "label"], *rows])


def as_metadata(put: Callable[..., Path], place: Path, said: bool) -> tuple[Kind, Path]:
    for clip in MINE:
        put(place / "data", f"{'validation' if clip.split == 'val' else clip.split}/{clip.path}" if said else clip.path,
            number=clip.number)  # fmt: skip
    rows = [
        [f"{'validation' if clip.split == 'val' else clip.split}/{clip.path}" if said else clip.path, clip.label]
        for clip in MINE
    ]
    table(place / "data/metadata.csv", [["file_name", "label"], *rows])
    return "hf", place


def as_jsonl(put: Callable[..., Path], place: Path, said: bool) -> tuple[Kind, Path]:
    put_all(put, place)
    rows = [{"file_name": c.path, "label": c.label, "box": [1]} | ({"split": c.split} if said else {}) for c in MINE]
    (place / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "hf", place


def as_parquet(put: Callable[..., Path], place: Path, said: bool) -> tuple[Kind, Path]:
    for split in ("train", "val", "test") if said else [""]:
        clips = [clip for clip in MINE if clip.split == split or not said]
        name = "validation" if split == "val" else split or "all"
        write_parquet(put, place / f"data/{name}-00000-of-00001.parquet", clips)
    return "hf", place


def as_strings(put: Callable[..., Path], place: Path, said: bool) -> tuple[Kind, Path]:
    write_parquet(put, place / "0000.parquet", MINE, names=None, split=said)
    return "hf", place


def write_parquet(
    put: Callable[..., Path], path: Path, clips: Sequence[Mine], names: list[str] | None = ["b", "unused", "a"],  # noqa: B006
    split: bool = False, **columns: Any,
) -> Path:  # fmt: skip
    """As `datasets` writes it: ClassLabels and a Video feature, or strings and plain bytes."""
    scratch = put_all(put, path.parent.parent / "scratch", clips)
    bodies = [(scratch / clip.path).read_bytes() for clip in clips]
    shutil.rmtree(scratch)
    labels = [names.index(clip.label) if names else clip.label for clip in clips]
    videos = [{"bytes": body, "path": clip.path.rpartition("/")[2]} for body, clip in zip(bodies, clips, strict=True)]
    columns = {"label": labels, "video": videos} | ({"split": [c.split for c in clips]} if split else {}) | columns
    made = pa.table({name: values for name, values in columns.items() if values is not None})
    features = {"video": {"_type": "Video"}} | ({"label": {"names": names, "_type": "ClassLabel"}} if names else {})
    if names:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=7)
    return path


def outcome(name: str, given: NewDataset) -> dict[str, Any]:
    """All that decides what is measured."""
    card = read_card(name)
    assert card == given.card
    locks = {split: prepare(name, split, given.videos).lock.text for split in card.splits}
    lists = {
        split: sorted((e.id, e.label, e.sha256) for e in entries) for split, entries in read_all(card, None).items()
    }
    return {
        "card": card.model_dump(exclude={"notes"}),
        "recipe": (Path("datasets") / name / "recipe.yaml").read_text(),
        "locks": locks,
        "lists": lists,
    }


FORMS = [as_folder, as_csv, as_metadata, as_jsonl, as_parquet, as_strings]
