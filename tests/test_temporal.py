"""Attacks on time and on agreement: each term is its formula, and goes down where its attack says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from conftest import FRAMES, SAMPLES, SIDE, Wavy, make_split
from torch import Tensor, nn

from avbench.attacks import Cost, Setting, parse_attack
from avbench.attacks.mim import MIM, l1_normalized
from avbench.attacks.mma import MMA, Alignment
from avbench.attacks.tia import TIA, Variance, segments, transformed, unit, variance
from avbench.attacks.tma import TMA
from avbench.datasets.splits import open_split
from avbench.errors import BadOption
from avbench.models.two_stage import TwoStage
from avbench.objectives import ascent_objective
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.submission import find_candidate
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch, Modality

CPU = torch.device("cpu")
BATCH = make_split(24, 3).batch(range(6))
MULTILABEL = dataclasses.replace(BATCH, labels=(torch.arange(18).view(6, 3) % 2).float())
XA, XV, XAV = (parse_threat(t) for t in ("XA:linf:0.05", "XV:linf:0.05", "XAV:linf:0.02:linf:0.05"))


class Curved(TwoStage):
    """A smooth two-stage model of three classes, for clips of any number of frames."""

    def __init__(self, sizes: tuple[int, int] = (5, 5)) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.audio = nn.Parameter(torch.randn(SAMPLES, sizes[0], generator=random))
        self.video = nn.Parameter(torch.randn(3 * SIDE * SIDE, sizes[1], generator=random))
        self.last = nn.Parameter(torch.randn(sum(sizes), 3, generator=random))

    def encode_audio(self, audio: Tensor) -> Tensor:
        return torch.sin(audio @ self.audio)

    def encode_video(self, video: Tensor) -> Tensor:
        return torch.sin(video.flatten(2) @ self.video).mean(dim=1)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return torch.sin(3 * torch.cat([audio, video], dim=1)) @ self.last


class Given(TwoStage):
    """Embeds what a test writes into the first samples and pixels of a clip."""

    def encode_audio(self, audio: Tensor) -> Tensor:
        return audio[:, :2]

    def encode_video(self, video: Tensor) -> Tensor:
        return video.flatten(1)[:, :2]

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return torch.cat([audio, video[:, :1]], dim=1)


class Exact(Victim):
    """A victim that answers in the precision of the clips, for finite differences."""

    def logits(self, clips: AVInput, embeddings: object, ids: tuple[str, ...]) -> Tensor:
        return self._call("forward", *clips)


MODELS = [Curved(), Curved((5, 4)), Wavy()]
NAMES = ["two stages", "two sizes", "logits only"]


def set_up(
    model: nn.Module, threat=XAV, batch: Batch = BATCH, kind: type[Victim] = Victim
) -> tuple[Victim, Oracle, Region, Rng]:
    victim = kind(model, 3, CPU)
    attacked = tuple(threat.budgets)
    with torch.no_grad():
        fixed = {m: victim.embed(batch.inputs, m) for m in MODALITIES if victim.two_stage and m not in attacked}
    victim.passes.clear()
    return victim, Oracle(victim, batch, attacked, fixed), Region(threat, batch.inputs), Rng(0, "test", batch.ids)


def run(attack: MIM, model: nn.Module, threat=XAV, batch: Batch = BATCH) -> AVInput:
    _, oracle, region, rng = set_up(model, threat, batch)
    return attack.run(oracle, batch, region, rng)


def same(one: AVInput, other: AVInput) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def draws(count: int, seed: int = 0, n: int = len(BATCH.ids)) -> Tensor:
    return torch.rand(n, count, 2, generator=torch.Generator().manual_seed(seed))


def with_frames(frames: int) -> Batch:
    video = BATCH.inputs.video[:, :1].repeat(1, frames, 1, 1, 1)
    video = (video * torch.linspace(0.5, 1, frames).view(-1, 1, 1, 1)).contiguous()
    return dataclasses.replace(BATCH, inputs=BATCH.inputs._replace(video=video))


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
class TestGradients:
    """Against central differences in float64, by every sample and pixel."""

    def check(self, model: nn.Module, term: Callable[[Oracle, AVInput], Tensor]) -> None:
        two = Batch(BATCH.ids[:2], BATCH.inputs.pick(slice(0, 2)), BATCH.labels[:2])
        exact = type(model)().double() if isinstance(model, Wavy) else Curved((5, model.video.shape[1])).double()
        oracle = set_up(exact, batch=two, kind=Exact)[1]
        leaves = tuple(clip.double().requires_grad_() for clip in two.inputs)
        assert torch.autograd.gradcheck(lambda *clips: term(oracle, AVInput(*clips)), leaves, eps=1e-5, atol=1e-6)

    @pytest.mark.parametrize("modality", MODALITIES)
    def test_of_the_variance(self, model: nn.Module, modality: Modality) -> None:
        count = 4 if modality == "audio" else FRAMES
        self.check(model, lambda oracle, clips: variance(oracle, clips, modality, draws(count, n=2)))

    def test_of_the_alignment(self, model: nn.Module) -> None:
        self.check(
            model,
            lambda oracle, clips: Alignment(1.0, oracle, Batch(BATCH.ids[:2], clips, BATCH.labels[:2]), MODALITIES)(
                clips
            ),
        )


def by_hand(model: nn.Module, threat, l1: float, l2: float, batch: Batch) -> AVInput:
    """Eq. 4 and MIM's loop, with one graph for the whole of J and nothing left out."""
    _, oracle, region, rng = set_up(model, threat, batch)
    clips, velocity = batch.inputs, dict.fromkeys(threat.budgets, 0.0)
    for step in range(3):
        leaves = {m: getattr(clips, m).clone().requires_grad_() for m in threat.budgets}
        shown = clips._replace(**leaves)
        j = ascent_objective(model(*shown), batch.labels)
        for copy in range(2):
            for m in threat.budgets:
                count = 4 if m == "audio" else min(4, batch.inputs.video.shape[1])
                drawn = rng.uniform(torch.empty(len(batch.ids), count, 2), f"step {step}/copy {copy}/{m}")
                j = j - l1 * variance(oracle, shown, m, drawn) / 2 / 2
        if isinstance(model, Curved) and model.audio.shape[1] == model.video.shape[1]:
            j = j - l2 * torch.cosine_similarity(model.encode_audio(shown.audio), model.encode_video(shown.video))
        else:
            alone = [shown._replace(video=0 * shown.video), shown._replace(audio=0 * shown.audio)]
            answer = torch.sigmoid if batch.labels.dim() > 1 else lambda logits: logits.softmax(dim=1)
            j = j - l2 * (answer(model(*alone[0])) * answer(model(*alone[1]))).sum(dim=1)
        for m, gradient in zip(leaves, torch.autograd.grad(j.sum(), list(leaves.values())), strict=True):
            velocity[m] = velocity[m] + l1_normalized(gradient)
        clips = region.ascend(clips, velocity, 0.125)
    return clips


@pytest.mark.parametrize("batch", [BATCH, MULTILABEL], ids=["one label", "multi-label"])
@pytest.mark.parametrize("threat", [XA, XV, XAV], ids=["XA", "XV", "XAV"])
@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_tma_is_its_equation(model: nn.Module, threat, batch: Batch) -> None:
    found = {}
    for weights in ((40.0, 0.0), (-40.0, 0.0), (0.0, 40.0), (40.0, 40.0)):
        attack = TMA(steps=3, copies=2, l1=weights[0], l2=weights[1])
        found[weights] = run(attack, model, threat, batch)
        for one, other in zip(found[weights], by_hand(model, threat, *weights, batch), strict=True):
            differs = (one - other).abs() > 1e-6
            assert differs.float().mean() < 0.01, "a sign may turn where a gradient is nearly zero, no more"
    clips = list(found.values())
    assert not any(same(clips[i], clips[j]) for i in range(4) for j in range(i)), "or this test is idle"


def test_no_weight_is_mim_bit_by_bit_at_its_cost() -> None:
    setting = Setting(("audio", "video"), True, FRAMES, 3)
    for model in MODELS:
        plain = run(MIM(), model)
        for attack in (TIA(l1=0.0), MMA(l2=0.0), TMA(l1=0.0, l2=0.0)):
            assert same(run(attack, model), plain)
            assert attack.cost(setting) == MIM().cost(setting) == Cost(10, 10)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_tma_with_one_weight_is_the_attack_of_that_term_bit_by_bit(model: nn.Module) -> None:
    assert same(run(TMA(l2=0.0), model), run(TIA(), model))
    assert same(run(TMA(l1=0.0), model), run(MMA(), model))
    assert not same(run(TMA(l1=40.0, l2=0.0), model), run(MIM(), model)), "or this test is idle"


def test_variance_of_equal_segments_is_zero_and_grows_with_what_tells_them_apart() -> None:
    """Unit vectors at an angle d: 1 - |mean|^2 = sin^2(d / 2)."""

    class Angle(Given):
        def encode_audio(self, audio: Tensor) -> Tensor:
            angle = audio.mean(dim=1, keepdim=True)
            return 7 * torch.cat([angle.cos(), angle.sin()], dim=1)

    oracle = set_up(Angle())[1]
    for angle in (0.0, 0.1, 0.5, 1.0):
        audio = torch.tensor([0.0, angle]).repeat_interleave(SAMPLES // 2).expand(6, -1)
        found = variance(oracle, BATCH.inputs._replace(audio=audio), "audio", torch.zeros(6, 2, 2))
        expected = torch.tensor(angle / 2).sin().square().expand(6)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    looped = BATCH.inputs.audio[:, : SAMPLES // 4].repeat(1, 4)
    assert (variance(oracle, BATCH.inputs._replace(audio=looped), "audio", torch.zeros(6, 4, 2)) < 1e-12).all()
    assert (variance(oracle, BATCH.inputs, "audio", torch.zeros(6, 4, 2)) > 1e-6).all()


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_variance_stays_between_zero_and_one(model: nn.Module) -> None:
    for seed in range(5):
        found = variance(set_up(model)[1], BATCH.inputs, "audio", draws(4, seed))
        assert ((found > 0) & (found < 1)).all()


def test_alignment_of_embeddings_is_their_cosine() -> None:
    video = torch.zeros(4, FRAMES, 3, SIDE, SIDE)
    video.flatten(1)[:, :2] = torch.tensor([0.6, 0.8])
    audio = torch.zeros(4, SAMPLES)
    audio[:, :2] = torch.tensor([[0.3, 0.4], [0.8, -0.6], [-0.06, -0.08], [0.0, 0.0]])
    batch = Batch(BATCH.ids[:4], AVInput(audio, video), BATCH.labels[:4])
    oracle = set_up(Given(), batch=batch)[1]
    alignment = Alignment(1.0, oracle, batch, MODALITIES)
    torch.testing.assert_close(alignment(batch.inputs), torch.tensor([1.0, 0.0, -1.0, 0.0]))
    gradient = oracle.gradient_of(batch.inputs, alignment).inputs["audio"]
    assert gradient.abs().max() < 20, "silence, whose embedding has no direction, must not drown the rest of J"


@pytest.mark.parametrize("batch", [BATCH, MULTILABEL], ids=["one label", "multi-label"])
@pytest.mark.parametrize("threat", [XA, XV, XAV], ids=["XA", "XV", "XAV"])
@pytest.mark.parametrize("model", MODELS[1:], ids=NAMES[1:])
def test_alignment_without_comparable_embeddings_is_agreement_of_predictions(
    model: nn.Module, threat, batch: Batch
) -> None:
    _, oracle, region, rng = set_up(model, threat, batch)
    clips = region.sample(rng, "somewhere")
    logits = model(clips.audio, 0 * clips.video), model(0 * clips.audio, clips.video)
    audio, video = (z.sigmoid() if batch.labels.dim() > 1 else z.softmax(dim=1) for z in logits)
    found = Alignment(1.0, oracle, batch, tuple(threat.budgets))(clips)
    torch.testing.assert_close(found, (audio * video).sum(dim=1))


@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize("threat", [XA, XV, XAV], ids=["XA", "XV", "XAV"])
@pytest.mark.parametrize("model", [*MODELS[:2], Wavy], ids=NAMES)
@pytest.mark.parametrize("name", ["tia", "mma", "tma", "tma:l1=0", "tma:l2=0", "tia:segments=2,copies=1,steps=4"])
def test_passes_are_as_announced_for_any_frames_and_sizes(name: str, model, threat, frames: int) -> None:
    batch = with_frames(frames)
    if model is Wavy:
        model = Wavy()
        model.first = nn.Parameter(torch.randn(SAMPLES + frames * 27, 32, generator=torch.Generator().manual_seed(0)))
    victim, oracle, region, rng = set_up(model, threat, batch)
    attack = parse_attack(name)
    region.check(attack.run(oracle, batch, region, rng), batch.ids, name)
    parts = threat.budgets if victim.two_stage else ["whole"]
    made = Cost(*(max(victim.passes[p, way] / len(batch.ids) for p in parts) for way in ("forward", "backward")))
    alike = victim.two_stage and model.audio.shape[1] == model.video.shape[1]
    assert made == attack.cost(Setting(tuple(threat.budgets), victim.two_stage, frames, 3, alike))


def test_one_frame_has_no_variance() -> None:
    one = with_frames(1)
    assert same(run(TIA(l1=40.0), Curved(), XV, one), run(MIM(), Curved(), XV, one))
    both = run(TIA(l1=40.0), Curved(), XAV, one), run(MIM(), Curved(), XAV, one)
    assert not torch.equal(both[0].audio, both[1].audio), "the audio has its variance all the same"


def test_each_sample_segment_copy_step_and_modality_has_its_own_draw() -> None:
    seen: dict[str, Tensor] = {}

    class Spy(Rng):
        def uniform(self, like: Tensor, purpose: str) -> Tensor:
            assert purpose not in seen
            seen[purpose] = super().uniform(like, purpose)
            return seen[purpose]

    _, oracle, region, _ = set_up(Curved())
    TIA(steps=3).run(oracle, BATCH, region, Spy(0, "test", BATCH.ids))
    assert len(seen) == 3 * 3 * 2
    assert {tuple(d.shape) for d in seen.values()} == {(6, 4, 2), (6, FRAMES, 2)}
    everything = torch.cat([d.flatten() for d in seen.values()])
    assert len(everything.unique()) == len(everything)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_transform_keeps_shape_and_box(modality: Modality) -> None:
    low = -1.0 if modality == "audio" else 0.0
    for seed in range(200):
        random = torch.Generator().manual_seed(seed)
        shape = (SAMPLES,) if modality == "audio" else (1 + seed % 5, 3, SIDE, SIDE)
        clip, neighbor = ((torch.rand(shape, generator=random) < 0.5).float() * (1 - low) + low for _ in range(2))
        choice, amount = torch.rand(2, generator=random).tolist()
        changed = transformed(clip, neighbor, choice, amount)
        assert changed.shape == clip.shape
        assert changed.min() >= low
        assert changed.max() <= 1
    assert torch.equal(transformed(clip, neighbor, 0.0, 0.0), clip)


def test_transforms_are_what_they_say() -> None:
    clip = torch.arange(1.0, 9)
    neighbor = torch.full((8,), 3.0)
    expected = {
        0.1: [5, 6, 7, 8, 1, 2, 3, 4],
        0.3: [1, 2, 3, 0, 0, 6, 7, 8],
        0.5: [0.75, 1.5, 2.25, 3, 3.75, 4.5, 5.25, 6],
        0.7: [2 + 0.25 * -1 + 0.0, 2, 3, 4, 5, 6, 7, 8],
        0.9: [1.5, 2.25, 3, 3.75, 4.5, 5.25, 6, 6.75],
    }
    expected[0.7][0] = 0.75 * 1 + 0.125 * (8 + 2)
    expected[0.7][7] = 0.75 * 8 + 0.125 * (7 + 1)
    for choice, wanted in expected.items():
        torch.testing.assert_close(transformed(clip, neighbor, choice, 0.5), torch.tensor(wanted, dtype=torch.float32))


def test_a_segment_is_looped_and_mixes_with_the_one_beside_it() -> None:
    clip = torch.arange(10.0).view(1, 10)
    parts = segments(clip, 3)
    assert [part[0].tolist() for part in parts] == [
        [0, 1, 2, 3, 0, 1, 2, 3, 0, 1],
        [4, 5, 6, 4, 5, 6, 4, 5, 6, 4],
        [7, 8, 9, 7, 8, 9, 7, 8, 9, 7],
    ]
    shown: list[Tensor] = []

    class Spy(Given):
        def encode_audio(self, audio: Tensor) -> Tensor:
            shown.append(audio[0])
            return audio[:, :2]

    oracle = Oracle(Victim(Spy(), 3, CPU), BATCH, ("audio",), {})
    levels = torch.tensor([0.1, 0.2, 0.4, 0.8]).repeat_interleave(6).expand(6, -1)
    variance(oracle, BATCH.inputs._replace(audio=levels), "audio", torch.tensor([0.95, 0.5]).expand(6, 4, 2))
    torch.testing.assert_close(
        torch.stack(shown)[:, 0], torch.tensor([0.75 * a + 0.25 * b for a, b in [(0.1, 0.2), (0.2, 0.1), (0.4, 0.2), (0.8, 0.4)]])
    )  # fmt: skip


@pytest.mark.parametrize("text", ["tia:copies=0", "tia:segments=1", "tma:copies=0", "tma:segments=1", "mma:steps=0", "tia:steps=0", "tma:step=3"])  # fmt: skip
def test_an_idle_parameter_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        parse_attack(text)


def test_more_segments_than_samples_are_refused_and_than_frames_are_not() -> None:
    with pytest.raises(BadOption, match=f"{SAMPLES} audio samples cannot be cut into {SAMPLES + 1} segments"):
        run(TIA(segments=SAMPLES + 1), Curved(), XA)
    assert same(run(TIA(segments=SAMPLES + 1), Curved(), XV), run(TIA(segments=FRAMES), Curved(), XV))


def test_a_zero_embedding_stays_zero() -> None:
    zero = torch.zeros(1, 3, requires_grad=True)
    unit(zero).sum().backward()
    assert zero.grad is not None
    assert zero.grad.abs().max() == 1
    torch.testing.assert_close(unit(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["variance", "alignment"])
def test_each_term_ends_lower_than_after_mim_on_a_trained_model(kind: str) -> None:
    module = find_candidate("avbench--synthav-concat")[0].module
    batch = open_split("synthav", "test").batch(range(32))
    oracle = Oracle(Victim(module, 8, CPU), batch, MODALITIES, {})
    region, rng = Region(parse_threat("XAV:linf:0.006:linf:0.006"), batch.inputs), Rng(0, "test", batch.ids)
    with torch.no_grad():
        if kind == "variance":
            attack: MIM = TIA(copies=1)
            fresh = Variance(-1.0, 2, 4)  # other draws than those of the attack
            terms = list(fresh.terms(oracle, batch, MODALITIES, Rng(1, "test", batch.ids), 0))
        else:
            attack = MMA()
            terms = list(Alignment(-1.0, oracle, batch, MODALITIES).terms(0))
    ends = {}
    for name, one in (("mim", MIM()), (kind, attack)):
        clips = one.run(oracle, batch, region, rng)
        with torch.no_grad():
            ends[name] = sum(term(clips) for term in terms)
    lower = ends[kind] < ends["mim"]
    assert ends[kind].mean() < ends["mim"].mean()
    assert lower.float().mean() > 0.75
