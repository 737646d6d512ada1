"""`avbench evidence`: choose clips of a finished run by a fixed rule, make them again, and keep what shows them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from avbench import files
from avbench.adversarial import write_clips
from avbench.cells import REFERENCES, Cell, embed, make_clips
from avbench.crafting import fitted
from avbench.datasets.encoding import Clip
from avbench.device import deterministic, threads
from avbench.errors import BadOption, IncompleteRun
from avbench.evidence import VERSION, Answer, Evidence, Exhibit, write_evidence
from avbench.evidence.clips import Pair, keep_pair
from avbench.evidence.tsne import make_map
from avbench.metrics import CLEAN, NONE
from avbench.provenance import precision_of
from avbench.rng import seeded
from avbench.types import MODALITIES, AVInput
from avbench.verify import open_replay, refuse
from avbench.verify.replay import Judged, Replay, compare
from avbench.verify.tree import read_finished

CLIPS = 3  # shown of a run: one that holds, if any does, and those that break
TOP = 3  # classes of an answer


class Choice(NamedTuple):
    """A sample, and the cell whose clip of it has the least margin."""

    sample: str
    cell: Cell


def make_evidence(
    folder: Path, model: str | None = None, device: str = "auto", trust_remote_code: bool = False
) -> Path:
    """Write the evidence of a finished run and return its file.

    Clips are crafted again in the micro-batches of the run, or read where the run kept them; their budgets are measured
    in integers, and what the model answers on them has to be what the rows say.

    Args:
        folder: the run's.
        model: which model it is of, as `avbench evaluate` takes it; by default the submission of the run.
        device: where the model computes.
        trust_remote_code: whether the model may be code.

    Raises:
        VerificationFailed: if model, split or answers are not those of the run.
        BadOption: if no clip of the run can be shown.
        IncompleteRun, DataError: and their kin, if something cannot be read.
    """
    record = read_finished(folder)
    if files.sha256_file(folder / "rows.parquet") != record["rows_sha256"]:
        raise IncompleteRun(f"the rows in {folder} are not those of its record; repeat `avbench evaluate`")
    with threads(record["numerics"].get("threads", 0)):
        replay = open_replay(folder, record, model, device, trust_remote_code)
        return write_evidence(folder, _gather(folder, replay))


def _gather(folder: Path, replay: Replay) -> Evidence:
    if not (chosen := choose(replay)):
        raise BadOption(f"{folder} has no sample that is right when clean, so there is nothing to show")
    card = replay.run.split.card

    @lru_cache
    def judged(cell: Cell, start: int) -> Judged:
        return _judge(replay, cell, start)

    mapped = max((one.cell for one in chosen), key=lambda cell: len(replay.stored(cell)))
    exhibits = [_exhibit(replay, one, judged(one.cell, _start(replay, one))) for one in chosen]
    return Evidence(
        version=VERSION,
        run=replay.record["run"],
        rows_sha256=replay.record["rows_sha256"],
        media=card.media,
        map=make_map(replay, mapped, judged(mapped, 0)),
        exhibits=tuple(exhibits),
    )


def choose(replay: Replay) -> list[Choice]:
    """Take the first samples in canonical order: up to two that break under the largest threat, then one that holds.

    Canonical order is by hash of the id, so nobody picks them, and runs on one split mostly show the same ones. Each is
    shown under the attack that leaves the least margin. Clips of a fitted perturbation are not made again.
    """
    run, frame = replay.run, replay.frame
    clean = frame[(frame["threat"] == CLEAN) & (frame["attack"] == NONE)]
    right = set(clean["sample"][clean["correct"]])
    held: list[Choice] = []
    for threat in reversed(dict.fromkeys(cell.threat for cell in run.cells)):
        cells = {str(cell.attack): cell for cell in run.cells if cell.threat == threat and fitted(cell) is None}
        rows = frame[(frame["threat"] == str(threat)) & frame["sample"].isin(right)]
        broken = set(rows["sample"][~rows["correct"]])
        rows = rows[rows["attack"].isin(cells)]
        worst = rows.loc[rows.groupby("sample", sort=False)["margin"].idxmin()]
        told = worst[["sample", "attack", "correct"]].to_numpy().tolist()
        found = [Choice(sample, cells[attack]) for sample, attack, correct in told if not correct]
        survivors = [Choice(sample, cells[attack]) for sample, attack, _ in told if sample not in broken]
        held = held or survivors
        if found:
            return [*found[: CLIPS - len(survivors[:1])], *survivors[:1]]
    return held[:CLIPS]


def _start(replay: Replay, one: Choice) -> int:
    """Where the micro-batch of a sample begins among the rows of its cell."""
    place = list(replay.stored(one.cell)["sample"]).index(one.sample)
    return place - place % replay.run.micro_batch


def _judge(replay: Replay, cell: Cell, start: int) -> Judged:
    """Make one micro-batch of clips again, unless the run kept it, and compare the answers with its rows.

    Raises:
        VerificationFailed: if they differ.
    """
    run = replay.run
    stored = replay.stored(cell)[start : start + run.micro_batch]
    samples = list(stored["sample"])
    chunk = [run.split.ids.index(sample) for sample in samples]
    kept = run.cell_store(cell).shard(chunk, samples)
    if kept.exists():
        judged = replay.attacked(kept)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clips.npz"
            _craft(replay, cell, chunk, path)
            judged = replay.attacked(path)
    name = ", ".join(cell.columns)
    again = "other clips come out here; use the device and versions of the run, or keep clips by --save-adversarial"
    refuse(run.folder, [f"{name}: {what} ({again})" for what in compare(stored, judged.answers)])
    return judged


def _craft(replay: Replay, cell: Cell, chunk: Sequence[int], path: Path) -> None:
    """Attack one micro-batch as the run did."""
    run, victim = replay.run, replay.run.victim
    assert cell.threat is not None
    batch = run.split.batch(chunk).to(victim.device)
    with deterministic(victim.device):
        fixed = embed(victim, batch, [m for m in MODALITIES if m not in cell.attacked])
        run.crafting.look_in(precision_of(replay.record["numerics"]))
        clips = make_clips(victim, batch, cell, fixed, run.options.seed, run.crafting.aim(cell))
        run.crafting.look_in("fp32")
    write_clips(path, cell.threat, batch, clips)


def _exhibit(replay: Replay, one: Choice, judged: Judged) -> Exhibit:
    """Round a clip toward the clean one, and ask the model about all three versions."""
    run, threat = replay.run, one.cell.threat
    card, place = run.split.card, judged.kept.samples.index(one.sample)
    pair = rounded(*(AVInput(*(clip[place] for clip in clips)) for clips in (judged.batch.inputs, judged.clips)))
    exhibit = Exhibit(
        sample=one.sample,
        threat=str(threat),
        attack=str(one.cell.attack),
        answers=(
            _answer(_clean_logits(replay, one.sample), card.task),
            _answer(judged.answers.logits[place], card.task),
            _answer(_logits(replay, pair.attacked), card.task),
        ),
        maps=_attention(replay, pair),
    )
    return keep_pair(exhibit, pair, card)


def rounded(before: AVInput, after: AVInput) -> Pair:
    """Put a clip on the grid that a file holds; no number moves farther from the clean one."""
    clean, attacked = [], []
    for modality, scale, low, high in (("audio", 32768, -32768, 32767), ("video", 255, 0, 255)):
        start, end = (getattr(clip, modality).double() for clip in (before, after))
        grid = (start * scale).round()
        clean.append(grid.clamp(low, high).numpy())
        attacked.append((grid + ((end - start) * scale).trunc()).clamp(low, high).numpy())
    return Pair(*(Clip(audio.astype(np.int16), video.astype(np.uint8)) for audio, video in (clean, attacked)))


def _input(clip: Clip, device: torch.device) -> AVInput:
    audio, video = torch.from_numpy(clip.audio)[None].float() / 32768, torch.from_numpy(clip.video)[None].float() / 255
    return AVInput(audio, video).to(device)


@torch.no_grad()
def _logits(replay: Replay, clip: Clip) -> Tensor:
    victim = replay.run.victim
    with deterministic(victim.device), seeded(victim.device, "evidence"):
        return victim.logits(_input(clip, victim.device), {}, ("as shown",))[0].cpu()


def _clean_logits(replay: Replay, sample: str) -> Tensor:
    """Answer on the clean micro-batch of a sample, which the rows have to agree with."""
    [cell] = [cell for cell in REFERENCES if cell.attack == NONE]
    start = _start(replay, Choice(sample, cell))
    stored = replay.stored(cell)[start : start + replay.run.micro_batch]
    found = replay.unattacked(cell, [replay.run.split.ids.index(name) for name in stored["sample"]])
    refuse(replay.run.folder, compare(stored, found))
    return found.logits[list(stored["sample"]).index(sample)]


def _answer(logits: Tensor, task: str) -> Answer:
    chances = logits.double().sigmoid() if task == "multilabel" else logits.double().softmax(dim=0)
    best = logits.argsort(descending=True, stable=True)[:TOP].tolist()
    return Answer(classes=tuple(best), confidences=tuple(float(chances[i].clamp(0, 1)) for i in best))


@torch.no_grad()
def _attention(replay: Replay, pair: Pair) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Show where the model looks in the middle frame; nothing of a model that cannot tell."""
    look = getattr(replay.run.victim.model, "attention_map", None)
    if look is None:
        return ()
    seen = [look(*_input(clip, replay.run.victim.device))[0].double().cpu() for clip in pair]
    return tuple(tuple(map(tuple, frames[len(frames) // 2].tolist())) for frames in seen)
