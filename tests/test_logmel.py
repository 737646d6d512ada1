"""The log-mel front-end is the textbook's, fits clips of any rate and length, and has a finite gradient everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avbench.errors import ArchitectureMismatch
from avbench.models import build
from avbench.models.logmel import MELS, LogMel
from avbench.types import InputSpec

RATES = (8000, 8500, 11025, 16000, 17000, 22050, 32000, 34000, 44100, 48000)


def spec(rate: int, samples: int) -> InputSpec:
    return InputSpec(sample_rate=rate, samples=samples, frames=1, fps=1, height=8, width=8)


CLIPS = [spec(8000, 4000), spec(8000, 8192), spec(11025, 65535), spec(16000, 2048), spec(22050, 220500)]


def noise(clip: InputSpec, deviation: float, n: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(n, clip.samples, generator=random, dtype=torch.float64) * deviation


def textbook(audio: NDArray[np.float64], rate: int, window: int, hop: int) -> NDArray[np.float64]:
    """Hann windows around every hop, discrete Fourier transform, HTK triangles, decibels; by loops."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(audio, window // 2)
    half = rate // 2  # torchaudio rounds an odd rate so
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + half / 700), MELS + 2) / 2595) - 1)
    hertz = np.linspace(0, half, window // 2 + 1)
    columns = []
    for start in range(0, len(audio) + 1, hop):
        power = np.abs(np.fft.rfft(padded[start : start + window] * hann)) ** 2 / (hann**2).sum()
        bands = []
        for low, top, high in zip(edges, edges[1:], edges[2:], strict=False):
            triangle = np.minimum((hertz - low) / (top - low), (high - hertz) / (high - top)).clip(0)
            bands.append((triangle * power).sum())
        columns.append((10 * np.log10(np.array(bands) + 1e-8) + 80) / 80)
    return np.array(columns).T


@pytest.mark.parametrize(
    ("clip", "window", "hop"),
    [
        (spec(8000, 4000), 256, 62),
        (spec(8000, 8192), 256, 80),
        (spec(11025, 11025), 512, 110),
        (spec(22050, 4096), 1024, 64),
    ],
)
def test_it_is_the_log_mel_spectrogram_of_the_textbook(clip: InputSpec, window: int, hop: int) -> None:
    audio = noise(clip, 0.1, 1)
    expected = textbook(audio[0].numpy(), clip.sample_rate, window, hop)
    np.testing.assert_allclose(LogMel(clip).double()(audio)[0].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_silence_is_zero_and_white_noise_of_variance_one_about_one(clip: InputSpec) -> None:
    front = LogMel(clip).double()
    assert front(torch.zeros(1, clip.samples, dtype=torch.float64)).abs().max() < 1e-6
    assert 0.9 < front(noise(clip, 1)).mean() < 1.25


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_a_tone_is_loudest_in_the_band_of_its_frequency(clip: InputSpec) -> None:
    hertz = clip.sample_rate / 5
    time = torch.arange(clip.samples) / clip.sample_rate
    found = LogMel(clip)(0.5 * torch.sin(2 * math.pi * hertz * time)[None])[0].mean(dim=1).argmax()
    position = math.log10(1 + hertz / 700) / math.log10(1 + clip.sample_rate / 2 / 700) * (MELS + 1)
    assert abs(int(found) + 1 - position) <= 1


@pytest.mark.parametrize("rate", RATES)
def test_no_band_is_deaf_at_any_sample_rate(rate: int) -> None:
    assert LogMel(spec(rate, rate)).mel.mel_scale.fb.amax(dim=0).min() > 0.3


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_clips_of_any_length_have_at_least_65_steps_of_at_most_10_ms(clip: InputSpec) -> None:
    bands, steps = LogMel(clip)(noise(clip, 0.1).float()).shape[1:]
    assert bands == MELS
    assert steps >= max(65, 100 * clip.samples / clip.sample_rate)


@pytest.mark.parametrize("clip", CLIPS[:3], ids=str)
def test_its_gradient_follows_finite_differences(clip: InputSpec) -> None:
    front, audio = LogMel(clip).double(), noise(clip, 0.1, 1).requires_grad_()
    weights, way = noise(spec(8000, front(audio).numel()), 1, 1).view_as(front(audio)), noise(clip, 1, 1).flip(1)
    [gradient] = torch.autograd.grad((front(audio) * weights).sum(), audio)
    ends = [(front(audio.detach() + h * way) * weights).sum().item() for h in (1e-7, -1e-7)]
    assert (ends[0] - ends[1]) / 2e-7 == pytest.approx((gradient * way).sum().item(), rel=1e-5)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-20, 1e-6, 1.0])
def test_its_gradient_is_finite_at_any_level_and_zero_only_in_silence(clip: InputSpec, level: float) -> None:
    audio = noise(clip, level).float().clamp(-1, 1).requires_grad_()
    [gradient] = torch.autograd.grad(LogMel(clip)(audio).sum(), audio)
    assert gradient.isfinite().all()
    assert bool(gradient.abs().max() > 0) == (level > 0)


def test_it_gives_the_same_bits_again_and_draws_no_random_numbers() -> None:
    clip = CLIPS[1]
    audio, before = noise(clip, 0.1).float(), torch.get_rng_state()
    assert torch.equal(LogMel(clip)(audio), LogMel(clip)(audio))
    assert torch.equal(before, torch.get_rng_state())


def answer(samples: int) -> torch.Tensor:
    with torch.random.fork_rng():
        model = build("cnn14", 2, spec(8000, samples), {"width": 4}).eval()
    return model(torch.zeros(1, samples), torch.zeros(1, 1, 3, 8, 8))


def test_clips_that_are_too_short_are_a_named_error() -> None:
    with pytest.raises(ArchitectureMismatch, match="at least 64 samples"):
        answer(63)
    assert answer(64).shape == (1, 2)
