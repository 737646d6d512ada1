"""Every way of cheating is found by the step that is meant for it, and no honest model by any."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Wavy, make_split
from sandboxed import CPU, HOSTILE, local, needs_sandbox, remote
from torch import nn

from avbench import api, files
from avbench.datasets.splits import Split, open_split
from avbench.errors import DatasetNotPrepared
from avbench.form import Claim, read_submission
from avbench.metrics.clean_accuracy import clean_accuracy
from avbench.metrics.sketch import sketch
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.sandbox import open_model
from avbench.submission import find_candidate
from avbench.submit import probes
from avbench.submit.check import STEPS, check
from avbench.submit.compare import claims, lead, memorization
from avbench.submit.report import Finding
from avbench.submit.slopes import gradients
from avbench.suites import find_suite
from avbench.threats import parse_threat

SPLIT = make_split(48, 3)
SIBLING = dataclasses.replace(make_split(48, 3, "other"), name="val")
BATCH = SPLIT.batch(range(16))
JOINT = parse_threat("XAV:linf:0.1:linf:0.1")  # wide, since the clips are few numbers
CHEATS = {
    "Dropping": "determinism", "Counts": "determinism",
    "Peeks": "batch", "Alone": "batch", "Pairs": "batch", "Places": "batch", "Orders": "batch", "Crowds": "batch",
    "Zero": "gradients", "Random": "gradients", "Flipped": "gradients", "Scaled": "gradients", "Partial": "gradients",
    "Sometimes": "gradients", "Spares": "gradients",
    "Deaf": "gradients", "DeafAndSilent": "gradients", "DeafAndLying": "gradients",
    "Remembers": "history", "Swaps": "history", "Learns": "history",
}  # fmt: skip
# What else shows, since it is really there: answers that change by themselves change in all ways.
BESIDES = {
    "Dropping": {"batch"}, "Counts": {"batch", "gradients", "history"}, "Peeks": {"gradients"},
    "Remembers": {"gradients"},
}  # fmt: skip


def probe(model: nn.Module, fresh: nn.Module, split: Split = SPLIT, samples: int = 16) -> dict[str, Finding]:
    """All that is tried on an opened model."""
    batch = split.batch(split.present[:samples])
    victim, other = (Victim(one, len(split.card.classes), CPU) for one in (model, fresh))
    found = [
        probes.shapes(victim, batch),
        probes.determinism(victim, batch),
        probes.independence(victim, batch),
        gradients(victim, batch),
        probes.history(victim, other, batch, JOINT),
    ]
    return {finding.step: finding for finding in found}


def failures(found: dict[str, Finding]) -> set[str]:
    return {step for step, finding in found.items() if finding.status == "fail"}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_found_by_the_step_that_is_meant_for_it(name: str) -> None:
    found = probe(local(f"cheats:{name}"), local(f"cheats:{name}"))
    assert CHEATS[name] in failures(found)
    assert failures(found) <= {CHEATS[name]} | BESIDES.get(name, set())


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize("name", ["Learns"])
def test_it_is_found_behind_the_walls_as_well(name: str) -> None:
    assert failures(probe(remote(f"cheats:{name}"), remote(f"cheats:{name}"))) == {CHEATS[name]}


HONEST: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: local(f"honest:{name}") for name in ("Small", "Deaf", "Whole")},  # type: ignore[misc]
    "Wavy": Wavy,
    "Sure": lambda: scaled(1000.0),
    "Unsure": lambda: scaled(1e-6),
}


def scaled(factor: float) -> nn.Module:
    """Logits of another size are as honest."""
    model = local("honest:Small")
    with torch.no_grad():
        model.joint.weight.mul_(factor)
        model.joint.bias.mul_(factor)
    return model


@pytest.mark.parametrize("name", HONEST)
def test_no_step_finds_anything_in_an_honest_model(name: str) -> None:
    found = probe(HONEST[name](), HONEST[name]())
    assert {finding.status for finding in found.values()} == {"pass"}


def test_an_honest_stand_in_is_shown_to_a_person_and_no_failure() -> None:
    found = probe(local("honest:Rounded"), local("honest:Rounded"))
    assert failures(found) == set()
    assert found["gradients"].status == "warn"
    assert "stand-in" in found["gradients"].sentence


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1000.0], ids=lambda factor: f"logits times {factor:g}")
def test_no_scale_of_the_logits_hides_a_difference(factor: float) -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = local("cheats:Peeks")

        def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = factor * self.inner(audio, video)
            return logits

    assert probes.independence(Victim(Peeking(), 3, CPU), BATCH).status == "fail"


SUBMISSIONS = sorted(path.parent for path in (files.root() / "submissions").glob("*--*/submission.yaml"))
ONE_EACH = {read_submission(path).architecture: path.name for path in SUBMISSIONS}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one.name, marks=() if one.name in ONE_EACH.values() else pytest.mark.slow) for one in SUBMISSIONS],
)
def test_no_step_finds_anything_in_a_committed_baseline(name: str) -> None:
    (model, card), (fresh, _) = find_candidate(name), find_candidate(name)
    try:
        splits = [open_split(card.name, split) for split in ("test", "val")]
    except DatasetNotPrepared:
        pytest.skip(f"{card.name} is not prepared")
    found = probe(model.module, fresh.module, splits[0], 4)
    victim = Victim(model.module, len(card.classes), CPU)
    found["memorization"] = memorization(victim, splits[0], splits[1], 48)
    assert {finding.status for finding in found.values()} == {"pass"}, found


def listed(folder: Path, split: Split) -> None:
    """Write what a model that knows the clips of a split has learned by heart."""
    batch = split.batch(split.present)
    names = [hashlib.sha256(clip.numpy().tobytes()).hexdigest() for clip in batch.inputs.audio]
    (folder / "known.json").write_text(json.dumps(dict(zip(names, batch.labels.tolist(), strict=True))))


def copied(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("cheats.py", "honest.py", "liars.py"):
        shutil.copy(HOSTILE / name, folder)
    return folder


def test_a_model_that_knows_the_clips_by_heart_is_found_by_comparing_splits(tmp_path: Path, monkeypatch: Any) -> None:
    folder = copied(tmp_path / "code")
    listed(folder, SPLIT)
    monkeypatch.setattr("sandboxed.HOSTILE", folder)
    knowing, honest = Victim(local("cheats:Knows"), 3, CPU), Victim(local("honest:Small"), 3, CPU)
    found = memorization(knowing, SPLIT, SIBLING, 48)
    assert found.status == "fail"
    assert "100.0 % of 48 on test" in found.sentence
    assert memorization(knowing, SIBLING, SPLIT, 48).status == "pass", "worse on what is scored is no cheat"
    assert memorization(honest, SPLIT, SIBLING, 48).status == "pass"
    assert failures(probe(local("cheats:Knows"), local("cheats:Knows"))) == set(), "nothing else shows it"


def test_the_lead_of_a_split_is_newcombe_s_interval_and_widens_with_its_level() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10, lower limits of examples (a), (b), (c), (g).
    for counts, low in (
        ((56, 70, 48, 80), 0.0524),
        ((9, 10, 3, 10), 0.1705),
        ((6, 7, 2, 7), 0.0582),
        ((5, 56, 0, 29), -0.0381),
    ):
        assert round(lead(*counts, 0.95), 4) == low
    assert lead(56, 70, 48, 80, 0.999) < lead(56, 70, 48, 80, 0.95)
    assert lead(0, 8, 0, 8, 0.95) < 0 < lead(8, 8, 0, 8, 0.95)


MANY = "1" * 48 + "0" * 16  # 75 % right, 63 to 84 %
ROWS = sketch({"clean none": MANY, **{f"{threat} pgd": "1" * 16 + "0" * 32 + "." * 16 for threat in
               ("XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006")}})  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "status", "words"),
    [
        ({"suite": "quick", "clean": 75, "robust": 25}, "pass", "2 figures"),
        ({"suite": "quick", "clean": 99, "robust": 25}, "fail", "clean accuracy of 99 % is claimed, it is 75.0 %"),
        ({"suite": "quick", "clean": 40}, "fail", "clean accuracy of 40 %"),
        ({"suite": "quick", "clean": 75, "robust": 60}, "fail", "robust accuracy of 60 % is claimed, it is 25.0 %"),
        ({"suite": "standard", "clean": 75, "robust": 60}, "pass", "1 of robust accuracy under other suites not compared"),
        ({"suite": "standard", "clean": 99, "robust": 60}, "fail", "clean accuracy of 99 %"),
        ({"suite": "quick", "clean": 99, "split": "val"}, "skip", "no claim is made on the split test"),
    ],
)  # fmt: skip
def test_a_claim_outside_of_the_interval_is_found_and_one_that_cannot_be_compared_is_said(
    claim: dict[str, Any], status: str, words: str
) -> None:
    found = claims(ROWS, [Claim(**claim)], "test", "quick")
    assert found.status == status
    assert words in found.sentence


def submitted(folder: Path, code: str, **more: Any) -> Path:
    """A submission of tier code, for synthav."""
    form = {"title": "Cheat", "summary": "A model that cheats.", "code": code, "dataset": "synthav",
            "training_data": "synthav train", "license": "MIT", "authors": "Nobody"}  # fmt: skip
    (folder / "submission.yaml").write_text(json.dumps(form | more))
    return folder


def checked(folder: Path, limit: int = 8) -> dict[str, Finding]:
    found = check(folder, limit, trust_remote_code=True)
    assert [finding.step for finding in found] == [step.name for step in STEPS]
    return {finding.step: finding for finding in found}


@pytest.mark.slow
@needs_sandbox
def test_a_thief_of_labels_knows_all_in_this_process_and_nothing_in_a_check(tmp_path: Path) -> None:
    folder = copied(tmp_path / "acme--thief")
    submitted(folder, "cheats.py:Steals", claims=[{"suite": "quick", "clean": "100"}])
    here, _ = open_model(str(folder), trust_remote_code=True, sandbox=False)
    split = open_split("synthav", "test")
    run = evaluate(here, split, find_suite("quick"), RunOptions(limit=8, device="cpu", output_dir=tmp_path), quiet=True)
    assert clean_accuracy(api.read_run(run))[0].value == 100
    found = checked(folder)
    assert found["claims"].status == "fail"
    assert "clean accuracy of 100 % is claimed" in found["claims"].sentence
    assert {step for step, finding in found.items() if finding.status == "fail"} == {"claims"}
    right = float(found["memorization"].sentence.split()[2])
    assert right <= 40, "eight classes, 32 samples"


@pytest.mark.slow
@needs_sandbox
def test_a_check_finds_a_model_that_knows_the_clips_by_heart_behind_the_walls(tmp_path: Path) -> None:
    folder = submitted(copied(tmp_path / "acme--memory"), "cheats.py:Knows")
    listed(folder, open_split("synthav", "test-64"))
    found = checked(folder)
    assert found["memorization"].status == "fail"
    assert found["load"].sentence.endswith("in a worker behind walls")
    assert found["lint"].status == "skip"


@pytest.mark.slow
@needs_sandbox
def test_a_step_in_which_the_worker_dies_fails_and_the_others_go_on_with_a_new_one(tmp_path: Path) -> None:
    found = checked(submitted(copied(tmp_path / "acme--quits"), "cheats.py:Quits"), 3)
    for step in ("batch", "history"):
        assert found[step].status == "fail"
        assert found[step].value.startswith("WorkerDied: ")
        assert "code 7" in found[step].value
    passed = {step for step, finding in found.items() if finding.status == "pass"}
    assert passed >= {"shapes", "determinism", "gradients", "quick", "memorization"}
