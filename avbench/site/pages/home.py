"""The first page, how numbers are made, and the page for wrong addresses."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.site.published import FIGURES, FOUR, MIM, PIXELS, RADII


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    rows = sum(len(scored.run.frame) for board in content.boards for scored in board.runs)
    counts = {
        "models": str(len(content.models)),
        "samples": f"{rows:,}",
        "reported": str(sum(len(one.table.rows) for one in content.reported)),
    }
    models = [content.newest(name) for name in content.models]
    yield render("index.html", "index.html.j2", groups=content.groups.values(), models=models, counts=counts)
    yield render("method.html", "method.html.j2", errata=(RADII, PIXELS, MIM, FOUR, *FIGURES))
    yield render("404.html", "404.html.j2")
