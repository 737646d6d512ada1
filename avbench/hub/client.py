"""What datasets and models share on the Hub: the login, one commit of files, names for what goes wrong."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from avbench import __version__, files
from avbench.errors import AvbenchError, BadOption, DiskFull

_LICENSES = {  # the Hub's words
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "unlicense", "cc0-1.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
}  # fmt: skip


class HubError(AvbenchError):
    """The Hub cannot be reached, or does not do what it was asked for."""


def license_word(license_: str) -> str:
    """Say a license in the Hub's words."""
    word = license_.lower().replace(" ", "-")
    return word if word in _LICENSES else "other"


def api(token: str | None = None) -> HfApi:
    """Make a client; the user's environment may name another Hub."""
    return HfApi(os.environ.get("HF_ENDPOINT"), token=token, library_name="avbench", library_version=__version__)


def login(repo: str) -> str:
    """Take the token of the Hub's own login; it is kept nowhere.

    Raises:
        BadOption: if `repo` is no name of a repository.
        HubError: if nobody is logged in.
    """
    with talking(repo):
        token = get_token()
    if token is None:
        raise HubError(f"nobody is logged in to the Hub; run `hf auth login` with a token that may write to {repo}")
    return token


def commit(
    repo: str,
    kind: Literal["dataset", "model"],
    token: str,
    contents: Mapping[str, bytes | Path],
    message: str,
    stale: re.Pattern[str] | None = None,
) -> str:
    """Put files into a repository, which is made if it does not exist, by one commit; give its 40 digits.

    Files of an earlier commit stay, but for those whose paths match `stale`.

    Raises:
        HubError: if the Hub refuses or cannot be reached; then nothing was published.
    """
    with talking(repo):
        client = api(token)
        client.create_repo(repo, repo_type=kind, exist_ok=True)
        head = client.dataset_info(repo) if kind == "dataset" else client.model_info(repo)
        held = {one.rfilename for one in head.siblings or ()}
        left = sorted(path for path in held - contents.keys() if stale and stale.fullmatch(path))
        made = client.create_commit(
            repo,
            [CommitOperationAdd(path, data) for path, data in contents.items()]
            + [CommitOperationDelete(path) for path in left],
            commit_message=message,
            repo_type=kind,
            parent_commit=head.sha,
        )
    return made.oid


@contextmanager
def talking(repo: str) -> Iterator[None]:
    """Give whatever huggingface_hub raises a name, and say what to do."""
    try:
        if "/" not in repo:
            raise HFValidationError(f"{repo!r} names no organization or user")
        yield
    except AvbenchError:
        raise
    except HFValidationError as error:
        raise BadOption(f"give the repository as ORG/NAME: {error}") from error
    except Exception as error:  # it also lets through RuntimeError, ValueError, OSError and errors of its HTTP client
        raise _named(error, repo) from error


def _named(error: BaseException | None, repo: str) -> AvbenchError:
    answer, said = None, f"{type(error).__name__}: {str(error)[:300]!r}"
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or "os error 28" in str(error):  # as hf_xet says it
            return DiskFull(f"no space left below {files.cache()}; free some and repeat the command: it continues")
        if isinstance(error, RevisionNotFoundError):
            return HubError(f"{repo} has no such commit; take its 40 digits from the repository's history on the Hub")
        if isinstance(error, OfflineModeIsEnabled):
            return HubError(f"HF_HUB_OFFLINE is set, and what is asked of {repo} is not here; unset it and repeat")
        answer = error if isinstance(error, HfHubHTTPError) else answer
        error = error.__cause__ or error.__context__
    status = answer.response.status_code if answer else None
    if status in (401, 403, 404):
        return HubError(
            f"the Hub answers {status} for {repo}: there is no such repository or file, or this login may not do that; "
            "see `hf auth whoami`, and run `hf auth login` with a token that may"
        )
    if status == 412:
        return HubError(f"someone else changed {repo} at the same time, so nothing was published; repeat the command")
    return HubError(
        f"talking to the Hub about {repo} failed ({said}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and "
        "repeat the command: it continues where it stopped"
    )
