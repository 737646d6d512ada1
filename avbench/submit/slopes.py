"""Compare a model's gradients with what its answers do: one that hides has zero, random or wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor

from avbench.errors import BadModel, NonFiniteOutput
from avbench.objectives import ascent_objective
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng, seeded
from avbench.sandbox.wire import STAGES
from avbench.submit.probes import ask, draws, spread
from avbench.submit.report import Finding, worst
from avbench.types import BOX, AVInput, Batch, Modality, modalities_of

RADIUS = 0.006  # linf, that of `standard`: how far from a clip one looks, and how far a difference reaches at most
STEP = 3e-4  # of the spread of the logits: the change that a difference is to make; far above rounding, near linear
NOISE = 1e-5  # of the spread of the logits: a smaller change may be rounding
FLAT = 1e-12  # of the spread of the logits: a gradient whose l1 norm is below it is rounding
DIRECTIONS = 4  # random ones
RATIO = (0.5, 1.5)  # what happens along a gradient to what it says; of honest models 0.95 to 1.1
RESIDUAL = 0.5  # share of what happens in random directions that a gradient may leave out; of honest models 0.25
LEEWAY = 1  # sample that may be off, on a kink


def gradients(victim: Victim, batch: Batch) -> Finding:
    """Check the gradient of each modality that the model says it reads: there, finite, and what the answers do.

    One looks beside the clips: on digital silence pooling has ties, where the gradient of an honest model is off.
    """
    rng = Rng(0, "slopes", batch.ids)
    streams = {}
    for modality, clip in zip(AVInput._fields, batch.inputs, strict=True):
        low, high = BOX[modality]  # type: ignore[index]
        inside = clip.clamp(low + 2 * RADIUS, high - 2 * RADIUS)  # no difference leaves the box
        streams[modality] = inside + RADIUS * (2 * rng.uniform(clip, modality) - 1)
    beside = Batch(batch.ids, AVInput(**streams), batch.labels)
    found = [_of_modality(victim, beside, modality, rng) for modality in modalities_of(victim.model)]
    sentence = "; ".join(dict.fromkeys(one.sentence for one in found))
    return Finding("gradients", worst(found), sentence, "; ".join(one.value for one in found))


def _of_modality(victim: Victim, batch: Batch, modality: Modality, rng: Rng) -> Finding:
    def finding(status: str, sentence: str, value: str) -> Finding:
        return Finding("gradients", status, sentence, f"{modality}: {value}")  # type: ignore[arg-type]

    scale = spread(ask(victim, batch)).double()
    try:
        with seeded(victim.device, *draws(0)):
            gradient = Oracle(victim, batch, (modality,), {}).gradient(batch.inputs).inputs[modality].double()
    except (BadModel, NonFiniteOutput) as error:  # NoGradient is a BadModel
        return finding("fail", f"the gradient of the {modality} cannot be used", f"{type(error).__name__}: {error}")
    flat = gradient.flatten(1).abs().sum(dim=1) <= FLAT * scale
    if flat.all():
        what = f"the model says that it reads the {modality}, and its gradient is zero"
        return finding("fail", what, f"zero on all of {len(flat)} samples")
    if any(hasattr(victim.model, f"differentiable_{stage}") for stage in STAGES):
        what = "attacks get the gradient of a stand-in, which no finite difference can judge"
        return finding("warn", what, f"zero on {int(flat.sum())} of {len(flat)} samples")
    size = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    along = gradient / size.view(-1, *[1] * (gradient.dim() - 1))
    said, seen = _differences(victim, batch, modality, gradient, along, STEP * scale / size)
    felt = torch.maximum(said.abs(), seen.abs()) > NOISE
    ratio = torch.where(felt, seen / said, torch.ones_like(said))
    off = int((~((ratio >= RATIO[0]) & (ratio <= RATIO[1]))).sum())
    random = [rng.signs(gradient, f"direction {number}") for number in range(DIRECTIONS)]
    parts = [_differences(victim, batch, modality, gradient, draw, STEP * scale / size) for draw in random]
    said, seen = (torch.stack(column) for column in zip(*parts, strict=True))
    residual = float((seen - said).norm() / seen.norm().clamp_min(NOISE * seen.numel() ** 0.5))
    value = f"off along the gradient on {off} of {len(flat)}, residual elsewhere {residual:.2f}"
    if off > LEEWAY or residual > RESIDUAL:
        return finding("fail", f"the gradient of the {modality} is not that of the answers (finite differences)", value)
    return finding("pass", "the gradients are there and agree with finite differences", value)


def _differences(
    victim: Victim, batch: Batch, modality: Modality, gradient: Tensor, direction: Tensor, length: Tensor
) -> tuple[Tensor, Tensor]:
    """Change of the objective that the gradient foretells, and that the answers show, in spreads of the logits.

    Args:
        victim: the model.
        batch: where to look.
        modality: which stream is changed.
        gradient: (batch, ...), of the objective
        direction: (batch, ...)
        length: (batch,), how far to go, cut so that no element moves by more than the radius
    """
    wide = [-1] + [1] * (direction.dim() - 1)
    step = direction * torch.minimum(length / 2, RADIUS / direction.flatten(1).abs().amax(dim=1)).view(wide)
    clip = getattr(batch.inputs, modality).double()
    ends = [(clip + sign * step).float() for sign in (1, -1)]
    answers = [ask(victim, Batch(batch.ids, batch.inputs._replace(**{modality: e}), batch.labels)) for e in ends]
    scale = spread(answers[0]).double().clamp_min(torch.finfo(torch.float32).tiny)
    up, down = (ascent_objective(answer.double(), batch.labels) for answer in answers)
    moved = ends[0].double() - ends[1].double()
    return (gradient * moved).flatten(1).sum(dim=1) / scale, (up - down) / scale
