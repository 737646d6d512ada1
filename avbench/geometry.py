"""Geometry of the classes in a model's eyes: density of the embeddings, convexity of the regions ([L22])."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from avbench.rng import Rng
from avbench.types import MODALITIES, AVInput, Batch, Modality

Streams = Literal["audio", "video", "joint"]
STREAMS: tuple[Streams, ...] = (*MODALITIES, "joint")
CHUNK = 100  # points at a time
POINTS = 2000  # of a class, for its convexity
QUANTILES = (0.6, 0.8)  # tau, for the density

Classify = Callable[[AVInput], Tensor]  # (batch,) predicted classes


def log_ball_volume(dimension: int, radius: float, p: float = 2.0) -> float:
    """Log of the volume of an l_p ball, (2 r Gamma(1/p + 1))^d / Gamma(d/p + 1); the volume itself would overflow.

    >>> [round(math.exp(log_ball_volume(d, 1.0)), 6) for d in (1, 2, 3)]
    [2.0, 3.141593, 4.18879]
    """
    if radius <= 0:
        return -math.inf
    side = math.log(2 * radius)
    if math.isinf(p):
        return dimension * side
    return float(dimension * (side + gammaln(1 / p + 1)) - gammaln(dimension / p + 1))


class Density(NamedTuple):
    """How closely a class's embeddings lie together."""

    value: float  # rho; NaN where the log-volume is not positive, for then it has no meaning
    log_volume: float
    radius: float
    n: int  # embeddings


def density(features: NDArray[np.float64], tau: float, p: float = 2.0) -> Density:
    """Density of one class: samples farther than R from the centroid, over the log-volume of the ball of radius R.

    rho_c = n_c / log V_d(R), R the tau-quantile of the l_p distances to the centroid ([L22], section 2). Where
    log V_d(R) <= 0 the quotient is infinite or negative, which no order of classes can use: it is NaN, and
    `log_volume` says why.

    Args:
        features: (samples, dimension) embeddings of the class.
        tau: in (0, 1).
        p: of the norm.
    """
    if len(features) < 2:
        return Density(math.nan, math.nan, math.nan, len(features))
    far = np.linalg.norm(features - features.mean(axis=0), ord=p, axis=1)
    radius = float(np.quantile(far, tau))
    volume = log_ball_volume(features.shape[1], radius, p)
    outside = int((far > radius).sum())
    return Density(outside / volume if volume > 0 else math.nan, volume, radius, len(features))


class Convexity(NamedTuple):
    """How much of the segments between clips of a class the model also gives to that class."""

    value: float  # kappa in [0, 1]; NaN with fewer than two clips that the model gives to the class
    inside: int
    points: int


def convexity(
    clips: Batch, label: int, streams: Streams, classify: Classify, rng: Rng, points: int = POINTS
) -> Convexity:
    """Share of points theta x1 + (1 - theta) x2 that the model labels `label`, theta uniform ([L22], section 2).

    x1 and x2 are clips of the class that the model labels so; else the share would measure accuracy, and would not be 1
    for a linear classifier, whose regions are convex. For one stream the other one is x1's, and pairs whose far end
    (x2's stream with x1's other one) the model labels otherwise are left out for the same reason.

    Args:
        clips: all clips of the class, or their embeddings in place of them.
        label: the class.
        streams: which part is moved.
        classify: answers (batch,) predicted classes.
        rng: for the choice of pairs and of theta.
        points: how many.
    """
    own = AVInput(*(stream[classify(clips.inputs) == label] for stream in clips.inputs))
    n = len(own.audio)
    if n < 2:
        return Convexity(math.nan, 0, 0)
    drawn = rng.uniform(torch.empty(1, points, 3, dtype=torch.float64), f"convexity/{label}/{streams}")[0]
    first = (drawn[:, 0] * n).long()
    second = (first + 1 + (drawn[:, 1] * (n - 1)).long()) % n
    inside = moved = 0
    for start in range(0, points, CHUNK):
        part = slice(start, min(start + CHUNK, points))
        one, other = own.pick(first[part].to(own.audio.device)), own.pick(second[part].to(own.audio.device))
        if streams != "joint":
            other = one._replace(**{streams: getattr(other, streams)})
            kept = classify(other) == label
            one, other = one.pick(kept), other.pick(kept)
            theta = drawn[part, 2].to(kept.device)[kept]
        else:
            theta = drawn[part, 2].to(own.audio.device)
        if len(one.audio):
            between = AVInput(*(_mix(a, b, theta) for a, b in zip(one, other, strict=True)))
            inside += int((classify(between) == label).sum())
            moved += len(one.audio)
    return Convexity(inside / moved if moved else math.nan, inside, moved)


def _mix(one: Tensor, other: Tensor, theta: Tensor) -> Tensor:
    weight = theta.to(one.dtype).view(-1, *[1] * (one.dim() - 1))
    return other + weight * (one - other)


def streams_of(embeddings: dict[Modality, Tensor]) -> dict[Streams, NDArray[np.float64]]:
    """Embeddings of each modality and, joined end to end, of both; (samples, dimension)."""
    flat = {m: e.flatten(1).double().cpu().numpy() for m, e in embeddings.items()}
    return {"audio": flat["audio"], "video": flat["video"], "joint": np.concatenate([*flat.values()], axis=1)}
