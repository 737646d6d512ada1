"""`avbench figures`: what attacks do inside the models of finished runs, as the papers draw it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avbench import api, store
from avbench.analyze import GEOMETRY, analyze, bound, read_geometry
from avbench.attacks import parse_attack
from avbench.attacks.mask import Mask
from avbench.attacks.transfer import Transfer
from avbench.attacks.universal import Universal
from avbench.cells import Cell, make_clips
from avbench.checkpoint import Candidate
from avbench.curve import draw_curve
from avbench.datasets.splits import Split, open_split
from avbench.device import deterministic, find_device
from avbench.errors import BadOption, RunConflict
from avbench.figures import Points, scatter, write
from avbench.geometry import QUANTILES
from avbench.oracle import Victim
from avbench.progress import track
from avbench.sandbox import open_model
from avbench.threats import parse_threat
from avbench.types import MODALITIES, AVInput, Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIPS = 200  # of a run at most, whose embeddings are shown
MAPS = 4  # clips whose maps are shown
BATCH = 32  # clips at a time
PERPLEXITY = 30.0


@runtime_checkable
class Looks(Protocol):
    """A model that shows where it looks."""

    def attention_map(self, audio: Tensor, video: Tensor) -> Tensor:
        """Weights (batch, frames, rows, columns), of sum 1 in every frame."""


@dataclass(frozen=True)
class Shown:
    """A run, its model, and one of its attacks."""

    folder: Path
    record: dict[str, Any]
    candidate: Candidate
    split: Split
    cell: Cell


class Pair(NamedTuple):
    """The same clips clean and attacked."""

    clean: Batch
    attacked: AVInput


def draw_figures(
    runs: Sequence[Path],
    folder: Path,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
    trust_remote_code: bool = False,
) -> list[Path]:
    """Draw runs beside each other, as .svg and .png, and write the tables that they are drawn from (.parquet).

    - tsne: t-SNE of clean and attacked embeddings of each modality (of logits, if a model has no stages);
    - localization: where a model that shows it looks in a frame, clean and attacked;
    - geometry-<model>: density against convexity of each class, from geometry.parquet, which is made if missing;
    - curve, in the run's own folder: accuracy against the radius, if the run has several radii.

    The attack is the first of the run on the threat that reaches most modalities, with the run's own seed.

    Returns:
        Paths without extension, of what was drawn.

    Raises:
        RunConflict: if a submission's weights are no longer those of its run, or runs are of different clips.
        SubmissionError, UntrustedCode: and their kin, if a model cannot be opened.
        BadOption: if a run has no attack that looks at its model alone.
    """
    shown = [_open(run, trust_remote_code) for run in runs]
    if len({(one.record["dataset"]["name"], one.record["dataset"]["split"]) for one in shown}) > 1:
        raise RunConflict("the runs are of different clips; give runs of one dataset and split")
    found = find_device(device)
    points, maps = [], {}
    with deterministic(found):
        for one in shown:
            victim = Victim(one.candidate.module, len(one.split.card.classes), found)
            pairs = list(_pairs(one, victim, quiet))
            points.append(_scattered(one, victim, pairs, seed))
            if isinstance(victim.model, Looks):
                maps[one.candidate.id] = _maps(victim.model, pairs)
    table = pd.concat(points, ignore_index=True)
    store.publish_table(folder / "tsne.parquet", table)
    _draw_points(folder / "tsne", table, shown[0], seed)
    drawn = [folder / "tsne"]
    if maps:
        store.publish_table(folder / "localization.parquet", _weights(maps))
        _draw_maps(folder / "localization", maps, shown[0])
        drawn.append(folder / "localization")
    for one in shown:
        if one.split.card.task == "multiclass":
            drawn.append(_draw_geometry(one, folder, device, quiet))
        if draw_curve(one.folder, api.score(one.folder)):
            drawn.append(one.folder / "curve")
    return drawn


def _open(run: Path, trust_remote_code: bool) -> Shown:
    record = store.read_record(run)
    model, dataset = record["model"]["id"], record["dataset"]["name"]
    candidate, card = open_model(model, dataset, trust_remote_code=trust_remote_code)
    if candidate.identity["weights_sha256"] != record["model"]["weights_sha256"]:
        raise RunConflict(f"{run} evaluated other weights than {candidate.id} has now; evaluate it again")
    alone = [a for a in map(parse_attack, record["attacks"]) if not isinstance(a, Mask | Transfer | Universal)]
    if not alone:
        raise BadOption(f"no attack of {run} looks at its model alone; give a run of another suite")
    threat = max(map(parse_threat, record["threats"]), key=lambda threat: len(threat.budgets))
    return Shown(run, record, candidate, open_split(card.name, record["dataset"]["split"]), Cell(threat, alone[0]))


def _pairs(one: Shown, victim: Victim, quiet: bool) -> Iterator[Pair]:
    indices = one.split.present[:CLIPS]
    for start in track(range(0, len(indices), BATCH), one.candidate.id, quiet=quiet):
        clean = one.split.batch(indices[start : start + BATCH]).to(victim.device)
        yield Pair(clean, make_clips(victim, clean, one.cell, {}, one.record["seed"]))


@torch.no_grad()
def _scattered(one: Shown, victim: Victim, pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
    """Place clean and attacked clips of one model in a plane, for each modality.

    Returns:
        Columns `model`, `modality` (or `joint`), `sample`, `label` (index; the first if there are several), `attacked`,
        `x`, `y`.
    """
    from sklearn.manifold import TSNE

    ids = [sample for pair in pairs for sample in pair.clean.ids]
    labels = torch.cat([pair.clean.labels for pair in pairs]).cpu()
    base = {"sample": 2 * ids, "label": 2 * (labels if labels.dim() == 1 else labels.argmax(dim=1)).tolist()}
    base |= {"attacked": [False] * len(ids) + [True] * len(ids)}
    tables = []
    for modality in MODALITIES if victim.two_stage else ("joint",):

        def embed(clips: AVInput, names: tuple[str, ...], modality: Any = modality) -> Tensor:
            return (victim.embed(clips, modality) if victim.two_stage else victim.logits(clips, {}, names)).flatten(1)

        rows = [embed(pair.clean.inputs, pair.clean.ids) for pair in pairs]
        rows += [embed(pair.attacked, pair.clean.ids) for pair in pairs]
        features = torch.cat(rows).double().cpu().numpy()
        if not features.shape[1] or np.ptp(features, axis=0).max() == 0:
            continue  # of a modality that the model does not read
        plane = TSNE(perplexity=_perplexity(len(features)), init="pca", random_state=seed).fit_transform(features)
        frame = pd.DataFrame({"model": one.candidate.id, "modality": modality, **base})
        tables.append(frame.assign(x=plane[:, 0], y=plane[:, 1]))
    return pd.concat(tables, ignore_index=True)


def _perplexity(points: int) -> float:
    return min(PERPLEXITY, (points - 1) / 3)


def _draw_points(path: Path, table: pd.DataFrame, first: Shown, seed: int) -> None:
    panels = list(table.groupby(["model", "modality"], sort=False))
    columns = min(len(panels), 2)
    height = -(-len(panels) // columns)

    def draw(figure: Figure) -> None:
        flat = figure.subplots(height, columns, squeeze=False).flat
        for ax, ((model, modality), points) in zip(flat, panels, strict=False):
            for attacked, marker in ((False, "o"), (True, "x")):
                some = points[points["attacked"] == attacked]
                ax.scatter(some["x"], some["y"], 14, some["label"] % 20, marker=marker, cmap="tab20", vmin=0, vmax=19)
            ax.set(title=f"{model}, {modality}", xticks=[], yticks=[])
        figure.suptitle(
            f"t-SNE, perplexity {_perplexity(len(panels[0][1])):.3g}, seed {seed}: clean (o) and attacked (x) by\n"
            f"{first.cell.attack} within {first.cell.threat}; by class; distances between groups mean nothing",
            fontsize=8,
        )

    write(path, draw, width=3.6 * columns, height=3.2 * height + 0.5)


class Map(NamedTuple):
    """Where a model looks in one frame of a clip."""

    clip: str
    frame: np.ndarray  # (height, width, 3), in [0, 1]
    weights: np.ndarray  # (rows, columns), of sum 1


@torch.no_grad()
def _maps(model: Looks, pairs: Sequence[Pair]) -> list[tuple[Map, Map]]:
    """Show the middle frame of the first clips, clean and attacked."""

    def look(clips: AVInput) -> list[Map]:
        middle = clips.video.shape[1] // 2
        frames = clips.video[:, middle].permute(0, 2, 3, 1).cpu().numpy()
        weights = model.attention_map(*clips)[:, middle].cpu().numpy()
        return [Map(*one) for one in zip(pairs[0].clean.ids, frames, weights, strict=False)]

    clean, attacked = (clips.pick(slice(MAPS)) for clips in (pairs[0].clean.inputs, pairs[0].attacked))
    return list(zip(look(clean), look(attacked), strict=True))


def _weights(maps: dict[str, list[tuple[Map, Map]]]) -> pd.DataFrame:
    rows = [
        (model, shown.clip, attacked, *place, weight)
        for model, pairs in maps.items()
        for pair in pairs
        for attacked, shown in zip((False, True), pair, strict=True)
        for place, weight in np.ndenumerate(shown.weights)
    ]
    return pd.DataFrame(rows, columns=["model", "clip", "attacked", "row", "column", "weight"])


def _draw_maps(path: Path, maps: dict[str, list[tuple[Map, Map]]], first: Shown) -> None:
    rows = [(title, pair) for title, pairs in maps.items() for pair in pairs]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(rows), 4, squeeze=False)
        for line, (title, pair) in zip(axes, rows, strict=True):
            for column, (what, shown) in enumerate(zip(("clean", "attacked"), pair, strict=True)):
                height, width = shown.frame.shape[:2]
                for ax in line[2 * column : 2 * column + 2]:
                    ax.imshow(shown.frame, extent=(0, width, height, 0))
                    ax.set(xticks=[], yticks=[], title=what)
                image = line[2 * column + 1].imshow(
                    shown.weights, cmap="magma", vmin=0, vmax=1, alpha=0.6, extent=(0, width, height, 0)
                )
            line[0].set_ylabel(title, fontsize=7)
        figure.colorbar(image, ax=axes, label="weight of a position", shrink=0.5)
        figure.suptitle(f"Where the model looks, under {first.cell.attack} within {first.cell.threat}", fontsize=8)

    write(path, draw, width=7, height=1.7 * len(rows) + 0.5)


def _draw_geometry(one: Shown, folder: Path, device: str, quiet: bool) -> Path:
    about = bound(one.record)
    if (rows := read_geometry(one.folder, **about)) is None:
        rows = analyze(one.candidate, one.split, device=device, quiet=quiet)
        store.publish_table(one.folder / GEOMETRY, rows, about)
    rows = rows[~rows["parameter"].gt(min(QUANTILES))]
    panels = {}
    for streams, some in rows.groupby("streams", sort=False):
        wide = some.pivot(index="class", columns="measure", values="value")
        if {"density", "input-convexity"} <= set(wide):
            names = [one.split.card.classes[label] for label in wide.index]
            panels[str(streams), "convexity of the clips"] = Points(
                wide["input-convexity"].to_list(), wide["density"].to_list(), names
            )
    path = folder / f"geometry-{one.candidate.id}"
    scatter(path, panels, f"density, tau = {min(QUANTILES):g}")
    return path
