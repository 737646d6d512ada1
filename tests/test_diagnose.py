"""Gradient masking is caught: every broken defense of the zoo raises its flag, no honest baseline raises any."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import zoo_broken as zoo
from conftest import Linear, make_split
from torch import Tensor, nn

from avbench import api, files, store
from avbench.attacks import parse_attack
from avbench.cells import Cell, make_parts
from avbench.datasets.splits import open_split
from avbench.diagnose import COVERAGE, FLAGS, Flag, gather, read_health
from avbench.diagnose.probe import probe
from avbench.diagnose.rows import flags_of_record, flags_of_rows
from avbench.errors import DatasetNotPrepared
from avbench.metrics.sketch import sketch
from avbench.models.two_stage import TwoStage
from avbench.objectives import classification_loss, margin
from avbench.oracle import Oracle, Victim
from avbench.rng import seeded
from avbench.submission import find_candidate
from avbench.threats import ThreatModel, find_threats, parse_threat
from avbench.types import MODALITIES, Modality

CPU = torch.device("cpu")
STANDARD = list(find_threats("standard"))
AUDIO = parse_threat("XA:linf:0.05")
ROOT = files.root()


def raised(flags: tuple[Flag, ...]) -> set[str]:
    return {str(flag) for flag in flags if flag.state == "raised"}


def states(flags: list[Flag]) -> dict[str, str]:
    return {str(flag): flag.state for flag in gather(flags)}


def concat() -> TwoStage:
    module = find_candidate("avbench--synthav-concat")[0].module
    assert isinstance(module, TwoStage)
    return module


ZERO_AUDIO, ZERO_VIDEO, RANDOM = "zero-gradients (audio)", "zero-gradients (video)", "random-outputs"
IDLE = {"loss-not-larger (audio)", "loss-not-larger (video)"}
HIDING = [zoo.Quantized, zoo.Thermometer, zoo.Detached, zoo.Leaking, zoo.FrontEnd]
PLACES: list[tuple[Modality, ...]] = [("audio",), ("video",), ("audio", "video")]


def named(found: tuple[Flag, ...], name: str) -> dict[str, tuple[str, float | None, float | None, int]]:
    return {flag.where: (flag.state, flag.value, flag.threshold, flag.n) for flag in found if flag.name == name}


def probed(model: nn.Module, threats: list[ThreatModel], samples: int = 8) -> tuple[Flag, ...]:
    with seeded(CPU, "test"):
        return gather(probe(Victim(model, 8, CPU, draws=1), open_split("synthav", "test"), threats, samples=samples))


@pytest.mark.parametrize("broken", PLACES, ids="-".join)
@pytest.mark.parametrize("make", HIDING)
def test_a_hidden_gradient_is_flagged_in_its_modality_and_in_no_other(
    make: type[zoo.Defended], broken: tuple[Modality, ...]
) -> None:
    found = probed(make(concat(), broken), [])
    wanted = {m: ("raised", 100.0, 1.0, 8) if m in broken else ("passed", 0.0, 1.0, 8) for m in MODALITIES}
    assert named(found, "zero-gradients") == wanted
    assert named(found, "random-outputs") == {"both": ("passed", 0.0, 0.0, 8)}


@pytest.mark.parametrize("make", [zoo.Noisy, zoo.Dropping])
@pytest.mark.parametrize("broken", PLACES, ids="-".join)
def test_random_answers_are_flagged(make: type[zoo.Defended], broken: tuple[Modality, ...]) -> None:
    found = probed(make(concat(), broken), [])
    assert raised(found) == {RANDOM}
    assert named(found, "random-outputs") == {"both": ("raised", 100.0, 0.0, 8)}


@pytest.mark.parametrize(
    ("make", "modality", "threat", "left"),  # how many of four samples are right, and not broken by other means
    [
        (zoo.Quantized, "video", STANDARD[1], 1),
        (zoo.Lying, "audio", STANDARD[0], 3),  # whose gradients are not zero, but wrong
        (zoo.Lying, "video", STANDARD[1], 3),
    ],
)
def test_attacks_that_get_nowhere_are_flagged(
    make: type[zoo.Defended], modality: Modality, threat: ThreatModel, left: int
) -> None:
    found = probed(make(concat(), (modality,)), [threat], samples=4)
    state, value, threshold, n = named(found, "loss-not-larger")[modality]
    assert (state, threshold, n) == ("raised", 1.0, left)
    assert value is not None
    assert value >= 50, "sign(0) is no step, but a random start may hit"
    assert raised(found) <= {f"{name} ({modality})" for name in FLAGS}


def test_probabilities_of_sure_logits_are_flagged() -> None:
    assert raised(probed(zoo.Saturated(concat()), [])) == {ZERO_AUDIO, ZERO_VIDEO}


def test_honest_stand_ins_raise_nothing() -> None:
    assert raised(probed(zoo.QuantizedWithStandIns(concat()), STANDARD[:2], samples=3)) == set()


def test_logits_times_1000_are_flagged_and_still_evaluated_at_their_true_robustness() -> None:
    split, plain, sure = open_split("synthav", "test"), concat().eval(), zoo.Sure(concat()).eval()
    batch = split.batch(split.present[:24])
    with torch.no_grad():
        right = int((margin(plain(*batch.inputs), batch.labels) > 0.11).sum())  # 1000 times that leaves exp(-110)
    assert right > 12
    found = named(probed(sure, [], samples=24), "zero-gradients")
    assert found == dict.fromkeys(MODALITIES, ("raised", 100 * right / 24, 1.0, 24))
    oracle = Oracle(Victim(sure, 8, CPU), batch, MODALITIES, {})
    of_loss = oracle.gradient(batch.inputs, classification_loss).inputs
    assert sum(not any(g[i].any() for g in of_loss.values()) for i in range(24)) == right, "an author's attack stops"
    cells = [Cell(STANDARD[2], parse_attack(text)) for text in ("pgd", "mim")]
    survived = [
        [int(part.rows["correct"].sum()) for _, part in make_parts(Victim(model, 8, CPU), batch, cells, seed=0)]
        for model in (plain, sure)
    ]
    for with_factor, without in zip(*reversed(survived), strict=True):
        assert abs(with_factor - without) <= 2, "its true robustness, up to one step's direction"
        assert with_factor < right / 2, "the attacks must break something, or this test is idle"


@pytest.mark.parametrize(
    ("dataset", "split", "kind"),
    [*(("synthav", "test", kind) for kind in ("audio", "video", "sum", "concat")), ("avmnist", "val", "concat")],
)  # all others by their health.json, below
def test_no_honest_baseline_raises_a_flag(dataset: str, split: str, kind: str) -> None:
    try:
        clips = open_split(dataset, split)
    except DatasetNotPrepared:
        pytest.skip(f"{dataset} is not prepared")
    model, card = find_candidate(f"avbench--{dataset}-{kind}")
    found = gather(probe(Victim(model.module, len(card.classes), CPU), clips, STANDARD, samples=8))
    assert raised(found) == set()
    checked = {str(flag) for flag in found if flag.state == "passed"}
    silent = {"audio": "video", "video": "audio"}.get(kind)
    others = {"incomplete-coverage", "clean-accuracy-not-as-claimed"}  # which need stored rows
    others |= {"loss-not-larger"}  # of both at once it is checked only if something survives one at a time
    assert checked | others == others | {
        str(Flag(name=name, where=where, state="passed"))
        for name, places in FLAGS.items()
        for where in places
        if where != silent
    }


# Found to raise a flag, the first three on AV-MNIST, mix-up on GRID; such runs do not rank.
HIDING_DEFENSES = {"minsim", "minsim-exfmem", "pcl", "mixup"}


@pytest.mark.parametrize(
    "run", sorted(ROOT.glob("leaderboard/results/*/*")), ids=lambda run: f"{run.parent.name}-{run.name}"
)
def test_committed_runs_are_diagnosed_and_raise_no_flag_but_where_a_defense_hides_gradients(run: Path) -> None:
    rows, record = api.read_run(run), store.read_record(run)
    health = read_health(run, record["run"], record["rows_sha256"])
    assert health is not None, "repeat `avbench diagnose`"
    assert health.probed == min(64, record["dataset"]["evaluated"])
    assert " /" not in record["provenance"]["command"], "a committed record names a path of some machine"
    found = states([*flags_of_record(record, rows), *flags_of_rows(rows)])
    assert found["incomplete-coverage"] == "passed"
    if record["model"]["defense"] in HIDING_DEFENSES:
        return
    assert "raised" not in found.values()
    assert not health.raised
    if record["suite"]["mode"] == "every":  # else later attacks may meet nothing
        assert found["loss-not-larger"] == "passed"


class Plateau(Linear):
    """Flat exactly at stored clips, and nowhere else: steps from the clean clip stand still, others do not."""

    def encode_audio(self, audio: Tensor) -> Tensor:
        stored = (audio * 32768 == (audio * 32768).round()).all(dim=1, keepdim=True)
        return super().encode_audio(audio.detach().where(stored, audio))


def test_another_start_and_noise_that_beat_the_gradient_attack_are_flagged() -> None:
    found = gather(probe(Victim(Plateau(), 2, CPU), make_split(64), [AUDIO]))
    assert raised(found) >= {ZERO_AUDIO, "more-steps-help (audio)"}
    assert not any("video" in flag for flag in raised(found))

    class Backwards(Linear):
        def differentiable_encode_audio(self, audio: Tensor) -> Tensor:
            return -super().encode_audio(audio)

    found = gather(probe(Victim(Backwards(), 2, CPU), make_split(64), [parse_threat("XA:linf:0.3")]))
    wanted = {"noise-beats-gradient", "black-box-beats-white-box", "loss-not-larger"}
    assert raised(found) >= {f"{flag} (audio)" for flag in wanted}

    class Deaf(Linear):
        def encode_audio(self, audio: Tensor) -> Tensor:
            return super().encode_audio(audio.detach())

    found = gather(probe(Victim(Deaf(), 2, CPU), make_split(64), [AUDIO]))
    assert [(str(flag), flag.value, flag.n) for flag in found if flag.state == "raised"] == [(ZERO_AUDIO, 100.0, 64)]
    assert not any(flag.name == "more-steps-help" and flag.state != "not checked" for flag in found)

    honest = gather(probe(Victim(Linear(), 2, CPU), make_split(64), [AUDIO, parse_threat("XV:linf:0.05")]))
    assert raised(honest) == set()


MANY = "1" * 64
PGD = "1" * 60 + "0" * 4


@pytest.mark.parametrize(
    ("cells", "flag", "state"),
    [
        ({"XA:linf:0.1 pgd": MANY, "XA:linf:0.1 noise": "0" * 4 + "1" * 60}, "noise-beats-gradient (audio)", "raised"),
        ({"XA:linf:0.1 pgd": MANY, "XA:linf:0.1 noise": "0" * 3 + "1" * 61}, "noise-beats-gradient (audio)", "passed"),
        ({"XA:linf:0.1 pgd": PGD, "XA:linf:0.1 noise": PGD}, "noise-beats-gradient (audio)", "passed"),
        ({"XA:linf:0.1 pgd": PGD, "XA:linf:0.1 mim": MANY}, "noise-beats-gradient (audio)", "not checked"),
        # a transfer attack breaks what no gradient attack does, within the same budgets
        ({"XV:linf:0.1 pgd": PGD, "XV:linf:0.1@transfer noise": "0" * 4 + "1" * 60},
         "black-box-beats-white-box (video)", "raised"),
        # a gradient attack inside the threat broke them already
        ({"XA:linf:0.1 pgd": "0" * 4 + "1" * 60, "XAV:linf:0.1:linf:0.1 pgd": "...." + "1" * 60,
          "XAV:linf:0.1:linf:0.1 noise": "0000" + "1" * 60}, "noise-beats-gradient", "passed"),
        ({"XA:linf:0.1 pgd": "0" * 8 + "1" * 56, "XA:linf:0.2 pgd": "0" * 4 + "1" * 60},
         "accuracy-rises-with-radius (audio)", "raised"),
        ({"XA:linf:0.1 pgd": "0" * 8 + "1" * 56, "XA:linf:0.2 pgd": "0" * 12 + "1" * 52},
         "accuracy-rises-with-radius (audio)", "passed"),
        ({"XA:linf:0.1 pgd": "0" * 8 + "1" * 56, "XA:linf:0.15 pgd": MANY},
         "accuracy-rises-with-radius (audio)", "not checked"),
        ({"XV:linf:1.0 pgd": "1" * 40 + "0" * 24, "clean silence-video": "1" * 20 + "0" * 44},
         "above-chance-at-huge-radius (video)", "raised"),
        ({"XV:linf:1.0 pgd": "1" * 24 + "0" * 40, "clean silence-video": "1" * 20 + "0" * 44},
         "above-chance-at-huge-radius (video)", "passed"),
        ({"XA:linf:0.0 pgd": MANY}, "loss-not-larger (audio)", "not checked"),
        ({"XA:linf:0.1 pgd": MANY}, "loss-not-larger (audio)", "raised"),  # a sketch has one loss everywhere
        ({"XA:linf:0.1 noise": MANY}, "loss-not-larger (audio)", "not checked"),
    ],
)  # fmt: skip
def test_stored_rows_show_it(cells: dict[str, str], flag: str, state: str) -> None:
    rows = sketch({"clean none": MANY, **cells})
    silent = rows.frame["attack"].str.startswith("silence")
    assert states(list(flags_of_rows(dataclasses.replace(rows, frame=rows.frame.assign(margin=silent.astype(float))))))[
        flag
    ] == state  # fmt: skip


def test_a_modality_that_silence_does_not_change_is_not_checked() -> None:
    rows = sketch({"clean none": MANY, "clean silence-audio": MANY, "XA:linf:0.1 pgd": MANY, "XV:linf:0.1 pgd": MANY})
    found = states(list(flags_of_rows(rows)))
    assert (found["loss-not-larger (audio)"], found["loss-not-larger (video)"]) == ("not checked", "raised")


@pytest.mark.parametrize(("claim", "evaluated", "expected"), [(95, 64, ""), (99, 64, "clean"), (95, 60, "incomplete")])
def test_coverage_and_the_claim_are_compared(claim: float, evaluated: int, expected: str) -> None:
    claims = [{"split": "val", "clean": 1.0}, {"split": "test", "clean": claim}]
    record = {"dataset": {"split": "test-64", "evaluated": evaluated, "size": 64}, "model": {"claims": claims}}
    found = gather(flags_of_record(record, sketch({"clean none": PGD})))
    assert [flag.name.split("-")[0] for flag in found if flag.state == "raised"] == [expected] * bool(expected)
    assert {flag.threshold for flag in found if flag.n} == {claim, COVERAGE}
