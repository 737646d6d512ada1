"""A map of clean and attacked embeddings by t-SNE (van der Maaten and Hinton 2008): an illustration, no measure."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from avbench.cells import Cell
from avbench.device import deterministic
from avbench.evidence import Dot, Map
from avbench.geometry import streams_of
from avbench.rng import seeded
from avbench.types import MODALITIES, AVInput
from avbench.verify.replay import Judged, Replay

POINTS = 100  # samples
PERPLEXITY = 15.0


@torch.no_grad()
def _features(replay: Replay, clips: AVInput) -> Tensor:
    victim = replay.run.victim
    with deterministic(victim.device), seeded(victim.device, "evidence"):
        clips = clips.pick(slice(POINTS)).to(victim.device)
        if not victim.two_stage:
            return victim.logits(clips, {}, ("map",) * len(clips.audio)).double().cpu()
        return torch.from_numpy(streams_of({m: victim.embed(clips, m) for m in MODALITIES})["joint"])


def make_map(replay: Replay, cell: Cell, judged: Judged) -> Map | None:
    """Lay out the embeddings of a micro-batch, or the logits of a model without stages; None of few clips."""
    from sklearn.manifold import TSNE

    rows = judged.answers.rows[:POINTS]
    features = torch.cat([_features(replay, clips) for clips in (judged.batch.inputs, judged.clips)]).numpy()
    n, perplexity = len(rows), min(PERPLEXITY, (2 * len(rows) - 1) / 3)
    if "label" not in rows or n < 5:
        return None
    seed = replay.run.options.seed
    found = TSNE(perplexity=perplexity, init="pca", method="exact", random_state=seed).fit_transform(features)
    low, size = found.min(axis=0), np.ptp(found, axis=0).max() or 1.0
    places = ((found - low) * (1000 / size)).round().astype(int).clip(0, 1000).tolist()
    dots = [
        Dot(label=int(label), clean=tuple(places[i]), attacked=tuple(places[n + i]), right=bool(right))
        for i, (label, right) in enumerate(zip(rows["label"], rows["correct"], strict=True))
    ]
    return Map(
        threat=str(cell.threat),
        attack=str(cell.attack),
        features="embeddings" if replay.run.victim.two_stage else "logits",
        seed=seed,
        perplexity=perplexity,
        dots=tuple(dots),
    )
