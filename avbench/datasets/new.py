"""A user's own clips become a dataset: a card, lists and a recipe in ./datasets, whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, get_args

import yaml

from avbench import files
from avbench.datasets.cards import Card, names
from avbench.datasets.clips import SPLITS, Clip, Look, counts, make_clips
from avbench.datasets.sources import Clips, read_csv, read_folder
from avbench.errors import BadOption, DataError

Kind = Literal["folder", "csv", "hf"]
RATE, FPS = 11025, 8  # Hz, frames per second
LONGEST = 65535  # samples; the clip of [T21]
SHORTEST = 2048  # samples; avnet's audio net needs as many
STEPS = 600  # of training, about
FEW = 100  # test clips; fewer say little


class NewDataset(NamedTuple):
    """What was made."""

    card: Card
    videos: Path  # the folder to prepare it from
    remarks: list[str]  # what its author should know


def new_dataset(
    name: str,
    kind: Kind,
    source: str,
    videos: Path | None = None,
    label: str = "label",
    seconds: float | None = None,
    frames: int = 1,
    size: int = 224,
) -> NewDataset:
    """Write ./datasets/<name>: the card, a list for each split, and the recipe of a small baseline.

    Args:
        name: of the dataset; a-z, 0-9 and -.
        kind: what `source` is: a folder of classes, a table, or a Hugging Face dataset.
        source: its path, or ORG/NAME@REVISION on the Hugging Face Hub.
        videos: folder of the files that a table names; by default its own.
        label: column of the labels, of a table or a Hugging Face dataset.
        seconds: of sound in a clip; by default the median length, and at most 5.94.
        frames: pictures in a clip, at 8 a second.
        size: height and width of a picture in pixels.

    Raises:
        BadOption: if the name is taken, or a value cannot be used.
        DataError: if the source is not laid out as it must be, or its clips make no dataset.
    """
    _check(name, kind, videos, seconds, frames, size)
    clips = _read(name, kind, source, videos, label)
    made = make_clips(name, clips)
    samples = _samples(made, seconds)
    column = [] if kind == "folder" else ["--label", label]
    shape = ["--seconds", str(round(samples / RATE, 5)), "--frames", str(frames), "--size", str(size)]
    short = Path(source).name if Path(source).exists() else source
    command = shlex.join(["avbench", "data", "new", name, "--from", kind, short, *column, *shape])
    card = _card(made, command, {"samples": samples, "frames": frames, "fps": FPS, "height": size, "width": size})
    checked = Card.model_validate(card | {"name": name})
    _write(name, card, made)
    return NewDataset(checked, clips.videos, _remarks(made, clips.ignored))


def _check(name: str, kind: str, videos: Path | None, seconds: float | None, frames: int, size: int) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise BadOption(f"{name!r} is no name of a dataset; take up to 64 of a-z, 0-9 and -")
    if name in names() or os.path.lexists(Path("datasets", name)):
        raise BadOption(
            f"there is a dataset {name} already; choose another name, prepare that one by `avbench data prepare {name} "
            f"--videos DIR`, or, if it is your own, remove {Path('datasets', name)} and repeat the command"
        )
    if kind not in get_args(Kind):
        raise BadOption(f"{kind!r} is none of {', '.join(get_args(Kind))}")
    if videos is not None and kind != "csv":
        raise BadOption(f"--videos belongs to --from csv; of --from {kind} the source itself holds the videos")
    if seconds is not None and not SHORTEST <= seconds * RATE < LONGEST + 1:
        raise BadOption(f"a clip has {SHORTEST / RATE:.2f} to {LONGEST / RATE:.2f} seconds, not {seconds}")
    if frames < 1 or size < 1:
        raise BadOption(f"a clip has at least one frame of at least one pixel, not {frames} of {size} x {size}")


def _read(name: str, kind: Kind, source: str, videos: Path | None, label: str) -> Clips:
    if kind == "folder":
        return read_folder(Path(source))
    if kind == "csv":
        return read_csv(Path(source), videos, label)

    from avbench.datasets.hf import read_hf

    return read_hf(name, source, label)


def _samples(made: Sequence[Clip], seconds: float | None) -> int:
    """Choose the length of a clip: as asked, else the median."""
    if seconds is None:
        lengths = [
            float(clip.found.end) - float(clip.found.start) if clip.found.end else clip.look.seconds
            for clip in made
            if isinstance(clip.look, Look)
        ]
        known = [length for length in lengths if length is not None]
        if not known:
            raise DataError("no file says how long it is; choose the length of a clip (--seconds)")
        seconds = median(known)
    return min(max(round(seconds * RATE), SHORTEST), LONGEST)


def _card(made: Sequence[Clip], command: str, shape: dict[str, int]) -> dict[str, Any]:
    sizes = {split: sum(clip.split == split for clip in made) for split in SPLITS}
    sizes = {split: size for split, size in sizes.items() if size}
    drawn = len({clip.found.split for clip in made}) == 1
    how = "sha256 of the dataset's name, `/` and the id, modulo 10 (0-1 test, 2 val, else train)"
    return {
        "title": "Untitled",
        "summary": "Clips of its author's own.",
        "license": "not stated",
        "task": "multilabel" if any(len(clip.labels) > 1 for clip in made) else "multiclass",
        "media": "none",
        "sample_rate": RATE,
        **shape,
        "classes": sorted({label for clip in made for label in clip.labels}),
        "splits": sizes,
        "lists": {"format": "table", "files": {split: f"list-{split}.csv" for split in sizes}},
        "notes": [
            "Fill in title, summary and license, and then remove this note.",
            f"Made of {len(made)} clips by `{command}`.",
            f"Splits: {how if drawn else 'those of the source'}.",
        ],
    }


def _list(made: Sequence[Clip]) -> str:
    """Write the clips of one split as avbench/datasets/lists.py reads them."""
    spans = any(clip.found.start for clip in made)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "label", "file", *(["start", "end"] if spans else []), "sha256"])
    for clip in made:
        span = [clip.found.start, clip.found.end] if spans else []
        sha256 = clip.look.sha256 if isinstance(clip.look, Look) else ""
        writer.writerow([clip.id, ";".join(clip.labels), clip.found.file, *span, sha256])
    return out.getvalue()


def _recipe(name: str, clips: int, samples: int, size: int) -> dict[str, Any]:
    """Choose a baseline that a CPU trains in minutes."""
    batch = min(32, max(2, clips // 4))
    return {
        "dataset": name,
        "architecture": "avnet",
        "arguments": {"fusion": "concat", "width": 8},
        "epochs": min(max(STEPS * batch // clips, 10), 100),
        "batch_size": batch,
        "optimizer": "adamw",
        "learning_rate": {"audio": 0.002, "visual": 0.002, "fusion": 0.002},
        "weight_decay": 0.01,
        "schedule": "cosine",
        "augmentation": {"shift_audio": samples // 20, "shift_video": size // 20, "invert_audio": True},
    }


def _write(name: str, card: dict[str, Any], made: Sequence[Clip]) -> None:
    """Put all files beside each other, then give their folder its name."""
    target = Path("datasets", name)
    target.parent.mkdir(exist_ok=True)
    trained = sum(clip.split == "train" and isinstance(clip.look, Look) for clip in made)
    recipe = _recipe(name, trained, card["samples"], card["height"])
    texts = {
        file: _list([clip for clip in made if clip.split == split]) for split, file in card["lists"]["files"].items()
    }
    texts |= {
        file: yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
        for file, data in {"card.yaml": card, "recipe.yaml": recipe}.items()
    }
    staged = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for file, text in texts.items():
            files.publish_text(staged / name / file, text)
        os.rename(staged / name, target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staged)


def _remarks(made: Sequence[Clip], ignored: int) -> list[str]:
    tests = sum(clip.split == "test" for clip in made)
    fewest = min(counts(made, "train").values())
    remarks = []
    if ignored:
        remarks.append(f"ignored: {ignored} files that are no videos")
    if broken := [clip.look for clip in made if not isinstance(clip.look, Look)]:
        remarks.append(f"{len(broken)} clips cannot be used and will be missing, first {broken[0]}")
    if tests < FEW or fewest < 10:
        remarks.append(
            f"this is little: {tests} clips to test on, so that an accuracy is known to about "
            f"{98 / sqrt(tests):.0f} points, and {fewest} clips of the rarest class to train on"
        )
    return remarks
