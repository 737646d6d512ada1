"""Turn content into files, one module for each kind of page; dropping a module in adds its pages.

Every text passes through jinja2's autoescape; no page holds inline code or style.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from avbench.site.charts import board_charts, run_charts
from avbench.site.citation import read_citation
from avbench.site.content import Content
from avbench.site.evidence import find_evidence
from avbench.site.media import HIGH, LOW
from avbench.site.records import visible
from avbench.site.tables import MISSING, show

HERE = Path(__file__).resolve().parent.parent
DATATABLES = "datatables.net-3.1.5"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)

File = tuple[str, str | bytes | Path]
"""Path below the site's folder, and what stands there: text, bytes, or a file to be copied."""


class Render(Protocol):
    """Fill a template; `root` in it leads from the page to the site's folder."""

    def __call__(self, path: str, template: str, **context: Any) -> File: ...  # noqa: D102


@cache  # with its compiled templates
def environment() -> Environment:
    """Make the template environment: autoescape on, unknown names are errors."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.filters["show"] = show
    env.filters["plain"] = lambda data: visible(json.dumps(data, ensure_ascii=False, sort_keys=True))
    env.globals |= {"csp": CSP, "missing": MISSING, "datatables": DATATABLES, "version": _version()}
    env.globals |= {"about": read_citation()}
    env.globals |= {"board_charts": board_charts, "run_charts": run_charts}
    env.globals |= {"evidence": find_evidence, "decibels": (LOW, HIGH)}
    return env


def make_files(content: Content) -> Iterator[File]:
    """Yield every file of the site but the assets; each module here has `files(content, render)`."""
    env = environment()

    def render(path: str, template: str, **context: Any) -> File:
        return path, env.get_template(template).render(root="../" * path.count("/"), **context)

    for module in pkgutil.iter_modules(__path__):
        yield from importlib.import_module(f"{__name__}.{module.name}").files(content, render)


def _version() -> str:
    try:
        return version("avbench")
    except PackageNotFoundError:
        return "(not installed)"
