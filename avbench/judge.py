"""The judge: what a model answers on given clips, and how far these are from the clean ones, as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from avbench.errors import BadModel
from avbench.objectives import classification_loss, margin
from avbench.oracle import Victim
from avbench.rng import seeded
from avbench.types import AVInput, Batch, Modality

SAME = 1e-4  # relative and absolute, logits: what the order of additions on a GPU may change, and no defense does


@torch.no_grad()
def judge(victim: Victim, batch: Batch, clips: AVInput, embeddings: Mapping[Modality, Tensor]) -> pd.DataFrame:
    """Predict and measure, one row a sample; columns as in `avbench.store.columns` without threat and attack.

    Args:
        victim: the model.
        batch: clean clips with labels.
        clips: the clips to judge, already found legal.
        embeddings: embeddings of the modalities in which `clips` equals the clean ones.
    """
    return measure(victim.logits(clips, embeddings, batch.ids), batch, clips)


def measure(logits: Tensor, batch: Batch, clips: AVInput) -> pd.DataFrame:
    """Turn answers on given clips, (batch, classes), into the rows of `judge`."""
    found = margin(logits, batch.labels)
    columns: dict[str, Tensor] = {
        "correct": found > 0,
        "margin": found,
        "loss": classification_loss(logits, batch.labels),
        **perceptibility(batch.inputs, clips),
    }
    rows = {"sample": batch.ids} | _answers(logits.cpu(), batch.labels.cpu())
    return pd.DataFrame(rows | {name: column.cpu().numpy() for name, column in columns.items()})


@torch.no_grad()
def drawn_at_random(victim: Victim, batch: Batch) -> Tensor:
    """Tell which answers change from one draw of torch's global generator to the next, (batch,) bool.

    Raises:
        BadModel: if they change although it is seeded alike, so that no run could be repeated.
    """
    answers = []
    for draw in (0, 0, 1):
        with seeded(victim.device, "draw", draw):
            answers.append(victim.logits(batch.inputs, {}, batch.ids))
    repeated, redrawn = (~torch.isclose(answers[0], other, rtol=SAME, atol=SAME).all(dim=1) for other in answers[1:])
    if repeated.any():
        raise BadModel(
            f"the model answers sample {batch.ids[int(repeated.int().argmax())]} differently each time, though torch's "
            "global generator is seeded alike; let it draw from that one, and keep no state between calls"
        )
    return redrawn


def _answers(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    if labels.dim() == 1:
        return {"label": labels.numpy(), "prediction": logits.argmax(dim=1).numpy()}
    return {"labels": [row.nonzero()[:, 0].short().numpy() for row in labels], "scores": list(logits.numpy())}


def perceptibility(clean: AVInput, clips: AVInput) -> dict[str, Tensor]:
    """Size of each perturbation, (batch,) float64; dB are infinite where nothing changed.

    SNR = 10 log10(sum x^2 / sum d^2); dB_x = 20 log10(max|d| / max|x|) (Carlini & Wagner 2018, section II-D), more
    negative is quieter; PSNR = -10 log10(mean d^2) for peak 1.
    """
    x = clean.audio.double().flatten(1)
    d = clips.audio.double().flatten(1) - x
    v = (clips.video.double() - clean.video.double()).flatten(1)
    return {
        "audio_linf": d.abs().amax(dim=1),
        "audio_l2": d.norm(dim=1),
        "audio_snr_db": 10 * (x.square().sum(dim=1) / d.square().sum(dim=1)).log10(),
        "audio_db_x": 20 * (d.abs().amax(dim=1) / x.abs().amax(dim=1)).log10(),
        "video_linf": v.abs().amax(dim=1),
        "video_l2": v.norm(dim=1),
        "video_psnr_db": -10 * v.square().mean(dim=1).log10(),
    }
