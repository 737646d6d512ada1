"""Reduced precision: attacks look at the model in it, the judge never does, and such a run does not rank."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import pandas as pd
import pytest
import torch
from conftest import SAMPLES, Linear, Wavy, candidate, make_split
from site_runs import write_run
from torch import Tensor, nn
from torch.nn import functional

from avbench import store
from avbench.errors import BadOption, NonFiniteOutput, RunConflict
from avbench.models.two_stage import TwoStage
from avbench.options import PRECISIONS, RunOptions
from avbench.oracle import Oracle, Victim
from avbench.runner import Run, evaluate
from avbench.sandbox.remote import RemoteModel
from avbench.site.boards import make_boards, why_unranked
from avbench.site.records import read_run
from avbench.suites import find_suite

CPU = torch.device("cpu")
SPLIT = make_split(8, 3)
THREATS = ("XA:linf:0.01", "XAV:linf:0.01:linf:0.02")
SUITE = find_suite(None, THREATS, ("pgd:steps=2", "noise:draws=2"))
REDUCED = ("bf16", "fp16")


def run_rows(folder: Path, model: nn.Module, precision: str, suite: object = SUITE) -> pd.DataFrame:
    options = RunOptions(output_dir=folder / precision, batch_size=4, precision=precision)
    return store.read_rows(evaluate(candidate(model), SPLIT, suite, options, quiet=True))  # type: ignore[arg-type]


class Watched(Wavy):
    """Remembers in what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[torch.dtype | None, bool]] = []

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        reduced = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        self.asked.append((reduced, torch.is_grad_enabled()))
        return super().forward(audio, video)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_attacks_look_in_reduced_precision_and_the_judge_in_full(
    tmp_path: Path, precision: str, dtype: torch.dtype | None
) -> None:
    model = Watched()
    run = Run(candidate(model), SPLIT, SUITE, RunOptions(output_dir=tmp_path, batch_size=4, precision=precision))
    model.asked.clear()
    with run.locked():
        run.execute(quiet=True)
    answers = 1 + 3  # of the preparation: what the model answers, and whether at random
    batches = len(SPLIT) // 4
    of_attacks = batches * len(THREATS) * (2 + 2)  # two steps, two draws
    of_the_judge = batches * (3 + len(SUITE.threats) * len(SUITE.attacks))
    assert len(model.asked) == of_attacks + of_the_judge + answers
    reduced = [asked for asked, _ in model.asked if asked is not None]
    assert reduced == ([dtype] * of_attacks if dtype else [])
    climbing = [asked for asked, gradient in model.asked if gradient]
    assert climbing == [dtype] * (batches * len(THREATS) * 2)


@pytest.mark.parametrize("precision", REDUCED)
def test_a_gradient_in_reduced_precision_is_float32_and_near_that_in_full(precision: str) -> None:
    batch, found = SPLIT.batch(range(8)), {}
    for name in ("fp32", precision):
        victim = Victim(Wavy(), 3, CPU)
        victim.precision = name
        oracle = Oracle(victim, batch, ("audio", "video"), {})
        found[name] = oracle.gradient(batch.inputs).inputs
        assert oracle.logits(batch.inputs).dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
    for modality, full in found["fp32"].items():
        reduced = found[precision][modality]
        assert reduced.dtype == torch.float32
        assert not torch.equal(reduced, full), "it must be reduced, or this test is idle"
        cosine = torch.cosine_similarity(reduced.flatten(1), full.flatten(1))
        assert cosine.min() > 0.9


class Balanced(nn.Module):
    """Answer the difference of both halves of a waveform, as the first of many layers may."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        self.weight = torch.ones(1, SAMPLES)
        self.weight[0, SAMPLES // 2 :] = -1

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        if self.layer == "conv":
            found = functional.conv1d(audio[:, None], self.weight[:, None])[..., 0]
        else:
            found = functional.linear(audio, self.weight) if self.layer == "linear" else audio @ self.weight.T
        return torch.cat([found, -found], dim=1)


@pytest.mark.parametrize("layer", ["conv", "linear", "matmul"])
@pytest.mark.parametrize("precision", REDUCED)
def test_a_small_change_of_a_loud_clip_is_not_rounded_away(precision: str, layer: str) -> None:
    batch, change = make_split(8, 2).batch(range(8)), 0.001
    loud = torch.full_like(batch.inputs.audio, 0.8984375)
    loud[:, : SAMPLES // 2] += change
    assert (loud.bfloat16() == 0.8984375).all(), "bfloat16 does not have it, or this test is idle"
    victim = Victim(Balanced(layer), 2, CPU)
    victim.precision = precision
    found = Oracle(victim, batch, ("audio",), {}).logits(batch.inputs._replace(audio=loud))
    torch.testing.assert_close(found[:, 0], torch.full((8,), change * SAMPLES / 2), rtol=0.01, atol=0)


@pytest.mark.parametrize("precision", REDUCED)
def test_rows_of_clean_clips_are_those_of_a_run_in_full_precision(tmp_path: Path, precision: str) -> None:
    full, reduced = (run_rows(tmp_path, Wavy(), name) for name in ("fp32", precision))
    clean = full["threat"] == "clean"
    pd.testing.assert_frame_equal(full[clean], reduced[clean])
    assert not full[~clean]["margin"].equals(reduced[~clean]["margin"])


class Large(Wavy):
    """Activations beyond the largest float16, logits that are not."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        large = torch.cat([audio, video.flatten(1)], dim=1) @ (1e6 * self.first)
        return torch.sin(3e-6 * large) @ self.second


def test_what_overflows_in_float16_only_is_crafted_in_float32(tmp_path: Path) -> None:
    batch = SPLIT.batch(range(4))
    victim = Victim(Large(), 3, CPU)
    victim.precision = "fp16"
    with pytest.raises(NonFiniteOutput):
        Oracle(victim, batch, ("audio",), {}).gradient(batch.inputs)
    full, reduced = (run_rows(tmp_path, Large(), name) for name in ("fp32", "fp16"))
    pd.testing.assert_frame_equal(full, reduced)


class Broken(Wavy):
    """Answers NaN to clips that somebody changed."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        logits = super().forward(audio, video)
        return logits * torch.where((audio * 32768).frac().abs().amax(dim=1) > 0, torch.nan, 1.0)[:, None]


def test_what_is_not_finite_in_float32_either_is_an_error(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        with pytest.raises(NonFiniteOutput, match="sample toy-"):
            run_rows(tmp_path, Broken(), precision)


class Small(TwoStage):
    """Gradients of about 1e-8, which float16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Linear().audio[:, None] * 4e-4
        self.second = torch.tensor([[-1e-4, 1e-4, 0.0]])

    def encode_audio(self, audio: Tensor) -> Tensor:
        return audio @ self.first @ self.second

    def encode_video(self, video: Tensor) -> Tensor:
        return video.mean(dim=(1, 2, 3, 4))[:, None]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return audio + 0 * video


def test_small_gradients_are_not_lost_in_float16() -> None:
    batch = SPLIT.batch(range(8))
    victim = Victim(Small(), 3, CPU)
    full = Oracle(victim, batch, ("audio",), {}).gradient(batch.inputs).inputs["audio"]
    victim.precision = "fp16"
    reduced = Oracle(victim, batch, ("audio",), {}).gradient(batch.inputs).inputs["audio"]
    moved = full != 0
    assert moved.any()
    assert full.abs().max() < 6e-8, "the least float16, or this test is idle"
    assert (reduced[moved].sign() == full[moved].sign()).all()


def test_a_run_records_its_precision_and_never_takes_rows_of_another(tmp_path: Path) -> None:
    suite = dataclasses.replace(SUITE, published=True)
    options = RunOptions(output_dir=tmp_path, batch_size=4, precision="bf16")
    record = store.read_record(evaluate(candidate(Wavy()), SPLIT, suite, options, quiet=True))
    assert record["numerics"]["precision"] == "bf16"
    assert not record["suite"]["published"]
    with pytest.raises(RunConflict, match="crafted in bf16"):
        evaluate(candidate(Wavy()), SPLIT, suite, dataclasses.replace(options, precision="fp32"), quiet=True)
    fresh = dataclasses.replace(options, precision="fp32", fresh=True, limit=4)
    record = store.read_record(evaluate(candidate(Wavy()), SPLIT, suite, fresh, quiet=True))
    assert "precision" not in record["numerics"], "runs from before there was a choice go on"
    assert record["suite"]["published"]


class Elsewhere(RemoteModel):
    """Stands for a model in a worker process, without one."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.modalities = ("audio", "video")


def test_what_cannot_be_computed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="tf32 needs CUDA"):
        run_rows(tmp_path, Wavy(), "tf32")
    with pytest.raises(BadOption, match="not 'int8'"):
        RunOptions(precision="int8")
    with pytest.raises(BadOption, match="worker process"):
        Run(candidate(Elsewhere()), SPLIT, SUITE, RunOptions(output_dir=tmp_path, precision="bf16"))
    assert PRECISIONS[0] == RunOptions().precision == "fp32"


def test_the_embedding_that_stays_is_of_full_precision() -> None:
    batch = make_split(8, 2).batch(range(8))
    victim = Victim(Linear(), 2, CPU)
    victim.precision = "bf16"
    assert torch.equal(victim.embed(batch.inputs, "audio"), cast(Linear, victim.model).encode_audio(batch.inputs.audio))


def test_a_run_in_reduced_precision_does_not_rank_nor_hide_one_that_may(tmp_path: Path) -> None:
    full = read_run(write_run(tmp_path / "full", "one", seed=1))
    reduced = read_run(
        write_run(tmp_path / "reduced", "one", seed=2, numerics={"micro_batch": 64, "precision": "bf16"}, suite__published=False)
    )  # fmt: skip
    assert why_unranked(full) == ""
    assert why_unranked(reduced) == "reduced precision: clips crafted in bf16"
    [board] = make_boards([full, reduced])
    assert [scored.run for scored in board.runs] == [full]
    assert board.record.suite.published
    [alone] = make_boards([reduced])
    assert [scored.place for scored in alone.runs] == [None]
