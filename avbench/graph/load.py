"""Turn a folder with graph.json and weights.safetensors into a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avbench import files
from avbench.checkpoint import Candidate, read_checkpoint
from avbench.datasets.cards import Card, read_card
from avbench.errors import GraphError, NonFiniteWeights
from avbench.graph.module import GraphModel
from avbench.graph.read import DTYPES, GRAPH, WEIGHTS, Graph, read_graph
from avbench.types import MODALITIES, Modality


def build_graph(graph: Graph, state: dict[str, Tensor]) -> GraphModel:
    """Make a model of a graph, after everything that can be checked has been.

    Raises:
        GraphError: naming the node that cannot be computed or mixes samples.
        NonFiniteWeights: naming the first NaN or infinite weight.
    """
    for name, tensor in state.items():
        if tensor.dtype not in DTYPES.values():
            raise GraphError(f"weight {ascii(name)[:80]} is {tensor.dtype}; use {', '.join(DTYPES)}")
        if not tensor.isfinite().all():
            raise NonFiniteWeights(f"weight {ascii(name)[:80]} holds NaN or infinity")
    model = GraphModel(graph, state).eval()
    if not model.modalities:
        raise GraphError("the graph reads neither sound nor frames")
    if (node := mixing_node(model)) is not None:
        raise GraphError(f"node {node} ({graph.nodes[node].operator}) lets one sample change the answer on another")
    return model


@torch.no_grad()
def mixing_node(model: GraphModel) -> int | None:
    """Find the first node whose value for one sample depends on another sample, if that reaches the answer.

    NaN in another sample passes through arithmetic even where a factor is zero, other numbers pass comparisons.

    Raises:
        GraphError: if a node cannot be computed.
    """
    random = torch.Generator().manual_seed(0)
    clips: dict[Modality, Tensor] = {m: torch.rand(3, *model.graph.inputs[m], generator=random) for m in MODALITIES}
    output: int | str = model.graph.output[0]
    alone = {m: clip[[0, 1]] for m, clip in clips.items()}
    answer = model.values(alone, every=False)[output]
    for other in (clips, {m: torch.full_like(clip, torch.nan) for m, clip in clips.items()}):
        beside = {m: torch.stack([clip[0], other[m][2]]) for m, clip in clips.items()}
        if not torch.equal(answer[0], model.values(beside, every=False)[output][0]):
            first, second = (model.values(pair, every=True) for pair in (alone, beside))
            mixed = (n for n in first if isinstance(n, int) and not _isolated(first[n], second[n]))
            return next(mixed, int(output))
    return None


def _isolated(before: Any, after: Any) -> bool:
    """Tell whether some dimension holds the first sample apart, so that it is the same whatever the second is."""
    if not isinstance(before, Tensor):
        return all(_isolated(*pair) for pair in zip(before, after, strict=True))
    same = (before == after) | (before.isnan() & after.isnan())
    parted = (
        same.unflatten(d, shape).select(d + place, 0)
        for d in range(same.dim())
        if same.shape[d] % 2 == 0
        for place, shape in enumerate(((2, -1), (-1, 2)))
    )
    return bool(same.all()) or any(bool(part.all()) for part in parted)


def load_graph(path: Path, dataset: str | None = None) -> tuple[Candidate, Card]:
    """Build the model of a graph.json, with the weights beside it, for a dataset: by default the one it was packed for.

    Raises:
        GraphError: and its kin, if the graph or its weights cannot be used, or belong to another dataset.
    """
    graph, sha256 = read_graph(path)
    card = read_card(dataset or graph.dataset)
    shapes = {modality: card.spec.shape(modality) for modality in MODALITIES}
    if graph.inputs != shapes or graph.classes != len(card.classes):
        raise GraphError(
            f"the graph was packed for {graph.dataset!a}: {graph.classes} classes of {dict(graph.inputs)}; "
            f"{card.name} has {len(card.classes)} of {shapes}"
        )
    weights = read_checkpoint(path.parent / WEIGHTS)
    model = build_graph(graph, weights.state)
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.resolve().parent.name.lower()).strip("-")
    name = f"{stem[:60].strip('-') or 'graph'}-{files.fingerprint([sha256, weights.sha256])[:8]}"
    return Candidate(name, model, "graph", {"graph_sha256": sha256}, weights.sha256), card


def find_graph(path: Path) -> Path | None:
    """Find the graph.json that a path means: itself, or that of a folder without a submission.yaml."""
    if path.name == GRAPH:
        return path
    return path / GRAPH if os.path.lexists(path / GRAPH) and not os.path.lexists(path / "submission.yaml") else None
