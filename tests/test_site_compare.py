"""The compare page and its data: every figure is the package's, and the address holds the whole view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_runs import make_rows, write_run
from test_site_browser import HOSTILE, Watched, browser, watched  # noqa: F401

from avbench import api, files, store
from avbench.metrics import Rows
from avbench.metrics.outcomes import align
from avbench.metrics.robust_accuracy import robust_accuracy
from avbench.site import build
from avbench.site.boards import make_boards
from avbench.site.content import Content
from avbench.site.pages import samples
from avbench.site.records import read_runs
from avbench.site.tables import MISSING

RESULTS = Path(__file__).resolve().parent.parent / "leaderboard" / "results" / "avmnist-test-256-standard@1"
MODELS = ("concat", "minsim", "g-blend", "audio")  # nothing of the last two survives XA, so XAV has no row
RADII = ("XA:linf:0.003", "XA:linf:0.006", "XV:linf:0.003", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006")
PAGE = "compare.html"


def read(text: str) -> Any:
    assert text.startswith("avbenchBoard(")
    assert text.endswith(");\n")
    return json.loads(text.removeprefix("avbenchBoard(").removesuffix(");\n"))


@pytest.fixture(scope="module")
def real() -> Any:
    folders = [RESULTS / f"avbench--avmnist-{name}" for name in MODELS]
    content = Content(make_boards(read_runs(folders)), [])
    [(path, text)] = samples.files(content, lambda *_: ("", ""))  # type: ignore[arg-type]
    assert path == "data/avmnist/standard.js"
    return read(str(text))


def bits(data: Any, run: int, figure: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    codes = np.frombuffer(data["runs"][run]["marks"][figure // 5].encode(), dtype=np.uint8) - ord("0")
    return (codes >> figure % 5 & 1).astype(bool)


def test_every_pair_is_what_the_package_says_to_the_last_digit(real: Any) -> None:
    folders = [RESULTS / run["id"] for run in real["runs"]]
    pairs = iter(real["pairs"])
    for j, other in enumerate(folders):
        for one in folders[:j]:
            found = api.compare(one, other)
            assert len(found) == len(real["figures"])
            for shown, row in zip(next(pairs), found.to_dict("records"), strict=True):
                figures = [f"{row[name] + 0.0:+.2f}" for name in ("difference", "low", "high")]
                assert shown == [*(text.replace("-0.00", "+0.00") for text in figures), f"{row['p']:.4g}"]
    assert next(pairs, None) is None


def test_marks_and_figures_are_those_of_the_rows(real: Any) -> None:
    runs = [api.read_run(RESULTS / run["id"]) for run in real["runs"]]
    for place, outcomes in enumerate(align([Rows(run.frame, cells=run.cells) for run in runs])):
        assert list(outcomes.samples) == real["samples"]
        for figure, right in enumerate([outcomes.clean, *map(outcomes.robust, outcomes.threats)]):
            assert (bits(real, place, figure) == right).all()
        scores = [[score.value, score.low, score.high] for score in robust_accuracy(runs[place])]
        assert real["runs"][place]["values"][1:4] == [[round(x, 2) for x in score] for score in scores]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    results = root / "results"
    for seed, (name, strength) in enumerate([("weak", 0.2), ("strong", 0.8)]):
        write_run(results, name, seed, strength)
    write_run(results, "limited", 3, 0.9, n=128)
    write_run(results, "hostile", 4, 0.4, model__title=HOSTILE)
    for seed, name in enumerate(("weak", "strong")):
        folder = write_run(results, name, seed, suite="strength-curve", threats=list(RADII))
        rows = make_rows(seed, 0.5, 500, RADII)
        store.write_table(folder / "rows.parquet", rows, {})
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        clean = [cell for cell in record["cells"] if cell["threat"] == "clean"]
        attacked = [clean[0] | {"threat": t, "attack": a} for t in RADII for a in record["attacks"]]
        record |= {"cells": clean + attacked, "rows_sha256": files.sha256_file(folder / "rows.parquet")}
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        (folder / "health.json").unlink()
    build([results], root / "out")
    return root / "out"


def open_page(watched: Watched, site: Path, view: str = "") -> Any:  # noqa: F811
    watched.page.goto("about:blank")
    watched.page.goto((site / PAGE).as_uri() + view)
    watched.page.wait_for_selector("#result table")
    return watched.page


def cells(page: Any, label: str) -> list[list[str]]:
    rows = page.locator(f"[aria-label='{label}'] tbody tr").all()
    return [[" ".join(text.split()) for text in row.locator("th,td").all_inner_texts()] for row in rows]


@pytest.fixture
def seen(watched: Watched, site: Path) -> Iterator[Watched]:  # noqa: F811
    yield watched
    assert [url for url in watched.requests if not url.startswith(site.as_uri())] == []


def test_the_page_shows_what_its_data_say(seen: Watched, site: Path) -> None:
    data = read((site / "data" / "synthav" / "cvpr21-attack.js").read_text(encoding="utf-8"))
    page = open_page(seen, site, "#board=synthav/cvpr21-attack&models=avbench--weak,avbench--strong")
    [one, other] = [
        next(i for i, r in enumerate(data["runs"]) if r["id"] == f"avbench--{n}") for n in ("strong", "weak")
    ]
    assert one < other
    pairs = [(i, j) for j in range(len(data["runs"])) for i in range(j)]
    shown = cells(page, "Model strong minus Model weak")
    for figure, (row, pair) in enumerate(zip(shown, data["pairs"][pairs.index((one, other))], strict=True)):
        difference, low, high, p = pair
        said = "< 0.0001" if float(p) < 1e-4 else f"{float(p):.4f}"
        assert row[:3] == [data["figures"][figure], f"{difference} {low} to {high}", said]
        if row[0] != "Avg":
            a, b = bits(data, one, figure), bits(data, other, figure)
            assert row[3:] == [str(n.sum()) for n in (a & b, a & ~b, ~a & b, ~a & ~b)]
            assert float(difference) == pytest.approx((int(row[4]) - int(row[5])) / 5, abs=0.005)
    page.locator("summary", has_text="Samples on which they differ").click()
    ids = [id for id, a, b in zip(data["samples"], bits(data, one, 1), bits(data, other, 1), strict=True) if a > b]
    text = f"XA, only Model strong right ({len(ids)}): {', '.join(ids[:100])}"
    assert text in " ".join(page.locator("#result").inner_text().split())


def test_pairs_beyond_the_first_runs_of_a_board_are_counted_and_the_rest_is_left_to_the_command(
    seen: Watched, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site / "data" / "synthav" / "cvpr21-attack.js"
    whole, models = path.read_text(encoding="utf-8"), "avbench--strong,avbench--weak"
    before = cells(
        open_page(seen, site, f"#board=synthav/cvpr21-attack&models={models}"), "Model strong minus Model weak"
    )
    monkeypatch.setattr(samples, "PAIRED", 2)
    boards = make_boards(read_runs([site.parent / "results"]))
    shorter = {name: str(text) for name, text in samples.files(Content(boards, []), lambda *_: ("", ""))}  # type: ignore[arg-type]
    assert read(shorter["data/synthav/cvpr21-attack.js"])["pairs"] == read(whole)["pairs"][:1]
    path.write_text(f"avbenchBoard({json.dumps(read(whole) | {'pairs': []})});\n", encoding="utf-8")
    try:
        page = open_page(seen, site, f"#board=synthav/cvpr21-attack&models={models}")
        shown = cells(page, "Model strong minus Model weak")
        assert shown == [[row[0], *[MISSING] * 2, *row[3:]] for row in before]
        assert "avbench compare RUN RUN" in page.locator("#result").inner_text()
    finally:
        path.write_text(whole, encoding="utf-8")


def test_pairs_count_only_samples_that_both_have(seen: Watched, site: Path) -> None:
    page = open_page(seen, site, "#board=synthav/cvpr21-attack&models=avbench--strong,avbench--limited")
    [row, *_] = cells(page, "Model strong minus Model limited")
    assert sum(map(int, row[3:])) == 128


def test_the_address_holds_the_view_and_unknown_parts_are_ignored(seen: Watched, site: Path) -> None:
    page = open_page(seen, site, "#board=synthav/none&models=x,avbench--weak,avbench--strong&more=1")
    page.get_by_label("Model 3").select_option(label="Model limited")
    view = "#board=synthav/cvpr21-attack&models=avbench--strong,avbench--weak,avbench--limited"
    assert page.url.endswith(view)
    before = page.locator("#result").inner_text()
    assert before.count(" minus ") == 3
    page.wait_for_load_state("networkidle")  # else the next page cuts it off
    assert open_page(seen, site, view).locator("#result").inner_text() == before


def test_another_board_is_loaded_when_it_is_chosen_with_its_curves(seen: Watched, site: Path) -> None:
    page = open_page(seen, site)
    assert page.locator("figure").count() == 0
    page.get_by_label("Board").select_option("synthav/strength-curve")
    page.wait_for_selector("figure")
    data = read((site / "data" / "synthav" / "strength-curve.js").read_text(encoding="utf-8"))
    assert page.locator("figcaption").all_inner_texts()[0] == "XA linf white-box: accuracy (%) against radius"
    assert page.locator("figure").count() == 2  # XAV has one radius only
    value = data["runs"][0]["values"][data["figures"].index("XA:linf:0.006")][0]
    x, y = map(float, page.locator("figure polyline").first.get_attribute("points").split()[-1].split(","))
    assert (x, y) == pytest.approx((340, 170 - 1.6 * value), abs=0.02)


def test_hostile_titles_stay_text_there_too(seen: Watched, site: Path) -> None:
    page = open_page(seen, site, "#board=synthav/cvpr21-attack&models=avbench--hostile,avbench--weak")
    assert HOSTILE in page.locator("#result").inner_text()
    assert page.locator("#result img, #result script").count() == 0
    assert "hacked" not in page.title()


def test_it_fits_a_phone(browser: Any, site: Path) -> None:  # noqa: F811
    phone = Watched(browser, offline=True, viewport={"width": 375, "height": 700})
    for board in ("cvpr21-attack", "strength-curve"):
        page = open_page(phone, site, f"#board=synthav/{board}")
        page.locator("#result summary").first.click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 375
    phone.context.close()
    assert phone.complaints == []


def test_without_javascript_it_says_what_it_needs(browser: Any, site: Path) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((site / PAGE).as_uri())
    assert "avbench compare RUN RUN" in page.locator("main").inner_text()
    context.close()


def test_a_site_without_boards_has_no_broken_page(watched: Watched, tmp_path: Path) -> None:  # noqa: F811
    build([], tmp_path / "out")
    watched.page.goto((tmp_path / "out" / PAGE).as_uri())
    assert "no board yet" in watched.page.locator("main").inner_text()
