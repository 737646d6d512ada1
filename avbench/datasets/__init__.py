"""Datasets: one file and one card each. A file says how to make samples; cards, locks, shards are shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avbench.registry import Registry


class Sample(NamedTuple):
    """One clip as it is stored: integers, so that a split is the same bits everywhere."""

    id: str  # unique in its dataset, [a-z0-9_-]
    label: int  # index into the card's classes
    audio: NDArray[np.int16]  # (samples,); the model sees audio / 32768
    video: NDArray[np.uint8]  # (frames, 3, height, width); the model sees video / 255


class Dataset(ABC):
    """Make the samples of one dataset; its card lies in datasets/<name>/card.yaml."""

    embedded = False  # True: made by the package from nothing, so it is built on first use

    @abstractmethod
    def samples(self, split: str, source: Path | None) -> Iterator[Sample]:
        """Yield the samples of a split, in any order, exactly as many as the card says.

        Args:
            split: one of the card's splits.
            source: folder that holds the original files, or None to fetch them from their pinned addresses.

        Raises:
            DataError: if a source file is missing or is not what its pinned hash says.
        """


DATASETS: Registry[type[Dataset]] = Registry("avbench.datasets", "dataset")
