"""A cell: one threat with one attack, the unit of work, of resume and of a folder; and how its rows are made."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from avbench.attacks import Attack
from avbench.attacks.mask import Mask
from avbench.attacks.transfer import Transfer
from avbench.datasets.splits import Split
from avbench.errors import BadBudget, BadModel, BadOption, DataError
from avbench.judge import judge
from avbench.memory import reused_memory
from avbench.metrics import CLEAN, NONE, SILENCE_AUDIO, SILENCE_VIDEO
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng, seeded
from avbench.store import Part
from avbench.suites import check_access
from avbench.threats import ThreatModel
from avbench.threats.l2 import L2
from avbench.threats.region import Region
from avbench.types import BOX, MODALITIES, AVInput, Batch, Modality, modalities_of

Way = Literal["forward", "backward"]
WAYS: tuple[Way, ...] = ("forward", "backward")
_SILENCED: dict[str, Modality] = {SILENCE_AUDIO: "audio", SILENCE_VIDEO: "video"}


@dataclass(frozen=True)
class Cell:
    """One threat with one attack, or clips that nobody attacked (`attack` is "none", what is silenced, a corruption).

    Raises:
        BadOption: if the threat does not grant what the attack uses.
    """

    threat: ThreatModel | None
    attack: Attack | str

    def __post_init__(self) -> None:
        if self.threat and isinstance(self.attack, Attack):
            check_access(self.threat, self.attack)

    @property
    def columns(self) -> tuple[str, str]:
        """The threat and attack columns of its rows."""
        return (str(self.threat) if self.threat else CLEAN, str(self.attack))

    @property
    def attacked(self) -> tuple[Modality, ...]:
        """Modalities in which its clips differ from the clean ones."""
        if self.threat:
            return tuple(self.threat.budgets)
        if isinstance(self.attack, Mask):
            return MODALITIES
        return tuple(m for name, m in _SILENCED.items() if name == self.attack)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data for the fingerprint; type names are part of it."""
        attack = self.attack.identity if isinstance(self.attack, Attack) else {"name": self.attack}
        return {"threat": self.columns[0], "attack": attack}


# Rows that nobody attacked: they belong to every run.
REFERENCES = tuple(Cell(None, name) for name in (NONE, *_SILENCED))


class Craft(NamedTuple):
    """What makes the clips of a cell, where it is more than its attack on the attacked model."""

    attack: Attack  # ready to run
    model: Victim  # what it looks at
    members: int = 1  # models whose logits that one averages


def make_parts(
    victim: Victim,
    batch: Batch,
    cells: Sequence[Cell],
    seed: int,
    crafts: Mapping[Cell, Craft] | None = None,
    keep: Callable[[Cell, AVInput], str | None] | None = None,
) -> Iterator[tuple[Cell, Part]]:
    """Attack and judge one micro-batch in several cells, which share the embeddings of what is not attacked.

    A model that answers at random meets the same draws in all cells when it is judged, others while it is attacked,
    and embeds everything anew. `keep` stores the clips that were judged and returns their hash.

    Raises:
        BudgetViolation, BadModel, NonFiniteOutput: as they say; parts yielded before are good.
    """
    with reused_memory(victim.device):
        still = [m for m in MODALITIES if any(m not in cell.attacked for cell in cells)]
        embeddings = embed(victim, batch, still)
        for cell in cells:
            craft = (crafts or {}).get(cell)
            counts = {victim: 1} | ({craft.model: craft.members} if craft and craft.model is not victim else {})
            start, before = time.perf_counter(), {model: model.passes.copy() for model in counts}
            fixed = {m: f for m, f in embeddings.items() if m not in cell.attacked}
            clips = make_clips(victim, batch, cell, fixed, seed, craft)
            with seeded(victim.device, "judge", seed, *batch.ids):
                rows = judge(victim, batch, clips, fixed)
            rows.insert(1, "threat", cell.columns[0])
            rows.insert(2, "attack", cell.columns[1])
            forward, backward = (
                sum(n * most(model.passes - before[model], way) for model, n in counts.items()) for way in WAYS
            )
            seconds = time.perf_counter() - start
            yield cell, Part(rows, forward, backward, seconds, keep(cell, clips) if keep else None)


def embed(model: Victim, batch: Batch, modalities: Sequence[Modality]) -> dict[Modality, Tensor]:
    """Compute embeddings that stay the same; none of a model without stages or with answers at random."""
    with torch.no_grad():
        return {m: model.embed(batch.inputs, m) for m in modalities if model.two_stage and not model.random}


def most(made: Counter[tuple[str, str]], way: Way) -> int:
    """Count samples passed through the part of a model that most were passed through, its fusion left out."""
    return max((n for (part, direction), n in made.items() if direction == way and part != "fuse"), default=0)


def make_clips(
    victim: Victim,
    batch: Batch,
    cell: Cell,
    fixed: Mapping[Modality, Tensor],
    seed: int,
    craft: Craft | None = None,
) -> AVInput:
    """Make the clips of a cell; adversarial ones are legal, or this raises BudgetViolation.

    Raises:
        BadOption: if the cell is a transfer and no surrogates are given: the attacked model is never shown to it.
    """
    if isinstance(cell.attack, Mask):
        return cell.attack.corrupt(batch.inputs, Rng(seed, "mask", batch.ids))
    if cell.threat is None:
        silent = {m: torch.zeros_like(getattr(batch.inputs, m)) for m in cell.attacked}
        clips = batch.inputs._replace(**silent)
        _check_modalities(victim, batch, cell, clips)
        return clips
    assert isinstance(cell.attack, Attack)
    attack, model, _ = craft or Craft(cell.attack, victim)
    if isinstance(cell.attack, Transfer) and model is victim:
        raise BadOption(f"{cell.attack} needs its surrogates; use it in `avbench evaluate`")
    clips = model.rescue(lambda: _crafted(batch, cell, None if model is not victim else fixed, seed, attack, model))
    clips = AVInput(*(clip.detach().clone() for clip in clips))
    Region(cell.threat, batch.inputs).check(clips, batch.ids, str(cell.attack))
    return clips


def _crafted(
    batch: Batch, cell: Cell, fixed: Mapping[Modality, Tensor] | None, seed: int, attack: Attack, model: Victim
) -> AVInput:
    """Let an attack play with copies; the judge's clips, labels and threat set are out of its reach."""
    assert cell.threat is not None
    assert isinstance(cell.attack, Attack)
    shown = Batch(batch.ids, AVInput(*(clip.clone() for clip in batch.inputs)), batch.labels.clone())
    rng = Rng(seed, cell.attack.identity["name"], batch.ids)
    with seeded(model.device, seed, *cell.columns, *batch.ids), model.hurried():
        if fixed is None:
            fixed = embed(model, shown, [m for m in MODALITIES if m not in cell.attacked])
        oracle = Oracle(model, shown, cell.attacked, fixed, attack.needs)
        return attack.run(oracle, shown, Region(cell.threat, shown.inputs), rng)


def _check_modalities(victim: Victim, batch: Batch, cell: Cell, silenced: AVInput) -> None:
    """Check that silencing a modality that the model says it does not read changes no answer."""
    for modality in set(cell.attacked) - set(modalities_of(victim.model)):
        answers = []
        for clips in (batch.inputs, silenced):
            with torch.no_grad(), seeded(victim.device, "silence"):
                answers.append(victim.logits(clips, {}, batch.ids))
        if not torch.equal(*answers):
            raise BadModel(f"the model declares that it does not read {modality}, but its answers depend on it")


def check_cells(split: Split, cells: Sequence[Cell]) -> None:
    """Refuse, before anything is computed, labels that the card does not know and attacks or radii that mean nothing.

    Raises:
        DataError: naming the first sample whose label is no class.
        BadBudget: as `check_radii`.
        BadOption: if an attack needs one label a sample and the dataset has several.
    """
    card = split.card
    classes = len(card.classes)
    for row in split.lock.rows:
        labels = (row.label,) if isinstance(row.label, int) else row.label
        if not all(0 <= label < classes for label in labels):
            raise DataError(f"sample {row.id} has the label {row.label}; {card.name} has {classes} classes")
        if isinstance(row.label, int) != (card.task == "multiclass"):
            raise DataError(f"sample {row.id} has the label {row.label}, but {card.name} is {card.task}")
    for cell in cells:
        attack = cell.attack.inner if isinstance(cell.attack, Transfer) else cell.attack
        if isinstance(attack, Attack) and attack.one_label and card.task == "multilabel":
            raise BadOption(
                f"{cell.attack} needs one right class a sample, and {card.name} is multi-label; use apgd-ce"
            )
        if cell.threat:
            check_radii(cell.threat, {m: card.spec.shape(m) for m in MODALITIES})


def check_radii(threat: ThreatModel, shapes: Mapping[Modality, Sequence[int]]) -> None:
    """Refuse an l2 radius that no clip of these shapes can use; a linf radius is checked without clips.

    Raises:
        BadBudget: if an l2 radius is larger than the box.
    """
    for modality, budget in threat.budgets.items():
        low, high = BOX[modality]
        largest = (high - low) * math.sqrt(math.prod(shapes[modality]))
        if isinstance(budget, L2) and budget.radius > largest:
            raise BadBudget(f"{threat}: l2 radius of {modality} is larger than its whole range, {largest:.6g}")


def check_stages(victim: Victim, batch: Batch) -> None:
    """Refuse a model whose stages are not the whole, since attacks look at the stages.

    Raises:
        BadModel: if they answer these clips differently.
    """
    if not victim.two_stage:
        return
    with torch.no_grad(), seeded(victim.device, "stages"):
        whole = victim.whole(batch.inputs)
    with torch.no_grad(), seeded(victim.device, "stages"):
        fused = victim.logits(batch.inputs, {}, batch.ids)
    if whole.shape != fused.shape or not torch.allclose(whole.float(), fused, rtol=1e-4, atol=1e-4):
        raise BadModel("fuse(encode_audio(a), encode_video(v)) differs from forward(a, v); mend the model's stages")
