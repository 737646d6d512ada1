"""What attacks climb and what judges count: functions of logits (batch, classes) and labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) -> (batch,), to be maximized


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss per sample, (batch,), in nats: cross-entropy, or binary cross-entropy summed over classes if multi-label."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1)


def ascent_objective(logits: Tensor, labels: Tensor) -> Tensor:
    """Give attacks what to climb, (batch,): for one label the log-odds of error, log sum_{j != y} exp z_j - z_y.

    Cross-entropy is softplus of it, so both have the same gradient up to a positive factor per sample, which no
    attack with normalized steps can see. But that factor underflows in float32 when a model is very sure, and a
    last layer times 1000 would hide every gradient. Multi-label: binary cross-entropy, in float64.
    """
    if labels.dim() == 1:
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return others.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    return classification_loss(logits.double(), labels.double())


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each answer is from wrong, (batch,), in logits: right class minus best other; multi-label: worst class.

    A sample counts as right when its margin is positive, so a tie is an error.
    """
    if labels.dim() == 1:
        right = logits.gather(1, labels[:, None])
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return right[:, 0] - others
    return (logits * (2 * labels - 1)).amin(dim=1)


def badness(logits: Tensor, labels: Tensor) -> Tensor:
    """How bad an answer is for the model, (batch,), to compare clips of a sample: -margin; multi-label: the loss."""
    return -margin(logits, labels) if labels.dim() == 1 else ascent_objective(logits, labels)
