"""Models of strangers, each in a worker process behind bubblewrap and seccomp, and where they do not have to be.

The user's own is what runs avbench's code only: an architecture of the zoo, whose weights are numbers. Graphs and code
run in a worker, whoever they are from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from avbench import files
from avbench.checkpoint import Candidate
from avbench.datasets.cards import Card, read_card
from avbench.errors import BadOption, SubmissionError, UntrustedCode
from avbench.form import SUBMISSION, Submission, read_submission
from avbench.graph.load import find_graph
from avbench.graph.read import WEIGHTS
from avbench.sandbox.code import CODE, code_files, load_code
from avbench.sandbox.process import Limits, Worker
from avbench.sandbox.remote import RemoteModel
from avbench.submission import ID, find_candidate


class _How(NamedTuple):
    """How a model is to be opened, as `open_model` was told."""

    dataset: str | None
    architecture: str | None
    arguments: dict[str, Any]
    trusted: bool
    sandbox: bool | None
    limits: Limits


def open_model(
    model: str,
    dataset: str | None = None,
    architecture: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    sandbox: bool | None = None,
    limits: Limits | None = None,
) -> tuple[Candidate, Card]:
    """Open a submission (folder or id), packed model or weights file, or code as FILE.py:Factory; with its card.

    A link that the user names is followed; what lies in a folder may be none.

    Args:
        model: which one.
        dataset: by default what the model says, else synthav.
        architecture: of a weights file that does not say.
        arguments: of the architecture or the factory.
        trust_remote_code: whether code may run at all.
        sandbox: whether in a worker process behind walls; by default code and graphs, whoever they are from.
        limits: of the worker.

    Raises:
        UntrustedCode: if the model is code and that was not allowed.
        SandboxUnavailable: if there have to be walls and cannot be.
        SubmissionError, CheckpointError: and their kin, as `avbench.submission.find_candidate`.
    """
    how = _How(dataset, architecture, dict(arguments or {}), trust_remote_code, sandbox, limits or Limits())
    if code := CODE.fullmatch(model):
        return _open_code(Path(code[1]).resolve(), code[2], how)
    if ID.fullmatch(model) and not os.path.exists(model):
        path = files.root() / "submissions" / model
    else:
        path = Path(os.path.realpath(model) if os.path.islink(model) else os.path.abspath(model))
    graph = find_graph(path)
    submission = read_submission(path) if os.path.lexists(path / SUBMISSION) else None
    if submission and submission.weights and submission.weights.repo:
        from avbench.hub.models import whole

        path = whole(path, submission)  # here, since a worker reaches no network
    if submission and submission.code:
        return _open_submitted_code(path.resolve(), submission, how)
    walls = bool(graph or (submission and submission.graph)) if how.sandbox is None else how.sandbox
    if not walls or not os.path.exists(path):
        name = model if not os.path.exists(path) else str(path)
        return find_candidate(name, how.dataset, how.architecture, how.arguments)  # also says what is wrong with a name
    return _open_in_worker(path, [graph, graph.parent / WEIGHTS] if graph else [path], submission, how)


def _open_in_worker(
    path: Path, visible: list[Path], submission: Submission | None, how: _How
) -> tuple[Candidate, Card]:
    """Let a worker open what is no code, and look whether it is what is here."""
    load = {
        "model": str(path), "dataset": how.dataset, "architecture": how.architecture, "arguments": how.arguments
    }  # fmt: skip
    worker = Worker(load, visible, how.limits)
    hello = worker.hello
    held = [file for one in visible for file in ([one] if one.is_file() else one.iterdir()) if file.is_file()]
    claimed = {hello.weights_sha256, hello.arguments.get("graph_sha256", hello.weights_sha256)}
    if claimed - set(map(files.sha256_file, held)) or (submission and hello.id != path.resolve().name):
        raise worker.refuse(f"it names a model that {path.name} does not hold")
    about = submission.about if submission else {}
    candidate = Candidate(
        hello.id, RemoteModel(worker), hello.architecture, hello.arguments, hello.weights_sha256, about
    )
    return candidate, read_card(hello.dataset)


def _open_code(file: Path, factory: str, how: _How) -> tuple[Candidate, Card]:
    """Open code of the user's, which is all files of its folder."""
    if not how.trusted:
        raise UntrustedCode(f"{file.name} is Python code; add --trust-remote-code to run it, in a sandbox")
    if how.architecture:
        raise BadOption("code is an architecture of its own; leave --architecture out")
    held, card, arguments = code_files(file), read_card(how.dataset or "synthav"), how.arguments
    module = _made(file, factory, card, arguments, None, held, how)
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in f"{file.stem}-{factory}".lower()).strip("-")
    sha256 = files.fingerprint(held)
    return Candidate(f"{name[:60]}-{sha256[:8]}", module, f"{file.name}:{factory}", arguments, sha256), card


def _open_submitted_code(folder: Path, submission: Submission, how: _How) -> tuple[Candidate, Card]:
    """Open a submission that is code; what it says of itself is no part of what it is."""
    if not how.trusted:
        raise UntrustedCode(f"{folder.name} is Python code; add --trust-remote-code to run it, in a sandbox")
    if how.architecture or how.arguments:
        raise BadOption("a submission states its own architecture and arguments")
    card = read_card(how.dataset or submission.dataset)
    if card.name != submission.dataset:
        raise SubmissionError(f"{folder.name} was submitted for {submission.dataset}, not for {card.name}")
    name, _, factory = str(submission.code).partition(":")
    held = code_files(folder / name)
    weights = submission.weights
    if weights and held.get(weights.file) != weights.sha256:
        found = held.get(weights.file, "no such file")
        raise SubmissionError(f"{folder / weights.file} has sha256 {found}, {folder.name} pins {weights.sha256}")
    file = folder / weights.file if weights else None
    module = _made(folder / name, factory, card, submission.arguments, file, held, how)
    candidate = Candidate(
        folder.name, module, str(submission.code), submission.arguments, files.fingerprint(held), submission.about
    )
    return candidate, card


def _made(
    file: Path,
    factory: str,
    card: Card,
    arguments: Mapping[str, Any],
    weights: Path | None,
    held: Iterable[str],
    how: _How,
) -> nn.Module:
    """Run code, by default in a worker, which sees the files that are its identity and no other."""
    if how.sandbox is False:
        return load_code(file, factory, len(card.classes), card.spec, arguments, weights)
    load = {
        "file": str(file), "factory": factory, "classes": len(card.classes), "spec": vars(card.spec),
        "arguments": dict(arguments), "weights": str(weights) if weights else None,
    }  # fmt: skip
    return RemoteModel(Worker(load, [file.parent / name for name in held], how.limits))
