"""The built site in a real browser: headless Chromium, offline, from a file and from a sub-folder over http."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_runs import sha, write_run

from avbench.site import build
from avbench.site.server import open_server

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
PAGES = ("index.html", "method.html", "404.html", "lb/synthav/cvpr21-attack.html", "lb/synthav/quick.html",
         "lb/mit-music/tian2021-table3.html", "models/avbench--weak.html", "models/avbench--hostile.html",
         f"evals/{sha('hostile cvpr21-attack')[:12]}.html")  # fmt: skip
BOARD = "lb/synthav/cvpr21-attack.html"
HOSTILE = '"><script>document.title="hacked"</script><img src=x onerror=alert(2)>'

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="chromium is not installed (Debian package chromium)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    results = root / "results"
    for seed, (name, strength) in enumerate([("weak", 0.2), ("middle", 0.5), ("strong", 0.8)]):
        write_run(results, name, seed, strength)
    write_run(results, "limited", 3, 0.9, n=128)
    write_run(results, "hostile", 4, 0.4, model__title=HOSTILE)
    write_run(results, "weak", 0, 0.2, n=64, suite="quick")
    build([results], root / "www" / "sub" / "folder")
    return root / "www" / "sub" / "folder"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page whose requests and complaints are kept."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", self.failed)

    def failed(self, request: Any) -> None:
        """A file that is missing or refused; one still loading when its page goes away is no fault."""
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {request.url}: {request.failure}")

    def open(self, site: Path, name: str) -> Any:
        self.page.goto((site / name).as_uri())
        self.page.wait_for_selector("header button.theme")
        return self.page


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    watched = Watched(browser, offline=True)
    yield watched
    watched.context.close()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith("file://")] == []


def sort(page: Any, title: str, wanted: str) -> None:
    """Press Enter on a column's sort button and wait until it says so; DataTables sorts in a later task."""
    page.locator("#table th", has_text=title).locator("[tabindex]").press("Enter")
    page.wait_for_selector(f"#table th[aria-sort={wanted}]:has-text('{title}')", timeout=10_000)


def column(page: Any, title: str) -> list[str]:
    """First line of each cell of a column, as people see it."""
    heads = [text.strip() for text in page.locator("#table thead th").all_inner_texts()]
    place = heads.index(title)
    return [row.locator("td").nth(place).inner_text().split("\n")[0] for row in page.locator("#table tbody tr").all()]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_from_a_file_without_complaint(watched: Watched, site: Path, name: str) -> None:
    page = watched.open(site, name)
    assert page.locator("h1").count() == 1
    assert any(url.endswith("site.css") for url in watched.requests)


def test_keyboard_sort_flips_aria_sort_and_keeps_focus(watched: Watched, site: Path) -> None:
    page = watched.open(site, BOARD)
    for wanted in ("descending", "ascending", "descending"):
        sort(page, "Clean", wanted)
        assert page.evaluate("() => document.activeElement.closest('th').textContent.trim()") == "Clean"
        values = [float(text) for text in column(page, "Clean")]
        assert values == sorted(values, reverse=wanted == "descending")
        assert page.locator("[aria-sort]").count() == 1


def test_missing_values_sort_last_both_ways(watched: Watched, site: Path) -> None:
    page = watched.open(site, BOARD)
    assert column(page, "Rank")[-1] == "\u2013"
    for wanted in ("descending", "ascending"):
        sort(page, "Rank", wanted)
        ranks = column(page, "Rank")
        assert ranks[-1] == "\u2013"
        assert [int(rank) for rank in ranks[:-1]] == sorted(map(int, ranks[:-1]), reverse=wanted == "descending")


def test_a_filter_says_how_many_rows_it_hides(watched: Watched, site: Path) -> None:
    page = watched.open(site, BOARD)
    page.get_by_label("Search").fill("strong")
    page.wait_for_function("() => document.querySelectorAll('#table tbody tr').length === 1")
    assert page.locator(".dt-info").inner_text() == "1 of 5 (filtered)"


def test_per_attack_columns_come_on_demand(watched: Watched, site: Path) -> None:
    page = watched.open(site, BOARD)
    before = page.locator("#table thead th").count()
    page.get_by_role("combobox", name="View").select_option("all")
    assert page.locator("#table thead th").count() >= before + 9


def test_hostile_titles_stay_text(watched: Watched, site: Path) -> None:
    for name in (BOARD, "models/avbench--hostile.html"):
        page = watched.open(site, name)
        assert "hacked" not in page.title().replace(HOSTILE, "")
        assert HOSTILE in page.locator("main").inner_text()
        assert page.locator("img").count() == 0


@pytest.mark.parametrize("width", [375, pytest.param(1280, marks=pytest.mark.slow)])
def test_nothing_scrolls_sideways(browser: Any, site: Path, width: int) -> None:
    watched = Watched(browser, offline=True, viewport={"width": width, "height": 700})
    for name in PAGES:
        page = watched.open(site, name)
        for box in page.locator("details").all():
            box.locator("summary").click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
    watched.context.close()
    assert watched.complaints == []


def test_the_theme_switch_is_kept_from_page_to_page(watched: Watched, site: Path) -> None:
    background = "() => getComputedStyle(document.body).backgroundColor"
    page = watched.open(site, "index.html")
    light = page.evaluate(background)
    page.locator("button.theme").click()
    page.locator("button.theme").click()
    assert page.evaluate(background) != light
    dark = page.evaluate(background)
    assert watched.open(site, "method.html").evaluate(background) == dark


def test_without_javascript_the_rows_are_the_same(browser: Any, watched: Watched, site: Path) -> None:
    plain = browser.new_context(java_script_enabled=False, offline=True)
    for name in (BOARD, "lb/mit-music/tian2021-table3.html", "lb/audioset/li2022-table1.html"):
        other = plain.new_page()
        other.goto((site / name).as_uri())
        page = watched.open(site, name)
        tables = [
            [[" ".join(cell.split()) for cell in row.locator("td").all_inner_texts()] for row in rows.all()]
            for rows in (p.locator("#table tbody tr") for p in (page, other))
        ]
        assert tables[0] == tables[1]
        classes = [p.locator("#table tbody tr").first.get_attribute("class") for p in (page, other)]
        assert classes[0] == classes[1]
    plain.close()


def test_it_works_in_a_sub_folder_over_http(browser: Any, site: Path) -> None:
    www = site.parent.parent
    (www / "index.html").write_text("<!doctype html>", encoding="utf-8")
    with open_server(www, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        watched = Watched(browser)
        for name in PAGES:
            watched.page.goto(f"{here}sub/folder/{name}", wait_until="networkidle")  # else the next page cuts it off
            watched.page.wait_for_selector("header button.theme")
        watched.context.close()
        server.shutdown()
    assert [url for url in watched.requests if not url.startswith(f"{here}sub/folder/")] == []
    assert watched.complaints == []
