"""Audio-visual models of many kinds, small where the architecture allows, for the tests of the code-free format."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchaudio
import torchvision
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MViT

from avbench.datasets.cards import Card, read_card
from avbench.models import ARCHITECTURES, build
from avbench.types import AVInput, InputSpec

CLASSES = 4
SMALL = read_card("synthav").spec
CLIP = InputSpec(sample_rate=8000, samples=400, frames=4, fps=8, height=32, width=32)
SMALLEST = InputSpec(sample_rate=8000, samples=1000, frames=1, fps=1, height=32, width=32)


class Beside(nn.Module):
    """Any classifier of one modality, joined with a small net of the other by a product and a sum."""

    def __init__(self, main: nn.Module, modality: str, spec: InputSpec, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.main, self.modality, self.prepare = main, modality, prepare
        other = "video" if modality == "audio" else "audio"
        self.other = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(spec.shape(other)).numel(), CLASSES), nn.Tanh())

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        streams = {"audio": audio, "video": video}
        main = self.main(self.prepare(streams.pop(self.modality)))
        other = self.other(*streams.values())
        return main * other + other


def one_frame(video: Tensor) -> Tensor:
    return (video[:, 0] - 0.45) / 0.22


def channels_first(video: Tensor) -> Tensor:
    return video.transpose(1, 2)


class AST(nn.Module):
    """Like the audio spectrogram transformer: patches of a log-mel picture, a class token, positions, blocks."""

    def __init__(self, samples: int, size: int = 32) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=256, hop_length=64, n_mels=32, power=2.0)
        self.patches = nn.Conv2d(1, size, 8, stride=6)
        steps = self.patches(torch.zeros(1, 1, 32, samples // 64 + 1)).flatten(2).shape[2]
        self.token = nn.Parameter(torch.randn(1, 1, size))
        self.positions = nn.Parameter(torch.randn(1, steps + 1, size))
        layer = nn.TransformerEncoderLayer(size, 4, 64, batch_first=True, activation="gelu", norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, audio: Tensor) -> Tensor:
        picture = torch.log(self.mel(audio) + 1e-4).unsqueeze(1)
        x = self.patches(picture).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.blocks(x)[:, 0])


class Recurrent(nn.Module):
    """A recurrent net over windows of sound."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.net = kind(50, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, audio: Tensor) -> Tensor:
        return self.head(self.net(audio.unflatten(1, (-1, 50)))[0].mean(dim=1))


class Spectrum(nn.Module):
    """A net over the magnitude of an STFT."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(128))
        self.net = nn.Sequential(nn.Conv1d(65, 8, 3), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool1d(1))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, 128, 64, window=self.window, return_complex=True)
        return self.head(self.net((spectrum.abs().square() + 1e-6).sqrt()).flatten(1))


class Mel(nn.Module):
    """A net over torchaudio's mel spectrogram in decibels."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=256, n_mels=24)
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ELU(), nn.Linear(16, CLASSES))

    def forward(self, audio: Tensor) -> Tensor:
        return self.net(10 * torch.log10(self.mel(audio).clamp(min=1e-5)))


def mvit() -> nn.Module:
    """torchvision's MViT v2 with four blocks on small clips."""
    sizes = ((16, 16, 1, 4), (16, 32, 2, 2), (32, 32, 1, 2), (32, 64, 2, 1))  # channels in and out, strides of q and kv
    blocks = [MSBlockConfig(2, given, out, [3, 3, 3], [3, 3, 3], [1, q, q], [1, kv, kv]) for given, out, q, kv in sizes]
    return MViT((32, 32), 4, blocks, True, False, True, True, num_classes=CLASSES)


class Early(nn.Module):
    """Joins sound and frames at once, several values at a time, so that the parts meet at many places."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.a = nn.ModuleList(nn.Linear(n, 8) for n in (spec.samples, 8, 8))
        self.v = nn.ModuleList(nn.Linear(n, 8) for n in (torch.Size(spec.shape("video")).numel(), 8, 8))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        a, v, met = audio, video.flatten(1), []
        for hear, see in zip(self.a, self.v, strict=True):
            a, v = hear(a).tanh(), see(v).sigmoid()
            met.append(a * v + a)
        return self.head(torch.cat(met, dim=1))


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    spec: InputSpec

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make()
            model(*clips(self.spec, 2, 1))  # lazy layers
            for buffer in model.buffers():  # statistics that a training would have left
                if buffer.dtype == torch.float32 and buffer.dim() == 1 and not buffer.abs().sum():
                    buffer.uniform_(-0.1, 0.1)
        return model.eval().requires_grad_(False)


def clips(spec: InputSpec, n: int, seed: int = 0) -> AVInput:
    random = torch.Generator().manual_seed(seed)
    audio = torch.rand(n, *spec.shape("audio"), generator=random) * 2 - 1
    return AVInput(audio, torch.rand(n, *spec.shape("video"), generator=random))


def card(spec: InputSpec) -> Card:
    return Card(
        name="toy", title="Toy", summary="For tests", license="MIT", task="multiclass", sample_rate=spec.sample_rate,
        samples=spec.samples, frames=spec.frames, fps=spec.fps, height=spec.height, width=spec.width, splits={"test": 1},
        classes=tuple(f"class {i}" for i in range(CLASSES)),
    )  # fmt: skip


class Kitchen(nn.Module):
    """A little of everything that has numbers to get wrong, for fuzzing."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.sound = Spectrum()
        self.gru, self.lstm = nn.GRU(20, 4, batch_first=True), nn.LSTM(20, 4, batch_first=True)
        self.first, self.second = nn.Conv1d(1, 2, 5, stride=3), nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(28, CLASSES)
        self.spec = spec

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        steps = audio.unflatten(1, (-1, 20))
        hear = nn.functional.max_pool1d(self.first(audio.unsqueeze(1)), 3, 2, 1).mean(2)
        see = nn.functional.max_pool2d(self.second(video.flatten(0, 1)), 2).amax((2, 3)).unflatten(0, (len(audio), -1))
        tokens = steps[:, :6].unflatten(2, (4, 5)).transpose(1, 2)
        met = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(3).flatten(1)[:, :10]
        heard = [self.sound(audio), self.gru(steps)[0][:, -1], self.lstm(steps)[0][:, -1], hear, met]
        return self.head(torch.cat([*heard, see.mean(1)], dim=1))


def zoo() -> list[Case]:
    cases = []
    for name in ARCHITECTURES.names():
        known = inspect.signature(ARCHITECTURES.get(name)).parameters
        arguments: dict[str, Any] = {"width": 4} if "width" in known else {}
        arguments |= {"atoms": 6, "iterations": 10} if "atoms" in known else {}
        cases.append(Case(name, partial(build, name, CLASSES, SMALL, arguments), SMALL))
    for fusion in ("film", "gated-sum", "gated-concat"):
        cases.append(
            Case(f"avnet-{fusion}", partial(build, "avnet", CLASSES, SMALL, {"width": 4, "fusion": fusion}), SMALL)
        )
    return cases


def _vision(name: str, frames: int, side: int, **arguments: Any) -> Case:
    spec = InputSpec(sample_rate=8000, samples=400, frames=frames, fps=8, height=side, width=side)
    video = name in torchvision.models.list_models(torchvision.models.video)

    def make() -> nn.Module:
        main = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **arguments)
        return Beside(main, "video", spec, channels_first if video else one_frame)

    return Case(name, make, spec)


def _audio(name: str, make: Callable[[], nn.Module]) -> Case:
    return Case(name, lambda: Beside(make(), "audio", SMALLEST, nn.Identity()), SMALLEST)


OTHERS = [
    _audio("ast", lambda: AST(SMALLEST.samples)),
    _audio("gru", lambda: Recurrent(nn.GRU)),
    _audio("lstm", lambda: Recurrent(nn.LSTM)),
    _audio("stft", Spectrum),
    _audio("melspectrogram", Mel),
    Case("early", lambda: Early(SMALLEST), SMALLEST),
    _vision("resnet18", 1, 32),
    _vision("resnet50", 1, 32),
    _vision("convnext_tiny", 1, 32),
    _vision("swin_t", 1, 32),
    _vision("vit_b_16", 1, 32, image_size=32),
    _vision("r2plus1d_18", 4, 16),
    Case("mvit", lambda: Beside(mvit(), "video", CLIP, channels_first), CLIP),
]
CASES = zoo() + OTHERS
