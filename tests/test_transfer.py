"""Transfer: crafted on surrogates alone, whose identity is the cell's, and never on the attacked model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Linear, Wavy, candidate, make_split
from torch import Tensor, nn

from avbench import store
from avbench.attacks import parse_attack
from avbench.attacks.transfer import MeanOfLogits, Transfer
from avbench.cells import Cell, make_clips
from avbench.errors import AvbenchError, BadOption, SubmissionError
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import Run, evaluate
from avbench.suites import find_suite
from avbench.threats import parse_threat

SPLIT = make_split(40, 3)
CARD = SPLIT.card.model_copy(update={"baseline": "org--base"})
ZOO: dict[str, nn.Module] = {"org--base": Wavy(7), "org--one": Wavy(8), "org--two": Wavy(9)}
THREATS = ("XA:linf:0.05@transfer", "XAV:linf:0.05:l2:0.3@transfer")
CHANGES = ["audio_linf", "audio_l2", "video_linf", "video_l2"]


@pytest.fixture(autouse=True)
def _zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        if name not in ZOO:
            raise SubmissionError(f"no submission is called {name}")
        return candidate(ZOO[name], name), CARD

    monkeypatch.setattr("avbench.crafting.open_model", find)


def run_of(folder: Path, model: nn.Module, attack: str, threats: tuple[str, ...] = THREATS, limit: int = 40) -> Run:
    split = dataclasses.replace(SPLIT, card=CARD)
    options = RunOptions(output_dir=folder, batch_size=16, limit=limit)
    return Run(candidate(model), split, find_suite(None, threats, (attack,)), options)


def rows_of(run: Run) -> pd.DataFrame:
    rows = store.read_rows(evaluate(run.candidate, run.split, run.suite, run.options, quiet=True))
    return rows[rows["threat"] != "clean"].reset_index(drop=True)


def test_a_text_is_read_back_with_the_parameters_of_the_inner_attack() -> None:
    attack = parse_attack("transfer:attack=pgd/steps=20/random_start=True,surrogates=org--one+org--two")
    assert isinstance(attack, Transfer)
    assert attack.inner == parse_attack("pgd:steps=20,random_start=True")
    assert attack.names == ("org--one", "org--two")
    assert parse_attack(str(attack)) == attack
    assert str(parse_attack("transfer")) == "transfer:attack=mim,surrogates=baseline"


@pytest.mark.parametrize(
    "text",
    [
        "transfer:attack=nothing", "transfer:attack=pgd/steps=0", "transfer:attack=pgd/stepz=3",
        "transfer:attack=transfer", "transfer:attack=mask", "transfer:surrogates=", "transfer:surrogates=a--b++c--d",
        "transfer:surrogates=a--b+a--b",
    ],
)  # fmt: skip
def test_what_cannot_be_transferred_is_a_named_error(text: str) -> None:
    with pytest.raises(AvbenchError):
        parse_attack(text)


@pytest.mark.parametrize("attack", ["fgsm", "pgd/steps=3/random_start=True", "square/queries=10", "tma/steps=2"])
def test_clips_are_those_of_the_surrogate_whoever_is_attacked(tmp_path: Path, attack: str) -> None:
    text = f"transfer:attack={attack},surrogates=org--one"
    one, other = (rows_of(run_of(tmp_path / str(i), Wavy(i), text)) for i in (0, 1))
    pd.testing.assert_frame_equal(one[CHANGES], other[CHANGES])
    assert not one["margin"].equals(other["margin"])
    if "start" in attack or "queries" in attack or "tma" in attack:
        return  # their draws are named by the attack
    white = tuple(threat.removesuffix("@transfer") for threat in THREATS)
    crafted = rows_of(run_of(tmp_path / "white", ZOO["org--one"], attack.replace("/", ":", 1).replace("/", ","), white))
    pd.testing.assert_frame_equal(one[CHANGES], crafted[CHANGES])


def test_the_attacked_model_is_only_judged(tmp_path: Path) -> None:
    class Closed(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            assert not torch.is_grad_enabled(), "a gradient was asked for"
            return super().forward(audio, video)

    run = run_of(tmp_path, Closed(), "transfer:attack=pgd/steps=3,surrogates=org--one+org--two")
    with run.locked():
        run.execute(quiet=True)
    assert run.victim.passes["whole", "forward"] == (3 + len(THREATS)) * 40  # three references, one judgment a threat
    assert not run.victim.passes["whole", "backward"]
    cells = [cell for cell in store.read_record(run.folder)["cells"] if cell["threat"] != "clean"]
    assert [(cell["forward"], cell["backward"]) for cell in cells] == [((2 * 3 + 1) * 40, 2 * 3 * 40)] * 2
    assert [one["id"] for one in cells[0]["surrogates"]] == ["org--one", "org--two"]


def test_several_surrogates_are_one_model_that_answers_the_mean_of_their_logits() -> None:
    first, second = Linear(1), Linear(2)
    batch = make_split(8).batch(range(8))
    torch.testing.assert_close(
        MeanOfLogits([first, second])(*batch.inputs), (first(*batch.inputs) + second(*batch.inputs)) / 2
    )
    first.modalities, second.modalities = ("audio",), ("video",)  # type: ignore[assignment]
    assert MeanOfLogits([first]).modalities == ("audio",)
    assert MeanOfLogits([first, second]).modalities == ("audio", "video")


def test_the_surrogates_are_part_of_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prints(attack: str) -> set[str]:
        run = run_of(tmp_path, Wavy(), attack)
        return {run.fingerprint(cell) for cell in run.cells}

    first = prints("transfer:attack=fgsm,surrogates=org--one")
    others = [
        prints("transfer:attack=fgsm,surrogates=org--two"),
        prints("transfer:attack=fgsm,surrogates=org--one+org--two"),
        prints("transfer:attack=pgd,surrogates=org--one"),
    ]
    baseline = prints("transfer:attack=fgsm")
    monkeypatch.setitem(ZOO, "org--base", Wavy(17))
    others += [baseline, prints("transfer:attack=fgsm")]
    assert baseline != others[-1], "the same words, another baseline"
    monkeypatch.setitem(ZOO, "org--one", Wavy(18))
    others.append(prints("transfer:attack=fgsm,surrogates=org--one"))
    monkeypatch.setattr(type(parse_attack("fgsm")), "version", 99)
    others.append(prints("transfer:attack=fgsm,surrogates=org--one"))
    assert not any(first & other for other in others)


def test_the_attacked_model_is_refused_among_its_own_surrogates(tmp_path: Path) -> None:
    for attack in ("transfer:attack=fgsm", "transfer:attack=fgsm,surrogates=org--one+org--base"):
        with pytest.raises(BadOption, match="among its own surrogates"):
            run_of(tmp_path, Wavy(7), attack)  # the same weights under another name
    split = dataclasses.replace(SPLIT, card=CARD)
    suite = find_suite(None, THREATS, ("transfer:attack=fgsm",))
    with pytest.raises(BadOption, match="among its own surrogates"):
        Run(candidate(Wavy(3), "org--base"), split, suite, RunOptions(output_dir=tmp_path))


@pytest.mark.parametrize("change", [{"name": "other"}, {"samples": 25}, {"classes": ("a", "b", "c")}], ids=str)
def test_a_surrogate_for_other_data_is_refused(tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = CARD.model_copy(update=change)
    monkeypatch.setattr("avbench.crafting.open_model", lambda name: (candidate(Wavy(5), name), other))
    with pytest.raises(BadOption, match=r"is for .*, whose clips or classes are not those of toy"):
        run_of(tmp_path, Wavy(), "transfer:attack=fgsm,surrogates=org--one")


def test_a_surrogate_that_does_not_exist_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="org--none"):
        run_of(tmp_path, Wavy(), "transfer:attack=fgsm,surrogates=org--none")
    with pytest.raises(BadOption, match="a surrogate is a submission"):
        run_of(tmp_path, Wavy(), "transfer:attack=fgsm,surrogates=weights.pt")
    suite = find_suite(None, THREATS, ("transfer:attack=fgsm",))
    with pytest.raises(BadOption, match="toy has no baseline"):
        Run(candidate(Wavy()), SPLIT, suite, RunOptions(output_dir=tmp_path))


@pytest.mark.parametrize(
    ("threat", "attack", "says"),
    [
        ("XA:linf:0.1", "transfer", "write XA:linf:0.1@transfer"),
        ("XA:linf:0.1@black-box", "transfer", "write XA:linf:0.1@transfer"),
        ("XA:linf:0.1@transfer", "pgd", "does not grant"),
        ("XA:linf:0.1@transfer", "square", "uses the model's scores, which .* does not grant"),
        ("XA:linf:0.1@transfer", "universal", "does not grant"),
        ("XA:linf:0.1@black-box", "universal", "does not grant"),
    ],
)
def test_access_is_enforced(threat: str, attack: str, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        find_suite(None, (threat,), (attack,))
    with pytest.raises(BadOption, match=says):
        Cell(parse_threat(threat), parse_attack(attack))


def test_without_surrogates_the_attacked_model_is_not_taken_instead() -> None:
    victim, batch = Victim(Wavy(), 3, torch.device("cpu")), SPLIT.batch(range(4))
    with pytest.raises(BadOption, match="needs its surrogates"):
        make_clips(victim, batch, Cell(parse_threat(THREATS[0]), Transfer()), {}, 0)


def test_a_model_without_gradients_can_be_attacked_by_transfer(tmp_path: Path) -> None:
    class Hard(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio, video).detach()

    run = run_of(tmp_path, Hard(), "transfer:attack=pgd/steps=2")
    run = Run(run.candidate, run.split, run.suite, dataclasses.replace(run.options, batch_size=None))
    assert len(rows_of(run)) == 2 * 40


def test_a_finished_transfer_is_not_crafted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(run_of(tmp_path, Wavy(), "transfer:attack=fgsm", limit=20))
    assert len(before) == 2 * 20
    full = rows_of(run_of(tmp_path, Wavy(), "transfer:attack=fgsm"))
    pd.testing.assert_frame_equal(full, rows_of(run_of(tmp_path / "fresh", Wavy(), "transfer:attack=fgsm")))
    monkeypatch.setattr(Transfer, "run", lambda *_: pytest.fail("the attack ran again"))
    pd.testing.assert_frame_equal(rows_of(run_of(tmp_path, Wavy(), "transfer:attack=fgsm")), full)
