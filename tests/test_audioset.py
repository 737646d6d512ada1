"""AudioSet end to end: the official eval list and its 527 classes, on videos made here, to mAP, AUC and d'."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import candidate
from media_clips import Made
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from avbench import api, store
from avbench.datasets.cards import Lock, canonical, read_card
from avbench.datasets.lists import read_entries
from avbench.datasets.prepare import Prepared, prepare
from avbench.datasets.splits import open_split
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.suites import find_suite

CLIPS, BROKEN, GONE = 60, 3, 4  # of the first clips in canonical order: made, of these broken, left out
CARD = read_card("audioset")
FIRST, STEP = 1000, 50  # bins of the tone of class 0, and from class to class
COUNT, POSITIVES = 20371, 51804  # of the official list


class Listener(nn.Module):
    """Hear which class's tone is in the clip; it has no weights to learn."""

    modalities = ("audio",)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(400.0))

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        bins = torch.fft.rfft(audio)[:, FIRST + STEP * torch.arange(len(CARD.classes))]
        return self.gain * (2 * bins.abs() / CARD.samples - 0.01) + 0 * video.mean()


def tones(label: tuple[int, ...], seed: int) -> np.ndarray:
    """10 s of a tone for each class, over noise in which some are hard to hear."""
    random = np.random.default_rng(seed)
    time = np.arange(10 * CARD.sample_rate)
    sound = random.normal(0, 500, len(time))
    for index in label:
        cycles = (FIRST + STEP * index) * time / CARD.samples
        sound += random.uniform(0, 60) * np.sin(2 * np.pi * (cycles + random.random()))
    return np.clip(np.round(sound), -32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def lists() -> Path:
    from conftest import TEST_DATA

    if not TEST_DATA.is_dir():
        pytest.skip(f"no test data at {TEST_DATA} (set AVBENCH_TEST_DATA)")
    return TEST_DATA / "splits"


@pytest.fixture(scope="module")
def prepared(lists: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("audioset")
    entries = sorted(read_entries(CARD, "test", lists), key=canonical)
    for seed, entry in enumerate(entries[: CLIPS + GONE]):
        assert isinstance(entry.label, tuple)
        if seed % 16 == 5:
            continue  # gone
        name = entry.id if seed % 2 else f"{entry.id}_{entry.span[0]:g}"  # type: ignore[index]
        made = Made(frames=20, fps=Fraction(2), codec="mpeg4", sound=tones(entry.label, seed)).write(
            folder / f"{name}.mkv"
        )
        if seed % 20 == 2:
            made.write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVBENCH_CACHE", str(folder / "cache"))
        made_split = prepare("audioset", "test", folder, lists)
        yield made_split  # type: ignore[misc]


def test_the_fixed_split_is_the_official_list_whatever_is_missing(prepared: Prepared, lists: Path) -> None:
    with (lists / "eval_segments.csv").open() as file:
        official = {row[0]: row[3].split(",") for row in csv.reader(file, skipinitialspace=True) if row[0][0] != "#"}
    with (lists / "class_labels_indices.csv").open() as file:
        mids = {row["mid"]: int(row["index"]) for row in csv.DictReader(file)}
    assert len(prepared.lock.rows) == COUNT == CARD.splits["test"]
    assert {row.id: row.label for row in prepared.lock.rows} == {
        id_: tuple(sorted(mids[mid] for mid in labels)) for id_, labels in official.items()
    }
    assert sum(len(row.label) for row in prepared.lock.rows) == POSITIVES  # type: ignore[arg-type]
    assert len(prepared.gaps) == COUNT - (CLIPS - BROKEN - 1)
    assert prepared.reasons.startswith(f"{COUNT - CLIPS} missing, {BROKEN + 1} empty")


@pytest.mark.slow
def test_scores_of_a_run_are_those_of_scikit_learn(prepared: Prepared, tmp_path: Path) -> None:
    split = open_split("audioset", "test")
    assert split.lock == Lock(prepared.lock.rows)
    suite = find_suite(None, ("XA:linf:0.003",), ("fgsm", "pgd:steps=2"))
    run = evaluate(
        candidate(Listener()), split, suite, RunOptions(output_dir=tmp_path, batch_size=16, device="cpu"), quiet=True
    )
    record, rows = store.read_record(run), store.read_rows(run)
    there = len(split.present)
    assert record["dataset"] | {"size": COUNT, "evaluated": there, "missing": COUNT - there} == record["dataset"]
    scores = api.score(run).set_index(["metric", "threat", "attack"])["value"]
    for threat, attack in rows[["threat", "attack"]].drop_duplicates().itertuples(index=False):
        part = rows[(rows["threat"] == threat) & (rows["attack"] == attack)]
        truth = np.zeros((there, len(CARD.classes)), int)
        for row, labels in zip(truth, part["labels"], strict=True):
            row[list(labels)] = 1
        logits = np.stack(part["scores"].to_list())
        both = (truth.sum(axis=0) > 0) & (truth.sum(axis=0) < there)
        if attack.startswith("silence"):
            continue
        wanted = [average_precision_score(truth[:, k], logits[:, k]) for k in np.flatnonzero(both)]
        areas = [roc_auc_score(truth[:, k], logits[:, k]) for k in np.flatnonzero(both)]
        assert abs(scores["mean-average-precision", threat, attack] - np.mean(wanted)) < 1e-9
        assert abs(scores["mean-auc", threat, attack] - np.mean(areas)) < 1e-9
    clean = scores["mean-average-precision", "clean", "none"]
    assert 0.8 < clean < 1  # it hears the right tones: labels, classes and clips belong together
    assert scores["mean-average-precision", "XA:linf:0.003", "worst case"] < clean - 0.2
