"""try.html: a file lands where its run would, with the figures of the board; whatever else is dropped is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import thinned
from parquet_bombs import BOMBS, parquet
from site_runs import make_rows, write_run
from test_site_browser import Watched, browser, watched  # noqa: F401

from avbench import api, store
from avbench.site import build
from avbench.site.tables import MISSING

RESULTS = Path(__file__).resolve().parent.parent / "leaderboard" / "results"
RUNS = [
    RESULTS / f"avmnist-test-256-{suite}@1" / f"avbench--avmnist-{model}"
    for suite in ("standard", "cvpr21-defense")
    for model in ("concat", "adversarial", "g-blend")
]
FIGURES = ("clean-accuracy", "robust-accuracy", "avg")
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("try")
    for seed, (name, strength) in enumerate([("weak", 0.2), ("strong", 0.8)]):
        write_run(root / "results", name, seed, strength)
    build([root / "results", *RUNS], root / "out")
    return root / "out"


@pytest.fixture
def page(watched: Watched, site: Path) -> Any:  # noqa: F811
    watched.page.goto((site / "try.html").as_uri(), wait_until="networkidle")
    before = len(watched.requests)
    yield watched.page
    known = (site / "data").as_uri(), (site / "assets" / "icon.svg").as_uri()  # the icon comes when the browser likes
    assert [url for url in watched.requests[before:] if not url.startswith(known)] == []


def drop(page: Any, content: bytes | Path, name: str = "rows.parquet") -> str:
    """Choose a file and wait for the verdict."""
    page.locator("#status").evaluate("node => { node.textContent = ''; }")
    page.set_input_files(
        "#file", content if isinstance(content, Path) else {"name": name, "mimeType": "", "buffer": content}
    )
    page.wait_for_function("() => !['', 'Reading …'].includes(document.getElementById('status').textContent)")
    return str(page.locator("#status").inner_text())


def placed(page: Any) -> list[list[str]]:
    rows = [row.locator("th,td").all_inner_texts() for row in page.locator("#result tbody tr").all()]
    return [[text.split("\n")[0].split("  ")[0].strip() for text in row] for row in rows]


def mine(page: Any) -> list[str]:
    [row] = [row for row in placed(page) if row[0].startswith("Your file")]
    return row


def written(rows: pd.DataFrame, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(rows[name], from_pandas=False) for name in rows}), out, **options)
    return out.getvalue()


@pytest.mark.parametrize("run", thinned(RUNS, 4), ids=lambda run: f"{run.parent.name}-{run.name}")
def test_a_published_file_has_the_figures_and_the_place_of_its_run(page: Any, run: Path) -> None:
    verdict = drop(page, run / "rows.parquet")
    scores = api.score(run)
    worst = scores[scores["metric"].isin(FIGURES) & scores["attack"].isin(["none", "worst case"])]
    by_threat = {row["threat"]: f"{row['value']:.2f}" for row in worst.to_dict("records")}
    threats = ["mean of XA, XV, XAV", "clean", "XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"]
    assert mine(page)[2:] == [by_threat[threat] for threat in threats]
    twin = next(row for row in placed(page) if row[2:] == mine(page)[2:] and row != mine(page))
    assert mine(page)[1] == twin[1]
    assert f"256 samples; nothing was uploaded. Place {twin[1]}, not verified, not published." in verdict
    title = page.locator("#result h2").inner_text()
    assert title == f"AV-MNIST, {run.parent.name.removeprefix('avmnist-test-256-')}"


def test_a_better_file_moves_the_others_down(page: Any) -> None:
    drop(page, written(make_rows(9, 0.5, 500)))
    assert [row[:2] for row in placed(page)] == [
        ["Model strong", "1"],
        ["Your file", "2"],
        ["Model weak", "3"],
    ]


def test_a_partial_file_says_so_and_takes_no_place(page: Any) -> None:
    assert "Partial: 128 of 500 samples, so it takes no place." in drop(page, written(make_rows(9, 0.5, 128)))
    assert mine(page)[1] == MISSING


def test_a_suite_without_a_board_has_figures_but_no_place(page: Any) -> None:
    rows = make_rows(9, 0.5, 64, ("XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"))
    verdict = drop(page, written(rows[rows["attack"] != "mim"]))
    assert "No board here has its samples" in verdict
    assert page.locator("#result h2").inner_text() == "quick@1"
    right = rows[rows["attack"] != "mim"].groupby("sample")
    clean = rows[(rows["threat"] == "clean") & (rows["attack"] == "none")].set_index("sample")["correct"]
    attacked = rows[rows["threat"].str.startswith("XA:") & (rows["attack"] != "mim")]
    robust = attacked.groupby("sample")["correct"].all() & clean
    assert len(right) == 64
    assert mine(page)[3:5] == [f"{100 * clean.mean():.2f}", f"{100 * robust.mean():.2f}"]


def test_ties_round_as_python_rounds_them(page: Any) -> None:
    rows = make_rows(9, 1.0, 32, ("XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"))
    shown = []
    for right in range(33):
        found = rows[rows["attack"] != "mim"].assign(correct=rows["sample"] < f"test-{right:05d}")
        drop(page, written(found))
        shown.append(mine(page)[3])
    assert shown == [f"{100 * (right / 32):.2f}" for right in range(33)]


CHANGES: dict[str, tuple[Change, str]] = {
    "a row twice": (lambda f: pd.concat([f, f.tail(1)]), "is there twice; drop one run at a time"),
    "a missing row": (lambda f: f.assign(correct=True).drop(f.index[-1]), "and nothing broke it"),
    "a missing clean row": (lambda f: f.drop(f.index[0]), "samples lack the row of their clean clip"),
    "no clean row": (lambda f: f[f["threat"] != "clean"], "samples lack the row of their clean clip"),
    "a margin that is NaN": (lambda f: f.assign(margin=np.nan), "has the margin NaN"),
    "no margin": (lambda f: f.assign(margin=None), "has the margin null"),
    "no verdict": (lambda f: f.assign(correct=None), "has no sample or no verdict"),
    "a verdict that is a number": (lambda f: f.assign(correct=1), "has no sample or no verdict"),
    "no rows": (lambda f: f.head(0), "0 rows; 1 to 2000000 can be read here"),
    "other columns": (lambda f: f.rename(columns={"correct": "right"}), "parquet column not found: correct"),
    "several labels": (lambda f: f.assign(scores=0.0), "clips with several labels have no accuracy"),
    "another attack": (lambda f: f.replace("mim", "other"), "no board or suite has its threats and attacks"),
    "another threat": (lambda f: f.replace("XV:linf:0.012", "<b>x"), "no board or suite has its threats and attacks"),
    "some other samples": (lambda f: f.replace("test-00007", "<b>x"), "1 samples, such as <b>x, are not of"),
}


@pytest.mark.parametrize("name", thinned(CHANGES, 3))
def test_what_is_no_run_is_refused_with_the_reason(page: Any, name: str) -> None:
    change, reason = CHANGES[name]
    verdict = drop(page, written(change(make_rows(0, 0.5, 500)).reset_index(drop=True)))
    assert verdict.startswith("rows.parquet: refused: ")
    assert reason in verdict
    assert page.locator("#result").inner_text() == ""


def test_files_that_cannot_be_read_are_refused(page: Any) -> None:
    rows = make_rows(0, 0.5, 500)
    good = written(rows)
    for content, reason in {
        b"": "it is not Parquet as avbench writes it, or cut off",
        b"PAR1 no, PAR1": "it is not Parquet as avbench writes it, or cut off",
        good[:-100]: "it is not Parquet as avbench writes it, or cut off",
        good[: len(good) // 2] + good[-12:]: "it is not Parquet as avbench writes it, or cut off",
        written(rows, compression="zstd"): "ZSTD",
    }.items():
        verdict = drop(page, content)
        assert verdict.startswith("rows.parquet: refused: ")
        assert reason in verdict


def test_a_large_file_is_refused_unread(page: Any, tmp_path: Path) -> None:
    with (tmp_path / "rows.parquet").open("wb") as file:
        file.truncate(2**30)
    assert drop(page, tmp_path / "rows.parquet") == "rows.parquet: refused: it has more than 64 MB."


def test_the_file_that_bombs_are_made_of_can_be_read(page: Any) -> None:
    assert "refused: a has no row for XA:" in drop(page, parquet())


@pytest.mark.parametrize("name", thinned(BOMBS, 3))
def test_bombs_are_refused_at_once(page: Any, name: str) -> None:
    page.evaluate("() => { window.started = performance.now(); }")
    verdict = drop(page, BOMBS[name])
    assert "refused" in verdict
    assert page.evaluate("() => performance.now() - window.started") < 10_000


def test_damaged_files_never_hang(page: Any) -> None:
    good = bytearray((RUNS[0] / "rows.parquet").read_bytes())
    draw = np.random.default_rng(0)
    for turn in range(60):
        bad = bytearray(good)
        start = 4 if turn % 2 else len(good) - 3000  # of the pages, or of the footer
        for place in draw.integers(start, len(good) - 8, 3):
            bad[place] = int(draw.integers(256))
        assert drop(page, bytes(bad)).startswith("rows.parquet: ")


def test_the_name_of_a_file_stays_text(page: Any) -> None:
    assert drop(page, b"x", "<img src=x onerror=alert(1)>.parquet").startswith(
        "<img src=x onerror=alert(1)>.parquet: refused"
    )
    assert page.locator("main img").count() == 0


def test_a_dropped_file_is_taken_as_a_chosen_one(page: Any) -> None:
    page.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["x"], "dropped.parquet"));
        document.querySelector("main").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }""")
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('dropped.parquet: refused')")


def test_published_files_are_packed_so_that_browsers_read_them(tmp_path: Path) -> None:
    store.write_table(tmp_path / "rows.parquet", make_rows(0, 0.5, 8), {})
    for path in (tmp_path / "rows.parquet", RUNS[0] / "rows.parquet"):
        group = pq.ParquetFile(path).metadata.row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {"SNAPPY"}


def test_it_fits_a_phone(browser: Any, site: Path) -> None:  # noqa: F811
    phone = Watched(browser, offline=True, viewport={"width": 375, "height": 700})
    phone.page.goto((site / "try.html").as_uri())
    for content in (RUNS[0] / "rows.parquet", b"x" * 9):
        drop(phone.page, content if isinstance(content, bytes) else content.read_bytes(), f"{'long' * 40}.parquet")
        assert phone.page.evaluate("() => document.documentElement.scrollWidth") <= 375
    phone.context.close()
    assert phone.complaints == []


def test_without_javascript_it_says_what_it_needs(browser: Any, site: Path) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False, offline=True)
    tab = context.new_page()
    tab.goto((site / "try.html").as_uri())
    assert "avbench score RUN" in tab.locator("main").inner_text()
    context.close()
