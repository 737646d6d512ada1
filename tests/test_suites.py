"""Suites: what each one is, that the ranking one resumes at any moment, and what a run refuses before it begins."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import (
    Linear,
    MemorySplit,
    Wavy,
    assert_same_rows,
    candidate,
    count_parts,
    kill_9,
    make_split,
    start_clean,
)
from torch import Tensor

from avbench import store, summarize
from avbench.attacks import parse_attack
from avbench.datasets.cards import Lock, Pinned
from avbench.errors import AvbenchError, BadBudget, BadOption, DataError
from avbench.metrics import WORST_CASE, Rows
from avbench.options import RunOptions
from avbench.runner import Run, evaluate
from avbench.suites import SUITES, Suite, find_suite
from avbench.threats import find_threats, parse_threat

SPLIT = make_split(24, 3)
ICLR = "fgsm pgd mim nim tia mma tma"
CONTENTS = {  # spec sections 2 and 3: preset, attacks, mode
    "standard": ("standard", "apgd-ce apgd-dlr tma square", "worst-case"),
    "cvpr21-attack": ("cvpr21-attack", "fgsm pgd mim", "every"),
    "cvpr21-attack-normalized": ("cvpr21-attack-normalized", "fgsm pgd mim", "every"),
    "cvpr21-caption": ("cvpr21-caption", "fgsm pgd mim", "every"),
    "cvpr21-defense": ("standard", "fgsm mim", "every"),
    "strength-curve": ("strength-curve", "fgsm mim", "every"),
    "iclr25": ("standard", ICLR, "every"),
    "iclr25-transfer": (
        "standard-transfer",
        " ".join(f"transfer:attack={name},surrogates=baseline" for name in ICLR.split()),
        "every",
    ),
    "icassp22": ("standard", "universal pgd", "every"),
    "quick": ("standard", "fgsm pgd", "worst-case"),
}


@pytest.mark.parametrize("name", SUITES.names())
def test_each_suite_is_what_the_specification_says(name: str) -> None:
    suite = SUITES.get(name)
    preset, attacks, mode = CONTENTS[name]
    assert suite.threats == tuple(find_threats(preset))
    assert [str(attack) for attack in suite.attacks] == attacks.split()
    assert all(attack == parse_attack(str(attack)) for attack in suite.attacks)
    assert (suite.mode, suite.published, suite.limit) == (mode, name != "quick", 64 if name == "quick" else None)
    assert str(suite) == f"{name}@1"
    assert find_suite(f"{name}@1") is suite


def test_the_radii_are_those_of_the_papers_with_their_errata() -> None:
    radii = {
        name: [[budget.radius for budget in threat.budgets.values()] for threat in find_threats(name)]
        for name in ("standard", "standard-transfer", "cvpr21-attack", "cvpr21-caption")
    }
    assert radii["standard"] == radii["standard-transfer"] == [[0.006], [0.006], [0.006, 0.006]]
    assert radii["cvpr21-attack"] == [[0.012], [0.012], [0.006, 0.006]]
    assert radii["cvpr21-caption"] == [[0.12], [0.12], [0.06, 0.06]]
    curve = list(find_threats("strength-curve"))
    assert [threat.audio.radius for threat in curve if threat.label == "XA"] == [i / 1000 for i in range(13)]  # type: ignore[union-attr]
    assert all(threat.access == "transfer" for threat in find_threats("standard-transfer"))


def options(folder: Path, **changes: Any) -> RunOptions:
    return RunOptions(output_dir=folder, **{"batch_size": 8, **changes})


def test_along_the_strength_curve_robust_accuracy_starts_at_clean_and_never_rises(tmp_path: Path) -> None:
    """On a model whose per-attack accuracy does rise, so that the lattice and not luck makes it monotone."""

    class Rough(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return torch.sin(60 * torch.cat([audio, video.flatten(1)], dim=1) @ self.first) @ self.second

    suite = find_suite("strength-curve")
    run = evaluate(candidate(Rough()), SPLIT, suite, options(tmp_path), quiet=True)
    rows = store.read_rows(run)
    keys = ["sample", "prediction", "correct", "margin", "loss", "audio_linf", "video_linf"]
    clean = rows[(rows["threat"] == "clean") & (rows["attack"] == "none")][keys].reset_index(drop=True)
    for threat in [str(threat) for threat in suite.threats][:3]:
        assert "0.0" in threat
        for attack in ("fgsm", "mim"):
            cell = rows[(rows["threat"] == threat) & (rows["attack"] == attack)][keys].reset_index(drop=True)
            pd.testing.assert_frame_equal(cell, clean)
    cells = tuple((str(threat), str(attack)) for threat in suite.threats for attack in suite.attacks)
    scores = summarize.score(Rows(rows, cells=cells))
    robust = scores[(scores["metric"] == "robust-accuracy") & (scores["attack"] == WORST_CASE)]
    curve = {
        label: [robust.loc[robust["threat"] == str(t), "value"].item() for t in suite.threats if t.label == label]
        for label in ("XA", "XV", "XAV")
    }
    for values in curve.values():
        assert values[0] == 100 * clean["correct"].mean()
        assert values == sorted(values, reverse=True)
        assert values[-1] < values[0]
    assert all(both <= min(one, other) for one, other, both in zip(*curve.values(), strict=True))
    alone = scores[(scores["metric"] == "attack-accuracy") & (scores["attack"] == "fgsm")]
    single = [alone.loc[alone["threat"] == str(t), "value"].item() for t in suite.threats if t.label == "XAV"]
    assert single != sorted(single, reverse=True), "one attack alone must rise somewhere, or this test is idle"


class Slow(Linear):
    """A model with stages and three classes, slow enough to be interrupted anywhere."""

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        time.sleep(0.001)
        return torch.sin(torch.cat([3 * audio - video, 3 * video + audio, 2 * audio * video], dim=1))


# The ranking suite with fewer steps; the radii break some samples, not all.
STANDARD = dataclasses.replace(
    SUITES.get("standard"),
    threats=tuple(map(parse_threat, ("XA:linf:0.03", "XV:linf:0.03", "XAV:linf:0.03:linf:0.03"))),
    attacks=tuple(map(parse_attack, ("apgd-ce:steps=5", "apgd-dlr:steps=5", "tma:steps=3", "square:queries=40"))),
)


def _slowly(folder: Path) -> None:
    evaluate(candidate(Slow()), SPLIT, STANDARD, options(folder), quiet=True)


@pytest.mark.slow
def test_standard_meets_survivors_only_and_resumes_after_kill_9_to_the_same_bytes(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    start_clean(_slowly, calm).join()
    moments, seen = random.Random(0), set[int]()
    for _ in range(12):
        if kill_9(start_clean(_slowly, killed), lambda: count_parts(killed), moments):
            seen.add(count_parts(killed))
        for part in sorted(killed.rglob("part-*"))[:: moments.randint(3, 6)]:
            part.unlink()
    assert len(seen) > 5, "the kills must fall at different moments, or this test is idle"
    process = start_clean(_slowly, killed)
    process.join()
    assert process.exitcode == 0
    assert_same_rows(calm, killed)
    [made] = killed.rglob("rows.parquet")
    rows = store.read_rows(made.parent)
    counts = [
        int(((rows["threat"] == str(threat)) & (rows["attack"] == str(attack))).sum())
        for threat in STANDARD.threats
        for attack in STANDARD.attacks
    ]
    assert all(later <= first for first, later in zip(counts[::4], counts[3::4], strict=True))
    assert counts[8] < min(counts[0], counts[4]), "XAV inherits what XA and XV broke"
    assert 0 < counts[11] < counts[8], "some must fall and some survive, or this test is idle"


@pytest.mark.parametrize(
    "text",
    ["XA:linf:-0.1", "XA:linf:nan", "XA:linf:inf", "XA:linf:2.1", "XV:linf:1.1", "XV:l2:-1", "XA:l2:nan", "XA:linf:x"],
)
def test_a_radius_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(BadBudget):
        find_suite(None, (text,), ("fgsm",))


@pytest.mark.parametrize(("kind", "largest"), [("XA", 2 * 24**0.5), ("XV", 54**0.5)])
def test_an_l2_radius_larger_than_the_box_is_refused(tmp_path: Path, kind: str, largest: float) -> None:
    for factor in (0.99, 1.01):
        suite = find_suite(None, (f"{kind}:l2:{factor * largest}",), ("fgsm",))
        if factor < 1:
            Run(candidate(Wavy()), SPLIT, suite, options(tmp_path))
            continue
        with pytest.raises(BadBudget, match="larger than its whole range"):
            Run(candidate(Wavy()), SPLIT, suite, options(tmp_path))


@pytest.mark.parametrize(
    ("task", "label", "says"),
    [
        ("multiclass", 3, "has the label 3; toy has 3 classes"), ("multiclass", -1, "has the label -1"),
        ("multiclass", (0, 1), "but toy is multiclass"), ("multilabel", 1, "but toy is multilabel"),
        ("multilabel", (0, 3), "toy has 3 classes"),
    ],
)  # fmt: skip
def test_a_label_that_is_no_class_or_of_another_task_is_refused(
    tmp_path: Path, task: str, label: Any, says: str
) -> None:
    rows = [Pinned("odd", label, "0" * 64)]
    split = MemorySplit(SPLIT.card.model_copy(update={"task": task}), "test", Lock(rows))
    with pytest.raises(DataError, match=f"sample odd .*{says}"):
        Run(candidate(Wavy()), split, STANDARD, options(tmp_path))


@pytest.mark.slow
def test_a_batch_of_one_gives_the_rows_of_any_other(tmp_path: Path) -> None:
    small = make_split(6, 3)
    found = []
    for size in (1, 6):
        run = evaluate(candidate(Slow()), small, STANDARD, options(tmp_path / str(size), batch_size=size), quiet=True)
        found.append(store.read_rows(run))
    pd.testing.assert_frame_equal(*found, rtol=1e-3, atol=1e-3)


def test_a_suite_names_a_combination_that_cannot_be(tmp_path: Path) -> None:
    transfer = parse_attack("transfer:attack=fgsm")
    with pytest.raises(BadOption, match="crafted on other models"):
        Suite("x", 1, "", STANDARD.threats, (transfer,))
    with pytest.raises(AvbenchError, match="nothing of suite"):
        find_suite("standard", (), ("fgsm",))


@pytest.mark.parametrize("text", ["apgd-dlr", "apgd-t:targets=2"])
def test_a_ratio_of_logits_is_refused_on_several_labels_before_anything_is_computed(tmp_path: Path, text: str) -> None:
    split = MemorySplit(
        SPLIT.card.model_copy(update={"task": "multilabel"}), "test", Lock([Pinned("a", (0,), "0" * 64)])
    )
    for suite in (find_suite(None, (), (text,)), find_suite("standard"), find_suite(None, (), ("apgd-ce",))):
        if suite.attacks == (parse_attack("apgd-ce"),):
            Run(candidate(Wavy()), split, suite, options(tmp_path))
            continue
        with pytest.raises(BadOption, match="needs one right class a sample, and toy is multi-label; use apgd-ce"):
            Run(candidate(Wavy()), split, suite, options(tmp_path))
