"""Read and check one submissions/<org>--<model>/submission.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avbench import files
from avbench.checkpoint import Candidate, read_checkpoint
from avbench.datasets.cards import Card, read_card
from avbench.errors import BadOption, SubmissionError
from avbench.registry import nearest

LARGEST_YAML = 16_000  # bytes
ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?--[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?")
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Url = Annotated[str, Field(max_length=300, pattern=r"^https://[A-Za-z0-9.-]+/[^\s<>\"']*$")]


class Weights(BaseModel):
    """Which file holds the weights, and what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|ckpt|pt|pth)$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Submission(BaseModel):
    """What an author says about a model; written by people, by pull request."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: Line
    architecture: Line
    arguments: dict[str, str | bool | int | float] = Field(default_factory=dict)
    dataset: Line
    weights: Weights
    defense: Line = "none"
    training_data: Line
    license: Line
    authors: Line
    summary: Line
    paper: Url | None = None
    code: Url | None = None
    clean_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None  # claimed, of the test split, %
    reference: Literal["undefended", "unimodal-audio", "unimodal-video"] | None = None  # role on the board, if any


def read_submission(folder: Path) -> Submission:
    """Read a submission's YAML; strict, bounded, and without tags or aliases.

    Raises:
        SubmissionError: naming the field that is wrong.
    """
    path = folder / "submission.yaml"
    if not ID.fullmatch(folder.resolve().name):
        raise SubmissionError(f"{folder}: a submission's folder is named <org>--<model>, from a-z, 0-9 and -")
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST_YAML:
            raise SubmissionError(f"{path} is a link or larger than {LARGEST_YAML} bytes")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise SubmissionError(f"{path} uses YAML aliases, which are refused")
        data: Any = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader
        return Submission.model_validate(data, strict=False)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:5])
        raise SubmissionError(f"{path}: {wrong}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise SubmissionError(f"{path} cannot be read: {str(error)[:300]}") from error


def load_submission(folder: Path, submission: Submission, card: Card) -> Candidate:
    """Build a submission's model for its dataset, after comparing its weights with the pinned hash.

    Raises:
        SubmissionError: if the weights are not the pinned ones, or the dataset is another one.
        CheckpointError: and its kin, if the weights cannot be loaded.
    """
    if card.name != submission.dataset:
        raise SubmissionError(f"{folder.name} was submitted for {submission.dataset}, not for {card.name}")
    if (folder / submission.weights.file).is_symlink():
        raise SubmissionError(f"{folder / submission.weights.file} is a link; a submission holds its files")
    checkpoint = read_checkpoint(folder / submission.weights.file)
    if checkpoint.sha256 != submission.weights.sha256:
        raise SubmissionError(
            f"{checkpoint.path} has sha256 {checkpoint.sha256}, {folder.name} pins {submission.weights.sha256}"
        )
    loaded = checkpoint.candidate(card, submission.architecture, submission.arguments)
    stated = submission.model_dump(exclude={"architecture", "arguments", "weights", "summary"}, exclude_none=True)
    about = stated | {"description": submission.summary}
    return Candidate(
        folder.resolve().name, loaded.module, loaded.architecture, loaded.arguments, loaded.weights_sha256, about
    )


def find_candidate(
    model: str, dataset: str | None = None, architecture: str | None = None, arguments: Mapping[str, Any] | None = None
) -> tuple[Candidate, Card]:
    """Resolve what `avbench evaluate` takes: a submission's folder or id, or a weights file; and its dataset's card.

    Without `dataset` the submission or the file decides, else it is synthav.

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
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        if architecture or arguments:
            raise BadOption("a submission states its own architecture and arguments; give its weights file instead")
        submission = read_submission(path)
        card = read_card(dataset or submission.dataset)
        return load_submission(path, submission, card), card
    checkpoint = read_checkpoint(path)
    card = read_card(dataset or checkpoint.header.get("dataset", "synthav"))
    return checkpoint.candidate(card, architecture, arguments), card


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(set(map(str, keys))) != len(keys):
            raise yaml.YAMLError(f"a key is given twice: {sorted(map(str, keys))}")
        return super().construct_mapping(node, deep)
