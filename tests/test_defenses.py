"""Every defense trains, continues and submits the plain architecture; each loss is its formula."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import thinned
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from avbench.attacks.mask import Mask
from avbench.attacks.pgd import PGD
from avbench.checkpoint import read_checkpoint
from avbench.datasets import Sample
from avbench.datasets.cards import read_card
from avbench.datasets.splits import open_split, to_batch
from avbench.defenses import DEFENSES, Moment
from avbench.defenses import train as training
from avbench.defenses.adversarial import AdversarialTraining, climb
from avbench.defenses.common import Clips, craft, frozen, linf_threat, stages, unwrap
from avbench.defenses.curriculum import AdversarialCurriculum, Level, _drop, sampled
from avbench.defenses.exfmem import ExFMem
from avbench.defenses.g_blend import GBlend, blend
from avbench.defenses.maxsim import MaxSim
from avbench.defenses.minsim import MinSim
from avbench.defenses.minsim_exfmem import MinSimExFMem
from avbench.defenses.mixup import Mixup, choose, shares
from avbench.defenses.pcl import PCL, conformity
from avbench.defenses.recipe import Recipe
from avbench.defenses.train import Trainer, train
from avbench.errors import BadBudget, RecipeError
from avbench.geometry import density
from avbench.models import build
from avbench.models.exfmem import ExFMemNet
from avbench.rng import Rng
from avbench.threats.region import Region
from avbench.types import Batch, TwoStageModel

CARD = read_card("synthav")
CPU = torch.device("cpu")
SMALL = {"adversarial-training": {"steps": 2}, "adversarial-curriculum": {"steps": 3}}
NAMES = DEFENSES.names()


@pytest.fixture(autouse=True)
def _small_splits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(training, "load", lambda split: _first(split.name))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@functools.cache
def _first(name: str, n: int = 48) -> list[Sample]:
    split = open_split("synthav", name)
    return [split.stored(i) for i in range(n)]


def recipe(name: str, **changes: object) -> Recipe:
    memory = "exfmem" in name
    return Recipe(
        dataset="synthav", architecture="avnet-exfmem" if memory else "avnet", batch_size=16, epochs=2, optimizer="adamw",
        arguments={"width": 4, **({"atoms": 16, "iterations": 20} if memory else {})}, learning_rate=0.003,
        defense=name, defense_arguments=SMALL.get(name, {}),
    ).model_copy(update=changes)  # fmt: skip


def batch(n: int = 16) -> Batch:
    return to_batch(_first("train")[:n], CARD)


def moment(ids: tuple[str, ...] = (), progress: float = 0.5, seed: int = 0) -> Moment:
    return Moment(progress, 8, Rng(seed, "test", ids))


def avnet(width: int = 4) -> nn.Module:
    return build("avnet", 8, CARD.spec, {"width": width})


def clips(name: str = "train") -> Clips:
    return Clips(_first(name), CARD, CPU)


def crossentropy(logits: Tensor, labels: Tensor) -> float:
    z = logits.detach().double().numpy()
    return float(np.mean([np.log(np.exp(row).sum()) - row[y] for row, y in zip(z, labels.tolist(), strict=True)]))


@pytest.mark.parametrize("name", thinned(NAMES, 4))
def test_a_stopped_training_continues_to_the_same_bits_of_the_plain_architecture(name: str, tmp_path: Path) -> None:
    class Stopped(Trainer):
        def _save(self) -> None:
            super()._save()
            raise KeyboardInterrupt

    plan = recipe(name)
    calm = train(plan, tmp_path / "calm", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        Stopped(plan, tmp_path / "stopped", CPU, False, True).run()
    resumed = train(plan, tmp_path / "stopped", quiet=True)
    assert calm.read_bytes() == resumed.read_bytes()
    assert (tmp_path / "calm" / "log.csv").read_bytes() == (tmp_path / "stopped" / "log.csv").read_bytes()
    candidate = read_checkpoint(calm).candidate(CARD)
    assert candidate.architecture == plan.architecture
    assert set(load_file(calm)) == set(build(plan.architecture, 8, CARD.spec, plan.arguments).state_dict())
    assert candidate.module.eval()(*batch().inputs).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
class TestEveryDefense:
    def trainer(self, name: str, folder: Path) -> Trainer:
        trainer = Trainer(recipe(name), folder, CPU, False, True)
        trainer._study(clips("train"), clips("val"))
        return trainer

    def test_its_loss_on_one_batch_is_finite_and_falls(self, name: str, tmp_path: Path) -> None:
        trainer, one = self.trainer(name, tmp_path), batch()
        trainer.model.train()
        losses = []
        for _ in range(8):
            losses.append(trainer._step(one, moment(one.ids)))
            trainer.optimizer.step()
        assert all(map(math.isfinite, losses))
        assert losses[-1] < losses[0] - 0.1

    def test_its_loss_repeats_and_leaves_the_model_in_training(self, name: str, tmp_path: Path) -> None:
        trainer, one = self.trainer(name, tmp_path), batch()
        trainer.model.train()
        before = {n: t.clone() for n, t in trainer.model.state_dict().items()}
        values = []
        for _ in range(2):
            trainer.model.load_state_dict(before)
            values.append(trainer.defense.loss(trainer.model, one, moment(one.ids)).item())
        assert values[0] == values[1]
        assert all(module.training for module in trainer.model.modules())
        assert all(parameter.requires_grad for parameter in trainer.model.parameters())
        for n, t in trainer.model.state_dict().items():  # batch norm saw each batch once; nothing else is remembered
            if n.endswith("num_batches_tracked"):
                assert t == before[n] + 1
            elif "running" not in n:
                assert torch.equal(t.nan_to_num(), before[n].nan_to_num())

    def test_what_it_cannot_take_is_a_named_error(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be made"):
            Trainer(recipe(name, defense_arguments={"magic": 1}), tmp_path, CPU, False, True)


@pytest.mark.parametrize(
    ("name", "arguments", "architecture", "dataset", "message"),
    [
        ("minsim", {}, "unimodal-audio", "synthav", "both modalities"),
        ("pcl", {}, "avnet", "synthav-multi", "multi-label"), ("mixup", {}, "avnet", "synthav-multi", "multi-label"),
        ("exfmem", {}, "avnet", "synthav", "avnet-exfmem"), ("minsim-exfmem", {}, "avnet", "synthav", "avnet-exfmem"),
        ("mixup", {"alpha": 0}, "avnet", "synthav", "alpha"), ("adversarial-training", {"steps": 0}, "avnet", "synthav", "steps"),
        ("adversarial-curriculum", {"frames": 0}, "avnet", "synthav", "frames"),
        ("adversarial-curriculum", {"schedule": "fast"}, "avnet", "synthav", "linear or cosine"),
        ("adversarial-curriculum", {"dropout": 1.0}, "avnet", "synthav", "dropout"),
    ],
)  # fmt: skip
def test_a_defense_that_cannot_train_says_why(
    tmp_path: Path, name: str, arguments: dict[str, object], architecture: str, dataset: str, message: str
) -> None:
    changes = {"architecture": architecture, "arguments": {"width": 4}, "dataset": dataset}
    with pytest.raises(RecipeError, match=message):
        Trainer(recipe(name, defense_arguments=arguments, **changes), tmp_path, CPU, False, True)


def test_a_radius_larger_than_the_box_is_named(tmp_path: Path) -> None:
    plan = recipe("adversarial-training", defense_arguments={"radius_audio": 3.0})
    with pytest.raises(BadBudget, match="larger"):
        Trainer(plan, tmp_path, CPU, False, True)


def test_more_atoms_than_clips_and_no_val_clips_are_named() -> None:
    model = build("avnet-exfmem", 8, CARD.spec, {"width": 4, "atoms": 49})
    with pytest.raises(RecipeError, match="49 atoms"):
        ExFMem().study(model, clips(), clips("val"), moment())
    with pytest.raises(RecipeError, match="has none"):
        GBlend().study(GBlend().wrap(avnet(), CARD), clips(), Clips([], CARD, CPU), moment())


@pytest.mark.parametrize(("defense", "sign"), [(MinSim(), 1), (MaxSim(), -1)], ids=["minsim", "maxsim"])
def test_the_similarity_losses_are_their_formulas(defense: MinSim, sign: int) -> None:
    model, one = avnet().eval(), batch()
    assert isinstance(model, TwoStageModel)
    a, v = (
        x.detach().double().numpy()
        for x in (model.encode_audio(one.inputs.audio), model.encode_video(one.inputs.video))
    )
    cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, v, strict=True)]
    expected = crossentropy(model(*one.inputs), one.labels) + sign * np.mean(cosines)
    assert defense.loss(model, one, moment(one.ids)).item() == pytest.approx(expected, abs=1e-5)
    assert abs(np.mean(cosines)) > 0.1


def test_prototype_conformity_is_equation_5_of_unit_vectors() -> None:
    f, w, labels = torch.randn(5, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64), [0, 3, 1, 1, 2]
    unit = [(x / np.linalg.norm(x)) for x in f.numpy()], [(x / np.linalg.norm(x)) for x in w.numpy()]
    total = 0.0
    for x, y in zip(unit[0], labels, strict=True):
        push = [((x - unit[1][j]) ** 2).sum() + ((unit[1][y] - unit[1][j]) ** 2).sum() for j in range(4) if j != y]
        total += ((x - unit[1][y]) ** 2).sum() - sum(push) / 3
    assert conformity(f, torch.tensor(labels), w).item() == pytest.approx(total / 5, rel=1e-9)


def test_pcl_adds_the_conformity_of_both_embeddings_and_learns_its_prototypes() -> None:
    one = batch()
    model = PCL(weight=0.5).wrap(avnet(), CARD).eval()
    found = stages(unwrap(model), one.inputs)
    expected = crossentropy(found.logits, one.labels) + 0.5 * sum(
        conformity(getattr(found, m), one.labels, model.prototypes[m]).item()
        for m in ("audio", "video")  # type: ignore[union-attr, index]
    )
    loss = PCL(weight=0.5).loss(model, one, moment(one.ids))
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad.abs().sum() > 0 for p in model.prototypes.values())  # type: ignore[union-attr, operator]


def test_blending_weights_are_learning_over_squared_overfitting() -> None:
    start = torch.tensor([[2.0, 2.0, 2.0], [2.1, 2.1, 2.1]])
    now = torch.tensor([[1.0, 1.5, 0.5], [1.6, 1.8, 1.1]])
    ratios = np.array([0.5 / 0.5**2, 0.3 / 0.2**2, 1.0 / 0.5**2])
    equal = torch.full((3,), 1 / 3)
    torch.testing.assert_close(blend(start, now, equal).numpy(), (ratios / ratios.sum()).astype(np.float32))
    worse = now + torch.tensor([[0.0], [2.0]])
    assert torch.equal(blend(start, worse, equal), equal), "none has learned"
    one_worse = now + torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    assert blend(start, one_worse, equal)[0] == 0


def test_g_blend_measures_clean_losses_and_weighs_three_heads() -> None:
    defense, one = GBlend(), batch()
    model = defense.wrap(avnet(), CARD).eval()
    with torch.no_grad():
        defense.study(model, clips("train"), clips("val"), moment())
    found = stages(unwrap(model), one.inputs)
    heads = [found.audio @ model.heads["audio"].weight.T + model.heads["audio"].bias,  # type: ignore[union-attr, index]
             found.video @ model.heads["video"].weight.T + model.heads["video"].bias, found.logits]  # type: ignore[union-attr, index]  # fmt: skip
    losses = [crossentropy(logits, one.labels) for logits in heads]
    assert defense.loss(model, one, moment()).item() == pytest.approx(np.mean(losses), rel=1e-5)
    model.weights.copy_(torch.tensor([0.5, 0.5, 0.0]))  # type: ignore[operator, union-attr]
    assert defense.loss(model, one, moment()).item() == pytest.approx(np.mean(losses[:2]), rel=1e-5)
    everything = to_batch(_first("val"), CARD)
    assert model.start[1, 2].item() == pytest.approx(
        crossentropy(model(*everything.inputs), everything.labels), rel=1e-5
    )  # type: ignore[index, union-attr]
    before = model.start.clone()  # type: ignore[operator, union-attr]
    nn.init.zeros_(unwrap(model).classifier.weight)  # type: ignore[arg-type, union-attr]
    with torch.no_grad():
        defense.study(model, clips("train"), clips("val"), moment())
    assert torch.equal(model.start, before)  # type: ignore[arg-type]


class TestMixup:
    def test_a_share_has_the_beta_distribution_folded_to_the_larger_side(self) -> None:
        drawn = torch.tensor([[0.1, 0.3, 0.45, 0.9]]).repeat(2, 1)
        strength = torch.tensor([[0.5, 1.0, 2.0, 0.3], [0.0, 0.0, 1e-9, 1.0]])
        found = shares(strength, drawn)
        for i, j in np.ndindex(2, 4):
            a = strength[i, j].item()
            s = stats.beta(a, a).ppf(drawn[i, j].item()) if a > 1e-3 else 1.0
            assert found[i, j].item() == pytest.approx(max(s, 1 - s), abs=1e-5)

    def test_partners_are_dense_others_each_as_often(self) -> None:
        dense = torch.tensor([True, False, True, False, True])
        drawn = (torch.arange(600) + 0.5) / 600
        for clip in range(5):
            others = torch.stack([choose(dense, one.repeat(5))[clip] for one in drawn])
            allowed = [j for j in (0, 2, 4) if j != clip]
            assert torch.bincount(others, minlength=5)[allowed].tolist() == [600 // len(allowed)] * len(allowed)
        alone = choose(torch.tensor([True, False, False]), torch.tensor([0.4, 0.4, 0.9]))
        assert alone.tolist() == [1, 0, 0], "the only dense clip has a partner too, and nobody is its own"

    def test_its_loss_is_that_of_mixed_clips_and_mixed_labels(self) -> None:
        one = batch()
        model = Mixup().wrap(avnet(), CARD).eval()
        when = moment(one.ids)
        drawn = when.rng.uniform(torch.empty(16, 3), "mixup").double().numpy()
        with torch.no_grad():
            model.nonconvexity[0], model.nonconvexity[1] = 0.5, 0.8  # type: ignore[index, union-attr]
            model.radii[:] = torch.inf  # type: ignore[index, union-attr]
        total = 0.0
        for i, (place, u_a, u_v) in enumerate(drawn):
            j = [k for k in range(16) if k != i][int(place * 15)]
            kept = [stats.beta(a, a).ppf(u) for a, u in ((0.5, u_a), (0.8, u_v))]
            k_a, k_v = (max(s, 1 - s) for s in kept)
            audio = k_a * one.inputs.audio[i] + (1 - k_a) * one.inputs.audio[j]
            video = k_v * one.inputs.video[i] + (1 - k_v) * one.inputs.video[j]
            logits = model(audio[None].float(), video[None].float())
            k = (k_a + k_v) / 2
            total += k * crossentropy(logits, one.labels[[i]]) + (1 - k) * crossentropy(logits, one.labels[[j]])
        assert Mixup().loss(model, one, when).item() == pytest.approx(total / 16, rel=1e-4)

    def test_convex_classes_are_not_mixed(self) -> None:
        one = batch()
        model = Mixup().wrap(avnet(), CARD).eval()
        model.nonconvexity.zero_()  # type: ignore[operator, union-attr]
        plain = crossentropy(model(*one.inputs), one.labels)
        assert Mixup().loss(model, one, moment(one.ids)).item() == pytest.approx(plain, rel=1e-5)

    def test_it_measures_convexity_of_clips_and_density_of_embeddings(self) -> None:
        model = Mixup().wrap(Convex(), CARD).eval()
        everything = to_batch(_first("train"), CARD)
        with torch.no_grad():
            Mixup().study(model, clips(), clips("val"), moment(progress=0.0))
            answers = model(*everything.inputs).argmax(dim=1)
        known = [c for c in range(8) if ((answers == c) & (everything.labels == c)).sum() >= 2]
        assert known
        table = model.nonconvexity  # type: ignore[union-attr]
        for label in range(8):
            assert table[0, label] == (0 if label in known else 1), "linear in audio"  # type: ignore[index]
            assert label in known or table[1, label] == 1  # type: ignore[index]
        assert any(0 < table[1, label] < 1 for label in known), "periodic in video"  # type: ignore[index]
        joint = torch.cat(stages(unwrap(model), everything.inputs)[:2], dim=1)[everything.labels == known[0]]
        assert model.radii[known[0]].item() == pytest.approx(
            density(joint.detach().double().numpy(), 0.6).radius, rel=1e-5
        )  # type: ignore[index, union-attr]

    def test_it_measures_convexity_once_in_each_tenth_of_the_training(self) -> None:
        model = Mixup().wrap(Convex(), CARD).eval()
        table = model.nonconvexity  # type: ignore[union-attr]
        measured = []
        for progress in (0.0, 0.05, 0.1, 0.5, 0.55, 1.0):
            table.fill_(7)  # type: ignore[operator]
            with torch.no_grad():
                Mixup().study(model, clips(), clips("val"), moment(progress=progress))
            measured.append(bool((table != 7).any()))  # type: ignore[union-attr]
        assert measured == [True, False, True, True, False, False]


class Convex(nn.Module):
    """Logits linear in the mean energy bands of audio, periodic in those of video."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 8))
        self.way = nn.Parameter(torch.randn(48, 8))

    def encode_audio(self, audio: Tensor) -> Tensor:
        return audio[:, :8]

    def encode_video(self, video: Tensor) -> Tensor:
        return torch.sin(40 * video.mean(dim=(1, 2, 3)) @ self.way)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return audio @ self.weight + video

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.fuse(self.encode_audio(audio), self.encode_video(video))


class TestAdversarialTraining:
    def test_its_clips_are_inside_the_budget_reach_it_and_are_those_of_pgd_on_the_evaluated_model(self) -> None:
        model, one = avnet().train(), batch()
        defense = AdversarialTraining(0.004, 0.002, steps=3)
        found = defense.clips(model, one, moment(one.ids))
        threat = linf_threat(0.004, 0.002)
        Region(threat, one.inputs).check(found, one.ids, "training")
        for modality, radius in (("audio", 0.004), ("video", 0.002)):
            far = (getattr(found, modality) - getattr(one.inputs, modality)).abs().flatten(1).amax(dim=1)
            assert (far > 0.9 * radius).all()
        same = craft(model.eval(), one, PGD(3, 2.5 / 3, random_start=True), threat, moment(one.ids))
        assert torch.equal(found.audio, same.audio)
        assert torch.equal(found.video, same.video)
        loss = defense.loss(model, one, moment(one.ids)).item()
        assert loss == pytest.approx(crossentropy(model(*same), one.labels), rel=1e-5)
        assert loss > crossentropy(model(*one.inputs), one.labels)

    def test_a_few_steps_are_no_longer_than_the_radius(self) -> None:
        assert [climb(n).step for n in (1, 2, 5, 10)] == [1.0, 1.0, 0.5, 0.25]

    def test_modules_and_parameters_keep_their_own_modes(self) -> None:
        model = avnet().train()
        model.visual.eval()  # type: ignore[operator, union-attr]
        model.classifier.weight.requires_grad_(False)  # type: ignore[operator, union-attr]

        def fail() -> None:
            with frozen(model, 8) as victim:
                assert not victim.model.training
                assert not any(p.requires_grad for p in model.parameters())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert model.training
        assert not model.visual.bn1.training  # type: ignore[union-attr]
        assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["classifier.weight"]


class TestCurriculum:
    @pytest.mark.parametrize(
        ("schedule", "progress", "expected"),
        [
            ("linear", 0.0, Level(1, 0.0, 0.0)), ("linear", 0.25, Level(3, 0.1, 0.05)), ("linear", 1.0, Level(9, 0.4, 0.2)),
            ("cosine", 0.0, Level(1, 0.0, 0.0)), ("cosine", 1 / 3, Level(3, 0.1, 0.05)), ("cosine", 0.5, Level(5, 0.2, 0.1)),
            ("cosine", 1.0, Level(9, 0.4, 0.2)),
        ],
    )  # fmt: skip
    def test_its_schedule_has_these_values(self, schedule: str, progress: float, expected: Level) -> None:
        defense = AdversarialCurriculum(steps=9, mask=0.4, dropout=0.2, schedule=schedule)
        assert defense.level(progress) == pytest.approx(expected)

    def test_it_crafts_on_sampled_frames_and_shares_with_their_neighbors(self) -> None:
        model, one = avnet().train(), batch()
        defense = AdversarialCurriculum(frames=0.5, steps=2)
        when = moment(one.ids, progress=1.0)
        found = defense.clips(model, one, when)
        Region(linf_threat(0.006, 0.006), one.inputs).check(found, one.ids, "training")
        seen = sampled(16, 4, 0.5, when.rng)
        assert seen.shape == (16, 2)
        assert len({tuple(row) for row in seen.tolist()}) > 2
        change = found.video - one.inputs.video
        inside = (one.inputs.video > 0.01) & (one.inputs.video < 0.99)  # where only the ball limits
        for clip, frames in enumerate(seen.tolist()):
            for frame in range(4):
                nearest = min(frames, key=lambda f: (abs(f - frame), f))
                both = inside[clip, frame] & inside[clip, nearest]
                torch.testing.assert_close(change[clip, frame][both], change[clip, nearest][both], rtol=0, atol=1e-6)
        assert (change.flatten(2).abs().amax(dim=2) > 0.005).all()
        unseen = [next(f for f in range(4) if f not in frames) for frames in seen.tolist()]
        first = defense.clips(model, _with_other_frames(one, unseen), when)
        assert torch.equal(first.audio, found.audio), "frames that are not sampled have no say"

    def test_its_loss_begins_as_plain_loss_of_its_clips_then_masks_and_drops(self) -> None:
        model, one = avnet().eval(), batch()
        defense = AdversarialCurriculum(mask=0.5, dropout=0.5, steps=2)
        begin, end = (moment(one.ids, progress) for progress in (0.0, 1.0))
        plain = crossentropy(model(*defense.clips(model, one, begin)), one.labels)
        assert defense.loss(model, one, begin).item() == pytest.approx(plain, rel=1e-5)
        masked = AdversarialCurriculum(mask=0.5, dropout=0.0, steps=2)
        expected = Mask(0.5).corrupt(masked.clips(model, one, end), end.rng)
        assert (expected.audio == 0).float().mean() > 0.4
        assert masked.loss(model, one, end).item() == pytest.approx(
            crossentropy(model(*expected), one.labels), rel=1e-6
        )
        dropped = AdversarialCurriculum(mask=0.0, dropout=0.5, steps=2)
        found = stages(model, dropped.clips(model, one, end))
        parts = [_drop(getattr(found, m), 0.5, end.rng, m) for m in ("audio", "video")]
        expected = crossentropy(model.fuse(*parts), one.labels)  # type: ignore[operator]
        assert dropped.loss(model, one, end).item() == pytest.approx(expected, rel=1e-6)
        assert expected != pytest.approx(crossentropy(found.logits, one.labels), rel=1e-5)

    def test_dropout_keeps_the_mean_and_drops_the_ratio(self) -> None:
        ids = tuple(map(str, range(200)))
        found = _drop(torch.ones(200, 100), 0.3, Rng(0, "", ids), "audio")
        assert (found == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
        assert found.mean().item() == pytest.approx(1, abs=0.015)


def _with_other_frames(one: Batch, frames: list[int]) -> Batch:
    video = one.inputs.video.clone()
    video[torch.arange(len(frames)), frames] = 0.5
    return Batch(one.ids, one.inputs._replace(video=video), one.labels)


class TestExFMem:
    def model(self) -> ExFMemNet:
        model = build("avnet-exfmem", 8, CARD.spec, {"width": 4, "atoms": 16, "iterations": 20})
        assert isinstance(model, ExFMemNet)
        return model.eval()

    def test_training_fills_the_memory_with_the_first_training_clips_as_the_submitted_encoders_see_them(
        self, tmp_path: Path
    ) -> None:
        path = train(recipe("exfmem"), tmp_path, quiet=True)
        module = read_checkpoint(path).candidate(CARD).module.eval()
        plain = avnet().eval()
        plain.load_state_dict({n: t for n, t in module.state_dict().items() if not n.startswith("memory")})
        found = stages(plain, batch(16).inputs)
        torch.testing.assert_close(module.memory_audio, found.audio)
        torch.testing.assert_close(module.memory_video, found.video)

    def test_both_defenses_at_once_have_both_parts(self) -> None:
        model, one = self.model(), batch()
        MinSimExFMem().study(model, clips(), clips("val"), moment())
        assert model.memory_audio.abs().sum() > 0
        cosines = F.cosine_similarity(model.encode_audio(one.inputs.audio), model.encode_video(one.inputs.video))
        expected = crossentropy(model(*one.inputs), one.labels) + cosines.mean().item()
        assert MinSimExFMem().loss(model, one, moment()).item() == pytest.approx(expected, rel=1e-5)
