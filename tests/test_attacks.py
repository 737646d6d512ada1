"""Every registered attack keeps its contract on a non-convex model; clips are compared, not only outcomes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from conftest import FRAMES, Linear, Wavy, make_split
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avbench.attacks import ATTACKS, Attack, Cost, Setting, parse_attack
from avbench.attacks.fgsm import FGSM
from avbench.attacks.mim import MIM
from avbench.attacks.pgd import PGD
from avbench.errors import AvbenchError, BadModel, BadOption, BudgetViolation, NonFiniteOutput
from avbench.objectives import ascent_objective, classification_loss, margin
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.suites import find_suite
from avbench.threats import ThreatModel, parse_threat
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch

THREATS = [
    parse_threat(t)
    for t in ("XA:linf:0.05", "XV:linf:0.05", "XAV:linf:0.02:linf:0.05", "XA:l2:0.5", "XAV:l2:0.5:linf:0.05", "XV:linf-normalized:0.1")
]  # fmt: skip
# mask is a corruption and universal is fitted first: test_mask.py and test_universal.py.
ALONE = [name for name in ATTACKS.names() if name not in ("mask", "universal")]
SHORT = {"square": "square:queries=60"}
VARIANTS = [
    *(SHORT.get(name, name) for name in ALONE),
    "pgd:restarts=3",
    "pgd:random_start=True,steps=4",
    "noise:draws=3",
]
BATCH = make_split(24, 3).batch(range(12))


def run(
    attack: Attack, threat: ThreatModel, batch: Batch = BATCH, model: nn.Module | None = None, seed: int = 0
) -> AVInput:
    victim = Victim(model or Wavy(), 3 if model is None else 2, torch.device("cpu"))
    oracle = Oracle(victim, batch, tuple(threat.budgets), {}, attack.needs)
    return attack.run(oracle, batch, Region(threat, batch.inputs), Rng(seed, attack.identity["name"], batch.ids))


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
class TestEveryAttack:
    def test_stays_in_its_threat_set_and_moves(self, name: str, threat: ThreatModel) -> None:
        clips = run(parse_attack(name), threat)
        Region(threat, BATCH.inputs).check(clips, BATCH.ids, name)
        for modality in threat.budgets:
            assert not torch.equal(getattr(clips, modality), getattr(BATCH.inputs, modality))

    def test_gives_each_sample_the_same_clip_in_any_company(self, name: str, threat: ThreatModel) -> None:
        whole = run(parse_attack(name), threat)
        order = torch.tensor([7, 2, 11, 0, 5])
        some = Batch(tuple(BATCH.ids[i] for i in order), BATCH.inputs.pick(order), BATCH.labels[order])
        for one, other in zip(run(parse_attack(name), threat, some), whole.pick(order), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)

    def test_gives_the_same_bits_again(self, name: str, threat: ThreatModel) -> None:
        for one, other in zip(run(parse_attack(name), threat), run(parse_attack(name), threat), strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("model", [Wavy(), Linear()], ids=["logits only", "two stages"])
    def test_makes_the_passes_that_it_announces(self, name: str, threat: ThreatModel, model: nn.Module) -> None:
        attack, victim = parse_attack(name), Victim(model, 3 if isinstance(model, Wavy) else 2, torch.device("cpu"))
        batch = BATCH if isinstance(model, Wavy) else make_split(12).batch(range(12))
        fixed = {m: victim.embed(batch.inputs, m) for m in MODALITIES if victim.two_stage and m not in threat.budgets}
        victim.passes.clear()
        oracle = Oracle(victim, batch, tuple(threat.budgets), fixed, attack.needs)
        attack.run(oracle, batch, Region(threat, batch.inputs), Rng(0, name, batch.ids))
        parts = [*threat.budgets] if victim.two_stage else ["whole"]
        made = Cost(*(max(victim.passes[p, way] / 12 for p in parts) for way in ("forward", "backward")))
        assert made == attack.cost(Setting(tuple(threat.budgets), victim.two_stage, FRAMES, victim.classes))

    def test_lowers_the_margin_unless_it_is_blind(self, name: str, threat: ThreatModel) -> None:
        model = Wavy()
        before = margin(model(*BATCH.inputs), BATCH.labels).mean()
        after = margin(model(*run(parse_attack(name), threat)), BATCH.labels).mean()
        assert after < before

    def test_returns_the_clean_clip_at_radius_zero(self, name: str, threat: ThreatModel) -> None:
        nothing = ThreatModel(**{m: dataclasses.replace(b, radius=0.0) for m, b in threat.budgets.items()})
        for one, clean in zip(run(parse_attack(name), nothing), BATCH.inputs, strict=True):
            assert torch.equal(one, clean)

    def test_works_on_a_batch_of_one(self, name: str, threat: ThreatModel) -> None:
        one = Batch(BATCH.ids[:1], BATCH.inputs.pick(slice(0, 1)), BATCH.labels[:1])
        Region(threat, one.inputs).check(run(parse_attack(name), threat, one), one.ids, name)


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_is_read_back_from_its_text_and_its_parameters_are_its_identity(name: str) -> None:
    attack = parse_attack(name)
    assert parse_attack(str(attack)) == attack
    assert attack.identity["name"] == name
    for field in dataclasses.fields(attack):
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            changed = dataclasses.replace(attack, **{field.name: field.default + 1})
            assert parse_attack(str(changed)) == changed
            assert changed.identity != attack.identity


@given(st.text(max_size=30).map(lambda t: "pgd:" + t) | st.text(max_size=30))
def test_any_text_is_an_attack_or_a_named_error(text: str) -> None:
    try:
        parse_attack(text)
    except AvbenchError as error:
        assert str(error)


@pytest.mark.parametrize(
    "text",
    [
        "pgd:steps=0",
        "pgd:steps=x",
        "pgd:stepz=3",
        "mim:step=-1",
        "noise:draws=0",
        "pgd:step=inf",
        "mim:momentum=nan",
        "pgd:step=1e300",
        "pgd:random_start=maybe",
    ],
)
def test_a_bad_parameter_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        parse_attack(text)


@pytest.mark.parametrize("radius", [0.01, 0.05])
@pytest.mark.parametrize("kind", ["XA", "XV"])
def test_fgsm_and_pgd_reach_the_closed_form_on_a_linear_model(kind: str, radius: float) -> None:
    model, split = Linear(), make_split(12)
    batch, threat = split.batch(range(12)), parse_threat(f"{kind}:linf:{radius}")
    weight = model.audio if kind == "XA" else model.video
    expected = margin(model(*batch.inputs), batch.labels) - radius * weight.abs().sum()
    for attack in (FGSM(), PGD(), MIM()):
        found = margin(model(*run(attack, threat, batch, model)), batch.labels)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_more_restarts_never_leave_a_larger_margin() -> None:
    model = Wavy()
    found = [margin(model(*run(PGD(restarts=n), THREATS[2])), BATCH.labels) for n in (2, 4, 8)]
    for fewer, more in itertools.pairwise(found):
        assert (more <= fewer + 1e-6).all()
    assert (found[2] < found[0] - 0.1).any(), "restarts must begin at other points, or this test is idle"


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_mim_is_its_equations(momentum: float) -> None:
    """Dong et al. 2018, eq. 6 and 7, written out for one sample and the audio alone."""
    model, eps = Wavy(), 0.05
    clean, label = BATCH.inputs.pick(slice(0, 1)), BATCH.labels[:1]
    audio, velocity = clean.audio.clone(), torch.zeros_like(clean.audio)
    for _ in range(10):
        leaf = audio.clone().requires_grad_()
        [gradient] = torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf, clean.video), label), leaf)
        velocity = momentum * velocity + gradient / gradient.abs().sum()
        audio = clean.audio + (audio + eps / 8 * velocity.sign() - clean.audio).clamp(-eps, eps)
    batch = Batch(BATCH.ids[:1], clean, label)
    found = run(MIM(momentum=momentum), parse_threat(f"XA:linf:{eps}"), batch).audio
    torch.testing.assert_close(found, audio, rtol=0, atol=1e-6)
    others = [
        run(MIM(momentum=m), parse_threat(f"XA:linf:{eps}"), batch).audio for m in (0.0, 0.5, 1.0) if m != momentum
    ]
    assert all((found - other).abs().max() > 1e-3 for other in others), "momentum must matter, or this test is idle"


def test_mim_keeps_its_direction_when_one_sample_has_a_huge_gradient() -> None:
    """Spec erratum 4: the released code divides by the norm of the whole batch."""

    class Loud(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            gain = torch.ones(len(audio), 1)
            gain[1:] = 1e6
            return super().forward(audio, video) * gain

    quiet, loud = (Batch(BATCH.ids[:n], BATCH.inputs.pick(slice(0, n)), BATCH.labels[:n]) for n in (1, 4))
    victims = [(Wavy(), quiet), (Loud(), loud)]
    first = []
    for model, batch in victims:
        oracle = Oracle(Victim(model, 3, torch.device("cpu")), batch, ("audio",), {})
        first.append(MIM().run(oracle, batch, Region(THREATS[0], batch.inputs), Rng(0, "", batch.ids)).audio[0])
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=1e-6)


def test_the_released_mim_rule_leaves_the_ball_and_is_refused() -> None:
    """Spec erratum 3: it clips around the current iterate, and with the floor of [0, 1] on normalized pixels."""
    batch, eps = BATCH, 0.012
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    audio, pixels = batch.inputs.audio.clone(), (batch.inputs.video - mean) / std
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(audio.shape, generator=generator).sign()
    for _ in range(10):
        audio = (audio + eps / 8 * direction).clamp(audio - eps, audio + eps).clamp(-1, 1)
        pixels = (pixels + eps / 8).clamp(pixels - eps, pixels + eps).clamp(0, 1)  # its floor: 0 is the mean pixel
    clean = (batch.inputs.video - mean) / std
    assert ((audio - batch.inputs.audio).abs().max() / eps).item() == pytest.approx(1.25, abs=0.01)
    assert (pixels - clean).abs().max() / eps > 5
    threat = parse_threat("XAV:linf:0.012:linf-normalized:0.012")
    for clips in (batch.inputs._replace(audio=audio), batch.inputs._replace(video=(pixels * std + mean).clamp(0, 1))):
        with pytest.raises(BudgetViolation, match="released MIM left"):
            Region(threat, batch.inputs).check(clips, batch.ids, "released MIM")


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_is_its_equation(random_start: bool) -> None:
    """Madry et al. 2017, written out for one sample and the audio alone."""
    model, eps = Wavy(), 0.05
    clean, label = BATCH.inputs.pick(slice(0, 1)), BATCH.labels[:1]
    batch, threat = Batch(BATCH.ids[:1], clean, label), parse_threat(f"XA:linf:{eps}")
    start = Region(threat, clean).sample(Rng(0, "pgd", batch.ids), "restart 0") if random_start else clean
    audio = start.audio
    for _ in range(10):
        leaf = audio.clone().requires_grad_()
        [gradient] = torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf, clean.video), label), leaf)
        audio = clean.audio + (audio + eps / 8 * gradient.sign() - clean.audio).clamp(-eps, eps)
    found = run(PGD(random_start=random_start), threat, batch).audio
    torch.testing.assert_close(found, audio, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("name", [name for name in ALONE if ATTACKS.get(name).needs == "gradients"])
def test_a_model_that_is_very_sure_hides_nothing(name: str, scale: float) -> None:
    """Its cross-entropy gradient underflows to zero in float32; its answers are those of the unscaled model."""

    class Sure(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return scale * super().forward(audio, video)

    model = Wavy()
    batch = Batch(BATCH.ids, BATCH.inputs, model(*BATCH.inputs).argmax(1))  # right, and very sure
    loss = torch.nn.functional.cross_entropy(Sure()(*batch.inputs), batch.labels, reduction="none")
    assert (loss == 0).any(), "the loss must vanish, or this test is idle"
    victim = Victim(Sure(), 3, torch.device("cpu"))
    oracle = Oracle(victim, batch, ("audio", "video"), {})
    clips = parse_attack(name).run(oracle, batch, Region(THREATS[2], batch.inputs), Rng(0, name, batch.ids))
    assert (margin(model(*clips), batch.labels) < margin(model(*batch.inputs), batch.labels)).all()


def test_what_attacks_climb_has_the_direction_of_cross_entropy() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels = torch.arange(50) % 7
    [ours] = torch.autograd.grad(ascent_objective(logits, labels).sum(), logits)
    [theirs] = torch.autograd.grad(classification_loss(logits, labels).sum(), logits)
    torch.testing.assert_close(torch.nn.functional.normalize(ours), torch.nn.functional.normalize(theirs))


def test_gradients_are_not_for_black_boxes() -> None:
    with pytest.raises(BadOption, match="does not grant"):
        find_suite(None, ("XA:linf:0.1@black-box",), ("pgd",))
    find_suite(None, ("XA:linf:0.1@black-box",), ("noise",))


def test_an_oracle_shows_no_more_than_an_attack_declares() -> None:
    victim = Victim(Wavy(), 3, torch.device("cpu"))
    with pytest.raises(BadModel, match="only scores"):
        Oracle(victim, BATCH, ("audio",), {}, "scores").gradient(BATCH.inputs)
    with pytest.raises(BadModel, match="needs nothing"):
        Oracle(victim, BATCH, ("audio",), {}, "nothing").logits(BATCH.inputs)


def test_a_missing_gradient_is_an_error_that_names_the_modality() -> None:
    class Deaf(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio.detach(), video)

    oracle = Oracle(Victim(Deaf(), 3, torch.device("cpu")), BATCH, ("audio",), {})
    with pytest.raises(BadModel, match="no gradient reaches the audio"):
        oracle.gradient(BATCH.inputs)
    Deaf.modalities = ("video",)
    assert not oracle.gradient(BATCH.inputs).inputs["audio"].any()


def test_a_nan_answer_names_its_sample() -> None:
    class Broken(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            logits = super().forward(audio, video)
            return logits.where(torch.arange(len(audio))[:, None] != 3, torch.nan)

    with pytest.raises(NonFiniteOutput, match=BATCH.ids[3]):
        Oracle(Victim(Broken(), 3, torch.device("cpu")), BATCH, ("audio",), {}).logits(BATCH.inputs)


def test_a_wrong_answer_shape_is_refused() -> None:
    with pytest.raises(BadModel, match=r"must answer \(12, 5\)"):
        Oracle(Victim(Wavy(), 5, torch.device("cpu")), BATCH, ("audio",), {}).logits(BATCH.inputs)
