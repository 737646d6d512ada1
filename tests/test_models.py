"""Every architecture keeps the two-stage contract; the encoders are those of the paper."""

from __future__ import annotations

import inspect
import urllib.error
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn

from avbench.datasets.cards import read_card
from avbench.errors import PretrainedUnavailable
from avbench.models import ARCHITECTURES, build
from avbench.models.audio import AudioNet
from avbench.models.fusion import FUSIONS, Fusion
from avbench.models.visual import ResNet18
from avbench.types import MODALITIES, AVInput, InputSpec, TwoStageModel, modalities_of

SMALL = read_card("synthav").spec
FULL = InputSpec(sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def clips(spec: InputSpec, n: int = 3) -> AVInput:
    return AVInput(torch.rand(n, spec.samples) * 2 - 1, torch.rand(n, *spec.shape("video")))


def variants() -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for name in ARCHITECTURES.names():
        fusions = FUSIONS if "fusion" in inspect.signature(ARCHITECTURES.get(name)).parameters else [None]
        found += [(name, {"fusion": fusion} if fusion else {}) for fusion in fusions]
    return found


@pytest.mark.parametrize(("name", "arguments"), variants(), ids=str)
class TestEveryArchitecture:
    def model(self, name: str, arguments: dict[str, str]) -> nn.Module:
        small = {"width": 4} if "width" in inspect.signature(ARCHITECTURES.get(name)).parameters else {}
        return build(name, 7, SMALL, {**small, **arguments}).eval()

    def test_its_stages_make_the_whole(self, name: str, arguments: dict[str, str]) -> None:
        model, inputs = self.model(name, arguments), clips(SMALL)
        assert isinstance(model, TwoStageModel)
        whole = model(*inputs)
        assert whole.shape == (3, 7)
        assert torch.equal(model.fuse(model.encode_audio(inputs.audio), model.encode_video(inputs.video)), whole)

    def test_it_reads_what_it_declares_and_nothing_else(self, name: str, arguments: dict[str, str]) -> None:
        model, inputs = self.model(name, arguments), clips(SMALL)
        for modality in MODALITIES:
            changed = inputs._replace(**{modality: getattr(inputs, modality).flip(0)})
            assert torch.equal(model(*inputs), model(*changed)) != (modality in modalities_of(model))

    def test_its_answers_do_not_depend_on_the_batch(self, name: str, arguments: dict[str, str]) -> None:
        model, inputs = self.model(name, arguments), clips(SMALL)
        alone = torch.cat([model(*inputs.pick(slice(i, i + 1))) for i in range(3)])
        torch.testing.assert_close(alone, model(*inputs), rtol=1e-4, atol=1e-5)

    def test_its_logits_follow_finite_differences_of_its_inputs(self, name: str, arguments: dict[str, str]) -> None:
        model = self.model(name, arguments).double()
        inputs = AVInput(*(x.double() for x in clips(SMALL, 1)))
        for modality in modalities_of(model):
            leaf = getattr(inputs, modality).clone().requires_grad_()
            [gradient] = torch.autograd.grad(model(*inputs._replace(**{modality: leaf}))[0, 1], leaf)
            way = torch.randn_like(leaf)
            ends = [model(*inputs._replace(**{modality: leaf.detach() + h * way}))[0, 1] for h in (1e-7, -1e-7)]
            assert ((ends[0] - ends[1]) / 2e-7).item() == pytest.approx(
                (gradient * way).sum().item(), rel=1e-3, abs=1e-6
            )


def test_the_paper_size_has_512_dimensions_and_runs_on_its_clips() -> None:
    model = build("avnet", 11, FULL, {}).eval()
    inputs = clips(FULL, 1)
    assert model.encode_audio(inputs.audio).shape == model.encode_video(inputs.video).shape == (1, 512)
    assert model(*inputs).shape == (1, 11)


def test_the_audio_net_is_the_one_of_figure_6() -> None:
    layers = AudioNet(64).features
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv1d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((3,), (2,), (1,))}
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == (["Conv1d", "BatchNorm1d", "ReLU"] * 2 + ["MaxPool1d"]) * 4


def test_resnet18_is_torchvisions() -> None:
    theirs = torchvision.models.resnet18().eval()
    ours = ResNet18(64).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    theirs.fc = nn.Identity()
    video = torch.rand(2, 1, 3, 96, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(ours(video), theirs((video[:, 0] - mean) / std))
    torch.testing.assert_close(ours(video.repeat(1, 3, 1, 1, 1)), ours(video), msg="equal frames, equal embedding")


def test_fusions_are_their_formulas() -> None:
    audio, video = torch.randn(2, 5), torch.randn(2, 5)
    film, gated, gated_concat = (Fusion(name, 5) for name in ("film", "gated-sum", "gated-concat"))
    gate = torch.sigmoid(gated.gate(torch.cat([audio, video], 1)))
    gate_concat = torch.sigmoid(gated_concat.gate(torch.cat([audio, video], 1)))
    expected = {
        "concat": (Fusion("concat", 5), torch.cat([audio, video], 1)),
        "sum": (Fusion("sum", 5), audio + video),
        "film": (film, film.alpha(audio) * video + audio),
        "gated-sum": (gated, gate * audio + (1 - gate) * video),
        "gated-concat": (gated_concat, torch.cat([gate_concat * audio, (1 - gate_concat) * video], 1)),
    }
    assert set(expected) == set(FUSIONS)
    for fusion, value in expected.values():
        torch.testing.assert_close(fusion(audio, video), value)
        assert value.shape[1] == fusion.dimension


def test_missing_imagenet_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(PretrainedUnavailable, match="pretrained: false"):
        ResNet18(64, pretrained=True)
