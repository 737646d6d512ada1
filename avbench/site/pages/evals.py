"""One card for each run: all its scores, its health, how it was made, how to repeat it, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content, Entry
from avbench.site.history import Retired, merge
from avbench.site.pages import File, Render
from avbench.site.pages.changes import make_lines


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    shown: list[Entry] = [entry for entries in content.models.values() for entry in entries]
    events = merge(content)
    for entry in (*shown, *content.retired):
        record = entry.scored.run.record
        mine = [event for event in events if (event.model, event.track) == (record.model.id, record.track)]
        yield render(
            f"evals/{entry.key}.html",
            "eval.html.j2",
            entry=entry,
            retired=entry if isinstance(entry, Retired) else None,
            listed=record.model.id in content.models,
            lines=make_lines(content, mine),
        )
