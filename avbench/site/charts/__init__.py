"""Charts as SVG, drawn at build time from scores: a page shows them without a script, and their data as a table."""

from __future__ import annotations

from avbench.site.charts.boards import board_charts
from avbench.site.charts.chart import Chart
from avbench.site.charts.runs import run_charts

__all__ = ["Chart", "board_charts", "run_charts"]
