"""One page for each model: who made it, what it scored, what it costs to fool."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content
from avbench.site.pages import File, Render


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for name, entries in content.models.items():
        yield render(f"models/{name}.html", "model.html.j2", model=content.newest(name), entries=entries)
