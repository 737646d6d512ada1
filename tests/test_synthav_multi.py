"""The multi-label variant of synthav: labels say what is in a clip, and nothing else does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from avbench.datasets import synthav_multi
from avbench.datasets.cards import Lock, read_card
from avbench.datasets.encoding import digest
from avbench.datasets.splits import open_split

CARD = read_card("synthav-multi")
SPLITS = ("train", "val", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_the_clips_and_labels_made_are_the_locked_ones(split: str) -> None:
    rows = {row.id: row for row in Lock.read(Lock.path("synthav-multi", split), "multilabel").rows}
    assert len(rows) == CARD.splits[split]
    for index in (0, 1, 2, 17, CARD.splits[split] - 1):
        labels = synthav_multi.labels_of(split, index)
        row = rows[f"{split}-{index:05d}"]
        assert row.label == labels
        assert row.sha256 == digest(synthav_multi.make(split, index, labels))


def test_classes_come_as_often_as_the_card_says_and_independently() -> None:
    drawn = [synthav_multi.labels_of("train", index) for index in range(3000)]
    share = {label: count / 3000 for label, count in Counter(one for labels in drawn for one in labels).items()}
    for place in range(4):
        wanted = 0.3 - 0.1 * place / 3
        assert abs(share[place] - wanted) < 0.035
        assert abs(share[place + 4] - wanted) < 0.035
    hot = np.zeros((3000, 8))
    for row, labels in zip(hot, drawn, strict=True):
        row[list(labels)] = 1
    between = np.corrcoef(hot.T) - np.eye(8)
    assert np.abs(between).max() < 0.08
    assert 0.05 < np.mean([not labels for labels in drawn]) < 0.18


@pytest.mark.parametrize("index", range(4))
def test_sounds_change_only_the_audio_and_shapes_only_the_video(index: int) -> None:
    nothing = synthav_multi.make("test", index, ())
    for label, name in enumerate(synthav_multi.CLASSES):
        clip = synthav_multi.make("test", index, (label,))
        heard = name in CARD.classes[:4]
        assert np.array_equal(clip.audio, nothing.audio) != heard
        assert np.array_equal(clip.video, nothing.video) == heard


def test_batches_have_a_column_for_each_class() -> None:
    split = open_split("synthav-multi", "test")
    batch = split.batch(range(50))
    assert batch.labels.shape == (50, 8)
    for row, labels in zip(batch.labels, split.lock.rows[:50], strict=True):
        assert tuple(np.flatnonzero(row.numpy())) == labels.label
