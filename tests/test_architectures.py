"""The networks are those of the papers: layer by layer, parameter by parameter, formula by formula."""

from __future__ import annotations

import urllib.error

import pytest
import torch
import torchvision
from conftest import random_clips
from torch import Tensor, nn

from avbench.datasets.cards import read_card
from avbench.errors import ArchitectureMismatch, PretrainedUnavailable
from avbench.models import build
from avbench.models.audio import AudioNet
from avbench.models.cnn14 import CNN14, Tagger
from avbench.models.csn import CSN, R2Plus1D
from avbench.models.fusion import FUSIONS, Fusion
from avbench.models.localization import Localization
from avbench.models.logmel_avnet import COMBINATIONS, ENCODERS, LogMelAVNet
from avbench.models.visual import ResNet18
from avbench.types import InputSpec

SMALL = read_card("synthav").spec
FULL = InputSpec(sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


pytestmark = pytest.mark.usefixtures("seeded")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stirred(module: nn.Module, *inputs: Tensor) -> nn.Module:
    """Give batch normalization weights that tell one layer from another, and the statistics of the inputs."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
            layer.momentum = None
    module.train()(*inputs)
    return module.eval()


def test_the_paper_size_has_512_dimensions_and_runs_on_its_clips() -> None:
    model = build("avnet", 11, FULL, {}).eval()
    inputs = random_clips(FULL, 1)
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
    torch.testing.assert_close(ours(video), theirs((video[:, 0] - MEAN) / STD))
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


class TestLogMelAVNet:
    def test_its_eight_combinations_are_two_encoders_twice_and_two_fusions(self) -> None:
        assert sorted(COMBINATIONS) == sorted(a + f + v for a in "AR" for f in "sc" for v in "AR")
        assert COMBINATIONS["RsA"] == {"audio": "resnet", "fusion": "sum", "visual": "alexnet"}

    @pytest.mark.parametrize("name", COMBINATIONS)
    def test_each_of_the_eight_builds_and_is_another_network(self, name: str) -> None:
        def shape(of: str) -> list[tuple[str, torch.Size]]:
            model = build("logmel-avnet", 5, SMALL, {**COMBINATIONS[of], "width": 4})
            return [(key, tensor.shape) for key, tensor in model.state_dict().items()]

        assert [other for other in COMBINATIONS if shape(other) == shape(name)] == [name]

    def test_alexnet_is_torchvisions(self) -> None:
        theirs, ours = torchvision.models.alexnet().features.eval(), ENCODERS["alexnet"](64).eval()
        assert count(ours.features) == count(theirs) == 2_469_696
        ours.features.load_state_dict(theirs.state_dict())
        video = torch.rand(2, 1, 3, 96, 80)
        expected = ours.linear(theirs((video[:, 0] - MEAN) / STD).mean(dim=(2, 3)))
        torch.testing.assert_close(ours(video), expected)

    @pytest.mark.parametrize("name", ENCODERS)
    def test_frames_are_embedded_one_by_one_and_averaged(self, name: str) -> None:
        video = torch.rand(4, 3, 3, 64, 70) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)
        encoder = stirred(ENCODERS[name](4), video)
        alone = torch.stack([encoder(video[:, i : i + 1]) for i in range(3)])
        torch.testing.assert_close(encoder(video), alone.mean(dim=0), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone[0], alone[1], rtol=0.01)

    def test_vgg_is_torchvisions_vgg11_with_batch_normalization(self) -> None:
        features = ENCODERS["vgg"](64).features
        assert count(features) == 132_868_840 - 123_642_856  # torchvision's vgg11_bn, and its last three layers
        kinds = "".join(
            "c" if isinstance(x, nn.Conv2d) else "p" if isinstance(x, nn.MaxPool2d) else "" for x in features
        )
        assert kinds == "cpcpccpccpccp"

    def test_small_pictures_are_enlarged_by_whole_pixels(self) -> None:
        encoder, video = ENCODERS["alexnet"](4).eval(), torch.rand(2, 1, 3, 28, 40)
        larger = video.repeat_interleave(3, dim=3).repeat_interleave(3, dim=4)
        torch.testing.assert_close(encoder(video), encoder(larger))

    def test_sound_is_shown_to_its_encoder_as_one_gray_picture(self) -> None:
        model, audio = LogMelAVNet(3, SMALL, "alexnet", "resnet", "sum", 4).eval(), random_clips(SMALL).audio
        picture = torch.stack([model.logmel(audio)] * 3, dim=1)[:, None]
        torch.testing.assert_close(model.encode_audio(audio), model.audio(picture))

    @pytest.mark.parametrize("change", [{"audio": "magic"}, {"visual": "magic"}, {"fusion": "magic"}], ids=str)
    def test_an_unknown_choice_is_named(self, change: dict[str, str]) -> None:
        with pytest.raises(ArchitectureMismatch, match=f"{next(iter(change))} must be one of .*, not 'magic'"):
            build("logmel-avnet", 3, SMALL, change)


class TestCSN:
    def test_its_sound_has_ten_convolutions_and_a_pooling_after_each_second(self) -> None:
        model = CSN(527, FULL)
        layers = [x for x in model.audio.features if isinstance(x, nn.Conv2d | nn.MaxPool2d)]
        assert "".join("p" if isinstance(x, nn.MaxPool2d) else "c" for x in layers) == "ccp" * 5
        convolutions = [x for x in layers if isinstance(x, nn.Conv2d)]
        assert [x.out_channels for x in convolutions] == [32, 32, 64, 64, 128, 128, 256, 256, 512, 512]
        assert [x.kernel_size for x in layers if isinstance(x, nn.MaxPool2d)] == [(2, 2)] * 2 + [(2, 1)] * 3
        assert model.audio.dimension == 1024
        assert len(model.attention) == 2

    def test_its_video_is_torchvisions_r2plus1d(self) -> None:
        video = torch.rand(1, 9, 3, 32, 24)
        shown = ((video - MEAN) / STD).transpose(1, 2)
        theirs, ours = stirred(torchvision.models.video.r2plus1d_18(), shown), R2Plus1D(64).eval()
        assert count(ours) == count(theirs) - count(theirs.fc) == 31_505_325 - 513 * 400
        ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
        theirs.fc = nn.Identity()
        expected = theirs(shown)
        with torch.no_grad():
            assert ours(video).shape == (1, 2, 512)
            torch.testing.assert_close(ours(video).mean(dim=1), expected, rtol=1e-4, atol=1e-5)

    def test_each_step_of_sound_meets_the_video_of_its_time(self) -> None:
        model = CSN(3, SMALL, width=4).eval()
        audio, video = torch.randn(2, 25, 64), torch.randn(2, 2, 32)
        steps = [torch.cat([audio[:, t], video[:, 0 if t < 13 else 1]], dim=1) for t in range(25)]
        joint = torch.stack([model.projection(step).relu() for step in steps], dim=1)
        expected = model.classifier(model.attention(joint).mean(dim=1))
        torch.testing.assert_close(model.fuse(audio, video), expected)

    def test_sound_and_video_are_joined_before_the_attention(self) -> None:
        model = CSN(3, SMALL, width=4).eval()
        audio, video = torch.randn(1, 25, 64), torch.randn(1, 1, 32)
        seen: list[Tensor] = []
        model.attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for shown in (video, video + 1):
            model.fuse(audio, shown)
        assert seen[0].shape == (1, 25, 64)
        assert not torch.equal(*seen)


class TestCNN14:
    def test_it_has_the_parameters_of_panns(self) -> None:
        assert count(CNN14(527, FULL)) == 80_753_615  # of Cnn14 in PANNs' code, its fixed spectrogram layers left out

    def test_its_blocks_are_two_convolutions_and_an_average_pooling(self) -> None:
        blocks = Tagger(SMALL, 64).blocks
        convolutions = [[x.out_channels for x in block if isinstance(x, nn.Conv2d)] for block in blocks]
        assert convolutions == [[64 * 2**i] * 2 for i in range(6)]
        pools = [[x.kernel_size for x in block if isinstance(x, nn.AvgPool2d)] for block in blocks]
        assert pools == [[2]] * 5 + [[1]]

    def test_its_embedding_is_the_mean_over_bands_then_mean_plus_max_over_time(self) -> None:
        model, audio = stirred(CNN14(3, SMALL, width=4), *random_clips(SMALL)), random_clips(SMALL).audio
        part = model.audio
        bands = part.logmel(audio)
        norm = part.norm
        scaled = (bands - norm.running_mean[:, None]) / (norm.running_var[:, None] + norm.eps).sqrt()
        maps = part.blocks((scaled * norm.weight[:, None] + norm.bias[:, None])[:, None])
        over_time = maps.mean(dim=2)
        expected = part.linear(over_time.mean(dim=2) + over_time.max(dim=2).values).clamp(min=0)
        torch.testing.assert_close(model.encode_audio(audio), expected)
        torch.testing.assert_close(model(audio, torch.zeros(3, 1)), model.classifier(expected))


class TestLocalization:
    def test_it_attends_by_softmax_of_dot_products_in_every_frame(self) -> None:
        model, inputs = stirred(Localization(3, SMALL, width=4), *random_clips(SMALL)), random_clips(SMALL, 2)
        sound, maps = model.encode_audio(inputs.audio), model.encode_video(inputs.video)
        attention = model.attention_map(*inputs)
        assert attention.shape == (2, SMALL.frames, 2, 2)
        seen = torch.zeros(2, 32)
        for sample in range(2):
            for frame in range(SMALL.frames):
                places = maps[sample, frame].flatten(1).T  # (positions, dimension)
                weights = (places @ sound[sample]).softmax(dim=0)
                torch.testing.assert_close(attention[sample, frame].flatten(), weights)
                seen[sample] += weights @ places / SMALL.frames
        torch.testing.assert_close(model(*inputs), model.classifier(torch.cat([sound, seen], dim=1)))

    def test_what_is_like_the_sound_is_attended_wherever_it_is(self) -> None:
        model = Localization(3, SMALL, width=4).eval()
        sound, maps = torch.randn(1, 32), torch.zeros(1, 1, 32, 3, 4)
        answers = []
        for place in ((0, 0), (2, 1)):
            maps.zero_()[0, 0, :, place[0], place[1]] = sound[0]
            answers.append(model.fuse(sound, maps))
        torch.testing.assert_close(answers[0], answers[1])
        alone = model.classifier(torch.cat([sound, sound], dim=1))
        assert torch.allclose(answers[0], alone, atol=0.02), "nearly all weight lies on the one place"

    def test_its_encoders_are_those_of_avnet(self) -> None:
        avnet, model = (
            build("avnet", 3, SMALL, {"width": 4}).eval(),
            build("localization", 3, SMALL, {"width": 4}).eval(),
        )
        model.load_state_dict(avnet.state_dict())
        inputs = random_clips(SMALL)
        assert torch.equal(model.encode_audio(inputs.audio), avnet.encode_audio(inputs.audio))
        torch.testing.assert_close(
            model.encode_video(inputs.video).mean(dim=(1, 3, 4)), avnet.encode_video(inputs.video)
        )
