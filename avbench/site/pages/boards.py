"""One page for each board, measured or reported."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.site.published import PAPERS


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for group in content.groups.values():
        for board in group.boards:
            yield render(f"lb/{group.name}/{board.name}.html", "board.html.j2", board=board)
        for one in group.reported:
            paper = ", ".join(PAPERS[one.paper])
            path = f"lb/{group.name}/{one.name}.html"
            yield render(path, "reported.html.j2", reported=one, dataset_title=group.title, reference=paper)
