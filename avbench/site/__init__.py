"""The leaderboard as static HTML: opens from a file, works in any folder, loads nothing from elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from avbench import files
from avbench.errors import RunConflict
from avbench.site.boards import make_boards
from avbench.site.content import Content
from avbench.site.history import read_history, retire
from avbench.site.pages import HERE, make_files
from avbench.site.published import read_published
from avbench.site.records import read_runs
from avbench.site.releases import check, read_releases

__all__ = ["HOME", "MARKER", "build", "read_content"]

HOME = files.root() / "leaderboard"  # committed results, published figures, history and releases
MARKER = "avbench-site.txt"  # says that a folder is a built site, which the next build may replace


def read_content(results: Sequence[Path], home: Path = HOME) -> Content:
    """Read all that a site shows; releases and reasons belong to the committed results and are shown with them.

    Raises:
        DataError, IncompleteRun, ProtocolMismatch: if something cannot be used.
    """
    runs = list(read_runs(results))
    boards = make_boards(run for run in runs if run.withdrawn is None)
    published = list(read_published(home / "published"))
    committed = home / "results" in results
    events = read_history(home / "history.csv") if committed else []
    releases = read_releases(home / "releases") if committed else []
    return Content(boards, published, retire(runs, boards), events, releases)


def build(results: Sequence[Path], out: Path, home: Path = HOME) -> Path:
    """Build the site from all run folders below `results` and return its index.html.

    The old site stays until the new one is whole.

    Raises:
        RunConflict: if `out` holds something that is not a site.
        DataError: if a number of the committed runs changed without a reason.
        DataError, IncompleteRun, ProtocolMismatch: if a run cannot be used.
    """
    out = out.resolve()
    if out.exists() and not _replaceable(out):
        raise RunConflict(f"{out} is not empty and holds no site (no {MARKER}); choose another folder")
    content = read_content(results, home)
    if list(results) == [home / "results"]:  # runs of one's own may take the place of committed ones
        check(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        site = fresh / "site"
        shutil.copytree(HERE / "assets", site / "assets")
        shutil.copytree(HERE / "vendor", site / "vendor", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        for name, what in make_files(content):
            _write(site / name, what)
        (site / MARKER).write_text("Built by avbench; the next build replaces this folder.\n", encoding="utf-8")
        _swap(site, out, fresh / "old")
    finally:
        shutil.rmtree(fresh)
    return out / "index.html"


def _write(path: Path, what: str | bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(what, Path):
        shutil.copyfile(what, path)
    else:
        path.write_bytes(what.encode() if isinstance(what, str) else what)


def _replaceable(out: Path) -> bool:
    return out.is_dir() and ((out / MARKER).is_file() or not any(out.iterdir()))


def _swap(site: Path, out: Path, old: Path) -> None:
    had = out.exists()
    if had:
        out.replace(old)
    try:
        site.replace(out)
    except OSError:
        if had:
            old.replace(out)
        raise
