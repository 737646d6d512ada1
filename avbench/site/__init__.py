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
from avbench.site.pages import HERE, make_files
from avbench.site.published import read_published
from avbench.site.records import read_runs
from avbench.site.server import serve

__all__ = ["MARKER", "build", "serve"]

MARKER = "avbench-site.txt"  # says that a folder is a built site, which the next build may replace


def build(results: Sequence[Path], out: Path) -> Path:
    """Build the site from all run folders below `results` and return its index.html.

    The old site stays until the new one is whole.

    Raises:
        RunConflict: if `out` holds something that is not a site.
        DataError, IncompleteRun, ProtocolMismatch: if a run cannot be used.
    """
    out = out.resolve()
    if out.exists() and not _replaceable(out):
        raise RunConflict(f"{out} is not empty and holds no site (no {MARKER}); choose another folder")
    content = Content(make_boards(read_runs(results)), list(read_published(files.root() / "leaderboard" / "published")))
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
