"""Random answers and stages without gradient: averaged gradients, stand-ins, and runs that repeat all the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_broken as zoo
from conftest import Linear, Wavy, candidate, make_split
from torch import Tensor

from avbench import files, store
from avbench.cells import Cell, make_parts
from avbench.datasets.splits import open_split
from avbench.diagnose import gather
from avbench.diagnose.probe import probe
from avbench.errors import BadModel
from avbench.judge import drawn_at_random
from avbench.models.two_stage import TwoStage
from avbench.options import RunOptions
from avbench.oracle import Oracle, Victim
from avbench.rng import seeded
from avbench.runner import Run, evaluate
from avbench.submission import find_candidate
from avbench.suites import find_suite
from avbench.threats import find_threats

CPU = torch.device("cpu")
STANDARD = list(find_threats("standard"))
PROTOCOL = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"


def concat() -> TwoStage:
    module = find_candidate("avbench--synthav-concat")[0].module
    assert isinstance(module, TwoStage)
    return module


def test_with_a_stand_in_the_quantized_model_is_as_weak_as_the_plain_one() -> None:
    split, cell = open_split("synthav", "test"), Cell(STANDARD[2], find_suite("cvpr21-attack").attacks[1])
    batch = split.batch(split.present[:24])
    right = {}
    for make in (lambda m: m, zoo.Quantized, zoo.QuantizedWithStandIns):
        model = make(concat())
        [(_, part)] = make_parts(Victim(model, 8, CPU), batch, [cell], seed=0)
        right[type(model).__name__] = int(part.rows["correct"].sum())
    assert right["Quantized"] > right["AVNet"] + 12, "the quantizer must hide something, or this test is idle"
    assert abs(right["QuantizedWithStandIns"] - right["AVNet"]) <= 2


def test_averaged_gradients_break_a_randomized_model_that_single_ones_do_not() -> None:
    split, cell = open_split("synthav", "test"), Cell(STANDARD[2], find_suite("cvpr21-attack").attacks[1])
    batch, right = split.batch(split.present[:24]), []
    for draws in (1, 8):
        victim = Victim(zoo.Noisy(concat()), 8, CPU, draws)
        victim.random = bool(drawn_at_random(victim, batch).any())
        [(_, part)] = make_parts(victim, batch, [cell], seed=0)
        right.append(int(part.rows["correct"].sum()))
    assert right[1] <= right[0] - 5


class Blurred(Linear):
    """Weights with noise: the gradient is the weights plus noise."""

    def encode_audio(self, audio: Tensor) -> Tensor:
        return audio @ (self.audio + torch.randn(self.audio.shape))[:, None]


class Random(Wavy):
    """Logits with noise, of torch's global generator."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().forward(audio, video) + torch.randn(len(audio), 3)


class Unseedable(Wavy):
    """Answers that depend on how often it was asked."""

    asked = 0

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        self.asked += 1
        return super().forward(audio, video) + self.asked


class Rounded(Linear):
    """A stage without gradient, and a stand-in for it alone."""

    def encode_audio(self, audio: Tensor) -> Tensor:
        return super().encode_audio((audio * 8).round() / 8)

    def differentiable_encode_audio(self, audio: Tensor) -> Tensor:
        return super().encode_audio(audio)


BATCH = make_split(12).batch(range(12))


def test_a_gradient_is_the_mean_over_draws_and_every_draw_is_counted() -> None:
    victim = Victim(Blurred(), 2, CPU, draws=5)
    oracle = Oracle(victim, BATCH, ("audio",), {})
    with seeded(CPU, "x"):
        single = [oracle.gradient(BATCH.inputs) for _ in range(5)]
    victim.random = True
    victim.passes.clear()
    with seeded(CPU, "x"):
        mean = oracle.gradient(BATCH.inputs)
    torch.testing.assert_close(mean.inputs["audio"], torch.stack([one.inputs["audio"] for one in single]).mean(0))
    torch.testing.assert_close(mean.loss, torch.stack([one.loss for one in single]).mean(0))
    assert victim.passes["audio", "forward"] == victim.passes["audio", "backward"] == 5 * 12


def test_a_stand_in_gives_the_gradient_and_never_the_value() -> None:
    model = Rounded()
    oracle = Oracle(Victim(model, 2, CPU), BATCH, ("audio",), {})
    found = oracle.gradient(BATCH.inputs)
    with torch.no_grad():
        score = model(*BATCH.inputs)[:, 1]
    sign = 1 - 2 * BATCH.labels
    assert torch.equal(oracle.logits(BATCH.inputs)[:, 1], score)
    torch.testing.assert_close(found.loss, sign * score)
    torch.testing.assert_close(found.inputs["audio"], sign[:, None] * model.audio.detach())


def options(folder: Path, limit: int | None = None) -> RunOptions:
    return RunOptions(limit=limit, batch_size=8, device="cpu", output_dir=folder)


def test_a_randomized_run_repeats_to_the_bit_whatever_was_done_before(tmp_path: Path) -> None:
    split, suite = make_split(24, 3), find_suite(None, ("XA:linf:0.05", "XAV:linf:0.05:linf:0.05"), ("fgsm", "noise"))
    runs = [evaluate(candidate(Random()), split, suite, options(tmp_path / name), quiet=True) for name in "ab"]
    for part in sorted(runs[1].rglob("part-*"))[::3]:
        part.unlink()
    evaluate(candidate(Random()), split, suite, options(tmp_path / "b"), quiet=True)
    one, other = (files.sha256_file(run / "rows.parquet") for run in runs)
    assert one == other
    assert store.read_record(runs[0])["draws"] == 20
    rows = store.read_rows(runs[0])
    fgsm = rows[(rows["attack"] == "fgsm") & (rows["threat"] == "XA:linf:0.05")]
    assert len(fgsm["audio_linf"].dropna()) == 24


def test_the_number_of_draws_is_part_of_a_randomized_models_fingerprint_only(tmp_path: Path) -> None:
    run = Run(candidate(Random()), make_split(8, 3), find_suite("quick"), options(tmp_path))
    cell, prints = run.cells[0], []
    for run.victim.random, run.victim.draws in ((False, 20), (False, 5), (True, 20), (True, 5)):
        prints.append(run.fingerprint(cell))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_answers_that_no_seed_repeats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="differently each time"):
        evaluate(candidate(Unseedable()), make_split(8, 3), find_suite("quick"), options(tmp_path), quiet=True)


def test_the_stand_in_that_the_protocol_shows_gives_a_gradient_where_there_was_none() -> None:
    [block] = re.findall(r"```python\n(.*?)```", PROTOCOL.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "protocol"}
    exec(compile(block, str(PROTOCOL), "exec"), names)
    [made] = [value for value in names.values() if isinstance(value, type) and value.__module__ == "protocol"]
    model, split = made(concat()), open_split("synthav", "test")
    batch = split.batch(split.present[:8])
    with torch.no_grad():
        assert not torch.equal(model.encode_audio(batch.inputs.audio), concat().encode_audio(batch.inputs.audio))

    def raised() -> list[str]:
        return [
            str(flag) for flag in gather(probe(Victim(model, 8, CPU), split, [], samples=8)) if flag.state == "raised"
        ]

    assert raised() == []
    del made.differentiable_encode_audio
    assert raised() == ["zero-gradients (audio)"]
