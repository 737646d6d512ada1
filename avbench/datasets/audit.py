"""Audit a dataset: what in its lists or in its prepared clips makes a split unfair, or its numbers worth less."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avbench.datasets import Entry, Sample
from avbench.datasets.cards import Card, Lock, Pinned, read_card
from avbench.datasets.lists import read_all, read_entries
from avbench.datasets.perceptual import PICTURE_PRINT, cluster, picture_print, sound_print
from avbench.datasets.shards import LOCK, folder
from avbench.errors import BadOption
from avbench.progress import track

SILENT = 0.001  # root mean square, full scale 1 (-60 dBFS), below which audio is silent
CLIPPED = 0.001  # share of samples at full scale from which a clip is named
LEVELS = 8  # of 255, by which pixels may differ in a constant frame or a frozen video; codecs are not exact

Rows = Mapping[str, Sequence[Entry | Pinned]]  # of each split


@dataclass(frozen=True)
class Counts:
    """Size and balance of a split."""

    clips: int
    ids: int  # different ones
    classes: dict[str, int]  # clips of each class


@dataclass(frozen=True)
class Place:
    """Where an id stands."""

    split: str
    row: int  # from 1, clips only
    label: str


@dataclass(frozen=True)
class Ids:
    """Ids that stand in more than one place, with their places."""

    repeated: dict[str, list[Place]]  # within a split
    shared: dict[str, list[Place]]  # by splits
    relabeled: dict[str, list[Place]]  # under different labels


Group = dict[str, list[str]]  # ids by split


@dataclass
class Clips:
    """What is wrong with single clips of a prepared split."""

    looked_at: int
    silent: list[str] = field(default_factory=list)
    clipped: dict[str, float] = field(default_factory=dict)  # share of samples at full scale
    constant: dict[str, int] = field(default_factory=dict)  # frames of one color
    frozen: list[str] = field(default_factory=list)  # several frames, all equal


@dataclass(frozen=True)
class Content:
    """What the clips of the prepared splits hold, and by kind ("clip", "audio", "frame") which of them are alike.

    Of equal audio only groups are given whose clips are not the same altogether, and so on. Near-duplicate clips are
    so in audio and frame both; they are linked pair by pair, so that two of a group need not be alike.
    """

    splits: dict[str, Clips]
    identical: dict[str, list[Group]]
    similar: dict[str, list[Group]]


@dataclass(frozen=True)
class Audit:
    """Everything that was found."""

    dataset: str
    splits: dict[str, Counts]
    ids: Ids
    content: Content | None  # None: no split is prepared
    not_prepared: list[str]


def audit(dataset: str, lists: Path | None = None, splits: Sequence[str] = ()) -> Audit:
    """Look at the lists of a dataset, and at the clips of those splits that are prepared.

    Args:
        dataset: its name.
        lists: folder with the official lists; None fetches them.
        splits: only these; none means all.

    Raises:
        BadOption: if there is no such split.
        DataError: if a list is missing or malformed, or a prepared clip is not the pinned one.
    """
    card = read_card(dataset)
    if unknown := set(splits) - set(card.splits):
        raise BadOption(f"{dataset} has the splits {', '.join(card.splits)}, not {min(unknown)!r}")
    rows = _rows(card, [split for split in card.splits if split in splits or not splits], lists)
    prepared = [split for split in rows if (folder(dataset) / split / LOCK).is_file()]
    return Audit(
        dataset,
        {split: _counts(card, found) for split, found in rows.items()},
        _ids(card, rows),
        _content(dataset, prepared) if prepared else None,
        [split for split in rows if split not in prepared],
    )


def _rows(card: Card, splits: Iterable[str], lists: Path | None) -> Rows:
    """Read lists as they stand, but of a dataset that drops repeated rows what is left of them."""
    if card.lists is None:
        return {split: Lock.read(Lock.path(card.name, split), card.task).rows for split in splits}
    if card.lists.unique:
        return {split: read_entries(card, split, lists) for split in splits}
    return read_all(card.model_copy(update={"splits": {split: card.splits[split] for split in splits}}), lists)


def _counts(card: Card, rows: Sequence[Entry | Pinned]) -> Counts:
    count = Counter(one for row in rows for one in ((row.label,) if isinstance(row.label, int) else row.label))
    classes = {name: count[index] for index, name in enumerate(card.classes)}
    return Counts(len(rows), len({row.id for row in rows}), classes)


def _ids(card: Card, rows: Rows) -> Ids:
    places = defaultdict(list)
    for split, found in rows.items():
        for number, row in enumerate(found, 1):
            labels = (row.label,) if isinstance(row.label, int) else row.label
            places[row.id].append(Place(split, number, ", ".join(card.classes[one] for one in labels)))

    def those(test: Callable[[list[Place]], bool]) -> dict[str, list[Place]]:
        return {id_: found for id_, found in sorted(places.items()) if len(found) > 1 and test(found)}

    return Ids(
        those(lambda found: max(Counter(place.split for place in found).values()) > 1),
        those(lambda found: len({place.split for place in found}) > 1),
        those(lambda found: len({place.label for place in found}) > 1),
    )


def _content(dataset: str, splits: Sequence[str]) -> Content:
    """Read every clip once, and keep only hashes and fingerprints of it."""
    from avbench.datasets.splits import open_split, read_ahead

    opened = [open_split(dataset, split) for split in splits]
    spec = opened[0].card.spec
    shape = sound_print(np.zeros(spec.samples, np.int16), spec.sample_rate).shape
    sounds = np.zeros((sum(len(split.present) for split in opened), *shape), np.int8)
    pictures = np.zeros((len(sounds), PICTURE_PRINT), np.float32)
    found: dict[str, Clips] = {}
    seen: list[_Seen] = []
    for split in opened:
        found[split.name] = Clips(len(split.present))
        samples = read_ahead(split.stored, split.present)
        for sample in track(samples, f"{dataset} {split.name}", len(split.present)):
            sounds[len(seen)] = sound_print(sample.audio, spec.sample_rate)
            pictures[len(seen)] = picture_print(sample.video[spec.frames // 2])
            seen.append(_Seen(split.name, sample.id, _sha256(sample.audio), _sha256(sample.video)))
            _inspect(found[split.name], sample)
    alike = cluster(sounds, pictures)
    audio, frame = [one.audio for one in seen], [one.frame for one in seen]
    both, clip = [*zip(audio, frame, strict=True)], alike.clip.tolist()
    identical = {"clip": _groups(seen, both), "audio": _groups(seen, audio, both), "frame": _groups(seen, frame, both)}
    similar = {
        "clip": _groups(seen, clip, both),
        "audio": _groups(seen, alike.audio.tolist(), audio, clip),
        "frame": _groups(seen, alike.frame.tolist(), frame, clip),
    }
    return Content(found, identical, similar)


class _Seen(NamedTuple):
    """What is kept of a clip, beside its fingerprints."""

    split: str
    id: str
    audio: bytes  # sha256
    frame: bytes  # sha256 of all frames


def _sha256(values: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()


def _inspect(found: Clips, sample: Sample) -> None:
    """Look for what is wrong with one clip alone."""
    if np.sqrt(np.mean((sample.audio / 32768) ** 2)) < SILENT:
        found.silent.append(sample.id)
    full = float(np.mean((sample.audio == 32767) | (sample.audio == -32768)))
    if full >= CLIPPED:
        found.clipped[sample.id] = full
    if flat := int((np.ptp(sample.video, axis=(2, 3)) <= LEVELS).all(axis=1).sum()):
        found.constant[sample.id] = flat
    if len(sample.video) > 1 and np.ptp(sample.video, axis=0).max() <= LEVELS:
        found.frozen.append(sample.id)


def _groups(seen: Sequence[_Seen], keys: Sequence[Hashable], *finer: Sequence[Hashable]) -> list[Group]:
    """Group clips by key; a group whose members agree in a finer key, too, says nothing new and is left out."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    found = []
    for some in members.values():
        if len(some) > 1 and all(len({key[index] for index in some}) > 1 for key in finer):
            group: Group = defaultdict(list)
            for index in some:
                group[seen[index].split].append(seen[index].id)
            found.append(dict(group))
    return found
