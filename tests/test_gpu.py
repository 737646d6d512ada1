"""On a GPU: the same rows twice, nearly those of the CPU, in every precision. All but the first two need one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Linear, Wavy, candidate, make_split
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from avbench import store
from avbench.attacks import ATTACKS, parse_attack
from avbench.datasets.splits import open_split
from avbench.errors import NonFiniteOutput
from avbench.options import RunOptions
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng, seeded
from avbench.runner import evaluate
from avbench.submission import find_candidate
from avbench.suites import find_suite
from avbench.threats import parse_threat
from avbench.threats.region import Region

SPLIT = make_split(8, 3)
SUITE = find_suite(None, ("XA:linf:0.01", "XAV:linf:0.01:linf:0.02"), ("pgd", "square:queries=20"))
aten = torch.ops.aten
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class Fading(Wavy):
    """Answers NaN to one sample, once its clip has changed."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = nn.Buffer(clean)
        self.asked = 0

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        self.asked += 1
        changed = (audio[3] != self.clean).any()
        rows = torch.arange(len(audio), device=audio.device) == 3
        return super().forward(audio, video) * torch.where(rows & changed, torch.nan, 1.0)[:, None]


@pytest.mark.parametrize("late", [False, True])
def test_what_is_not_finite_is_found_at_once_or_at_the_end_and_named_alike(late: bool) -> None:
    batch = SPLIT.batch(range(8))
    model = Fading(batch.inputs.audio[3])
    victim = Victim(model, 3, torch.device("cpu"))
    victim.late = late  # as on a GPU
    oracle = Oracle(victim, batch, ("audio",), {})
    clips = [batch.inputs._replace(audio=batch.inputs.audio + 0.001 * step) for step in range(6)]

    def climb() -> None:
        with victim.hurried():
            for clip in clips:
                oracle.gradient(clip)

    with pytest.raises(NonFiniteOutput, match=f"on sample {batch.ids[3]}$"):
        climb()
    assert model.asked == (6 if late else 2)
    with pytest.raises(NonFiniteOutput, match=batch.ids[3]):  # outside of the block nobody waits
        oracle.logits(clips[1])


LONGER = [  # attacks of a few looks, and of more
    [f"{name}:{field.name}={count}" for count in (3, 9)]
    for name in ATTACKS.names()
    for field in dataclasses.fields(ATTACKS.get(name))
    if field.name in ("steps", "queries", "draws")
]


class Waiting(TorchDispatchMode):
    """Counts what a GPU would have to answer before the host goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = args[1] if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) else ()
        masks = any(place is not None and place.dtype == torch.bool for place in places)
        self.count += masks or func in (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", [Wavy(), Linear()])
@pytest.mark.parametrize("attacks", LONGER, ids=lambda attacks: attacks[0].partition("=")[0])
def test_more_looks_of_an_attack_do_not_make_the_host_wait_more_often(attacks: list[str], model: nn.Module) -> None:
    classes = 2 if isinstance(model, Linear) else 3
    batch, threat, counts = make_split(8, classes).batch(range(8)), parse_threat("XAV:linf:0.01:linf:0.02"), []
    for attack in map(parse_attack, attacks):
        victim = Victim(model, classes, torch.device("cpu"))
        victim.late = True  # as on a GPU
        with Waiting() as waiting, victim.hurried(), seeded(victim.device, 0):
            oracle = Oracle(victim, batch, ("audio", "video"), {}, attack.needs)
            attack.run(oracle, batch, Region(threat, batch.inputs), Rng(0, "", batch.ids))
        counts.append(waiting.count)
    assert counts[0] == counts[1] > 0


def rows_of(folder: Path, model: nn.Module, device: str, **changes: object) -> pd.DataFrame:
    options = RunOptions(output_dir=folder, device=device, batch_size=4, **changes)  # type: ignore[arg-type]
    return store.read_rows(evaluate(candidate(model), SPLIT, SUITE, options, quiet=True))


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_gpu_makes_the_same_rows_twice(tmp_path: Path, precision: str) -> None:
    one, other = (rows_of(tmp_path / name, Wavy(), "cuda", precision=precision) for name in "ab")
    pd.testing.assert_frame_equal(one, other)


@needs_gpu
def test_a_committed_model_makes_the_same_rows_twice(tmp_path: Path) -> None:
    found, card = find_candidate("avbench--synthav-concat")
    suite, frames = find_suite(None, ("standard/XAV",), ("pgd", "tma:steps=2")), []
    for name in "ab":
        options = RunOptions(output_dir=tmp_path / name, device="cuda", limit=16, batch_size=8)
        frames.append(store.read_rows(evaluate(found, open_split(card.name, "test"), suite, options, quiet=True)))
    pd.testing.assert_frame_equal(*frames)


@needs_gpu
def test_a_gpu_agrees_with_the_cpu(tmp_path: Path) -> None:
    cpu, gpu = (rows_of(tmp_path / device, Wavy(), device) for device in ("cpu", "cuda"))
    clean = cpu["threat"] == "clean"
    pd.testing.assert_frame_equal(cpu[clean], gpu[clean], rtol=1e-4, atol=1e-4)
    assert abs(cpu["correct"].mean() - gpu["correct"].mean()) < 0.1
    batch = make_split(8, 2).batch(range(8))
    found = {}
    for device in ("cpu", "cuda"):
        shown = batch.to(device)
        oracle = Oracle(Victim(Linear(), 2, torch.device(device)), shown, ("audio", "video"), {})
        found[device] = oracle.gradient(shown.inputs).inputs
    for modality, gradient in found["cpu"].items():
        torch.testing.assert_close(found["cuda"][modality].cpu(), gradient, rtol=1e-4, atol=1e-5)


@needs_gpu
def test_no_look_of_an_attack_waits_for_the_gpu() -> None:
    batch = SPLIT.batch(range(8)).pin().to("cuda")
    victim = Victim(Wavy(), 3, torch.device("cuda"))
    oracle = Oracle(victim, batch, ("audio", "video"), {})
    oracle.gradient(batch.inputs)
    with victim.hurried():
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                oracle.gradient(batch.inputs)
                oracle.logits(batch.inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
