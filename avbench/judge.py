"""The judge: what a model answers on given clips, and how far these are from the clean ones, as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from avbench.oracle import Victim, classification_loss, margin
from avbench.types import AVInput, Batch, Modality


@torch.no_grad()
def judge(victim: Victim, batch: Batch, clips: AVInput, embeddings: Mapping[Modality, Tensor]) -> pd.DataFrame:
    """Predict and measure, one row a sample; columns as in `avbench.store.columns` without threat and attack.

    Args:
        victim: the model.
        batch: clean clips with labels.
        clips: the clips to judge, already found legal.
        embeddings: embeddings of the modalities in which `clips` equals the clean ones.
    """
    logits = victim.logits(clips, embeddings, batch.ids)
    found = margin(logits, batch.labels)
    columns: dict[str, Tensor] = {
        "correct": found > 0,
        "margin": found,
        "loss": classification_loss(logits, batch.labels),
        **perceptibility(batch.inputs, clips),
    }
    rows = {"sample": batch.ids} | _answers(logits.cpu(), batch.labels.cpu())
    return pd.DataFrame(rows | {name: column.cpu().numpy() for name, column in columns.items()})


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
