"""Where things live, from a checkout or from an installed wheel, and how files are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avbench.errors import BadOption, DiskFull, RunConflict

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Folder that holds `datasets/`, `submissions/` and `leaderboard/`: the checkout, or the wheel's copy."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE / "bundled"


def cache() -> Path:
    """User cache folder: $AVBENCH_CACHE, else avbench/ under $XDG_CACHE_HOME or ~/.cache."""
    if path := os.environ.get("AVBENCH_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avbench"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(data: Any) -> str:
    """One text per value: sorted keys, no spaces, no NaN; the input of every fingerprint."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def readable_json(data: Any) -> str:
    """Indented JSON for people, keys in the order given, no NaN."""
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def fingerprint(data: Any) -> str:
    """Hex sha256 of the canonical JSON of plain data."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def publish(path: Path, write: Callable[[Path], None], replace: bool = True) -> None:
    """Let `write` fill a temporary file, sync it, and only then give it its name; nothing half-written is ever seen.

    Args:
        path: the file.
        write: fills it.
        replace: whether to replace a file of this name; if not, who comes first wins, without a word to the others.

    Raises:
        DiskFull: if the space does not suffice; `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        _name(temporary, path, replace)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"no space left for {path}; free some and repeat the command: it continues where it stopped"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _name(temporary: Path, path: Path, replace: bool) -> None:
    try:
        if not replace:
            os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):  # file systems without hard links
            raise
        replace = True
    if replace:
        os.replace(temporary, path)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    publish(path, write)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second writer out of the folder of a run, and remove what a killed one left half-written.

    Raises:
        BadOption: if the folder cannot be written to.
        RunConflict: if another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise BadOption(f"cannot write to {folder} ({error.strerror}); choose another --output-dir") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunConflict(f"another avbench is writing to {folder}; wait for it") from error
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


def publish_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    publish_bytes(path, text.encode())
