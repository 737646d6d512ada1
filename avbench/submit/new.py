"""Begin a submission: find out what its files say by themselves, and write its folder."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from avbench import files
from avbench.checkpoint import read_checkpoint
from avbench.errors import SubmissionError
from avbench.form import SUBMISSION, Submission, parse_submission
from avbench.graph.load import find_graph
from avbench.graph.read import WEIGHTS, read_graph
from avbench.names import check_free, check_id

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .()/+'@-]*|https://[A-Za-z0-9./:_-]+")  # what YAML needs no quotes for
_REMARKS = {
    "weights": "`avbench submit push` puts large ones on the Hub and adds repo and revision.",
    "tracks": "Suites; see `avbench list suites`.",
    "claims": "What you measured, in %; robust is the worst-case Avg. It is compared with what is found.",
}
_HINTS = {
    "contact": "where maintainers may ask",
    "paper": "https://arxiv.org/abs/...",
    "source": "https://github.com/...",
    "claims": "[{suite: standard, split: test, clean: 90.0, robust: 10.0}]",
}


class Begun(NamedTuple):
    """What a model says of itself."""

    entries: dict[str, Any]  # of submission.yaml
    files: dict[str, Path]  # what its folder holds, by the name there


def describe(model: str, weights: Path | None = None) -> Begun:
    """Find out what a model is: a folder of `avbench pack`, weights, or code with the weights that it reads.

    Raises:
        GraphError, CheckpointError: and their kin, if it cannot be read.
        SubmissionError: if it is of a kind that is not taken.
    """
    if code := re.fullmatch(r"(.+\.py):(\w+)", model):
        path = Path(code[1])
        if not path.is_file():
            raise SubmissionError(f"there is no file {path}; give FILE.py:Factory")
        begun = Begun({"code": f"{path.name}:{code[2]}"}, {path.name: path})
        return _with_weights(begun, weights, weights.name) if weights else begun
    if weights:
        raise SubmissionError(f"{model} brings its own weights; --weights is for FILE.py:Factory")
    path = Path(model)
    if graph := find_graph(path):
        content, sha256 = read_graph(graph)
        entries = {"dataset": content.dataset, "graph": {"file": graph.name, "sha256": sha256}}
        return _with_weights(Begun(entries, {graph.name: graph}), graph.parent / WEIGHTS, WEIGHTS)
    if path.suffix != ".safetensors":
        raise SubmissionError(
            f"{path} is no folder of `avbench pack`, no .safetensors file and no FILE.py:Factory, and nothing else is "
            "taken: pack the model, or save its state dict by safetensors.torch.save_file"
        )
    header = read_checkpoint(path).header
    known = {name: header[name] for name in ("architecture", "arguments", "dataset") if name in header}
    known["arguments"] = {k: v for k, v in known.get("arguments", {}).items() if k != "pretrained"}
    return _with_weights(Begun(known, {}), path, WEIGHTS)


def _with_weights(begun: Begun, path: Path, name: str) -> Begun:
    if not path.is_file():
        raise SubmissionError(f"there is no file {path}; give the weights that belong to the model")
    pinned = {"file": name, "sha256": files.sha256_file(path), "size": path.stat().st_size}
    return Begun(begun.entries | {"weights": pinned}, begun.files | {name: path})


def write(submissions: Path, name: str, begun: Begun) -> Submission:
    """Write a submission's folder, whole or not at all.

    Raises:
        SubmissionError: if an entry is not as it must be, a submission of this name is there, or it cannot be written.
    """
    places = (submissions, files.root() / "submissions")
    check_free(check_id(name), {path.name for place in places for path in place.glob("*--*")})
    text = render(begun.entries)
    submission = parse_submission(text.encode())
    try:
        submissions.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=submissions) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            for file, path in begun.files.items():
                shutil.copyfile(path, made / file)
            (made / SUBMISSION).write_text(text, encoding="utf-8")
            made.rename(submissions / name)
    except OSError as error:
        raise SubmissionError(f"{submissions / name} could not be written: {error}") from error
    return submission


def render(entries: Mapping[str, Any]) -> str:
    """Write a submission.yaml for people: in the order of the form, with remarks, and hints for what is left out."""
    return "".join(f"{line}\n" for name in Submission.model_fields for line in _lines(name, entries.get(name)))


def _lines(name: str, value: Any) -> Iterator[str]:
    if value in (None, {}, (), []):
        if name in _HINTS:
            yield f"# {name}: {_HINTS[name]}"
        return
    if name in _REMARKS:
        yield f"# {_REMARKS[name]}"
    if name == "weights":
        yield f"{name}:"
        yield from (f"  {key}: {_flow(part)}" for key, part in value.items())
    else:
        yield f"{name}: {_flow(value)}"


def _flow(value: Any) -> str:
    """Write a value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
