"""Check the files of a submission without opening a model: what a pull request may bring, and what the form pins."""

from __future__ import annotations

import stat
from pathlib import Path

from avbench import files
from avbench.form import GraphFile, Submission, Weights
from avbench.names import LARGEST_YAML
from avbench.submit.report import Finding
from avbench.submit.tree import Change, broken_rules


def rules(folder: Path, submission: Submission) -> Finding:
    """Apply the rules of a pull request to what is in the folder; weights on the Hub are no part of it."""
    weights = submission.weights
    hub = folder / weights.file if weights and weights.repo else None
    paths = [path for path in sorted(folder.rglob("*")) if path != hub and "__pycache__" not in path.parts]
    changes = [_change(folder, path) for path in paths if path.is_symlink() or not path.is_dir()]
    if broken := broken_rules(changes, {}):
        return Finding("tree", "fail", "a pull request with this folder would be refused", "; ".join(broken))
    return Finding("tree", "pass", "the folder holds what a pull request may bring")


def pinned(folder: Path, submission: Submission) -> Finding:
    """Compare the size and the sha256 of each file that the form pins."""
    named = [file for file in (submission.graph, submission.weights) if file]
    for file in named:
        if wrong := _wrong(folder / file.file, file):
            return Finding("files", "fail", "a file is not the one that is pinned", f"{file.file}: {wrong}")
    if not named:
        return Finding("files", "skip", "no file is pinned; the identity of code is the sha256 of its folder")
    return Finding("files", "pass", f"pinned files that have their sha256 and size: {len(named)}")


def _change(folder: Path, path: Path) -> Change:
    """Tell of a file what git would."""
    name = f"submissions/{folder.resolve().name}/{path.relative_to(folder).as_posix()}"
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        return Change(name, "120000" if stat.S_ISLNK(about.st_mode) else "special")
    with path.open("rb") as file:
        return Change(name, "100755" if about.st_mode & 0o111 else "100644", about.st_size, file.read(LARGEST_YAML + 1))


def _wrong(path: Path, file: Weights | GraphFile) -> str:
    """Say in what a file differs from the form, or nothing."""
    try:
        about = path.lstat()
    except OSError:
        return "it is not here"
    size = getattr(file, "size", None)
    if not stat.S_ISREG(about.st_mode):
        return "it is not a regular file"
    if size is not None and about.st_size != size:
        return f"it has {about.st_size} bytes, {size} are pinned"
    sha256 = files.sha256_file(path)
    return "" if sha256 == file.sha256 else f"it has sha256 {sha256}, {file.sha256} is pinned"
