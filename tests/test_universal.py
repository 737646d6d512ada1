"""Universal: one perturbation for all clips, fitted once on another split, kept whole or not at all."""

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
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from avbench import store
from avbench.attacks import parse_attack
from avbench.attacks.universal import NO_BOX, Fitted, Universal
from avbench.crafting import FILE
from avbench.errors import BadOption
from avbench.estimate import estimate
from avbench.objectives import margin
from avbench.options import RunOptions
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.runner import Run, evaluate
from avbench.suites import find_suite
from avbench.threats import ThreatModel, parse_threat
from avbench.threats.region import Region
from avbench.types import AVInput, Batch, Modality

THREATS = [
    parse_threat(t)
    for t in ("XA:linf:0.05", "XV:linf:0.05", "XAV:linf:0.02:linf:0.05", "XA:l2:0.5", "XAV:l2:0.5:linf:0.05", "XV:linf-normalized:0.1")
]  # fmt: skip
TEST, VAL = make_split(40, 3), make_split(24, 3, "other")
SPLITS = {"train": 30, "val": 24, "test": 40}
SHAPES: dict[Modality, tuple[int, ...]] = {"audio": (1, 24), "video": (1, 2, 3, 3, 3)}
BATCH = VAL.batch(range(24))
CPU = torch.device("cpu")


def part(batch: Batch, index: slice) -> Batch:
    return Batch(batch.ids[index], batch.inputs.pick(index), batch.labels[index])


def fit(
    attack: Universal, threat: ThreatModel, batch: Batch = BATCH, model: nn.Module | None = None, size: int = 24
) -> dict[Modality, Tensor]:
    victim = Victim(model or Wavy(), 2 if isinstance(model, Linear) else 3, CPU)
    found = {m: torch.zeros(SHAPES[m]) for m in threat.budgets}
    for _ in range(attack.epochs):
        parts = [part(batch, slice(start, start + size)) for start in range(0, len(batch.ids), size)]
        looks = ((Oracle(victim, one, tuple(threat.budgets), {}), one) for one in parts)
        found = dict(attack.epoch(found, threat, looks))
    return found


def laid(perturbation: Any, threat: ThreatModel, batch: Batch) -> AVInput:
    oracle = Oracle(Victim(Wavy(), 3, CPU), batch, tuple(threat.budgets), {}, Fitted.needs)
    return Fitted(perturbation).run(oracle, batch, Region(threat, batch.inputs), Rng(0, "universal", batch.ids))


@pytest.mark.parametrize("threat", THREATS, ids=str)
class TestEveryThreat:
    def test_clips_stay_in_the_threat_set_and_err_more(self, threat: ThreatModel) -> None:
        other = TEST.batch(range(40))
        clips = laid(fit(Universal(), threat), threat, other)
        Region(threat, other.inputs).check(clips, other.ids, "universal")
        for modality in ("audio", "video"):
            moved = not torch.equal(getattr(clips, modality), getattr(other.inputs, modality))
            assert moved == (modality in threat.budgets)
        seen = laid(fit(Universal(), threat), threat, BATCH)
        before, after = (margin(Wavy()(*inputs), BATCH.labels).mean() for inputs in (BATCH.inputs, seen))
        assert after < before

    def test_the_perturbation_itself_keeps_the_budget_however_often_it_doubles(self, threat: ThreatModel) -> None:
        for modality, found in fit(Universal(epochs=8), threat).items():
            ball = threat.budgets[modality].ball(torch.zeros_like(found), NO_BOX)
            assert torch.equal(ball.project(found), found)
            assert not torch.equal(ball.project(1.01 * found), 1.01 * found), "else it is far from the boundary"

    def test_radius_zero_is_the_clean_clip(self, threat: ThreatModel) -> None:
        nothing = ThreatModel(**{m: dataclasses.replace(b, radius=0.0) for m, b in threat.budgets.items()})
        for one, clean in zip(laid(fit(Universal(), nothing), nothing, BATCH), BATCH.inputs, strict=True):
            assert torch.equal(one, clean)

    def test_the_size_of_batches_changes_nothing_but_rounding(self, threat: ThreatModel) -> None:
        whole, single = (fit(Universal(epochs=3), threat, size=size) for size in (24, 1))
        for modality, found in whole.items():
            torch.testing.assert_close(found, single[modality], rtol=0, atol=1e-5)


def test_it_is_its_equation() -> None:
    """The rule of the docstring for the audio, clip by clip, over two epochs."""
    eps, model = 0.05, Wavy()
    found = torch.zeros(24)
    for _ in range(2):
        steps = []
        for one in range(24):
            clip = part(BATCH, slice(one, one + 1))
            leaf = (clip.inputs.audio + found).requires_grad_()
            [gradient] = torch.autograd.grad(
                torch.nn.functional.cross_entropy(model(leaf, clip.inputs.video), clip.labels), leaf
            )
            steps.append((found + 0.1 * eps * gradient[0].sign()).clamp(-eps, eps))
        found = (found + torch.stack(steps).mean(dim=0)).clamp(-eps, eps)
    assert 0.1 * eps < found.abs().max() < eps
    got = fit(Universal(epochs=2), parse_threat(f"XA:linf:{eps}"))["audio"]
    torch.testing.assert_close(got[0], found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", ["XA:linf:0.03", "XV:linf:0.03", "XAV:linf:0.02:linf:0.03", "XA:l2:0.1"])
def test_where_all_clips_agree_it_is_the_worst_case_of_each(threat: str) -> None:
    """Of a linear model all clips of one class share their worst perturbation, which has a closed form."""
    parsed, model, batch = parse_threat(threat), Linear(), make_split(12).batch(range(12))
    one_class = Batch(batch.ids, batch.inputs, torch.ones(12, dtype=torch.long))
    drop = sum(
        budget.radius * float(getattr(model, m).detach().double().norm(p=1 if budget.norm == "linf" else 2))
        for m, budget in parsed.budgets.items()
    )
    clips = laid(fit(Universal(), parsed, one_class, model), parsed, one_class)
    fell = margin(model(*one_class.inputs), one_class.labels) - margin(model(*clips), one_class.labels)
    torch.testing.assert_close(fell, torch.full_like(fell, drop), rtol=1e-4, atol=1e-5)


def splits_of(name: str = "test", **sizes: int) -> MemorySplit:
    base = {"train": make_split(30, 3, "third"), "val": VAL, "test": TEST}[name.partition("-")[0]]
    return dataclasses.replace(base, name=name, card=TEST.card.model_copy(update={"splits": sizes or SPLITS}))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []

    def find(dataset: str, split: str) -> MemorySplit:
        assert dataset == "toy"
        seen.append(split)
        return splits_of(split)

    monkeypatch.setattr("avbench.crafting.open_split", find)
    return seen


def run_of(folder: Path, split: Any = None, model: nn.Module | None = None, **changes: Any) -> Run:
    suite = find_suite(None, ("XA:linf:0.05", "XAV:linf:0.05:linf:0.05"), ("universal:epochs=4", "fgsm"))
    options = RunOptions(output_dir=folder, **{"batch_size": 8, **changes})
    return Run(candidate(model or Wavy()), split or splits_of(), suite, options)


def rows_of(folder: Path, split: Any = None, model: nn.Module | None = None, **changes: Any) -> pd.DataFrame:
    run = run_of(folder, split, model, **changes)
    return store.read_rows(evaluate(run.candidate, run.split, run.suite, run.options, quiet=True))


def test_it_is_fitted_on_val_and_scored_on_test_by_one_perturbation(tmp_path: Path, opened: list[str]) -> None:
    rows = rows_of(tmp_path)
    assert set(opened) == {"val"}
    cell = rows[(rows["attack"] == "universal:epochs=4") & (rows["threat"] == "XA:linf:0.05")]
    assert set(cell["sample"]) == set(TEST.ids)
    assert cell["audio_l2"].std() < 1e-6, "the same perturbation on every clip"
    [record] = (store.read_record(path.parent) for path in tmp_path.rglob("run.json"))
    fits = {c["threat"]: c for c in record["cells"] if c["attack"] == "universal:epochs=4"}
    for one in fits.values():
        assert (one["forward"], one["backward"]) == (40, 0)
        told = one["fit"]
        assert (told["split"], told["lock"], told["epochs"]) == ("val", VAL.lock.sha256, 4)
        assert (told["forward"], told["backward"]) == (4 * 24, 4 * 24)
    assert not any("fit" in c for c in record["cells"] if c["attack"] == "fgsm")
    expected = fit_of(tmp_path)
    threat = parse_threat("XAV:linf:0.05:linf:0.05")
    for modality, found in fit(Universal(epochs=4), threat).items():
        torch.testing.assert_close(expected[modality], found, rtol=0, atol=1e-5)


def fit_of(folder: Path) -> dict[str, Tensor]:
    [path] = folder.rglob(f"XAV*universal*/{FILE}")
    return load_file(path)


def test_a_dry_run_counts_the_fit_on_its_own_line(tmp_path: Path, opened: list[str]) -> None:
    lines = {(one.threat, one.attack): one for one in estimate(run_of(tmp_path))}
    for threat in ("XA:linf:0.05", "XAV:linf:0.05:linf:0.05"):
        fitted = lines[threat, "fit universal:epochs=4 on val"]
        assert (fitted.samples, fitted.forward, fitted.backward) == (24, 4 * 24, 4 * 24)
        assert fitted.seconds > 0
        assert lines[threat, "universal:epochs=4"][2:5] == (40, 40, 0)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("split", "sizes", "chosen"),
    [
        ("test", SPLITS, "val"), ("test", {"train": 30, "test": 40}, "train"), ("val", SPLITS, "train"),
        ("train", SPLITS, "val"), ("val-10", SPLITS, "train"), ("test-10", SPLITS, "val"),
    ],
)  # fmt: skip
def test_it_is_never_fitted_on_what_it_is_scored_on(
    tmp_path: Path, opened: list[str], split: str, sizes: dict[str, int], chosen: str
) -> None:
    run_of(tmp_path, splits_of(split, **sizes))
    assert opened == [chosen]


def test_a_dataset_without_another_split_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="toy has no split besides test to fit"):
        run_of(tmp_path, splits_of("test", test=40))


def test_the_split_it_was_fitted_on_is_part_of_the_fingerprint(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prints() -> dict[str, str]:
        run = run_of(tmp_path)
        return {"-".join(cell.columns): run.fingerprint(cell) for cell in run.cells}

    first = prints()
    monkeypatch.setattr("avbench.crafting.open_split", lambda *_: splits_of("train"))
    second = prints()
    for name, found in first.items():
        assert (second[name] != found) == ("universal" in name)


@pytest.mark.slow
def test_a_fit_is_never_made_again_nor_taken_from_another_cell(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = rows_of(tmp_path / "full")
    limited = rows_of(tmp_path / "steps", limit=16)
    assert limited["sample"].nunique() == 16
    record = next(tmp_path.glob("steps/**/run.json"))
    costs = [c.get("fit") for c in store.read_record(record.parent)["cells"]]
    for path in sorted((tmp_path / "full").rglob("part-*"))[::3]:
        path.unlink()
    with monkeypatch.context() as closed:
        closed.setattr(Universal, "epoch", lambda *_: pytest.fail("it was fitted again"))
        pd.testing.assert_frame_equal(rows_of(tmp_path / "steps"), full)
        pd.testing.assert_frame_equal(rows_of(tmp_path / "full"), full)
    assert [c.get("fit") for c in store.read_record(record.parent)["cells"]] == costs
    one, other = sorted((tmp_path / "full").rglob(FILE))
    other.write_bytes(one.read_bytes())  # of the other cell
    damaged = bytearray(one.read_bytes())
    damaged[-1] ^= 1
    one.write_bytes(bytes(damaged))
    for path in (tmp_path / "full").rglob("part-*"):
        path.unlink()
    pd.testing.assert_frame_equal(rows_of(tmp_path / "full"), full)


@pytest.mark.slow
def test_another_model_or_other_numerics_fit_anew(tmp_path: Path, opened: list[str]) -> None:
    for changes in ({}, {"batch_size": 16}, {"model": Wavy(1), "seed": 1}):
        fresh = rows_of(tmp_path / f"fresh {len(changes)} {'model' in changes}", **changes)
        for path in (tmp_path / "same").rglob("run.json"):
            path.unlink()
        pd.testing.assert_frame_equal(rows_of(tmp_path / "same", **changes), fresh)
    assert len(list((tmp_path / "same").rglob(FILE))) == 3 * 2


def test_a_surrogates_perturbation_can_be_transferred(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = candidate(Wavy(5), "org--one")
    monkeypatch.setattr("avbench.crafting.open_model", lambda name: (other, splits_of().card))
    text = "transfer:attack=universal/epochs=2,surrogates=org--one"
    suite = find_suite(None, ("XA:linf:0.05@transfer",), (text,))
    run = Run(candidate(Wavy()), splits_of(), suite, RunOptions(output_dir=tmp_path, batch_size=24))
    with run.locked():
        run.execute(quiet=True)
    [cell] = [c for c in store.read_record(run.folder)["cells"] if c["attack"] == text]
    assert cell["fit"]["forward"] == 2 * 24
    assert run.victim.passes["whole", "forward"] == 4 * 40
    [path] = tmp_path.rglob(FILE)
    expected = fit(Universal(epochs=2), parse_threat("XA:linf:0.05"), model=Wavy(5))
    torch.testing.assert_close(load_file(path)["audio"], expected["audio"], rtol=0, atol=1e-5)


def test_without_a_fit_it_says_what_to_do() -> None:
    oracle = Oracle(Victim(Wavy(), 3, CPU), BATCH, ("audio",), {})
    with pytest.raises(BadOption, match="has to be fitted"):
        Universal().run(oracle, BATCH, Region(THREATS[0], BATCH.inputs), Rng(0, "", BATCH.ids))
    for text in ("universal:epochs=0", "universal:step=0", "universal:step=3"):
        with pytest.raises(BadOption):
            parse_attack(text)


class Slow(Wavy):
    """The same answers, slowly enough to be interrupted anywhere."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        time.sleep(0.003)
        return super().forward(audio, video)


def _slowly(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avbench.crafting.open_split", lambda _, split: splits_of(split))
        run = run_of(folder, model=Slow())
        evaluate(run.candidate, run.split, run.suite, run.options, quiet=True)


@pytest.mark.slow
def test_kill_9_at_any_moment_then_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    start_clean(_slowly, calm).join()
    moments, seen = random.Random(0), set[tuple[int, int]]()
    for kill in range(12):
        if kill_9(start_clean(_slowly, killed), lambda: sum(_progress(killed)), moments):
            seen.add(_progress(killed))
        for path in list(killed.rglob("cells/*"))[:: 2 + kill] if kill % 4 == 3 else ():  # lose some, fits among them
            for file in path.iterdir():
                file.unlink()
    assert len(seen) > 5, "the kills must fall at different moments, or this test is idle"
    process = start_clean(_slowly, killed)
    process.join()
    assert process.exitcode == 0
    assert_same_rows(calm, killed)
    assert all(torch.equal(fit_of(calm)[m], fit_of(killed)[m]) for m in ("audio", "video"))


def _progress(folder: Path) -> tuple[int, int]:
    return count_parts(folder), sum(map(_epochs, folder.rglob(FILE)))


def _epochs(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["epochs"])
