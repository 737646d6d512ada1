"""The form that an author fills in, submissions/<org>--<model>/submission.yaml, read strictly.

It needs no torch, so that a pull request can be looked at quickly and by little code.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)

from avbench import files
from avbench.errors import SubmissionError
from avbench.names import (
    LARGEST_YAML,
    check_characters,
    check_edges,
    check_id,
    check_script,
    check_url,
    read_argument,
    read_number,
    read_yaml,
    shown,
)

SUBMISSION = "submission.yaml"
LARGEST_WEIGHTS = 8 * 2**30  # bytes
Tier = Literal["zoo", "graph", "code"]

_Text = Annotated[str, AfterValidator(check_characters), AfterValidator(check_script), AfterValidator(check_edges)]
Line = Annotated[_Text, Field(min_length=1, max_length=200)]
Name = Annotated[_Text, Field(min_length=1, max_length=80)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=80)]  # as registered things are called
Url = Annotated[str, Field(pattern="^https://", max_length=200), AfterValidator(check_url)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(read_number)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Repo = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)]
Factory = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\.py:[A-Za-z_][A-Za-z0-9_]*$", max_length=160)]
Argument = Annotated[Name | StrictBool | StrictInt | StrictFloat, BeforeValidator(read_argument)]
ArgumentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(_Form):
    """Which file holds the weights, what it must be, and where it can be had if it is not in the folder."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$", max_length=80)]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=LARGEST_WEIGHTS), BeforeValidator(read_number)] | None = None  # bytes
    repo: Repo | None = Field(None, description="ORG/NAME on the Hugging Face Hub")
    revision: Commit | None = Field(None, description="40 hexadecimal digits, since branches and tags can move")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        hub = (self.repo, self.revision)
        if any(hub) and not all((*hub, self.size)):
            raise ValueError("weights on the Hub have repo, revision and size, all three")
        return self


class GraphFile(_Form):
    """The graph that `avbench pack` wrote."""

    file: Literal["graph.json"]
    sha256: Sha256


class Claim(_Form):
    """What the author measured, in %."""

    suite: Word
    split: Word = "test"
    clean: Percent = Field(description="clean accuracy, %")
    robust: Percent | None = Field(None, description="worst-case Avg, the mean over XA, XV and XAV, %")


class Submission(_Form):
    """What an author says about a model; written by people, by pull request."""

    model_config = ConfigDict(
        title="submission.yaml",
        json_schema_extra={"oneOf": [{"required": [tier]} for tier in ("architecture", "graph", "code")]},
    )
    title: Name
    summary: Line = Field(description="one line for readers of the board")
    architecture: Word | None = Field(None, description="tier zoo: one of `avbench list architectures`")
    graph: GraphFile | None = Field(None, description="tier graph: what `avbench pack` wrote")
    code: Factory | None = Field(None, description="tier code: FILE.py:Factory")
    arguments: Annotated[dict[ArgumentName, Argument], Field(max_length=40)] = Field(
        default_factory=dict, description="of the architecture or the factory"
    )
    dataset: Word
    weights: Weights | None = Field(None, description="may be missing in tier code only")
    tracks: Annotated[tuple[Word, ...], Field(min_length=1, max_length=20)] = Field(
        ("standard",), description="suites that it asks to be evaluated by"
    )
    defense: Name = "none"
    training_data: Line
    license: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$", max_length=80)] = Field(
        description="of the weights, as SPDX calls it, such as MIT or CC-BY-4.0"
    )
    authors: Line
    contact: Line | None = Field(None, description="where maintainers may ask: an address or an account")
    paper: Url | None = None
    source: Url | None = Field(None, description="where the code of the training is")
    claims: Annotated[tuple[Claim, ...], Field(max_length=20)] = ()
    reference: Literal["undefended", "unimodal-audio", "unimodal-video"] | None = Field(
        None, description="role on the board, if any"
    )

    @property
    def tier(self) -> Tier:
        """How much of its author's code an evaluation runs: none that is not avbench's, a graph's, or any."""
        return "zoo" if self.architecture else "graph" if self.graph else "code"

    @property
    def about(self) -> dict[str, Any]:
        """What run records say to readers."""
        own = {"architecture", "arguments", "graph", "code", "weights", "summary", "tracks", "contact"}
        return self.model_dump(mode="json", exclude=own, exclude_none=True) | {"description": self.summary}

    @model_validator(mode="after")
    def _one_tier(self) -> Self:
        if sum(what is not None for what in (self.architecture, self.graph, self.code)) != 1:
            raise ValueError("say what the model is by exactly one of architecture, graph and code")
        if self.graph and self.arguments:
            raise ValueError("a graph is a whole model; leave arguments out")
        if self.weights is None and not self.code:
            raise ValueError("say under weights which file holds them, with its sha256")
        if self.graph and self.weights and self.weights.file != "weights.safetensors":
            raise ValueError("the weights of a graph are called weights.safetensors")
        return self


def parse_submission(data: bytes) -> Submission:
    """Read the bytes of a submission.yaml; strict, bounded, and every value as it was written.

    Raises:
        SubmissionError: naming the fields that are wrong.
    """
    content = read_yaml(data)
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        raise SubmissionError("; ".join(_mistakes(error))) from None  # its own text quotes values as they are


def read_submission(folder: Path) -> Submission:
    """Read a submission's YAML.

    Raises:
        SubmissionError: naming the file, and the fields that are wrong.
    """
    path = folder / SUBMISSION
    check_id(folder.resolve().name)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise SubmissionError("it is not a regular file")
            return parse_submission(file.read(LARGEST_YAML + 1))
    except SubmissionError as error:
        raise SubmissionError(f"{path}: {error}") from error
    except OSError as error:
        raise SubmissionError(f"{path} is a link or cannot be read ({error.strerror}); it is a plain file") from error


def _mistakes(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_input=False, include_url=False)[:5]:
        parts = (str(part) if isinstance(part, int) or part in _FIELDS else shown(part) for part in mistake["loc"])
        where = ".".join(parts) or "the file"
        if mistake["type"] == "extra_forbidden":
            yield f"{where}: there is no such field; there are {', '.join(_FIELDS)}"
        else:
            yield f"{where}: {mistake['msg'].removeprefix('Value error, ')}"


_FIELDS = [name for form in (Submission, Weights, GraphFile, Claim) for name in form.model_fields]

if __name__ == "__main__":  # for docs/submission.schema.json
    print(files.readable_json(Submission.model_json_schema()), end="")
