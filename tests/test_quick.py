"""What makes attacks fast changes no clip and lets no memory grow; passes and bytes are counted."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import candidate, make_split
from torch import Tensor, nn

from avbench.attacks import parse_attack
from avbench.cells import Cell, make_parts
from avbench.device import probe_micro_batch
from avbench.memory import reused_memory
from avbench.models import build
from avbench.models.audio import AudioNet
from avbench.models.quick import WIDE, quicken
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.provenance import numerics
from avbench.runner import Run
from avbench.suites import find_suite
from avbench.threats import parse_threat
from avbench.types import AVInput, Batch, InputSpec

CPU = torch.device("cpu")
SPEC = InputSpec(sample_rate=8000, samples=2500, frames=2, fps=8, height=32, width=32)
THREATS = {"XA": "XA:linf:0.01", "XV": "XV:linf:0.01", "XAV": "XAV:linf:0.01:linf:0.01"}


def made(width: int, architecture: str = "avnet") -> nn.Module:
    """A network whose norms do something."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build(architecture, 3, SPEC, {"width": width}).eval().requires_grad_(False)
        for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)):
            for tensor in (norm.running_mean, norm.bias):
                assert tensor is not None
                tensor.uniform_(-0.2, 0.2)
            for tensor in (norm.running_var, norm.weight):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return model


def clips(size: int = 3) -> Batch:
    random = torch.Generator().manual_seed(1)
    audio, video = (torch.rand(size, *SPEC.shape(m), generator=random) for m in ("audio", "video"))  # type: ignore[arg-type]
    return Batch(tuple(map(str, range(size))), AVInput(audio - 0.5, video), torch.arange(size) % 3)


def plain_pgd(model: Callable[..., Tensor], batch: Batch, attacked: list[str], radius: float) -> AVInput:
    """PGD-10 as anyone would write it, without caches; the ball is that of float64, rounded toward the clean clip."""
    audio, video = batch.inputs
    for _ in range(10):
        audio, video = (x.detach().requires_grad_(m in attacked) for m, x in (("audio", audio), ("video", video)))
        logits = model(audio, video)
        right = logits.gather(1, batch.labels[:, None])[:, 0]
        loss = logits.scatter(1, batch.labels[:, None], -torch.inf).logsumexp(dim=1) - right
        found = torch.autograd.grad(loss.sum(), [x for x in (audio, video) if x.requires_grad])
        moved = dict(zip(attacked, found, strict=True))
        stepped = []
        for m, x, clean, low in (("audio", audio, batch.inputs.audio, -1), ("video", video, batch.inputs.video, 0)):
            x = x.detach() + torch.tensor(radius / 8) * moved[m].sign() if m in moved else x.detach()
            near = (clean.double() - radius).clamp_min(low), (clean.double() + radius).clamp_max(1)
            inside = [bound.float() for bound in near]
            for bound, side in zip(inside, (1.0, -1.0), strict=True):
                over = (bound.double() - clean.double()).abs() > radius
                bound[over] = bound.nextafter(torch.tensor(side * 9))[over]
            stepped.append(x.clamp(*inside))
        audio, video = stepped
    return AVInput(audio, video)


def by_avbench(victim: Victim, batch: Batch, threat: str) -> AVInput:
    kept: list[AVInput] = []
    cell = Cell(parse_threat(threat), parse_attack("pgd"))
    list(make_parts(victim, batch, [cell], 0, keep=lambda _, made: kept.append(made)))
    return kept[0]


@pytest.mark.parametrize("width", [4, WIDE])
@pytest.mark.parametrize("kind", THREATS)
def test_a_plain_loop_makes_the_same_clips_bit_for_bit(kind: str, width: int) -> None:
    batch, victim = clips(), Victim(made(width), 3, CPU)
    attacked = list(parse_threat(THREATS[kind]).budgets)
    expected = plain_pgd(victim.quick, batch, attacked, 0.01)
    for one, other in zip(by_avbench(victim, batch, THREATS[kind]), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", THREATS)
def test_each_cell_makes_no_pass_that_it_does_not_need(kind: str) -> None:
    batch, victim = clips(), Victim(made(4), 3, CPU)
    by_avbench(victim, batch, THREATS[kind])
    attacked = parse_threat(THREATS[kind]).budgets
    for modality in ("audio", "video"):
        looked, climbed = (victim.passes[modality, way] / 3 for way in ("forward", "backward"))
        assert (looked, climbed) == ((11, 10) if modality in attacked else (1, 0))


@pytest.mark.parametrize("architecture", ["avnet", "unimodal-audio", "unimodal-video", "localization", "avnet-exfmem"])
class TestTheEqualNetwork:
    def test_answers_the_same_but_for_rounding_with_the_same_gradient(self, architecture: str) -> None:
        model, batch = made(WIDE, architecture).double(), clips()
        twin = quicken(model)
        assert twin is not model
        found = []
        for one in (model, twin):
            leaves = [x.double().requires_grad_() for x in batch.inputs]
            answer = one(*leaves)
            found.append((answer, *torch.autograd.grad(answer.square().sum(), leaves, allow_unused=True)))
        for one, other in zip(*found, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * one.abs().max().item())

    def test_is_not_looked_at_by_the_judge(self, architecture: str) -> None:
        batch, model = clips(), made(WIDE, architecture)
        with torch.no_grad():
            assert torch.equal(Victim(model, 3, CPU).logits(batch.inputs, {}, batch.ids), model(*batch.inputs))

    def test_does_not_exist_for_a_narrow_network(self, architecture: str) -> None:
        model = made(WIDE // 2, architecture)
        assert quicken(model) is model


class Other(AudioNet):
    def forward(self, audio: Tensor) -> Tensor:
        return 2 * super().forward(audio)


def other_layer(net: AudioNet) -> AudioNet:
    net.features[2] = nn.GELU()
    return net


def first_norm(net: AudioNet) -> AudioNet:
    norm = nn.BatchNorm1d(1).eval()
    norm.running_mean += 0.1  # type: ignore[operator]
    net.features.insert(0, norm)
    return net


def other_padding(net: AudioNet) -> AudioNet:
    net.features[0] = nn.Conv1d(1, WIDE, 3, stride=2, padding=1, padding_mode="circular")
    return net


def other_forward(net: AudioNet) -> AudioNet:
    net.forward = lambda audio: audio[:, :9]  # type: ignore[method-assign]
    return net


def hooked(net: AudioNet) -> AudioNet:
    net.features[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def other_class(net: AudioNet) -> AudioNet:
    net.__class__ = Other
    return net


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("change", [other_layer, first_norm, other_padding, other_forward, hooked, other_class])
def test_an_encoder_that_someone_has_changed_stays_as_it_is(change: Callable[[AudioNet], AudioNet]) -> None:
    net = made(WIDE).audio
    assert isinstance(net, AudioNet)
    assert quicken(net) is not net
    assert quicken(change(net)) is net


def test_a_norm_that_was_trained_otherwise_is_folded_all_the_same() -> None:
    net = made(WIDE).audio
    assert isinstance(net, AudioNet)
    norm = net.features[1]
    assert isinstance(norm, nn.BatchNorm1d)
    norm.momentum, norm.eps = 1.0, 0.3
    twin, audio = quicken(net), clips().inputs.audio
    assert twin is not net
    with torch.no_grad():
        torch.testing.assert_close(twin(audio), net(audio))


def test_the_original_keeps_its_parts_and_its_weights() -> None:
    model = made(WIDE)
    parts, state = list(model.modules()), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quicken(model)
    assert all(one is other for one, other in zip(model.modules(), parts, strict=True))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.is_contiguous()


@pytest.mark.parametrize("width", [4, WIDE])
def test_parts_of_other_gradients_have_other_numerics(width: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    options = RunOptions(output_dir=tmp_path_factory.mktemp("runs"), device="cpu")
    run = Run(candidate(made(width)), make_split(classes=3), find_suite("quick"), options)
    assert ("gradients" in numerics(CPU, 1, "fp32", run.crafting.quick)) == (width == WIDE)


def test_weights_of_the_equal_network_are_not_counted_as_memory_of_a_sample() -> None:
    batch, sizes = clips(1), []
    for twin in (True, False):
        victim = Victim(made(64), 3, CPU)
        victim.quick = victim.quick if twin else victim.model
        sizes.append(probe_micro_batch(victim, batch))
    assert sizes[0] >= sizes[1]


def held() -> int:
    """Resident memory, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "mallopt"), reason="needs glibc")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_freed_memory_is_used_again_inside_the_block_and_given_back_after_it() -> None:
    size = 2**26  # bytes, more than glibc keeps by itself
    before = held()
    with reused_memory(CPU):
        with reused_memory(CPU):  # the inner one ends nothing
            torch.ones(size // 4)
        for _ in range(5):  # a first chunk may miss the alignment of the next one by some bytes
            torch.ones(size // 4)
        kept = held()
        for _ in range(4):
            torch.ones(size // 4)
        assert kept > before + size / 2
        assert held() < kept + size / 10
    assert held() < before + size / 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole runs, in processes of their own; half a megabyte a sample would be seen."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    from speed_growth import fresh, run_samples

    few, many = (fresh(run_samples, count)[1] for count in (400, 1600))
    assert many < few + 300
