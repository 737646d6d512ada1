"""A user's own clips before they are a dataset: opened, with ids and splits that anyone else would give them too."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import av

from avbench import files
from avbench.datasets.media import Limits, open_container, open_regular
from avbench.datasets.sources import Clips, Found, shown
from avbench.datasets.videos import SECONDS
from avbench.datasets.workers import Workers
from avbench.errors import BrokenClip, DataError
from avbench.progress import track

SPLITS = ("train", "val", "test")


class Look(NamedTuple):
    """What one file is."""

    sha256: str
    seconds: float | None  # that its header promises


class Clip(NamedTuple):
    """One clip of a dataset to be."""

    id: str
    split: str
    labels: tuple[str, ...]
    found: Found
    look: Look | BrokenClip


def make_clips(name: str, clips: Clips) -> list[Clip]:
    """Open each file, and give each clip its id and its split; sorted by id.

    Args:
        name: of the dataset, which with the id decides the split where the source has none.
        clips: of the source.

    Raises:
        DataError: if no file can be opened, a name cannot be written down, or a class lacks clips.
    """
    _check_names(clips.found)
    looks = _look_all(clips)
    said = {found.split for found in clips.found}
    if len(said) > 1 and said not in ({"train", "test"}, set(SPLITS)):
        words = ", ".join(split or "none" for split in sorted(said))
        raise DataError(f"the clips are said to be of the splits {words}; say train, test and perhaps val, or nothing")
    made = []
    for id_, found in _ids(clips.found, looks).items():
        split = found.split if len(said) > 1 else _drawn(f"{name}/{id_}")
        made.append(Clip(id_, split, _labels(found), found, looks[found.file]))
    _check_classes(made)
    return sorted(made)


def counts(made: Sequence[Clip], split: str) -> Counter[str]:
    """Count the clips of each class that can be used."""
    usable = [clip for clip in made if clip.split == split and isinstance(clip.look, Look)]
    return Counter(label for clip in usable for label in clip.labels)


def look(path: str) -> Look:
    """Open a file as the decoder would, and hash it; runs in a worker."""
    limits = Limits()
    try:
        with open_regular(Path(path), limits) as file, open_container(file, limits) as container:
            length = container.duration
        return Look(files.sha256_file(Path(path)), None if length is None else length / av.time_base)
    except (av.FFmpegError, ValueError, RuntimeError, OverflowError, EOFError, OSError) as error:
        raise BrokenClip("undecodable", f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _look_all(clips: Clips) -> dict[str, Look | BrokenClip]:
    paths = list(dict.fromkeys(clip.file for clip in clips.found))
    with Workers(look, SECONDS) as workers:
        seen = track(workers.map(str(clips.videos / path) for path in paths), "look", len(paths))
        looks = dict(zip(paths, seen, strict=True))
    broken = [one for one in looks.values() if isinstance(one, BrokenClip)]
    if len(broken) == len(looks):
        reasons = Counter(one.reason for one in broken).most_common(3)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons) or "there are none"
        raise DataError(f"none of the {len(looks)} clips below {clips.videos} can be used: {why}")
    return looks


def _check_names(found: Sequence[Found]) -> None:
    """Refuse words of strangers that a list could not give back as they are, or that a reader could not see."""
    if strange := [one.file for one in found if not _one_line(one.file)]:
        raise DataError(
            f"{len(strange)} files have line breaks, spaces at an end or no Unicode in their paths; rename them: "
            + shown(strange)
        )
    classes = sorted({label for one in found for label in _labels(one)})
    if strange := [one for one in classes if not (_one_line(one) and one.isprintable() and len(one) <= 100)]:
        raise DataError(
            f"{len(strange)} class names are empty, longer than 100 characters, have spaces at an end or invisible "
            f"characters; rename them: {shown(strange)}"
        )


def _one_line(text: str) -> bool:
    return text.splitlines() == [text.strip()] and not re.search("[\ud800-\udfff]", text)


def _labels(found: Found) -> tuple[str, ...]:
    return tuple(part.strip() for part in found.label.split(";")) if ";" in found.label else (found.label,)


def _drawn(key: str) -> str:
    digit = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10
    return "test" if digit < 2 else "val" if digit == 2 else "train"


def _ids(found: Sequence[Found], looks: dict[str, Look | BrokenClip]) -> dict[str, Found]:
    """Make ids of the files' names; where several are equal the files' bytes tell them apart, wherever they lie."""

    def base(one: Found) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", one.id or PurePosixPath(one.file).stem)[:150]

    def order(one: Found) -> tuple[Any, ...]:
        return count[base(one)] > 1, base(one), hashes[one.file], one.label, float(one.start or 0), one.file

    hashes = {file: seen.sha256 if isinstance(seen, Look) else "" for file, seen in looks.items()}
    count, numbers = Counter(map(base, found)), Counter[str]()
    ids: dict[str, Found] = {}
    for one in sorted(found, key=order):
        first = id_ = base(one) if count[base(one)] == 1 else f"{base(one)}-{hashes[one.file][:8]}"
        while id_ in ids:
            numbers[first] += 1
            id_ = f"{first}-{numbers[first] + 1}"
        ids[id_] = one
    return ids


def _check_classes(made: Sequence[Clip]) -> None:
    """Refuse clips that no model could be trained and tested on."""
    classes = sorted({label for clip in made for label in clip.labels})
    if len(classes) < 2:
        raise DataError(f"all clips have the label {shown(classes)}; a dataset has at least two classes")
    for split in ("train", "test"):
        there = counts(made, split)
        if lacking := [label for label in classes if not there[label]]:
            raise DataError(
                f"{len(lacking)} of {len(classes)} classes have no clip in {split} that can be used: {shown(lacking)}; "
                "add clips, leave these classes out, or say the split yourself (folders train and test, or a column "
                "split); is it the right column of labels?"
            )
