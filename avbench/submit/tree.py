"""Look at what a pull request changes, by git's objects alone: nothing of it is checked out, imported or run.

`python -m avbench.submit.tree BASE HEAD`, from the code of the base branch, prints every broken rule and exits with 1
if there is one; BASE and HEAD are commits, 40 hexadecimal digits each.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avbench.errors import AvbenchError, BadOption, SubmissionError
from avbench.form import SUBMISSION, Submission, parse_submission
from avbench.names import LARGEST_YAML, RESERVED, check_free, check_id, folded, shown

LARGEST = 2**20  # bytes of a file; larger weights belong on the Hub
MOST = 100  # files
GONE, PLAIN = "000000", "100644"
MODES = {"100755": "executable", "120000": "a symbolic link", "160000": "a submodule"}
_LFS = b"version https://git-lfs.github.com/spec/"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class Change(NamedTuple):
    """One path that differs between two commits."""

    path: str  # bytes that are no UTF-8 are surrogates
    mode: str  # as git writes it; GONE if the path is removed
    size: int = 0  # bytes
    start: bytes = b""  # of its content, as much as a submission.yaml may have and one more


def broken_rules(changes: Sequence[Change], existing: Mapping[str, str]) -> list[str]:
    """List what keeps a pull request from being a submission: exactly one new folder of plain files of its tier.

    Args:
        changes: all of them.
        existing: title of each submission that is there, by id.
    """
    if len(changes) > MOST:
        return [f"{len(changes)} files are changed; a submission has at most {MOST}"]
    outside = [change.path for change in changes if not re.match("submissions/[^/]+/", change.path)]
    broken = [f"{shown(path, 80)} lies outside submissions/<org>--<model>/; leave it as it is" for path in outside]
    folders: dict[str, list[Change]] = {}
    for change in changes:
        if change.path not in outside:
            folders.setdefault(change.path.split("/")[1], []).append(change)
    if len(folders) != 1:
        broken.append(f"{len(folders)} submissions are changed; a pull request brings exactly one")
    paths = Counter(folded(change.path) for change in changes)
    broken += [f"{shown(path, 80)} stands for {n} paths that differ by case only" for path, n in paths.items() if n > 1]
    for name, files in folders.items():
        broken += _broken_name(name, existing)
        broken += [f"{shown(file.path, 80)} {rule}" for file in files for rule in _broken_file(file)]
        broken += _broken_form(files, existing)
    return broken


def _broken_name(name: str, existing: Mapping[str, str]) -> Iterator[str]:
    try:
        check_free(check_id(name), existing)
    except SubmissionError as error:
        yield f"submissions/<org>--<model>: {error}"


def _broken_file(file: Change) -> Iterator[str]:
    parts = file.path.split("/")[2:]
    if file.mode == GONE:
        yield "is removed; a submission only adds files"
    elif file.mode != PLAIN:
        yield f"is {MODES.get(file.mode, f'of mode {shown(file.mode)}')}; a submission holds plain files"
    if not all(_PART.fullmatch(part) and part.partition(".")[0].lower() not in RESERVED for part in parts):
        yield "has a name of other characters than A-Z a-z 0-9 . _ -, or a reserved one"
    if file.size > LARGEST:
        yield f"has {file.size} bytes, at most {LARGEST} are kept here; larger weights go to the Hub"
    if file.start.startswith(_LFS):
        yield "is a pointer of Git LFS; commit the file itself, or put it on the Hub"


def _broken_form(files: Sequence[Change], existing: Mapping[str, str]) -> Iterator[str]:
    """Check submission.yaml, and that there is no file that its tier does not have."""
    form = next((file for file in files if file.path.split("/")[2:] == [SUBMISSION]), None)
    if form is None:
        yield f"there is no new {SUBMISSION}; `avbench submit new` writes it"
        return
    try:
        submission = parse_submission(form.start)
        check_free(submission.title, existing.values())
    except SubmissionError as error:
        yield f"{SUBMISSION}: {error}"
        return
    for file in files:
        if not _belongs(file.path.split("/")[2:], submission):
            yield f"{shown(file.path, 80)} is no file of tier {submission.tier}: {_files_of(submission)}"


def _belongs(parts: Sequence[str], submission: Submission) -> bool:
    if len(parts) == 1 and parts[0] in _named(submission):
        return True
    return submission.code is not None and parts[-1].endswith(".py")


def _named(submission: Submission) -> list[str]:
    """List the files that a submission.yaml names, and itself."""
    files = (submission.weights, submission.graph)
    return [SUBMISSION, *(one.file for one in files if one)]


def _files_of(submission: Submission) -> str:
    return ", ".join([*_named(submission), *(["*.py"] if submission.code else [])])


# -- git


def read_changes(base: str, head: str, repository: Path) -> list[Change]:
    """List what HEAD changes since it left BASE.

    Raises:
        BadOption: if one of both is no commit of the repository.
    """
    for commit in (base, head):
        if not re.fullmatch("[0-9a-f]{40}", commit):
            raise BadOption(f"{shown(commit)} is no commit: give its 40 hexadecimal digits")
    fork = _git(repository, "merge-base", base, head).decode().strip()
    raw = _git(
        repository, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--ignore-submodules=none",
        fork, head,
    )  # fmt: skip
    fields = raw.split(b"\0")[:-1]
    return [
        _change(repository, *pair, len(fields) <= 2 * MOST) for pair in zip(fields[::2], fields[1::2], strict=False)
    ]


def read_existing(base: str, repository: Path) -> dict[str, str]:
    """Read the id and title of every submission of a commit; of one that cannot be read the id alone."""
    listed = _git(repository, "ls-tree", "-d", "-z", "--name-only", base, "submissions/")
    found = {}
    for folder in listed.decode().split("\0")[:-1]:
        name = folder.removeprefix("submissions/")
        try:
            found[name] = parse_submission(_git(repository, "cat-file", "blob", f"{base}:{folder}/{SUBMISSION}")).title
        except AvbenchError:
            found[name] = name
    return found


def _change(repository: Path, entry: bytes, path: bytes, with_content: bool) -> Change:
    _, mode, _, blob, _ = entry.decode().split(" ")
    name = path.decode("utf-8", "surrogateescape")
    if mode in (GONE, "160000") or not with_content:
        return Change(name, mode)
    size = int(_git(repository, "cat-file", "-s", blob))
    return Change(name, mode, size, _git(repository, "cat-file", "blob", blob, most=LARGEST_YAML + 1))


def _git(repository: Path, *words: str, most: int = 2**26) -> bytes:
    """Ask git a question; at most so many bytes of the answer are read."""
    with subprocess.Popen(
        ["git", "-C", repository, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"GIT_NO_REPLACE_OBJECTS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        answer = process.stdout.read(most)
        if len(answer) == most:
            process.kill()
        elif said := process.stderr.read(1000) if process.wait() else b"":
            raise BadOption(f"git {words[0]} failed ({shown(said.decode(errors='replace'), 200)}); fetch both commits")
    return answer


def main() -> None:
    """Print the broken rules of a pull request."""
    try:
        base, head = sys.argv[1:]
    except ValueError:
        sys.exit("usage: python -m avbench.submit.tree BASE HEAD")
    try:
        broken = broken_rules(read_changes(base, head, Path()), read_existing(base, Path()))
    except AvbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(f"- {rule}" for rule in broken) or "one new submission of plain files; no rule is broken")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
