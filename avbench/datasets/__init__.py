"""Datasets: one card each, and code only where samples are not video files; locks and shards are shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from avbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from avbench.datasets.cards import Card
    from avbench.datasets.encoding import Encoded
    from avbench.errors import BrokenClip

Label: TypeAlias = int | tuple[int, ...]  # index into the card's classes; several, in order, if multi-label


class Sample(NamedTuple):
    """One clip as it is stored: integers, so that a split is the same bits everywhere."""

    id: str  # unique in its split, [A-Za-z0-9_.#-]
    label: Label
    audio: NDArray[np.int16]  # (samples,); the model sees audio / 32768
    video: NDArray[np.uint8]  # (frames, 3, height, width); the model sees video / 255


class Entry(NamedTuple):
    """One clip of a fixed split: what its list says of it. Nothing here is ever used as a path."""

    id: str
    label: Label
    file: str = ""  # path below the folder of videos; its extension, and folders before the last, may differ
    seconds: float | None = None  # length that the list promises
    span: tuple[float, float] | None = None  # the part of the video that is the clip, in seconds
    sha256: str | None = None  # of the file


class Dataset(ABC):
    """Make the samples of one dataset; its card lies in datasets/<name>/card.yaml."""

    embedded = False  # True: made by the package from nothing, so it is built on first use

    def __init__(self, card: Card, source: Path | None = None, lists: Path | None = None) -> None:
        """Remember where things are.

        Args:
            card: the dataset's card.
            source: folder that holds the original files, or None to fetch them from their pinned addresses.
            lists: folder that holds the official lists, or None to fetch them likewise.
        """
        self.card, self.source, self.lists = card, source, lists

    @abstractmethod
    def entries(self, split: str) -> list[Entry]:
        """List the clips of a fixed split, in any order, exactly as many as the card says.

        Raises:
            DataError: if a list or a source file is missing or is not what its pinned hash says.
        """

    @abstractmethod
    def clips(self, entries: Sequence[Entry]) -> Iterator[Encoded | BrokenClip]:
        """Make one clip for each entry, in their order; one that cannot be had says why."""


DATASETS: Registry[type[Dataset]] = Registry("avbench.datasets", "dataset")
