"""The clips of an exhibit: as much as the dataset's card allows, checked against hashes and budget in integers."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np

from avbench.datasets.cards import Card
from avbench.datasets.encoding import Clip, decode, digest, encode
from avbench.errors import BudgetViolation, DataError
from avbench.evidence import MEDIA, Exhibit, Media, Stored
from avbench.threats import parse_threat
from avbench.types import InputSpec, Modality

THUMBNAIL = 64  # pixels, longer side
_SCALE = 61  # lengths are whole numbers of 2**-61, as in avbench.adversarial
_UNIT: dict[Modality, int] = {"audio": (1 << _SCALE) // 32768, "video": (1 << _SCALE) // 255}


class Pair(NamedTuple):
    """A clip before and after."""

    clean: Clip
    attacked: Clip


def keep_pair(exhibit: Exhibit, pair: Pair, card: Card) -> Exhibit:
    """Store a pair as its clean clip and what changed, as far as the card allows; it has to be within its budget.

    Raises:
        BudgetViolation: if it is not.
    """
    check_budget(exhibit, pair)
    if card.media == "none":
        return exhibit
    clean, attacked = (reduce_clip(clip, card.media) for clip in pair)
    change = Clip(attacked.audio - clean.audio, attacked.video - clean.video)  # wraps around
    stored = (Stored(**encode(clip, card.sample_rate)._asdict()) for clip in (clean, change))
    return exhibit.model_copy(update=dict(zip(("clean", "change"), stored, strict=True)))


def open_pair(exhibit: Exhibit, card: Card, made_for: Media) -> Pair | None:
    """Decode a pair, check hashes and budget, and leave what the card allows today; None if that is nothing.

    Raises:
        DataError: if the files are not clips of this dataset, or not those that the hashes say.
        BudgetViolation: if the attacked clip is outside its budget.
        BadBudget, UnknownName: if it names no threat.
    """
    allowed = min(card.media, made_for, key=MEDIA.index)
    if allowed == "none" or exhibit.clean is None or exhibit.change is None:
        return None
    spec = stored_spec(card.spec, made_for)
    try:
        clean, change = (_open(stored, spec) for stored in (exhibit.clean, exhibit.change))
    except ValueError as error:
        raise DataError(f"the evidence of sample {exhibit.sample} cannot be shown: {error}") from error
    pair = Pair(clean, Clip(clean.audio + change.audio, clean.video + change.video))
    check_budget(exhibit, pair)
    return Pair(*(reduce_clip(clip, allowed) for clip in pair))


def _open(stored: Stored, spec: InputSpec) -> Clip:
    clip = decode(stored.audio, stored.frames, spec)
    if digest(clip) != stored.sha256:
        raise ValueError("a clip does not match its sha256")
    return clip


def check_budget(exhibit: Exhibit, pair: Pair) -> None:
    """Measure a pair in integers.

    Raises:
        BudgetViolation: if it is outside the budget, or changes what the threat leaves alone.
    """
    budgets = parse_threat(exhibit.threat).budgets
    for modality, unit in _UNIT.items():
        clean, attacked = (getattr(clip, modality).astype(np.int64) for clip in pair)
        change = np.abs(attacked - clean) * unit
        allowed = floor(Fraction(budgets[modality].radius) * 2**_SCALE) if modality in budgets else 0
        length = budgets[modality].length(change) if modality in budgets and change.size else int(change.max(initial=0))
        if length > allowed:
            raise BudgetViolation(
                f"the evidence of sample {exhibit.sample} changes the {modality} by {length / 2**_SCALE:.6g}, outside "
                f"{exhibit.threat}"
            )


def stored_spec(spec: InputSpec, media: Media) -> InputSpec:
    """Shape of the clips in a file that was made under this right."""
    if media == "full":
        return spec
    step = _step(spec.height, spec.width)
    return InputSpec(spec.sample_rate, 0, 1, spec.fps, -(-spec.height // step), -(-spec.width // step))


def reduce_clip(clip: Clip, media: Media) -> Clip:
    """Leave what may be shown: of a thumbnail some pixels of the middle frame, and no sound."""
    if media == "full":
        return clip
    step = _step(*clip.video.shape[2:])
    middle = len(clip.video) // 2
    return Clip(clip.audio[:0], np.ascontiguousarray(clip.video[middle : middle + 1, :, ::step, ::step]))


def _step(height: int, width: int) -> int:
    return -(-max(height, width) // THUMBNAIL)
