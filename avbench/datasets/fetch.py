"""Fetch source files into the user cache: resumed, retried, and accepted only when they are the pinned ones."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from avbench import files
from avbench.datasets.cards import Source
from avbench.errors import DataError, DiskFull

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 17  # bytes
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may pass by themselves
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Check = Callable[[Path], object]  # raises DataError if the file is not the wanted one


class _TransientError(Exception):
    """Mark a failure that another attempt may mend."""


def folder(dataset: str) -> Path:
    """Where the fetched source files of a dataset lie."""
    return files.cache() / "downloads" / dataset


def check_pinned(path: Path, source: Source) -> None:
    """Refuse a file that is not the pinned one; of one without a hash only the size is bounded.

    Raises:
        DataError: if the file is missing, or its size or sha256 differ.
    """
    try:
        size = path.stat().st_size
        exact = source.sha256 is not None
        found = f"sha256 {files.sha256_file(path)}" if exact and size == source.size else f"{size} bytes"
    except OSError as error:
        raise DataError(f"{source.file} was expected at {path}: {error.strerror}") from error
    if size > source.size or (exact and found != f"sha256 {source.sha256}"):
        wanted = f"sha256 {source.sha256}" if size == source.size else f"{source.size} bytes"
        raise DataError(f"{source.file} is not the pinned file: it has {found}, expected {wanted} ({path})")


def fetch(dataset: str, source: Source) -> Path:
    """Return the cached copy of a pinned file, fetching it if it is not there; see `fetch_checked`."""
    return fetch_checked(
        dataset,
        source.file,
        source.url,
        lambda path: check_pinned(path, source),
        source.size,
        source.sha256 is not None,
    )


def fetch_checked(dataset: str, file: str, url: str, check: Check, limit: int, exact: bool = False) -> Path:
    """Return the cached copy of a file whose contents `check` accepts, fetching it if it is not there.

    Args:
        dataset: names the folder in the cache.
        file: its path below that folder.
        url: https.
        check: judge of the whole file; for archives, whose bytes change while their members do not.
        limit: bytes; no more are ever written.
        exact: the file has exactly `limit` bytes, so fewer are a broken transfer.

    Raises:
        DataError: if it cannot be had, or is not the wanted file; the message says what to do.
        DiskFull: if the space does not suffice.
    """
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise DataError(f"the source file {file!r} of {dataset} would lie outside the cache; mend the card")
    target = folder(dataset) / file
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        if not (target.is_file() and _accepts(check, target)):
            part = target.with_name(f".{target.name}.part")
            try:
                _attempts(url, part, check, limit, exact)
            except DataError as error:
                raise DataError(
                    f"cannot fetch {file} of {dataset} from {url}: {error}; repeat `avbench data prepare {dataset}`, "
                    f"which continues where it stopped, or place the file at {target} by other means"
                ) from error
            files.publish(target, lambda temporary: os.replace(part, temporary))
    return target


def _attempts(url: str, part: Path, check: Check, limit: int, exact: bool) -> None:
    """Fill `part` with the wanted file, or raise DataError with the reason alone."""
    trouble = ""
    for wait in (0.0, *WAITS):
        if trouble:
            time.sleep(wait)
        have = part.stat().st_size if part.is_file() else 0
        try:
            if not (exact and have >= limit):
                _receive(url, part, have, limit, exact)
        except _TransientError as error:
            trouble = str(error)
            continue
        try:
            check(part)
            return
        except DataError as error:
            part.unlink()
            if not have:  # a resumed file may join two versions: once more from the start
                raise
            trouble = str(error)
    raise DataError(f"{trouble} ({len(WAITS) + 1} attempts)")


def _receive(url: str, part: Path, have: int, limit: int, exact: bool) -> None:
    """Append what is missing to `part`; start over if the server does not resume."""
    _refuse_insecure(url, local=True)
    request = urllib.request.Request(url, headers={"User-Agent": "avbench"} | _range(have))  # noqa: S310, just checked
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT) as response:
            resumed = response.status == 206 and _starts_at(response, have)
            if response.status == 206 and not resumed:
                part.unlink(missing_ok=True)
                raise _TransientError("the server resumed at the wrong place")
            with part.open("ab" if resumed else "wb") as out:
                _copy(response, out, have if resumed else 0, limit, exact)
    except HTTPError as error:
        if error.code == 416 and have:
            return  # nothing is missing, or nothing fits: the check decides
        kind = _TransientError if error.code in _TRY_AGAIN else DataError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        if getattr(error, "errno", None) in _NO_SPACE:
            raise DiskFull(f"no space left for {part.parent}; free some and repeat the command") from error
        raise _TransientError(f"the connection failed ({getattr(error, 'reason', None) or error!r})") from error
    except ValueError as error:  # a redirect to something that is no address
        raise DataError(f"the server answers nonsense ({error})") from error


def _copy(response: HTTPResponse, out: IO[bytes], have: int, limit: int, exact: bool) -> None:
    announced = response.headers.get("Content-Length", "")
    total = have + int(announced) if announced.isdecimal() else limit if exact else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task(urlsplit(response.url).path.rpartition("/")[2], total=total, completed=have)
        while chunk := response.read(CHUNK):
            have += len(chunk)
            if have > limit:
                out.truncate(0)
                raise DataError(f"the file is larger than the expected {limit} bytes")
            out.write(chunk)
            progress.update(task, completed=have)
    if total is not None and have < total:
        raise _TransientError(f"the transfer broke off after {have} of {total} bytes")


def _range(have: int) -> dict[str, str]:
    return {"Range": f"bytes={have}-"} if have else {}


def _starts_at(response: HTTPResponse, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _accepts(check: Check, path: Path) -> bool:
    try:
        check(path)
    except DataError:
        return False
    return True


def _refuse_insecure(url: str, local: bool) -> None:
    """Allow https only; http too if `local` and the host is this machine, for tests and mirrors on it."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (local and parts.scheme == "http" and parts.hostname == "127.0.0.1"):
        raise DataError(f"only https addresses are fetched, not {url}")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect to an insecure address, nor from the net to this machine's own servers."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Any:
        _refuse_insecure(newurl, local=req.type == "http")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time fetch a file; the next one finds it there."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
