"""`avbench.attacks.get(...)` on one's own tensors: the clips of an evaluation, and the owner's module left alone."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import Linear, MemorySplit, Wavy, candidate, make_sample, make_split
from torch import Tensor, nn

import avbench
from avbench import runner
from avbench.attacks import ATTACKS, Attack, Cost, Setting, parse_attack
from avbench.datasets.cards import Lock, Pinned
from avbench.datasets.encoding import digest
from avbench.errors import BadModel, BadOption, BudgetViolation, NonFiniteOutput, UnknownName
from avbench.objectives import margin
from avbench.options import RunOptions
from avbench.oracle import Oracle
from avbench.rng import Rng
from avbench.suites import find_suite
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.types import AVInput, Batch

SHORT = {"square": "square:queries=30"}
CALLABLE = [SHORT.get(name, name) for name in ATTACKS.names() if name not in ("mask", "transfer", "universal")]
XAV = "XAV:linf:0.05:linf:0.05"
BATCH = make_split(6, 3).batch(range(6))


def numbered(classes: int) -> MemorySplit:
    """Samples with the ids that tensors get; the canonical order, by hash, of these three is their own."""
    samples = [make_sample(str(i), i % classes) for i in range(3)]
    split = MemorySplit(make_split(3, classes).card, "test", Lock(Pinned(s.id, s.label, digest(s)) for s in samples))
    assert split.ids == ("0", "1", "2")
    return split


class Noisy(Wavy):
    """A model that answers at random."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().forward(audio + 0.1 * torch.randn_like(audio), video)


class Halved(Linear):
    """A model of two stages whose embeddings have several dimensions."""

    def encode_audio(self, audio: Tensor) -> Tensor:
        return torch.tanh(audio * self.audio)

    def encode_video(self, video: Tensor) -> Tensor:
        return torch.tanh(video.flatten(1)[:, :24] * self.video[:24])

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return torch.stack([(audio * video).sum(dim=1), torch.sin(5 * audio.sum(dim=1))], dim=1)


def judged(model: nn.Module, split: MemorySplit, threat: str, attack: str, seed: int, folder: Path) -> AVInput:
    """The clips on which a run judged a model: the last that it met."""
    met: dict[str, Tensor] = {}
    parts = {"audio": "encode_audio", "video": "encode_video"} if isinstance(model, Linear) else {"": "forward"}

    def watch(modality: str, run: object) -> object:
        def watched(*clips: Tensor) -> Tensor:
            met.update({modality: clips[0]} if modality else dict(zip(("audio", "video"), clips, strict=True)))
            return run(*clips)  # type: ignore[operator, no-any-return]

        return watched

    for modality, part in parts.items():
        setattr(model, part, watch(modality, getattr(model, part)))
    options = RunOptions(output_dir=folder, seed=seed, device="cpu")
    runner.evaluate(candidate(model), split, find_suite(None, (threat,), (attack,)), options, quiet=True)
    return AVInput(met["audio"], met["video"])


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        *itertools.product(CALLABLE, (Wavy, Halved)),
        *((attack, Noisy) for attack in ("fgsm", "mim", "apgd-ce:steps=4", SHORT["square"])),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_clips_are_those_of_a_run_to_the_bit(attack: str, kind: type[nn.Module], tmp_path: Path) -> None:
    split, seed, threat = numbered(2 if kind is Halved else 3), 3, "XAV:linf:0.02:l2:0.3"
    batch = split.batch(range(3))
    clips = avbench.attacks.get(attack)(kind(), *batch.inputs, batch.labels, threat, seed)
    expected = judged(kind(), split, threat, attack, seed, tmp_path)
    for one, other, clean in zip(clips, expected, batch.inputs, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, clean), "the attack must move, or this test is idle"


@pytest.mark.parametrize("threat", ["XA:linf:0.05", "XV:l2:0.5"])
def test_what_is_not_attacked_is_embedded_as_often_however_long_the_attack(threat: str) -> None:
    made = []
    for steps in (2, 9):
        counts = Counter[str]()

        class Counting(Halved):
            def encode_audio(self, audio: Tensor, counts: Counter[str] = counts) -> Tensor:
                counts["XA"] += 1
                return super().encode_audio(audio)

            def encode_video(self, video: Tensor, counts: Counter[str] = counts) -> Tensor:
                counts["XV"] += 1
                return super().encode_video(video)

        inputs, labels = BATCH.inputs, BATCH.labels.clamp(max=1)
        clips = avbench.attacks.get(f"pgd:steps={steps}")(Counting(), *inputs, labels, threat)
        still = "video" if threat.startswith("XA") else "audio"
        assert torch.equal(getattr(clips, still), getattr(inputs, still))
        made.append(counts)
    attacked = threat[:2]
    [other] = {"XA", "XV"} - {attacked}
    assert made[1][attacked] - made[0][attacked] == 7
    assert made[1][other] == made[0][other]


def test_the_seed_counts_and_the_same_seed_repeats() -> None:
    attack, model = avbench.attacks.get("pgd:random_start=True,steps=1"), Wavy()
    one, again, other = (attack(model, *BATCH.inputs, BATCH.labels, XAV, seed) for seed in (0, 0, 1))
    assert torch.equal(one.audio, again.audio)
    assert not torch.equal(one.audio, other.audio)


def test_parameters_count_and_a_threat_may_be_a_value() -> None:
    found = [
        margin(Wavy()(*avbench.attacks.get(text)(Wavy(), *BATCH.inputs, BATCH.labels, threat)), BATCH.labels).mean()
        for text, threat in (("pgd:steps=1", XAV), ("pgd:steps=20", XAV), ("pgd:steps=20", parse_threat(XAV)))
    ]
    assert found[1] < found[0] - 0.1
    assert found[1] == found[2]
    with pytest.raises(UnknownName, match="did you mean tma"):
        avbench.attacks.get("tmaa")
    with pytest.raises(BadOption, match="takes steps"):
        avbench.attacks.get("pgd:stepz=1")


def test_without_a_threat_the_radii_are_those_of_the_suite_standard() -> None:
    clips = avbench.attacks.get("fgsm")(Wavy(), *BATCH.inputs, BATCH.labels)
    Region(find_suite("standard").threats[2], BATCH.inputs).check(clips, BATCH.ids, "fgsm")
    assert (clips.audio - BATCH.inputs.audio).abs().max() > 0.0059
    assert (clips.video - BATCH.inputs.video).abs().max() > 0.0059


class Cheat(Attack):
    """Leave the budget by one part in a thousand."""

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        assert not any(clip.requires_grad for clip in batch.inputs), "each step would lengthen the owner's graph"
        return batch.inputs._replace(audio=batch.inputs.audio + 0.05005)

    def cost(self, setting: Setting) -> Cost:
        return Cost(0, 0)


def test_a_cheating_attack_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS._things, "cheat", Cheat)
    audio = BATCH.inputs.audio.clone().requires_grad_()
    with pytest.raises(BudgetViolation, match=r"cheat left XA:linf:0\.05: the audio of sample "):
        avbench.attacks.get("cheat")(Wavy(), audio, BATCH.inputs.video, BATCH.labels, "XA:linf:0.05")


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_and_the_tensors_are_left_as_they_were(fails: bool) -> None:
    class Stateful(Wavy):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
            self.first.requires_grad_(False)
            self.drop.eval()

        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            logits = super().forward(audio.mul_(1), video)
            return self.drop(self.norm(logits)) * (torch.nan if fails and audio.requires_grad else 1)  # type: ignore[no-any-return]

    model = Stateful()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    audio, video, labels = (tensor.clone() for tensor in (*BATCH.inputs, BATCH.labels))
    audio.requires_grad_()
    attack = avbench.attacks.get("mim")
    if fails:
        with pytest.raises(NonFiniteOutput):
            attack(model, audio, video, labels, XAV)
    else:
        clips = attack(model, audio, video, labels, XAV)
        assert not any(clip.requires_grad for clip in clips)
        clips.audio.zero_()
    assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in [*model.parameters(), audio])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for mine, before in zip((audio, video, labels), (*BATCH.inputs, BATCH.labels), strict=True):
        assert torch.equal(mine, before)


def test_it_works_where_gradients_are_switched_off() -> None:
    attack, model = avbench.attacks.get("tma"), Wavy()
    expected = attack(model, *BATCH.inputs, BATCH.labels, XAV)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            mine = [tensor.clone() for tensor in (*BATCH.inputs, BATCH.labels)]
            found = attack(model, *mine, XAV)
        assert all(torch.equal(one, other) for one, other in itertools.zip_longest(found, expected))


def test_a_model_that_draws_leaves_the_global_generator_alone() -> None:
    class Drawing(Linear):
        def encode_video(self, video: Tensor) -> Tensor:
            return super().encode_video(video) + 1e-9 * torch.rand(1)

    before = torch.get_rng_state()
    avbench.attacks.get("pgd:steps=1")(Drawing(), *BATCH.inputs, BATCH.labels.clamp(max=1), "XA:linf:0.05")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_clips_stay_on_their_device() -> None:
    batch = BATCH.to("cuda")
    for clip in avbench.attacks.get("tma")(Wavy().cuda(), *batch.inputs, batch.labels, XAV):
        assert clip.device == batch.labels.device
        assert clip.dtype == torch.float32
    with pytest.raises(BadOption, match="one device, not on cpu, cuda:0"):
        avbench.attacks.get("tma")(Wavy(), *batch.inputs, batch.labels, XAV)


def test_stages_that_disagree_with_the_whole_are_found() -> None:
    class TwoFaced(Linear):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return -super().forward(audio, video)

    with pytest.raises(BadModel, match="differs from forward"):
        avbench.attacks.get("pgd")(TwoFaced(), *BATCH.inputs, BATCH.labels.clamp(max=1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("transfer:attack=pgd/steps=3", r"get\('pgd:steps=3'\) on the surrogate"),
        ("universal", "fitted on a split first; run it by `avbench evaluate MODEL --attack universal`"),
        ("mask:ratio=0.5", "no budget; run it by `avbench evaluate MODEL --attack mask:ratio=0.5`"),
    ],
)
def test_what_needs_more_than_a_model_and_clips_says_what_to_do(name: str, says: str) -> None:
    attack = avbench.attacks.get(name)
    for threat in ("XA:linf:0.1", "XA:linf:0.1@transfer"):
        with pytest.raises(BadOption, match=says):
            attack(Wavy(), *BATCH.inputs, BATCH.labels, threat)


def test_every_registered_attack_can_be_called_or_says_what_to_do() -> None:
    for name in ATTACKS.names():
        assert parse_attack(name) == avbench.attacks.get(name).attack
        if SHORT.get(name, name) not in CALLABLE:
            with pytest.raises(BadOption):
                avbench.attacks.get(name)(Wavy(), *BATCH.inputs, BATCH.labels)
