"""Find the model that a name means: a submission, a packed graph or a weights file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from avbench import files
from avbench.checkpoint import Candidate, read_checkpoint
from avbench.datasets.cards import Card, read_card
from avbench.errors import BadOption, SubmissionError, UntrustedCode
from avbench.form import Submission, read_submission
from avbench.graph.load import find_graph, load_graph
from avbench.names import ID
from avbench.registry import nearest

__all__ = ["ID", "Submission", "find_candidate", "load_submission", "read_submission"]


def load_submission(folder: Path, submission: Submission, card: Card) -> Candidate:
    """Build a submission's model for its dataset, and compare what was read with the pinned hashes.

    Raises:
        SubmissionError: if the weights or the graph are not the pinned ones, or the dataset is another one.
        UntrustedCode: if the model is code, which is run by `avbench.sandbox.open_model` only.
        CheckpointError: and its kin, if the weights cannot be loaded.
    """
    if card.name != submission.dataset:
        raise SubmissionError(f"{folder.name} was submitted for {submission.dataset}, not for {card.name}")
    if submission.code or submission.weights is None:
        raise UntrustedCode(f"{folder.name} is Python code; add --trust-remote-code to run it, in a sandbox")
    path = folder / submission.weights.file
    if path.is_symlink():
        raise SubmissionError(f"{path} is a link; a submission holds its files")
    if not path.exists() and submission.weights.repo:
        from avbench.hub.models import whole

        folder = whole(folder, submission)
        path = folder / submission.weights.file
    if submission.graph:
        loaded, _ = load_graph(folder / submission.graph.file, card.name)
        _compare(folder / submission.graph.file, loaded.arguments["graph_sha256"], submission.graph.sha256)
        _compare(path, loaded.weights_sha256, submission.weights.sha256)
    else:
        checkpoint = read_checkpoint(path)
        _compare(path, checkpoint.sha256, submission.weights.sha256)
        loaded = checkpoint.candidate(card, submission.architecture, submission.arguments)
    return replace(loaded, id=folder.resolve().name, about=submission.about)


def _compare(path: Path, found: str, pinned: str) -> None:
    if found != pinned:
        raise SubmissionError(f"{path} has sha256 {found}, {path.parent.name} pins {pinned}")


def find_candidate(
    model: str, dataset: str | None = None, architecture: str | None = None, arguments: Mapping[str, Any] | None = None
) -> tuple[Candidate, Card]:
    """Resolve what `avbench evaluate` takes: a submission (folder or id), packed model or weights file; and its card.

    Without `dataset` the submission, the graph or the file decides, else it is synthav.

    Raises:
        SubmissionError, CheckpointError: and their kin, as the readers say.
        BadOption: if an architecture is given for a submission, which states its own.
    """
    path = Path(model)
    if ID.fullmatch(model) and not os.path.exists(model):
        path = files.root() / "submissions" / model
        known = [folder.name for folder in path.parent.glob("*--*")]
        if model not in known:
            raise SubmissionError(f"no submission is called {model}; {nearest(model, known)} (`avbench list models`)")
    if graph := find_graph(path):
        if architecture or arguments:
            raise BadOption("a graph is a whole model; it takes no architecture and no arguments")
        return load_graph(graph, dataset)
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        if architecture or arguments:
            raise BadOption("a submission states its own architecture and arguments; give its weights file instead")
        submission = read_submission(path)
        card = read_card(dataset or submission.dataset)
        return load_submission(path, submission, card), card
    checkpoint = read_checkpoint(path)
    card = read_card(dataset or checkpoint.header.get("dataset", "synthav"))
    return checkpoint.candidate(card, architecture, arguments), card
