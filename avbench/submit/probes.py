"""Try an opened model: that it answers, repeats itself, judges each sample alone, and remembers nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from avbench.attacks.noise import Noise
from avbench.attacks.pgd import PGD
from avbench.cells import Cell, check_stages, make_clips
from avbench.errors import BadModel, NoGradient
from avbench.judge import SAME
from avbench.oracle import Victim
from avbench.rng import seeded
from avbench.submit.report import Finding
from avbench.threats import ThreatModel
from avbench.types import AVInput, Batch

FEW = 8  # samples that are asked for one by one
PIECE = 2  # samples of one question to a model that may remember


def shapes(victim: Victim, batch: Batch) -> Finding:
    """Check that the answers are finite logits of floating point, and that the parts of the model make the whole.

    Raises:
        BadModel, NonFiniteOutput: if not.
    """
    with torch.no_grad(), seeded(victim.device, "shapes"):
        logits = victim.logits(batch.inputs, {}, batch.ids)
        whole = victim.whole(batch.inputs)
    if not whole.is_floating_point():
        raise BadModel(f"the model answers {whole.dtype}; logits are floating-point numbers")
    check_stages(victim, batch)
    return Finding("shapes", "pass", f"{len(logits)} samples get {logits.shape[1]} finite logits each")


def determinism(victim: Victim, batch: Batch) -> Finding:
    """Ask twice, with other draws of torch's generator: the bits must be the same."""
    first, second = (ask(victim, batch, draw) for draw in (0, 1))
    off = (first != second).any(dim=1)
    if off.any():
        what = f"{int(off.sum())} of {len(off)} samples get another answer when asked again; leave no dropout on"
        return Finding("determinism", "fail", what, f"largest difference {_of_spread(first, second)}")
    return Finding("determinism", "pass", "asked again, the model answers the same bits")


def independence(victim: Victim, batch: Batch) -> Finding:
    """Ask for samples in one batch, alone, in another order and in pairs: who stands beside them must not matter."""
    whole = ask(victim, batch)
    n = len(batch.ids)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    few = range(min(FEW, n))
    ways = {
        "alone": torch.cat([ask(victim, pick(batch, [i])) for i in few]),
        "in another order": ask(victim, pick(batch, order))[[order.index(i) for i in few]],
        "beside one other": torch.cat([ask(victim, pick(batch, [i, n - 1 - i]))[:1] for i in few]),
    }
    for way, answers in ways.items():
        if differ(whole[: len(few)], answers).any():
            what = f"samples are answered otherwise {way} than in a batch of {n}; each must be judged for itself"
            return Finding("batch", "fail", what, f"largest difference {_of_spread(whole[: len(few)], answers)}")
    return Finding("batch", "pass", f"alone, in another order, in pairs and in a batch of {n} the answers are the same")


def history(used: Victim, fresh: Victim, batch: Batch, threat: ThreatModel) -> Finding:
    """Ask a model that has seen, and been attacked on, near-duplicates and one that has not, in reversed order.

    Some of the clips are drawn at random from the threat set, others attack the used model: one that swaps classes
    only where an attack succeeds gives itself away with those alone.
    """
    few = pick(batch, range(min(FEW, len(batch.ids))))
    answers = ask(used, few)
    target = answers.argmax(dim=1) if few.labels.dim() == 1 else (answers > 0).float()  # which an attack is to change
    made = [make_clips(used, few, Cell(threat, Noise()), {}, 0)]
    with contextlib.suppress(NoGradient):
        made.append(make_clips(used, Batch(few.ids, few.inputs, target), Cell(threat, PGD()), {}, 0))
    inputs = AVInput(*(torch.cat(streams) for streams in zip(*made, strict=True)))
    asked = Batch(few.ids * len(made), inputs, few.labels)
    pieces = [range(start, min(start + PIECE, len(asked.ids))) for start in range(0, len(asked.ids), PIECE)]
    before = [_piece(used, asked, piece) for piece in pieces]
    after = [_piece(fresh, asked, piece) for piece in reversed(pieces)][::-1]
    one, other = torch.cat(before), torch.cat(after)
    off = int(differ(one, other).sum())
    if off:
        what = f"{off} of {len(one)} clips are answered otherwise by a model that has seen ones like them"
        return Finding("history", "fail", what, f"largest difference {_of_spread(one, other)}")
    return Finding("history", "pass", "after many near-duplicates it answers as a model that has just been opened")


def ask(victim: Victim, batch: Batch, draw: int = 0) -> Tensor:
    """Logits (batch, classes), with draws of torch's generator that `draw` decides."""
    with torch.no_grad(), seeded(victim.device, *draws(draw)):
        return victim.logits(batch.inputs, {}, batch.ids)


def draws(number: int) -> tuple[object, ...]:
    """Words that seed what a model draws."""
    return ("check", number)


def pick(batch: Batch, index: Sequence[int]) -> Batch:
    """Select samples."""
    chosen = torch.tensor(index)
    return Batch(tuple(batch.ids[i] for i in index), batch.inputs.pick(chosen), batch.labels[chosen])


def spread(logits: Tensor) -> Tensor:
    """Scale of a sample's logits, (batch,): no constant that is added to all of them changes it."""
    return logits.amax(dim=1) - logits.amin(dim=1)


def differ(one: Tensor, other: Tensor) -> Tensor:
    """Tell which answers differ by more than rounding on the scale of the logits, (batch,) bool."""
    return (one - other).abs().amax(dim=1) > SAME * torch.maximum(spread(one), spread(other))


def _piece(victim: Victim, asked: Batch, piece: range) -> Tensor:
    inputs = asked.inputs.pick(slice(piece.start, piece.stop))
    with torch.no_grad(), seeded(victim.device, "history", piece.start):
        return victim.logits(inputs, {}, asked.ids[piece.start : piece.stop])


def _of_spread(one: Tensor, other: Tensor) -> str:
    """Largest difference in % of the spread of the logits."""
    scale = torch.maximum(spread(one), spread(other)).clamp_min(torch.finfo(torch.float32).tiny)
    return f"{100 * float(((one - other).abs().amax(dim=1) / scale).max()):.3g} % of the spread of the logits"
