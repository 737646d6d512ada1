"""Pieces of a drawing: SVG elements, marks, axes with their grid, and a legend.

Colors stand twice: as attributes, so that a downloaded file stands alone, and as classes, by which charts.css
overrides them in a page. Nothing is told by color alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from avbench.errors import DataError

PAGE, INK, SOFT, GRID = "#ffffff", "#1b2430", "#566272", "#dbe1e8"
COLORS = ("#1f5f8b", "#b4540a", "#2f7d46", "#7b3fa0")  # classes c0 to c3
SHAPES = ("circle", "square", "diamond", "triangle")
DASHES = ("9 0", "7 4", "2 3", "10 3 2 3")  # the first is solid
FONT = "DejaVu Sans, Verdana, sans-serif"
SIZE = 14  # of text, in units of the drawing, as are all lengths
WIDTH, HEIGHT = 420, 260  # of the drawing, and of the field inside its axes
LEFT, RIGHT, BOTTOM, ROW = 58, 26, 50, 20  # margins, and a row of the legend


def element(tag: str, *children: Element | str, **attributes: str | float) -> Element:
    """Make an element; `font_size` stands for font-size, `class_` for class."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): _short(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, str):
            made.text = child
        else:
            made.append(child)
    return made


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, anchor: str = "start", **attributes: str | float) -> Element:
    """Write words; `anchor` is start, middle or end."""
    more = {} if anchor == "start" else {"text_anchor": anchor}
    return element("text", words, x=x, y=y, **more, **attributes)


def width(words: str) -> float:
    """Guess how wide words are."""
    return 0.64 * SIZE * len(words)


def shorten(words: str, most: int = 24) -> str:
    """Cut words that would not fit."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


class Style(NamedTuple):
    """Tell series apart: by color, shape, dash and filling at once."""

    color: int = 0
    shape: str = "circle"
    dash: str = "none"
    hollow: bool = False

    def mark(self, x: float, y: float) -> Element:
        """Draw a point."""
        filling = {"class_": "hollow", "fill": PAGE} if self.hollow else {}
        if self.shape == "circle":
            return element("circle", cx=x, cy=y, r=4.5, **filling)
        path = {
            "square": "m-4-4h8v8h-8z",
            "diamond": "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
            "triangle": "m0-5.5l5.2 9h-10.4z",
        }[self.shape]
        return element("path", d=f"M{_short(x)} {_short(y)}{path}", **filling)

    def line(self, points: Sequence[tuple[float, float]]) -> Element:
        """Join points."""
        path = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
        return element("polyline", points=path, fill="none", stroke_width=2, stroke_dasharray=self.dash)

    def group(self, *children: Element) -> Element:
        """Give children the color."""
        if self.color < 0:
            return element("g", *children, class_="soft", fill=SOFT, stroke=SOFT)
        return element("g", *children, class_=f"c{self.color}", fill=COLORS[self.color], stroke=COLORS[self.color])


GUIDE = Style(-1, dash="4 4")  # of lines that are no measurement


def style_of(index: int) -> Style:
    """Style of the n-th of several series: 32 different ones."""
    return Style(index % 4, SHAPES[(index + index // 4) % 4], DASHES[index % 4], index // 16 % 2 == 1)


class Axis(NamedTuple):
    """An axis from its first tick to its last."""

    title: str
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Place a value between both ends, 0 to 1.

        Raises:
            DataError: if it lies outside, as no share of samples can.
        """
        low, high = self.ticks[0], self.ticks[-1]
        if not low - 1e-9 <= value <= high + 1e-9:
            raise DataError(f"a chart cannot show {value:g} as {self.title}: it is not between {low:g} and {high:g}")
        return (value - low) / (high - low)


def percent(title: str) -> Axis:
    """Make an axis of shares, in percent."""
    return Axis(title, (0, 20, 40, 60, 80, 100))


def shares(title: str, values: Sequence[float]) -> Axis:
    """Make an axis of shares in percent that holds all values, and little more."""
    for value in values:
        percent(title).share(value)
    return Axis(title, tuple(tick for tick in fitted(title, values).ticks if 0 <= tick <= 100))


def fitted(title: str, values: Sequence[float]) -> Axis:
    """Make an axis that holds all values, with about five round ticks."""
    low, high = min(values), max(values)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for factor in (1, 2, 5, 10) if (step := factor * power) >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(title, tuple(round(i * step, 12) for i in range(first, last + 1)))


class Frame:
    """A field with two axes, under a legend.

    Args:
        legend: words and style of each series.
    """

    def __init__(self, x: Axis, y: Axis, legend: Sequence[tuple[str, Style]]) -> None:
        self.x, self.y = x, y
        self._legend, rows = legend_of(legend)
        self.top = 12 + rows * ROW

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the drawing."""
        return LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT), self.top + (1 - self.y.share(y)) * HEIGHT

    def draw(self, *marks: Element) -> Element:
        """Put everything together."""
        bottom, right = self.top + HEIGHT, WIDTH - RIGHT
        grid, ticks = element("g", class_="grid", stroke=GRID), element("g", class_="soft", fill=SOFT)
        for tick in self.x.ticks:
            x, _ = self.at(tick, self.y.ticks[0])
            grid.append(element("path", d=f"M{_short(x)} {_short(self.top)}V{_short(bottom)}"))
            ticks.append(text(x, bottom + 18, f"{tick:g}", "middle"))
        for tick in self.y.ticks:
            _, y = self.at(self.x.ticks[0], tick)
            grid.append(element("path", d=f"M{LEFT} {_short(y)}H{right}"))
            ticks.append(text(LEFT - 8, y + 4.5, f"{tick:g}", "end"))
        middle = self.top + HEIGHT / 2
        titles = element(
            "g",
            text((LEFT + right) / 2, bottom + 40, self.x.title, "middle"),
            text(16, middle, self.y.title, "middle", transform=f"rotate(-90 16 {_short(middle)})"),
            class_="ink",
            fill=INK,
        )
        return drawing(WIDTH, bottom + BOTTOM, grid, ticks, titles, *marks, self._legend)


def legend_of(series: Sequence[tuple[str, Style]]) -> tuple[Element, int]:
    """Write the legend in as many rows as it needs, and tell how many."""
    made = element("g")
    x, row = 6.0, 0
    for words, style in series:
        needed = 34 + width(words) + 16
        if x > 6 and x + needed > WIDTH:
            x, row = 6.0, row + 1
        y = 12 + row * ROW
        ends = [(x, y), (x + 26, y)]
        sample = [style.line(ends)] if style.dash != "none" or style == GUIDE else []
        made.append(style.group(*sample, *([] if style == GUIDE else [style.mark(x + 13, y)])))
        made.append(text(x + 34, y + 4.5, words, class_="ink", fill=INK))
        x += needed
    return made, row + 1 if series else 0


def drawing(wide: float, high: float, *parts: Element) -> Element:
    """Make the drawing itself."""
    return element(
        "svg", *parts, viewBox=f"0 0 {_short(wide)} {_short(high)}", width=wide, height=high, font_family=FONT,
        font_size=SIZE,
    )  # fmt: skip
