"""Pictures and sounds of the model pages."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.content import Content
from avbench.site.evidence import find_evidence
from avbench.site.pages import File, Render


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files, each once."""
    shown = (one for entries in content.models.values() for view in find_evidence(entries) for one in view.shown)
    named = {asset.path: asset for one in shown if one.media for asset in one.media.assets}
    yield from ((path, asset.make()) for path, asset in named.items())
