"""Ask a model again for its answers on stored clips, and compare them with the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avbench.adversarial import Kept, read_clips
from avbench.cells import Cell, embed, make_clips
from avbench.device import deterministic
from avbench.errors import DataError
from avbench.judge import SAME, measure
from avbench.rng import seeded
from avbench.runner import Run
from avbench.types import MODALITIES, AVInput, Batch, Modality


class Answers(NamedTuple):
    """What a model answers on some clips."""

    rows: pd.DataFrame  # as `avbench.judge.judge` makes them
    logits: Tensor  # (batch, classes), on the CPU


class Judged(NamedTuple):
    """A file of clips, found legal, and what the model answers."""

    kept: Kept
    batch: Batch  # clean clips and labels, on the CPU
    clips: AVInput  # on the CPU
    answers: Answers
    used: dict[Modality, float]  # largest share of each budget


@dataclass(frozen=True)
class Replay:
    """A finished run whose answers can be asked for again."""

    run: Run
    record: dict[str, Any]
    frame: pd.DataFrame  # its rows

    def stored(self, cell: Cell) -> pd.DataFrame:
        """Rows of one cell."""
        threat, attack = cell.columns
        return self.frame[(self.frame["threat"] == threat) & (self.frame["attack"] == attack)]

    def unattacked(self, cell: Cell, chunk: Sequence[int]) -> Answers:
        """Answer on clips that follow from the clean ones: these, silenced ones, masked ones."""
        batch = self.run.split.batch(chunk).to(self.run.victim.device)
        return self._answer(batch, make_clips(self.run.victim, batch, cell, {}, self.run.options.seed), cell.attacked)

    def attacked(self, path: Path) -> Judged:
        """Read a file of clips, check every budget in integers, and answer.

        Raises:
            DataError: if it is no such file, or holds clips of other samples than the run.
            BudgetViolation: naming the first sample outside its budget.
        """
        kept = read_clips(path, self.run.split.card.spec)
        place = {self.run.split.ids[position]: position for position in self.run.positions}
        if strangers := [name for name in kept.samples if name not in place]:
            raise DataError(f"{path} holds clips of {strangers[0]!a}, which is no sample of the run")
        batch = self.run.split.batch([place[name] for name in kept.samples])
        clips = kept.restore(batch.inputs)
        used = kept.check(batch.inputs, clips)
        device = self.run.victim.device
        answers = self._answer(batch.to(device), clips.to(device), tuple(kept.threat.budgets))
        return Judged(kept, batch, clips, answers, used)

    @torch.no_grad()
    def _answer(self, batch: Batch, clips: AVInput, attacked: Sequence[Modality]) -> Answers:
        """Judge as the run did, with the same embeddings and draws."""
        victim = self.run.victim
        with deterministic(victim.device):
            fixed = embed(victim, batch, [m for m in MODALITIES if m not in attacked])
            with seeded(victim.device, "judge", self.run.options.seed, *batch.ids):
                logits = victim.logits(clips, fixed, batch.ids)
            return Answers(measure(logits, batch, clips), logits.cpu())


def prepare(run: Run, record: dict[str, Any], frame: pd.DataFrame, folder: Path) -> Replay:
    """Bring a run to the state in which its rows were made, without writing anything."""
    run.folder, run.numerics, run.micro_batch = folder, record["numerics"], record["numerics"]["micro_batch"]
    run.bench.look()
    return Replay(run, record, frame)


def compare(stored: pd.DataFrame, found: Answers) -> list[str]:
    """Name the rows that are not those of the model on these clips; rounding is allowed for.

    Args:
        stored: rows of the same samples in the same order.
        found: what the model answers.
    """
    wrong: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for name in found.rows.columns.difference(["sample", "prediction", "labels", "scores", "correct"]):
        mine, theirs = (frame[name].to_numpy(dtype=np.float64) for frame in (found.rows, stored))
        exact = name == "label"
        wrong[name] = ~np.isclose(mine, theirs, rtol=0 if exact else SAME, atol=0 if exact else SAME, equal_nan=True)
    wrong["correct"] = stored["correct"].to_numpy() != (stored["margin"].to_numpy() > 0)
    logits = found.logits.double().numpy()
    if "scores" in stored:
        scores, labels = ([list(one) for one in stored[name]] for name in ("scores", "labels"))
        fits = [len(one) == logits.shape[1] for one in scores]
        close = [f and np.allclose(a, b, rtol=SAME, atol=SAME) for f, a, b in zip(fits, scores, logits, strict=True)]
        wrong["scores"] = ~np.array(close)
        wrong["labels"] = np.array([a != list(b) for a, b in zip(labels, found.rows["labels"], strict=True)])
    else:
        chosen = stored["prediction"].to_numpy()
        inside = (chosen >= 0) & (chosen < logits.shape[1])
        best = logits.max(axis=1)
        value = logits[np.arange(len(logits)), np.where(inside, chosen, 0)]
        wrong["prediction"] = ~inside | (value < best - SAME * (1 + np.abs(best)))
    samples = stored["sample"].to_numpy()
    return [
        f"the {name} of sample {samples[bad.argmax()]}" + (f" and {bad.sum() - 1} more" if bad.sum() > 1 else "")
        for name, bad in wrong.items()
        if bad.any()
    ]
