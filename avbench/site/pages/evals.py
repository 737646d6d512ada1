"""One card for each run: all its scores, its health, how it was made and how to repeat it."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content
from avbench.site.pages import File, Render


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for entries in content.models.values():
        for entry in entries:
            yield render(f"evals/{entry.key}.html", "eval.html.j2", entry=entry)
