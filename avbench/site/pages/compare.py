"""The page that compares two to four models of a board."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.site.pages.samples import comparable, key, title


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    boards = {key(board): title(board) for board in comparable(content)}
    yield render("compare.html", "compare.html.j2", boards=boards)
