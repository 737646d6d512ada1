"""Drawings in a field of two axes: points, and lines with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.etree.ElementTree import Element

from avbench.site.charts.svg import (
    GUIDE,
    INK,
    LEFT,
    RIGHT,
    SIZE,
    WIDTH,
    Axis,
    Frame,
    Style,
    element,
    shorten,
    style_of,
    text,
    width,
)

Spot = tuple[float, float]


class Point(NamedTuple):
    """A point that tells what it is; if it does not, it is a dot in the crowd."""

    x: float
    y: float
    label: str = ""  # beside it, where there is room
    says: str = ""
    href: str = ""


class Line(NamedTuple):
    """A curve, with its band if it has one; a reference is drawn as such."""

    name: str
    points: Sequence[Spot]
    band: Sequence[Spot] = ()  # lowest and highest at each point
    href: str = ""
    reference: bool = False


class Guide(NamedTuple):
    """A line that is no measurement: a diagonal, a front, a trend."""

    name: str
    points: Sequence[Spot]


def linked(href: str, says: str, *children: Element) -> Element:
    """Make something that tells what it is, and leads there."""
    title = element("title", says)
    return element("a", title, *children, href=href, aria_label=says) if href else element("g", title, *children)


def scatter(
    x: Axis, y: Axis, series: Mapping[str, tuple[Style, Sequence[Point]]], guides: Sequence[Guide] = ()
) -> Element:
    """Draw points, each series in its own shape, with names where they fit."""
    series = {name: (style, points) for name, (style, points) in series.items() if points}
    legend = [(name, style) for name, (style, _) in series.items()] if len(series) > 1 else []
    frame = Frame(x, y, [*legend, *((guide.name, GUIDE) for guide in guides)])
    marks = [GUIDE.group(GUIDE.line([frame.at(*point) for point in guide.points])) for guide in guides]
    labels = _Labels(frame, [frame.at(p.x, p.y) for _, points in series.values() for p in points])
    for style, points in series.values():
        dots = "".join("M{:.1f} {:.1f}h0".format(*frame.at(p.x, p.y)) for p in points if not p.says)
        crowd = [element("path", d=dots, stroke_width=6, stroke_linecap="round", stroke_opacity="0.5")] if dots else []
        named = [p for p in points if p.says]
        made = [
            linked(p.href, p.says, style.mark(*frame.at(p.x, p.y)), *labels.place(p.label, *frame.at(p.x, p.y)))
            for p in named
        ]
        marks.append(style.group(*crowd, *made))
    return frame.draw(*marks)


def lines(x: Axis, y: Axis, drawn: Sequence[Line]) -> Element:
    """Draw curves with their bands, each in its own color, dash and shape."""
    styles = [style_of(i) for i in range(len(drawn))]
    styles = [
        s._replace(color=-1, dash="4 4", hollow=True) if d.reference else s for s, d in zip(styles, drawn, strict=True)
    ]
    frame = Frame(x, y, [(shorten(line.name, 38), style) for line, style in zip(drawn, styles, strict=True)])
    bands, marks = [], []
    for line, style in zip(drawn, styles, strict=True):
        at = [frame.at(*point) for point in line.points]
        if line.band:
            xs = [point[0] for point in line.points]
            around = [(one, low) for one, (low, _) in zip(xs, line.band, strict=True)]
            around += [(one, high) for one, (_, high) in reversed(list(zip(xs, line.band, strict=True)))]
            path = " ".join("{:.1f},{:.1f}".format(*frame.at(*point)) for point in around)
            bands.append(style.group(element("polygon", points=path, fill_opacity="0.15", stroke="none")))
        curve = [style.line(at), *(style.mark(*spot) for spot in at)]
        if line.href:
            marks.append(style.group(linked(line.href, line.name, *curve)))
        else:
            told = (f"{line.name} at {px:g}: {py:.2f} %" for px, py in line.points)
            dots = (linked("", says, mark) for says, mark in zip(told, curve[1:], strict=True))
            marks.append(style.group(curve[0], *dots))
    return frame.draw(*bands, *marks)


class _Labels:
    """Find room for names beside points, and leave out those for which there is none."""

    def __init__(self, frame: Frame, points: Sequence[Spot]) -> None:
        self._right, self._top = WIDTH - RIGHT, frame.top
        self._taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in points]

    def place(self, label: str, x: float, y: float) -> list[Element]:
        """Write words to the right, left, above or below of its point."""
        words = shorten(label)
        wide, half = width(words), SIZE * 0.45
        for dx, dy, anchor in (
            (9, half, "start"), (-9, half, "end"), (0, -9, "middle"), (0, 9 + SIZE * 0.8, "middle"),
            (7, -7, "start"), (7, 7 + SIZE * 0.8, "start"), (-7, -7, "end"), (-7, 7 + SIZE * 0.8, "end"),
        ):  # fmt: skip
            left = x + dx - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            box = (left, y + dy - SIZE * 0.8, left + wide, y + dy + 2)
            if box[0] >= LEFT and box[2] <= self._right and box[1] >= self._top and not self._hits(box):
                self._taken.append(box)
                return [text(x + dx, y + dy, words, anchor, class_="label", fill=INK, stroke="none")]
        return []

    def _hits(self, box: tuple[float, float, float, float]) -> bool:
        return any(
            box[0] < right and left < box[2] and box[1] < bottom and top < box[3]
            for left, top, right, bottom in self._taken
        )


def front(points: Sequence[Spot]) -> list[Spot]:
    """Join by steps the points that no other one beats in both values.

    >>> front([(90, 10), (80, 40), (70, 30), (95, 5)])
    [(80, 40), (80, 10), (90, 10), (90, 5), (95, 5)]
    """
    best: list[Spot] = []
    for x, y in sorted(set(points), reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    best.reverse()
    steps = best[:1]
    for (x, _), after in pairwise(best):
        steps += [(x, after[1]), after]
    return steps
