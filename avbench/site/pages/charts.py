"""Every chart as a file to download, SVG and PNG."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.site.charts import board_charts, run_charts
from avbench.site.content import Content
from avbench.site.pages import File, Render


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    boards = (chart for board in content.boards for chart in board_charts(board))
    runs = (chart for entries in content.models.values() for entry in entries for chart in run_charts(entry))
    for chart in (*boards, *runs):
        yield f"charts/{chart.key}.svg", chart.svg
        yield f"charts/{chart.key}.png", chart.png
