"""A chart: its drawing in a page, as SVG and as PNG, and the data that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

from avbench.site.charts.svg import PAGE, WIDTH, element

Value = str | float | None  # in a table of data; None is missing
ZOOM = 1.5  # of the PNG


@dataclass(frozen=True)
class Chart:
    """One chart, with addresses as they are in its page."""

    key: str  # its files are charts/KEY.svg and .png
    title: str
    text: str  # how to read it
    drawing: Element
    columns: Sequence[str]  # of its data
    rows: Sequence[Sequence[Value]]

    @property
    def anchor(self) -> str:
        """Name of its place in the page."""
        return "chart-" + self.key.replace("/", "-")

    @property
    def wide(self) -> bool:
        """Tell whether it is wider than a column."""
        return float(self.drawing.attrib["width"]) > WIDTH

    @property
    def inline(self) -> Markup:
        """Write it for a page; what strangers wrote was escaped when the tree was written."""
        made = deepcopy(self.drawing)
        if made.find(".//a") is None:
            made.attrib |= {"role": "img", "aria-label": self.title}
        return Markup(tostring(made, encoding="unicode"))  # noqa: S704

    @property
    def svg(self) -> str:
        """Write it as a file that stands alone: on white, without links."""
        made = deepcopy(self.drawing)
        for link in made.iter("a"):
            link.tag, link.attrib = "g", {}
        made.set("xmlns", "http://www.w3.org/2000/svg")
        made.insert(0, element("title", self.title))
        made.insert(1, element("rect", width="100%", height="100%", fill=PAGE))
        return tostring(made, encoding="unicode")

    @property
    def png(self) -> bytes:
        """Draw it as a picture, in the font that matplotlib brings, so that no machine draws it otherwise."""
        return _picture(self.svg)


@lru_cache(maxsize=2000)  # a site is built again when a run comes in, and most of its charts are as before
def _picture(svg: str) -> bytes:
    from matplotlib import get_data_path
    from resvg_py import svg_to_bytes

    font = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return bytes(
        svg_to_bytes(
            svg_string=svg, zoom=ZOOM, skip_system_fonts=True, font_files=[str(font)], font_family="DejaVu Sans"
        )
    )
