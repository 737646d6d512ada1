"""A dry run: passes are those that the run then makes, whatever the model, and broken samples are expected to be left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import Linear, MemorySplit, Wavy, candidate, make_split
from torch import Tensor, nn

from avbench import store
from avbench.attacks import ATTACKS
from avbench.datasets.cards import Lock
from avbench.diagnose.probe import probe
from avbench.estimate import DIAGNOSIS, Estimate, estimate
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import Run, evaluate
from avbench.suites import Suite, find_suite
from avbench.types import Modality

SPLIT = make_split(12, 3)
ALIKE = dataclasses.replace(  # three classes, of which every sample has the first
    SPLIT, lock=Lock(row._replace(label=0) for row in SPLIT.lock.rows)
)
THREATS = ("XA:linf:0.01", "XV:linf:0.01", "XAV:linf:0.01:linf:0.02")
SHORT = {
    "apgd-ce": "apgd-ce:steps=4,restarts=2", "apgd-dlr": "apgd-dlr:steps=4", "apgd-t": "apgd-t:steps=3,targets=2",
    "pgd": "pgd:steps=2,restarts=2", "square": "square:queries=7", "tia": "tia:steps=2", "tma": "tma:steps=1", "mma": "mma:steps=3",
}  # fmt: skip
APART = {"mask", "transfer", "universal"}  # a corruption, and what test_cli.py has: it needs other models or splits


class Random(Wavy):
    """Logits with noise, of torch's global generator."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().forward(audio, video) + torch.randn(len(audio), 3)


class Listening(Wavy):
    """Reads no video, and says so."""

    modalities: tuple[Modality, ...] = ("audio",)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().forward(audio, torch.zeros_like(video))


class Sure(Wavy):
    """Answers the first class, or never does, and has gradients all the same."""

    def __init__(self, of_the_first: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([of_the_first, 0.0, 0.0]))

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().forward(audio, video) + self.bias


def run_of(folder: Path, model: nn.Module, suite: Suite, split: MemorySplit = SPLIT) -> Run:
    return Run(candidate(model), split, suite, RunOptions(output_dir=folder, batch_size=8))


def predicted(run: Run) -> dict[tuple[str, str], Estimate]:
    return {one[:2]: one for one in estimate(run, seconds=0.0)}


def assert_predicted(folder: Path, model: nn.Module, suite: Suite, split: MemorySplit = SPLIT) -> None:
    found = predicted(run_of(folder, model, suite, split))
    assert not list(folder.rglob("*")), "a dry run writes nothing"
    record = store.read_record(
        evaluate(candidate(model), split, suite, RunOptions(output_dir=folder, batch_size=8), True)
    )
    made = {(c["threat"], c["attack"]): (c["rows"], c["forward"], c["backward"]) for c in record["cells"]}
    assert made == {key: one[2:5] for key, one in found.items() if one.attack != DIAGNOSIS}


@pytest.mark.parametrize("attack", [SHORT.get(name, name) for name in ATTACKS.names() if name not in APART])
def test_the_passes_of_every_attack_are_predicted(tmp_path: Path, attack: str) -> None:
    for model in (Wavy(), Linear(), Listening()):
        classes = 2 if isinstance(model, Linear) else 3
        threats = THREATS[:1] if isinstance(model, Listening) else THREATS
        assert_predicted(
            tmp_path / type(model).__name__, model, find_suite(None, threats, (attack,)), make_split(12, classes)
        )


@pytest.mark.parametrize("attack", ["pgd:steps=2,restarts=2", "mma:steps=2", "noise:draws=3"])
def test_gradients_of_random_answers_are_counted_as_often_as_they_are_drawn(tmp_path: Path, attack: str) -> None:
    assert_predicted(tmp_path, Random(), find_suite(None, THREATS, (attack,)))


def test_the_passes_of_corruptions_and_of_whole_suites_are_predicted(tmp_path: Path) -> None:
    assert_predicted(tmp_path / "mask", Linear(), find_suite(None, (), ("mask",)), make_split(12, 2))
    assert_predicted(tmp_path / "suite", Wavy(), dataclasses.replace(find_suite("cvpr21-attack"), published=True))


WORST = dataclasses.replace(find_suite(None, THREATS, ("fgsm", "pgd", "square:queries=20")), mode="worst-case")
RANKED = dataclasses.replace(WORST, published=True)


def test_a_worst_case_suite_costs_no_more_than_predicted_and_as_much_if_nothing_breaks(tmp_path: Path) -> None:
    assert_predicted(tmp_path / "sure", Sure(100.0), WORST, ALIKE)
    bounds = predicted(run_of(tmp_path, Wavy(), WORST))
    record = store.read_record(evaluate(candidate(Wavy()), SPLIT, WORST, RunOptions(output_dir=tmp_path), True))
    assert record["cells"]
    for cell in record["cells"]:
        bound = bounds[cell["threat"], cell["attack"]]
        assert cell["forward"] <= bound.forward
        assert cell["backward"] <= bound.backward


@pytest.mark.parametrize(("of_the_first", "share"), [(100.0, 1.0), (-100.0, 0.0)])
def test_the_trial_expects_what_the_attacks_leave(tmp_path: Path, of_the_first: float, share: float) -> None:
    found = predicted(run_of(tmp_path, Sure(of_the_first), WORST, ALIKE)).values()
    attacked = [one for one in found if one.threat.startswith("X")]
    assert len(attacked) == 9
    assert {one.share for one in attacked} == {share}


def test_a_sample_that_an_attack_breaks_is_not_expected_by_the_next(tmp_path: Path) -> None:
    strong = dataclasses.replace(
        find_suite(None, ("XAV:linf:1:linf:1",), ("pgd", "square:queries=20")), mode="worst-case"
    )
    first, second = (one for one in estimate(run_of(tmp_path, Wavy(), strong), seconds=2.0) if one.threat != "clean")
    assert first.share > second.share == 0.0


@pytest.mark.usefixtures("seeded")  # the probe is asked without what a run wraps around it
@pytest.mark.parametrize("model", [Sure(100.0), Sure(-100.0), Wavy(), pytest.param(Random(), marks=pytest.mark.slow)])
def test_the_passes_of_the_diagnosis_are_predicted(tmp_path: Path, model: nn.Module) -> None:
    bound = predicted(run_of(tmp_path, model, RANKED, ALIKE))["all", DIAGNOSIS]
    folder = evaluate(candidate(model), ALIKE, WORST, RunOptions(output_dir=tmp_path, batch_size=8), True)
    victim = Victim(model, 3, torch.device("cpu"))
    list(probe(victim, ALIKE, RANKED.threats, store.read_rows(folder), micro_batch=8))
    forward, backward = (victim.passes["whole", way] for way in ("forward", "backward"))
    n = len(ALIKE)
    if not isinstance(model, Sure):
        assert forward <= bound.forward
        assert backward <= bound.backward
    elif model.bias[0] > 0:  # nothing breaks, so what only broken samples meet is not run: ten steps of a threat
        assert (forward, backward) == (bound.forward, bound.backward - 3 * 10 * n)
    else:  # all are wrong, so only gradients and randomness are looked at
        assert (forward, backward) == ((3 + 2 * 3) * n, 2 * 2 * n)


def test_a_run_that_cannot_rank_is_not_diagnosed(tmp_path: Path) -> None:
    suite = find_suite(None, THREATS, ("fgsm",))
    assert ("all", DIAGNOSIS) not in predicted(run_of(tmp_path, Wavy(), suite))
    assert ("all", DIAGNOSIS) in predicted(run_of(tmp_path, Wavy(), dataclasses.replace(suite, published=True)))
