"""Drawings in rows: bars for each class, and a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from avbench.site.charts.plots import linked
from avbench.site.charts.svg import (
    GRID,
    INK,
    PAGE,
    RIGHT,
    ROW,
    SOFT,
    WIDTH,
    Axis,
    Style,
    drawing,
    element,
    legend_of,
    shorten,
    style_of,
    text,
    width,
)
from avbench.site.tables import show

BAR, GAP = 8, 10  # thickness of a bar, and the room between groups
CELL, LINE = 62, 26  # width and height of a matrix cell
DARKEST = 0.45  # at which words on it can still be read


class Bars(NamedTuple):
    """One group of bars, percent; None is missing."""

    name: str
    values: Sequence[float | None]


def bars(x: Axis, series: Sequence[str], groups: Sequence[Bars]) -> Element:
    """Draw a group of bars for each name; the first series is the frame into which the others fall."""
    styles = [Style(-1, "square", hollow=True), *(style_of(i) for i in range(len(series) - 1))]
    legend, rows = legend_of([(name, s._replace(dash="none")) for name, s in zip(series, styles, strict=True)])
    left = 14 + max(width(shorten(group.name, 16)) for group in groups)
    top, high = 12 + rows * ROW, BAR * (len(series) - 1)
    bottom = top + len(groups) * (high + GAP)
    across = [left + x.share(tick) * (WIDTH - left - RIGHT) for tick in x.ticks]
    grid = element(
        "g", *(element("path", d=f"M{one:.1f} {top:.1f}V{bottom:.1f}") for one in across), class_="grid", stroke=GRID
    )
    ticks = element("g", class_="soft", fill=SOFT)
    for one, tick in zip(across, x.ticks, strict=True):
        ticks.append(text(one, bottom + 18, f"{tick:g}", "middle"))
    made = []
    for i, group in enumerate(groups):
        y = top + GAP / 2 + i * (high + GAP)
        made.append(text(left - 8, y + high / 2 + 4.5, shorten(group.name, 16), "end", class_="ink", fill=INK))
        for j, (name, style, value) in enumerate(zip(series, styles, group.values, strict=True)):
            if value is not None:
                wide = x.share(value) * (WIDTH - left - RIGHT)
                made.append(linked("", f"{group.name}, {name}: {value:.2f} %", _bar(left, y, wide, high, j, style)))
    title = text((left + WIDTH - RIGHT) / 2, bottom + 40, x.title, "middle", class_="ink", fill=INK)
    return drawing(WIDTH, bottom + 50, grid, *made, ticks, title, legend)


def _bar(left: float, y: float, wide: float, high: float, index: int, style: Style) -> Element:
    if index == 0:
        frame = element("rect", class_="hollow", x=left, y=y - 2, width=wide, height=high + 4, fill=PAGE)
        return style.group(frame)
    y += (index - 1) * BAR
    bar = element("rect", x=left, y=y + 1, width=wide, height=BAR - 2, stroke="none", fill_opacity="0.75")
    return style.group(bar, style.mark(left + wide, y + BAR / 2))


class Entry(NamedTuple):
    """One row of a matrix, percent; None is missing."""

    name: str
    href: str
    values: Sequence[float | None]


def matrix(columns: Sequence[str], entries: Sequence[Entry], what: Axis) -> Element:
    """Draw a table of shares, each cell the darker the larger its share."""
    left = 14 + max(width(shorten(entry.name, 30)) for entry in entries)
    deep = 12 + max(width(shorten(column, 30)) for column in columns) * 0.71  # slanted by 45 degrees
    head = element("g", class_="ink", fill=INK)
    for i, column in enumerate(columns):
        x, y = left + (i + 0.5) * CELL, deep + 8
        head.append(text(x, y, shorten(column, 30), transform=f"rotate(-45 {x:.1f} {y:.1f})"))
    made = []
    for i, entry in enumerate(entries):
        y = deep + 16 + i * LINE
        words = text(left - 8, y + LINE / 2 + 4.5, shorten(entry.name, 30), "end", class_="ink", fill=INK)
        made.append(linked(entry.href, entry.name, words))
        for j, value in enumerate(entry.values):
            made += _cell(left + j * CELL, y, value, what)
    wide = left + len(columns) * CELL + deep
    return drawing(max(wide, WIDTH), deep + 24 + len(entries) * LINE, head, *made)


def _cell(x: float, y: float, value: float | None, what: Axis) -> list[Element]:
    words = text(x + CELL / 2, y + LINE / 2 + 4.5, show(value), "middle", class_="ink", fill=INK)
    if value is None:
        return [words]
    box = element(
        "rect",
        x=x,
        y=y,
        width=CELL - 2,
        height=LINE - 2,
        stroke="none",
        fill_opacity=f"{DARKEST * what.share(value):.3f}",
    )
    return [Style(0).group(box), words]
