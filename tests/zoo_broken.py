"""Deliberately broken defenses around an honest two-stage model: each hides gradients in one known way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avbench.models.two_stage import TwoStage
from avbench.types import MODALITIES, Modality

STEP = 1 / 128  # of the quantizers; the radius 0.006 is less than one


class Defended(TwoStage):
    """Pass everything on; subclasses break one stage, of both modalities or of some."""

    def __init__(self, inner: TwoStage, broken: tuple[Modality, ...] = MODALITIES) -> None:
        super().__init__()
        self.inner = inner
        self.broken = broken

    def before(self, clip: Tensor) -> Tensor:
        """What happens to a clip of a broken modality."""
        return clip

    def encode_audio(self, audio: Tensor) -> Tensor:
        return self.inner.encode_audio(self.before(audio) if "audio" in self.broken else audio)

    def encode_video(self, video: Tensor) -> Tensor:
        return self.inner.encode_video(self.before(video) if "video" in self.broken else video)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.inner.fuse(audio, video)


class Quantized(Defended):
    """Round clips: the gradient of `round` is zero everywhere."""

    def before(self, clip: Tensor) -> Tensor:
        return (clip / STEP).round() * STEP


class QuantizedWithStandIns(Quantized):
    """The same, honest about it: straight through the rounding."""

    def differentiable_encode_audio(self, audio: Tensor) -> Tensor:
        return self.inner.encode_audio(audio)

    def differentiable_encode_video(self, video: Tensor) -> Tensor:
        return self.inner.encode_video(video)


class Lying(Defended):
    """Offer stand-ins whose gradient points the wrong way."""

    def differentiable_encode_audio(self, audio: Tensor) -> Tensor:
        return self.inner.encode_audio(2 * audio.detach() - audio if "audio" in self.broken else audio)

    def differentiable_encode_video(self, video: Tensor) -> Tensor:
        return self.inner.encode_video(2 * video.detach() - video if "video" in self.broken else video)


class Thermometer(Defended):
    """Count thresholds below each value, in one encoding of 64 levels: comparisons have no gradient at all."""

    def before(self, clip: Tensor) -> Tensor:
        low = float(clip.min() < 0)
        levels = torch.linspace(-low, 1, 64)
        return (clip[..., None] > levels).float().mean(dim=-1) * (1 + low) - low


class Noisy(Defended):
    """Add noise to every clip, also in eval mode."""

    def before(self, clip: Tensor) -> Tensor:
        return clip + 0.06 * torch.randn_like(clip)


class Dropping(Defended):
    """Leave dropout on in eval mode."""

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        share = {m: 0.3 * (m in self.broken) for m in MODALITIES}
        return self.inner.fuse(F.dropout(audio, share["audio"]), F.dropout(video, share["video"]))


class Detached(Defended):
    """Cut a branch off the graph."""

    def before(self, clip: Tensor) -> Tensor:
        return clip.detach()


class Leaking(Defended):
    """Cut a branch off but for a trace that only looks like a gradient."""

    def before(self, clip: Tensor) -> Tensor:
        return clip.detach() + 1e-20 * (clip - clip.detach())


class FrontEnd(Defended):
    """Prepare a clip under no_grad, as a feature extractor of another library does."""

    def before(self, clip: Tensor) -> Tensor:
        with torch.no_grad():
            return clip - clip.mean(dim=-1, keepdim=True)


class Sure(Defended):
    """Multiply the logits by 1000, so that cross-entropy underflows; the log-odds that attacks climb do not."""

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return 1000 * self.inner.fuse(audio, video)


class Saturated(Defended):
    """Answer probabilities of such logits: their softmax is flat in float32."""

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return (1000 * self.inner.fuse(audio, video)).softmax(dim=1)
