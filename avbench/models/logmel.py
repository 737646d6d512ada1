"""The log-mel front-end: a waveform as a picture of its spectrum over time, differentiable everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from avbench.types import InputSpec

MELS = 64  # bands from 0 Hz to half the sample rate
RANGE = 80.0  # dB from the floor to the level of white noise of variance 1
_FLOOR = 10 ** (-RANGE / 10)


class LogMel(nn.Module):
    """Measure the power of a waveform in mel bands, in units of 80 dB: silence is 0, loud noise about 1.

    Windows are of 30 ms, rounded up to a power of two samples, every 10 ms or so often that a clip has at least 65
    steps, of which the poolings of every network here leave some. The floor is added, not cut off at, and power is
    smooth at zero, so the gradient is finite everywhere; at digital silence it is zero.

    Raises:
        ValueError: if a clip has fewer samples than bands.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        if spec.samples < MELS:
            raise ValueError(f"a log-mel spectrogram needs at least {MELS} samples a clip, not {spec.samples}")
        with torch.device("cpu"):  # torchaudio looks at its table, also where a model is built for its shapes alone
            self.mel = MelSpectrogram(
                spec.sample_rate,
                n_fft=2 ** math.ceil(math.log2(0.03 * spec.sample_rate)),
                hop_length=max(1, min(spec.sample_rate // 100, spec.samples // MELS)),
                n_mels=MELS,
                pad_mode="constant",  # unlike reflection, for clips of any length and deterministic on CUDA
                normalized="window",  # white noise of variance 1 has power 1 in every bin, whatever the sample rate
            )

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, samples) in [-1, 1] to (batch, 64 bands, steps)."""
        return 1 + 10 / RANGE * (self.mel(audio) + _FLOOR).log10()  # type: ignore[no-any-return]
