"""Code of a stranger who means well: a small two-stage model, one that draws at random, one with a stand-in.

`passing` is for those who do not.
"""

import torch
from torch import nn

from avbench.models.two_stage import TwoStage


def passing(backward):
    """Make what passes a clip on, with another gradient."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, clip):
            return clip.clone()

        @staticmethod
        def backward(ctx, cotangent):
            return backward(cotangent)

    return Function.apply


class Small(TwoStage):
    """Random weights, the same each time, since the loader seeds what is drawn."""

    def __init__(self, classes, spec, width=8):
        super().__init__()
        self.audio = nn.Linear(spec.samples, width)
        self.video = nn.Linear(3 * spec.height * spec.width, width)
        self.joint = nn.Linear(width, classes)

    def encode_audio(self, audio):
        return torch.sin(3 * self.audio(audio))

    def encode_video(self, video):
        return torch.sin(3 * self.video(video.mean(dim=1).flatten(1)))

    def fuse(self, audio, video):
        return self.joint(audio * video)


class Noisy(Small):
    """Draw from torch's global generator in each stage."""

    def encode_audio(self, audio):
        return super().encode_audio(audio + 0.01 * torch.randn_like(audio))

    def fuse(self, audio, video):
        return super().fuse(nn.functional.dropout(audio, 0.2), video)


class Rounded(Small):
    """Have no gradient through sound, and a stand-in for it."""

    def encode_audio(self, audio):
        return super().encode_audio((audio * 64).round() / 64)

    def differentiable_encode_audio(self, audio):
        return super().encode_audio(audio)


class Deaf(Small):
    """Read no sound, and say so."""

    modalities = ("video",)

    def encode_audio(self, audio):
        return super().encode_audio(torch.zeros_like(audio))


class Whole(nn.Module):
    """Offer no stages, and change its inputs in place."""

    def __init__(self, classes, spec):
        super().__init__()
        self.inner = Small(classes, spec)

    def forward(self, audio, video):
        return self.inner(audio.mul_(0.5), video.add_(0.1))


class Failing(Small):
    """Fail on the second call."""

    calls = 0

    def encode_video(self, video):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("out of \x1b[31mink")
        return super().encode_video(video)
