"""Transfer: clips crafted on other models ([Z25] figures 5 and 6); ensembles in logits as in Dong et al., CVPR 2018."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from avbench.attacks import ATTACKS, Attack, Cost, Setting, parse_attack
from avbench.attacks.mask import Mask
from avbench.types import MODALITIES, modalities_of

if TYPE_CHECKING:
    from avbench.oracle import Oracle
    from avbench.rng import Rng
    from avbench.threats.region import Region
    from avbench.types import AVInput, Batch

BASELINE = "baseline"  # the submission that the dataset's card names, so that a suite is the same for every dataset


@ATTACKS.register("transfer")
@dataclass(frozen=True)
class Transfer(Attack):
    """Craft on named surrogates with another attack: `transfer:attack=pgd/steps=20,surrogates=org--one+org--two`.

    The attacked model answers nothing while clips are made; it is only judged on them. The attack's parameters follow
    its name with `/` between. Several surrogates are one model whose logits are the mean of theirs; it offers no
    embeddings, since theirs differ in size and meaning, so tia, mma and tma look at its logits. A differentiable
    stand-in that one of several offers is not used.

    Raises:
        ValueError: if a surrogate is named twice or not at all, or the attack is itself a transfer or a corruption.
    """

    attack: str = "mim"
    surrogates: str = BASELINE

    def __post_init__(self) -> None:
        if not all(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError("surrogates are submissions, each named once, with + between")
        if isinstance(self.inner, Transfer | Mask):
            raise ValueError(f"{self.attack} cannot be transferred")

    @property
    def inner(self) -> Attack:
        """The attack that is run on the surrogates."""
        name, _, rest = self.attack.partition("/")
        return parse_attack(f"{name}:{rest.replace('/', ',')}")

    @property
    def names(self) -> tuple[str, ...]:
        """Submissions, or `baseline`."""
        return tuple(self.surrogates.split("+"))

    @property
    def identity(self) -> dict[str, Any]:
        """As of any attack, with that of the inner one; the run adds that of the surrogates."""
        return super().identity | {"attack": self.inner.identity}

    def run(self, oracle: Oracle, batch: Batch, region: Region, rng: Rng) -> AVInput:
        """Run the inner attack; the oracle is that of the surrogates."""
        return self.inner.run(oracle, batch, region, rng)

    def cost(self, setting: Setting) -> Cost:
        """Those of the inner attack, through each surrogate; `setting` is theirs."""
        return self.inner.cost(setting)

    def __str__(self) -> str:
        return f"transfer:attack={self.attack},surrogates={self.surrogates}"


class MeanOfLogits(nn.Module):
    """Average the logits of several models: of three ways to join them, Dong et al. found it to transfer best."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.modalities = tuple(m for m in MODALITIES if any(m in modalities_of(member) for member in members))

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Answer the mean of the members' answers."""
        return torch.stack([member(audio, video) for member in self.members]).mean(dim=0)
