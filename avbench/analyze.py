"""`avbench analyze`: density and convexity of every class of a model, beside how much each class suffers ([L22])."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from avbench.checkpoint import Candidate
from avbench.datasets.splits import Split
from avbench.device import deterministic, find_device
from avbench.errors import BadModel, DataError
from avbench.figures import Points, scatter
from avbench.geometry import QUANTILES, STREAMS, Streams, convexity, density, streams_of
from avbench.metrics import CLEAN, NONE
from avbench.metrics.intervals import wilson
from avbench.oracle import Victim
from avbench.progress import track
from avbench.rng import Rng
from avbench.types import MODALITIES, AVInput, Batch

BATCH = 32  # clips at a time
GEOMETRY = "geometry.parquet"  # its name beside a run
LARGEST = 4_000_000  # bytes of it, and of what is in it
COLUMNS = ["class", "streams", "measure", "parameter", "value", "low", "high", "n"]


def analyze(
    candidate: Candidate, split: Split, seed: int = 0, device: str = "auto", quiet: bool = False
) -> pd.DataFrame:
    """Measure every class of a model: convexity of its region, density of its embeddings.

    Convexity (with Wilson's interval) is measured on clips and, for a two-stage model, on embeddings through `fuse`;
    density on the embeddings, or on the logits of a model that offers none, where only `joint` exists.

    Returns:
        Columns `class` (index), `streams` (audio, video, joint), `measure` (input-convexity, embedding-convexity,
        density, log-volume), `parameter` (tau of a density), `value`, `low`, `high`, `n`.

    Raises:
        BadModel: if the dataset is multi-label: a region belongs to one class.
    """
    if split.card.task == "multilabel":
        raise BadModel("density and convexity are those of [L22], of classes that exclude each other")
    found = find_device(device)
    victim = Victim(candidate.module, len(split.card.classes), found)
    with deterministic(found), torch.no_grad():
        classes = track(range(len(split.card.classes)), "classes", quiet=quiet)
        rows = [row for label in classes for row in _class_rows(victim, split, label, seed)]
    return pd.DataFrame(rows, columns=COLUMNS)


Row = tuple[int, str, str, float, float, float, float, int]


def _class_rows(victim: Victim, split: Split, label: int, seed: int) -> Iterator[Row]:
    own = [i for i in split.present if split.lock.rows[i].label == label]
    if not own:
        return
    clips = split.batch(own).to(victim.device)
    rng = Rng(seed, "convexity", (split.card.classes[label],))
    for streams in STREAMS:
        yield _convexity_row("input-convexity", clips, label, streams, victim, rng)
    if not victim.two_stage:
        logits = np.concatenate([_logits(victim, part).double().cpu().numpy() for part in _parts(clips.inputs)])
        yield from _density_rows(label, "joint", logits)
        return
    embedded = {m: torch.cat([victim.embed(part, m) for part in _parts(clips.inputs)]) for m in MODALITIES}
    inside = Batch(clips.ids, AVInput(embedded["audio"], embedded["video"]), clips.labels)
    for streams in STREAMS:
        yield _convexity_row("embedding-convexity", inside, label, streams, victim, rng)
    for streams, features in streams_of(embedded).items():
        yield from _density_rows(label, streams, features)


def _convexity_row(measure: str, clips: Batch, label: int, streams: Streams, victim: Victim, rng: Rng) -> Row:
    embedded = measure.startswith("embedding")

    def classify(inputs: AVInput) -> Tensor:
        parts = _parts(inputs)
        if embedded:
            return torch.cat([_fused(victim, part).argmax(dim=1) for part in parts])
        return torch.cat([_logits(victim, part).argmax(dim=1) for part in parts])

    share = convexity(clips, label, streams, classify, rng)
    low, high = wilson(share.inside, share.points) if share.points else (math.nan, math.nan)
    return (label, streams, measure, math.nan, share.value, low, high, share.points)


def _density_rows(label: int, streams: Streams, features: np.ndarray) -> Iterator[Row]:
    for tau in QUANTILES:
        found = density(features, tau)
        yield (label, streams, "density", tau, found.value, math.nan, math.nan, found.n)
        yield (label, streams, "log-volume", tau, found.log_volume, math.nan, math.nan, found.n)


def _parts(inputs: AVInput) -> list[AVInput]:
    return [inputs.pick(slice(start, start + BATCH)) for start in range(0, len(inputs.audio), BATCH)]


def _logits(victim: Victim, inputs: AVInput) -> Tensor:
    return victim.logits(inputs, {}, ("between",) * len(inputs.audio))


def _fused(victim: Victim, embeddings: AVInput) -> Tensor:
    given = dict(zip(MODALITIES, embeddings, strict=True))
    return victim.logits(embeddings, given, ("between",) * len(embeddings.audio))


def bound(record: Mapping[str, Any]) -> dict[str, str]:
    """Say of which run a geometry is, as read_geometry wants to find it in the file."""
    return {"run": record["run"], "rows_sha256": record["rows_sha256"]}


def read_geometry(folder: Path, run: str, rows_sha256: str) -> pd.DataFrame | None:
    """Read the geometry beside a run, by its fingerprint; None if nobody measured it for these rows.

    Raises:
        DataError: if the file is not one that `avbench analyze` writes.
    """
    path = folder / GEOMETRY
    if not path.exists():
        return None
    try:
        with pq.ParquetFile(path) as file:
            groups = (file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if max(path.stat().st_size, sum(groups)) > LARGEST:
                raise ValueError(f"more than {LARGEST} bytes")
            found = file.schema_arrow.metadata or {}
            if (found.get(b"run"), found.get(b"rows_sha256")) != (run.encode(), rows_sha256.encode()):
                return None
            return _checked(file.read(columns=COLUMNS).to_pandas())
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"{path} does not hold the geometry of a model ({error}); repeat `avbench analyze`") from error


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Refuse values that a measure cannot have; a missing one is NaN."""
    table = table.astype({"value": float, "parameter": float})
    values = table["value"][table["measure"] != "log-volume"].dropna()
    shares = table["value"][table["measure"].str.endswith("convexity")].dropna()
    if np.isinf(values).any() or not shares.between(0, 1).all():
        raise ValueError("a value is out of its range")
    return table


def accuracy_drop(rows: pd.DataFrame) -> pd.DataFrame:
    """Clean accuracy minus accuracy under each attack, by class, in points; from the stored rows of a run.

    Only attacks that ran on every sample count: of a worst-case suite's later attacks nothing can be said by class.
    """
    clean = rows[(rows["threat"] == CLEAN) & (rows["attack"] == NONE)].set_index("sample")
    table = []
    for (threat, attack), cell in rows[rows["threat"] != CLEAN].groupby(["threat", "attack"], observed=True):
        if len(cell) != len(clean):
            continue
        after = cell.set_index("sample")["correct"].reindex(clean.index)
        lost = 100 * (clean["correct"].astype(float) - after.astype(float)).groupby(clean["label"]).mean()
        table += [(label, threat, attack, drop) for label, drop in zip(lost.index, lost.to_list(), strict=True)]
    return pd.DataFrame(table, columns=["class", "threat", "attack", "drop"])


def draw(path: Path, geometry: pd.DataFrame, drops: pd.DataFrame, classes: tuple[str, ...]) -> None:
    """Draw each class's mean accuracy drop against its convexity and its density, with the trend, as [L22] does."""
    lost = drops.groupby("class")["drop"].mean()
    joint = geometry[(geometry["streams"] == "joint") & ~geometry["parameter"].gt(min(QUANTILES))]
    panels = {}
    for measure, label in (
        ("input-convexity", "convexity of the clips"),
        ("embedding-convexity", "convexity of the embeddings"),
        ("density", f"density, tau = {min(QUANTILES):g}"),
    ):
        found = joint[joint["measure"] == measure].set_index("class")["value"].reindex(lost.index)
        if found.notna().any():
            panels[measure, label] = Points(found.to_list(), lost.to_list(), [classes[i] for i in lost.index])
    if panels:
        scatter(path, panels, "accuracy drop, mean over attacks (points)")
