"""APGD: Croce & Hein, Reliable Evaluation of Adversarial Robustness, ICML 2020 ([CH20]), algorithm 1 and DLR losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from avbench.attacks import ATTACKS, Attack, Cost, Setting
from avbench.attacks.worst import Worst, choose
from avbench.errors import BadOption
from avbench.objectives import Objective, ascent_objective, badness, margin
from avbench.oracle import Gradient, Oracle
from avbench.types import AVInput

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import Batch, Modality

MOMENTUM = 0.75  # alpha in [CH20]
RISES = 0.75  # rho: the share of steps since the last checkpoint that must raise the objective
TINY = 1e-12  # keeps a ratio finite when the top logits tie


@dataclass(frozen=True)
class APGD(Attack):
    """Climb with momentum and a step that starts at two radii and halves when progress stalls, per sample.

        z = project(x_k + size * eps * direction(grad J))
        x_{k+1} = project(x_k + 0.75 * (z - x_k) + 0.25 * (x_k - x_{k-1}))

    At each checkpoint a sample halves its size and goes back to its best point if fewer than 75 % of the steps since
    the last one raised J, or if neither its size nor its best J changed. Every modality has this schedule in units of
    its own radius. What judges it, J, is joint, so the sizes of both are equal at all times and one number holds them:
    it is [CH20]'s algorithm on the product of the balls. The start is uniform in the threat set.

    Departs from [CH20]: of all points seen, the one with the smallest margin is returned (multi-label: the largest J),
    not the last wrong one; a checkpoint w is judged when w steps are made, as in the authors' code, their printed loop
    makes one more before it; a rise is counted from the point that a step was made from, also after going back.

    Raises:
        ValueError: if a count is below 1.
    """

    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be at least 1")

    @abstractmethod
    def objectives(self, oracle: Oracle, batch: Batch) -> list[Objective]:
        """Return what to climb, one after the other; each is climbed from `restarts` starts."""

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb each objective from each start, keep the worst clip of all."""
        worst = Worst()
        for goal, objective in enumerate(self.objectives(oracle, batch)):
            look = partial(_look, oracle, objective, worst)
            for restart in range(self.restarts):
                climb(look, region, region.sample(rng, f"objective {goal}/restart {restart}"), self.steps)
        return worst.clips

    def cost(self, setting: Setting) -> Cost:
        """One of each at every point, the start included."""
        points = (self.steps + 1) * self.restarts
        return Cost(points, points)


@ATTACKS.register("apgd-ce")
@dataclass(frozen=True)
class APGDCE(APGD):
    """Run APGD on the log-odds of error, of which cross-entropy is a rising function; BCE if multi-label.

    The schedule only compares values of one sample, so it is that of cross-entropy, but where cross-entropy rounds to
    zero and [CH20]'s attack stands still, this one sees progress.
    """

    def objectives(self, oracle: Oracle, batch: Batch) -> list[Objective]:
        """Return the one that all attacks climb."""
        return [ascent_objective]


@ATTACKS.register("apgd-dlr")
@dataclass(frozen=True)
class APGDDLR(APGD):
    """Run APGD on the difference of logits ratio, which a scaled or shifted last layer does not change; see `dlr`."""

    one_label: ClassVar[bool] = True

    def objectives(self, oracle: Oracle, batch: Batch) -> list[Objective]:
        """Return the untargeted ratio."""
        _check_one_label(batch)
        return [dlr]


@ATTACKS.register("apgd-t")
@dataclass(frozen=True)
class APGDT(APGD):
    """Run APGD toward each of the likeliest wrong classes by the clean answer; see `targeted_dlr`.

    All targets are tried on every sample, so that the cost is known before.
    """

    one_label: ClassVar[bool] = True
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise ValueError("targets must be at least 1")

    def objectives(self, oracle: Oracle, batch: Batch) -> list[Objective]:
        """Return one targeted ratio for each rank among the wrong classes."""
        _check_one_label(batch)
        logits = oracle.logits(batch.inputs)
        wrong = logits.scatter(1, batch.labels[:, None], -torch.inf)
        ranked = wrong.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices
        return [partial(targeted_dlr, target) for target in ranked.unbind(dim=1)]

    def cost(self, setting: Setting) -> Cost:
        """One forward to rank the classes, then APGD for each target."""
        one, targets = super().cost(setting), min(self.targets, setting.classes - 1)
        return Cost(1 + targets * one.forward, targets * one.backward)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, (batch,): (max_{i != y} z_i - z_y) / (z_1st - z_3rd), sorted downwards.

    With two classes there is no third: the difference itself.
    """
    difference = -margin(logits, labels)
    if logits.shape[1] < 3:
        return difference
    top = logits.topk(3, dim=1).values
    return difference / (top[:, 0] - top[:, 2]).clamp_min(TINY)


def targeted_dlr(target: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Targeted ratio, (batch,): (z_t - z_y) / (z_1st - (z_3rd + z_4th) / 2), sorted downwards; `target` is (batch,).

    With fewer than four classes the difference itself: a ratio by the first and the third of three is constant, and
    has no gradient, while those are y and t.
    """
    difference = (logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return difference
    top = logits.topk(4, dim=1).values
    return difference / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(TINY)


def checkpoints(steps: int) -> set[int]:
    """After how many steps progress is judged: p_j * steps, rounded up.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06); whole percents, so that rounding is exact.
    """
    found, percent, stride = set[int](), 22, 22
    while (check := -(-percent * steps // 100)) < steps:
        found.add(check)
        stride = max(stride - 3, 6)
        percent += stride
    return found


class Point(NamedTuple):
    """Where samples stand: their clips, the objective there and its gradient."""

    clips: AVInput
    loss: Tensor  # (batch,)
    gradient: dict[Modality, Tensor]

    def replaced(self, chosen: Tensor, other: Point) -> Point:
        """Move the chosen samples to where they stand in another."""
        gradient = {m: choose(chosen, other.gradient[m], g) for m, g in self.gradient.items()}
        clips = AVInput(*(choose(chosen, new, old) for new, old in zip(other.clips, self.clips, strict=True)))
        return Point(clips, choose(chosen, other.loss, self.loss), gradient)


def climb(look: Callable[[AVInput], Gradient], region: Region, start: AVInput, steps: int) -> None:
    """Make the steps of algorithm 1; `look` is called once at each point and remembers what it saw."""
    here = best = Point(start, *look(start))
    before, peak, checks, since = start, best.loss, checkpoints(steps), 0
    size = torch.full_like(peak, 2.0, dtype=torch.float64)  # in radii
    rises, halved = torch.zeros_like(peak), torch.zeros_like(peak, dtype=torch.bool)
    for step in range(1, steps + 1):
        clips, before = _moved(region, here, before, size, MOMENTUM if step > 1 else 1.0), here.clips
        last, here = here.loss, Point(clips, *look(clips))
        rises = rises + (here.loss > last)
        best = best.replaced(here.loss > best.loss, here)
        if step in checks:
            halved = (rises < RISES * (step - since)) | (~halved & (best.loss == peak))
            here, size = here.replaced(halved, best), size.where(~halved, size / 2)
            peak, rises, since = best.loss, torch.zeros_like(rises), step


def _moved(region: Region, here: Point, before: AVInput, size: Tensor, weight: float) -> AVInput:
    moved = {}
    for modality, ball in region.balls.items():
        x, previous = getattr(here.clips, modality), getattr(before, modality)
        fraction = size.view(-1, *[1] * (x.dim() - 1))
        z = ball.ascend(x, here.gradient[modality], fraction)  # type: ignore[arg-type]  # it is only multiplied
        moved[modality] = ball.project(x + weight * (z - x) + (1 - weight) * (x - previous))
    return here.clips._replace(**moved)


def _look(oracle: Oracle, objective: Objective, worst: Worst, clips: AVInput) -> Gradient:
    """Take the gradient of an objective and offer the clips by the same logits, without a further pass.

    A model that answers at random is shown the clips several times; what counts is the mean, not the luckiest draw.
    """
    seen = []

    def noted(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(badness(logits.detach(), labels))
        return objective(logits, labels)

    found = oracle.gradient(clips, noted)
    worst.offer(clips, torch.stack(seen).mean(dim=0))
    return found


def _check_one_label(batch: Batch) -> None:
    if batch.labels.dim() != 1:
        raise BadOption("a ratio of logits needs one right class a sample; on a multi-label dataset use apgd-ce")
