"""Momentum iterative method: Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, eq. 6 and 7."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avbench.attacks import ATTACKS, Attack, Cost, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch, Modality

    Term = Callable[[AVInput], Tensor]  # clips to (batch,), to be maximized beside the log-odds of error


@ATTACKS.register("mim")
@dataclass(frozen=True)
class MIM(Attack):
    """Accumulate g <- mu * g + grad / ||grad||_1 and step along its sign.

    The norm is taken per sample and modality, and every iterate is projected around the clean clip. The released
    code of [T21] does neither (spec errata 3 and 4), so its clips leave the ball; see docs/protocol.md.

    Raises:
        ValueError: if `steps` is below 1 or the step is not in (0, 2].
    """

    steps: int = 10
    step: float = 0.125  # of the radius
    momentum: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step <= 2:
            raise ValueError("steps must be at least 1, step above 0 and at most 2 radii")

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Climb the log-odds of error."""
        return self.climb(oracle, batch, region, lambda number: ())

    def cost(self, setting: Setting) -> Cost:
        """One of each a step."""
        return Cost(self.steps, self.steps)

    def climb(self, oracle: Oracle, batch: Batch, region: Region, terms: Callable[[int], Iterable[Term]]) -> AVInput:
        """Climb the log-odds of error plus the terms of each step with momentum, return the last iterate.

        Terms are differentiated one by one, so that memory holds the activations of one.
        """
        clips = batch.inputs
        velocity: dict[Modality, Tensor] = {}
        for number in range(self.steps):
            total = oracle.gradient(clips).inputs
            for term in terms(number):
                found = oracle.gradient_of(clips, _reaching(term, region.attacked)).inputs
                total = {modality: gradient + found[modality] for modality, gradient in total.items()}
            for modality, gradient in total.items():
                velocity[modality] = self.momentum * velocity.get(modality, 0.0) + l1_normalized(gradient)
            clips = region.ascend(clips, velocity, self.step)
        return clips


def _reaching(term: Term, attacked: tuple[Modality, ...]) -> Term:
    """Give a term of one modality the gradient 0, not none, in the other, for the oracle takes none for a fault."""
    return lambda shown: term(shown) + sum(0 * getattr(shown, m).flatten(1).sum(dim=1) for m in attacked)


def l1_normalized(gradient: Tensor) -> Tensor:
    """Divide each sample's gradient by its l1 norm; a zero gradient stays zero."""
    norm = gradient.flatten(1).abs().sum(dim=1).view(-1, *[1] * (gradient.dim() - 1))
    return gradient / norm.where(norm > 0, 1.0)
