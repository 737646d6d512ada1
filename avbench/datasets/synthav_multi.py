"""synthav with several labels a clip: which of four sounds are heard, and which of four shapes are seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from avbench.datasets import DATASETS, Dataset, Entry, synthav
from avbench.datasets.encoding import Clip, Encoded, encode
from avbench.datasets.synthav import SHAPES, SOUNDS, Array, Draws

VERSION = 1  # part of every key; another version is another dataset
CLASSES = (*SOUNDS, *SHAPES)
LIKELY = (0.3, 0.2)  # of a kind to be in a clip, for the first and the last of SOUNDS and of SHAPES; others lie between


def labels_of(split: str, index: int) -> tuple[int, ...]:
    """Draw which kinds are in a clip, each for itself, so that some clips have none and classes differ in size."""
    draws = Draws(_key(split, index, "labels")[:16])
    first, last = LIKELY
    chances = [first + (last - first) * (place % 4) / 3 for place in range(len(CLASSES))]
    return tuple(place for place, chance in enumerate(chances) if draws.uniform(0, 1) < chance)


def _key(split: str, index: int, what: str) -> bytes:
    return hashlib.sha256(f"synthav-multi/{VERSION}/{split}/{index}/{what}".encode()).digest()


def make(split: str, index: int, labels: Sequence[int]) -> Clip:
    """Make one clip: its sounds at once in one room, its shapes one over the other."""
    kinds = [CLASSES[label] for label in labels]
    return Clip(
        _audio(Draws(_key(split, index, "audio")[:16]), [kind for kind in kinds if kind in SOUNDS]),
        _video(Draws(_key(split, index, "video")[:16]), [kind for kind in kinds if kind in SHAPES]),
    )


def _audio(draws: Draws, kinds: Sequence[str]) -> NDArray[np.int16]:
    wave: Array = synthav.background(draws)
    for kind in SOUNDS:  # every kind makes its draws, heard or not
        level, sound = draws.uniform(*synthav.LEVEL), synthav.sound(draws, kind)
        if kind in kinds:
            wave = wave + level * synthav.reverberate(draws, sound)
    return np.rint(np.clip(wave * 32768, -32768, 32767)).astype(np.int16)


def _video(draws: Draws, kinds: Sequence[str]) -> NDArray[np.uint8]:
    base = draws.color(0.35, 0.65)
    scene = synthav.backdrop(draws, base)
    for kind in SHAPES:
        surface, mask = synthav.surface(draws, base), synthav.mask(draws, kind)
        if kind in kinds:
            scene = scene + mask * (surface - scene)
    return synthav.develop(draws, scene)


@DATASETS.register("synthav-multi")
class SynthAVMulti(Dataset):
    """Give multi-label evaluation a small benchmark that needs no download."""

    embedded = True

    def entries(self, split: str) -> list[Entry]:
        """List the samples of a split."""
        count = self.card.splits[split]
        return [Entry(f"{split}-{index:05d}", labels_of(split, index)) for index in range(count)]

    def clips(self, entries: Sequence[Entry]) -> Iterator[Encoded]:
        """Make the clips."""
        for entry in entries:
            split, _, index = entry.id.rpartition("-")
            assert isinstance(entry.label, tuple)
            yield encode(make(split, int(index), entry.label), synthav.RATE)
