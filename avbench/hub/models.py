"""Weights of submissions on the Hub: publish them with a model card, and get exactly the pinned file."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml
from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in __all__
from rich.console import Console

from avbench import __version__, files
from avbench.datasets.cards import read_card
from avbench.datasets.prepare import alone
from avbench.errors import SubmissionError
from avbench.form import SUBMISSION, Submission, Weights, parse_submission, read_submission
from avbench.hub.client import commit, license_word, login, talking

_PIECE = 1 << 20  # bytes
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~:@&-])")  # what means something in Markdown, and begins links


def push_weights(folder: Path, repo: str) -> Submission:
    """Publish a submission's weights with a model card, and pin their place in its submission.yaml.

    Raises:
        SubmissionError: if the weights are not here, or not the pinned ones.
        HubError: if nobody is logged in, or the Hub refuses or cannot be reached; then nothing was published.
    """
    submission = read_submission(folder)
    weights = submission.weights
    if weights is None:
        raise SubmissionError(f"{folder.name} pins no weights, so there is nothing to publish")
    path = folder / weights.file
    if not os.path.lexists(path) or not stat.S_ISREG(path.lstat().st_mode):
        raise SubmissionError(f"{path} is missing or no regular file; put the weights there that are to be published")
    if (found := files.sha256_file(path)) != weights.sha256:
        raise SubmissionError(f"{path} has sha256 {found}, {SUBMISSION} pins {weights.sha256}; mend the one or other")
    token = login(repo)
    contents: dict[str, bytes | Path] = {"README.md": model_card(folder.resolve().name, submission).encode()}
    message = f"{folder.resolve().name} (avbench {__version__})"
    revision = commit(repo, "model", token, contents | {weights.file: path}, message)
    on_hub = {"size": path.stat().st_size, "repo": repo, "revision": revision}
    return _pin(folder / SUBMISSION, Weights.model_validate(weights.model_dump() | on_hub))


def model_card(name: str, submission: Submission) -> str:
    """Write the card that the Hub shows; whatever the author wrote stays plain text in it."""
    card = read_card(submission.dataset)
    head = {
        "license": license_word(submission.license),
        "tags": ["avbench", "audio-visual", "adversarial-robustness", submission.tier],
        "datasets": [card.hub.repo if card.hub else card.name],
        "metrics": ["accuracy"],
        "library_name": "avbench",
    }
    said = {
        "training data": submission.training_data, "defense": submission.defense, "authors": submission.authors,
        "license": submission.license, "paper": submission.paper, "source": submission.source,
    }  # fmt: skip
    claims = [
        f"| {claim.suite} | {claim.split} | {claim.clean:g} | {'-' if claim.robust is None else f'{claim.robust:g}'} |"
        for claim in submission.claims
    ]
    return (
        Path(__file__)
        .with_name("model.md")
        .read_text(encoding="utf-8")
        .format(
            head=yaml.safe_dump(head, sort_keys=False),
            name=name,
            title=_plain(submission.title),
            summary=_plain(submission.summary),
            dataset=card.name,
            said="".join(f"- {what}: {_plain(text)}\n" for what, text in said.items() if text),
            claims="\n".join(claims) or "| none | | | |",
        )
    )


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _pin(path: Path, weights: Weights) -> Submission:
    """Write where weights are into a submission.yaml, of which every other line stays as it is.

    Raises:
        SubmissionError: if the file was changed meanwhile.
    """
    text = path.read_bytes().decode()
    document = yaml.compose(text, yaml.BaseLoader)
    assert isinstance(document, yaml.MappingNode)
    key, value = next(pair for pair in document.value if pair[0].value == "weights")
    end = value.end_mark if value.flow_style else value.value[-1][1].end_mark  # a block's own is behind its comments
    lines = (f"\n  {name}: {what}" for name, what in weights.model_dump(exclude_none=True).items())
    text = f"{text[: key.start_mark.index]}weights:{''.join(lines)}{text[end.index :]}"
    pinned = parse_submission(text.encode())
    if pinned.weights != weights:
        raise SubmissionError(f"{path} could not be completed; write under weights:{''.join(lines)}")
    files.publish_text(path, text)
    return pinned


def whole(folder: Path, submission: Submission) -> Path:
    """Give a folder of the same name that holds all files of a submission, also those weights that are on the Hub.

    That is the folder itself if its weights are there, else a copy in the user cache. What was fetched is kept only if
    it has the pinned size and sha256, whoever owns the repository by now.

    Raises:
        SubmissionError: if what the Hub holds is not the pinned file; then nothing of it is kept.
        HubError: if it cannot be had; the same call continues.
    """
    weights = submission.weights
    if weights is None or weights.repo is None or os.path.lexists(folder / weights.file):
        return folder
    made = files.cache() / "models" / weights.sha256 / folder.resolve().name
    with alone(made.parent):
        kept, part = made / weights.file, made.parent / "part"
        if not kept.is_file() or files.sha256_file(kept) != weights.sha256:
            Console(stderr=True).print(f"fetching {weights.file} of {weights.repo}, {weights.size} bytes", markup=False)
            _download(weights, part)
            made.mkdir(exist_ok=True)
            os.replace(part, kept)
        small = set(_files(folder))
        for name in set(_files(made)) - small - {weights.file}:
            (made / name).unlink()
        for name in small:
            files.publish(made / name, partial(shutil.copyfile, folder / name))
    return made


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield str(path.relative_to(folder))
        elif not stat.S_ISDIR(mode):
            raise SubmissionError(f"{path} is a link or a special file; a submission holds plain files")


def _download(weights: Weights, part: Path) -> None:
    """Fetch the pinned file, from where `part` ends.

    Raises:
        SubmissionError: if it is another one.
    """
    assert weights.repo
    try:
        with talking(weights.repo):
            _continue(weights, part)
        if (found := files.sha256_file(part)) != weights.sha256:
            raise SubmissionError(f"it has sha256 {found}, {weights.sha256} is pinned")
    except SubmissionError as error:
        part.unlink(missing_ok=True)
        where = f"{weights.file} of {weights.repo} at {weights.revision}"
        raise SubmissionError(f"{where} is not the pinned file, and nothing of it was kept: {error}") from error


def _continue(weights: Weights, part: Path) -> None:
    """Write what is missing; huggingface_hub itself would begin anew, and would not stop at the pinned size."""
    size, have = weights.size or 0, part.stat().st_size if part.exists() else 0
    if have == size:
        return
    url = hf_hub_url(str(weights.repo), weights.file, revision=weights.revision, endpoint=os.environ.get("HF_ENDPOINT"))
    headers = build_hf_headers(library_name="avbench", library_version=__version__)
    headers |= {"Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
        if answer.status_code == 416:
            raise SubmissionError(f"it ends before byte {have}")
        hf_raise_for_status(answer)
        with part.open("ab" if answer.status_code == 206 else "wb") as file:
            for piece in answer.iter_raw(_PIECE):
                if file.tell() + len(piece) > size:
                    raise SubmissionError(f"it has more than the pinned {size} bytes")
                file.write(piece)
