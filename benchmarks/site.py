"""Measure pages of many rows, and how long a site takes to build; write benchmarks/site.md.

One board of generated runs on 60 samples each, in headless Chromium from file://. Of 300 runs the whole site is built,
of 5,000 only the board's page: those runs with other names and shifted figures, for a ranking would compare 12 million
pairs. CPU seconds are those of the page's main thread, medians of five visits; a page that loads nothing but the
vendored table stands beside them, for what the machine and the browser take. Five minutes in all.

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests python benchmarks/site.py
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright
from site_runs import write_run
from tabulate import tabulate

from avbench.site import HOME, build, read_content
from avbench.site.boards import Board
from avbench.site.content import Content
from avbench.site.pages import DATATABLES, boards, environment

SAMPLES, RUNS, MANY, VISITS = 60, 300, 5000, 5
PAGE, DATA, PAIRS = "lb/bench/cvpr21-attack.html", "data/lb/bench/cvpr21-attack.js", "data/bench/cvpr21-attack.js"
BLANK = "blank.html"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def generate(root: Path) -> Path:
    """Write the runs of one board."""
    for i in range(RUNS):
        write_run(root, f"model-{i}", i, 0.1 + 0.8 * i / RUNS, SAMPLES, dataset__name="bench", dataset__size=SAMPLES,
                  model__title=f"A model with a long name, {i}", model__defense=f"defense {i % 20}")  # fmt: skip
    return root


def stretch(board: Board) -> Board:
    """Repeat the runs of a board under other names and with other figures."""
    draw, many = np.random.default_rng(0), []
    for i in range(MANY):
        scored = board.runs[i % RUNS]
        record = scored.run.record
        model = record.model.model_copy(update={"id": f"{record.model.id}-{i}", "title": f"{record.model.title}-{i}"})
        run = replace(scored.run, record=record.model_copy(update={"model": model}))
        value = scored.scores["value"] + draw.normal(size=len(scored.scores))
        scores = scored.scores.assign(value=value.clip(0, 100))
        many.append(replace(scored, run=run, scores=scores, place=i + 1, tie_group=i // 20 + 1))
    return replace(board, runs=many)


def write_page(board: Board, site: Path) -> None:
    """Put the page of a larger board in place of the one that is there."""
    env = environment()

    def render(path: str, template: str, **context: Any) -> tuple[str, str]:
        return path, env.get_template(template).render(root="../" * path.count("/"), **context)

    for name, text in boards.files(Content([board], []), render):
        (site / name).write_text(str(text), encoding="utf-8")


def write_blank(site: Path) -> None:
    table = f"vendor/{DATATABLES}/dataTables.min"
    (site / BLANK).write_text(f'<!doctype html><title>blank</title><script src="{table}.js" defer></script><p>blank')


def weigh(site: Path) -> dict[str, float]:
    """Sizes of a board's page, kB."""
    page, data = (site / PAGE).read_bytes(), (site / DATA).read_bytes()
    scripts = re.findall(r'<script src="([^"]*assets/[^"]*\.js)"', page.decode())
    return {
        "HTML, kB": len(page) / 1e3,
        "HTML, gzip, kB": len(gzip.compress(page)) / 1e3,
        "data, kB": len(data) / 1e3,
        "data, gzip, kB": len(gzip.compress(data)) / 1e3,
        "own JavaScript, kB": sum(((site / PAGE).parent / name).stat().st_size for name in scripts) / 1e3,
    }


def cpu(devtools: Any) -> float:
    """CPU seconds that the page's main thread has taken."""
    return {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]


def visit(browser: Any, path: Path) -> dict[str, float]:
    """Open a page, sort and filter it; seconds."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = cpu(devtools)
    page.goto(path.as_uri())
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
    paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    ready = page.evaluate("() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    found = {"first paint, s": paint / 1e3, "table ready, s": ready / 1e3, "table ready, CPU s": cpu(devtools) - before}

    def act(name: str, what: Callable[[], object]) -> None:
        start = cpu(devtools)
        what()
        found[f"{name}, CPU s"] = cpu(devtools) - start

    if path.name != BLANK:
        head = page.locator("#table th", has_text="Clean").locator("[tabindex]")
        act("sort", lambda: (head.press("Enter"), page.wait_for_selector("#table th[aria-sort=descending]")))
        chosen = page.get_by_role("combobox", name="Defense")
        filtered = "() => document.querySelector('.dt-info').textContent.endsWith('(filtered)')"
        act("filter", lambda: (chosen.select_option("defense 7"), page.wait_for_function(filtered)))
    context.close()
    return found


def measure(browser: Any, path: Path) -> dict[str, float]:
    visits = [visit(browser, path) for _ in range(VISITS)]
    return {name: statistics.median(one[name] for one in visits) for name in visits[0]}


def timed(results: Path, out: Path) -> float:
    """Build a site, CPU seconds."""
    start = time.process_time()
    build([results], out)
    return time.process_time() - start


def media(site: Path) -> float:
    """Images and sounds of the heaviest model page, kB, all of which must be loaded late."""
    heaviest = 0
    for page in (site / "models").glob("*.html"):
        tags = re.findall(r"<(?:img|audio|source)[^>]*>", page.read_text(encoding="utf-8"))
        found = {tag: re.search(r'src="([^"]+)"', tag) for tag in tags if "media/" in tag}
        assert all('loading="lazy"' in tag or 'preload="none"' in tag for tag in found), page
        heaviest = max(heaviest, sum((page.parent / src[1]).stat().st_size for src in found.values() if src))
    return heaviest / 1e3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site, real = Path(folder) / "site", Path(folder) / "real"
        executable = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        committed = timed(HOME / "results", real)
        results = generate(Path(folder) / "results")
        built = timed(results, site)
        write_blank(site)
        blank = measure(browser, site / BLANK)
        some = weigh(site) | measure(browser, site / PAGE)
        write_page(stretch(read_content([results]).boards[0]), site)
        many = weigh(site) | measure(browser, site / PAGE)
        limits = {"HTML, kB": "120 at 300 rows", "own JavaScript, kB": "20", "first paint, s": "1",
                  "table ready, CPU s": "0.3 for 4,700 rows more"}  # fmt: skip
        rows = [[name, blank.get(name), some[name], many[name], limits.get(name)] for name in some]
        facts = [
            ["48 committed runs, whole site, CPU s", committed],
            [f"{RUNS} generated runs on one board, whole site, CPU s", built],
            ["outcomes and pairs of these for the compare page, kB", (site / PAIRS).stat().st_size / 1e3],
            ["media of the heaviest model page, all loaded late (limit 1,500), kB", media(real)],
        ]
        told = f"{platform.machine()}, {os.cpu_count()} cores, Chromium {browser.version}"
    text = f"# The site\n\n{(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    heads = ["", "vendored table only", f"{RUNS} rows", f"{MANY:,} rows", "limit"]
    text += tabulate(rows, heads, tablefmt="github", floatfmt=".2f", missingval="")
    text += "\n\n" + tabulate(facts, ["", ""], tablefmt="github", floatfmt=".1f")
    text += f"\n\nMade on {time.strftime('%Y-%m-%d')}; {told}.\n"
    (Path(__file__).parent / "site.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
