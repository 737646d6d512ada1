"""Every kind of page of the committed leaderboard: accessible in both themes, quiet, and as wide as a phone."""

from __future__ import annotations

import importlib.resources
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import thinned
from test_site_browser import Watched, browser, pytestmark  # noqa: F401

from avbench import files
from avbench.site import HOME, build, read_content
from avbench.site.releases import freeze

MODELS = ("concat", "video", "minsim", "adversarial")  # of AV-MNIST
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]
COLORS = ["color-contrast", "link-in-text-block"]  # in which alone the themes differ
THEMES = thinned([("light", RULES), ("dark", COLORS), ("dark", RULES)], 3)
PHONE = {"width": 375, "height": 700}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for run in (files.root() / "leaderboard" / "results").glob("avmnist-*/*"):
        if run.name.rpartition("-")[2] in MODELS:
            shutil.copytree(run, root / "results" / run.parent.name / run.name)
    (root / "published").symlink_to(HOME / "published")
    freeze(read_content([root / "results"], root), "2026.1", root / "releases")
    build([root / "results"], root / "site", root)
    return root / "site"


@pytest.fixture(scope="module")
def kinds(site: Path) -> dict[str, str]:
    """Of each kind of page the longest, as it is shown: comparing some models, with a column more."""
    found: dict[str, Path] = {}
    for path in site.rglob("*.html"):
        name = path.relative_to(site)
        kind = "reported" if "-table" in name.name else name.parts[0]
        if kind not in found or path.stat().st_size > found[kind].stat().st_size:
            found[kind] = path
    shown = {kind: path.relative_to(site).as_posix() for kind, path in found.items()}
    ids = ",".join(f"avbench--avmnist-{name}" for name in MODELS[:3])
    board = shown["lb"].removeprefix("lb/").removesuffix(".html")
    return shown | {"compare.html": f"compare.html#board={board}&models={ids}"}


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core, which looks for what keeps people out."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    return (importlib.resources.files(package) / "axe.min.js").read_text(encoding="utf-8")


KINDS = ("index.html", "lb", "reported", "models", "compare.html", "datasets", "threats", "evals", "submit.html",
         "try.html", "data", "method.html", "changes.html", "cite.html", "v", "404.html")  # fmt: skip


def test_there_are_no_other_kinds_of_pages(kinds: dict[str, str]) -> None:
    assert set(kinds) == set(KINDS)


def open_page(watched: Watched, site: Path, name: str) -> Any:
    page, _, view = name.partition("#")
    watched.page.goto(f"{(site / page).as_uri()}{'#' if view else ''}{view}")
    watched.page.wait_for_selector("header button.theme")
    if "compare" in page:
        watched.page.wait_for_selector("main table")
    if "lb/" in page:
        watched.page.wait_for_selector("#board.live")
    return watched.page


@pytest.fixture(scope="module", params=THEMES, ids=["light", "dark-colors", "dark"])
def themed(request: pytest.FixtureRequest, browser: Any) -> Iterator[tuple[Watched, list[str]]]:  # noqa: F811
    theme, rules = request.param
    watched = Watched(browser, offline=True, color_scheme=theme)
    yield watched, rules
    watched.context.close()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file://", "data:"))] == []


@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(
    themed: tuple[Watched, list[str]], site: Path, kinds: dict[str, str], axe: str, kind: str
) -> None:
    watched, rules = themed
    page = open_page(watched, site, kinds[kind])
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    page.evaluate(axe)
    found = page.evaluate(
        "rules => axe.run(document, {runOnly: rules, preload: false}).then(r => r.violations.map(v => "
        "[v.id, v.impact, v.nodes.map(n => n.html.slice(0, 200) + ' :: ' + n.failureSummary).slice(0, 3)]))",
        rules,
    )
    assert found == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_scrolls_sideways_on_a_phone(
    browser: Any,  # noqa: F811
    site: Path,
    kinds: dict[str, str],
    kind: str,
) -> None:
    watched = Watched(browser, offline=True, viewport=PHONE)
    page = open_page(watched, site, kinds[kind])
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    watched.context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_whole_without_a_script(
    browser: Any,  # noqa: F811
    site: Path,
    kinds: dict[str, str],
    kind: str,
) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((site / kinds[kind].partition("#")[0]).as_uri())
    assert page.locator("h1").count() == 1
    assert len(re.findall(r"\w+", page.locator("main").inner_text())) > 15
    context.close()
