"""The board in a real browser: filters, views, the basket, the address that holds them all, and copies as files."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from site_runs import sha, write_health, write_run
from test_site_browser import Watched, browser, column, sort, watched  # noqa: F401

from avbench.site.boards import make_boards
from avbench.site.content import Content
from avbench.site.pages import HERE, environment
from avbench.site.pages import boards as pages
from avbench.site.published import Reported
from avbench.site.records import read_runs
from avbench.site.tables import MISSING, Column, Row, Table

BOARD = "lb/synthav/cvpr21-attack.html"
LARGE = "lb/ave/tian2021-table9.html"
TITLES = {"formula": "=1+1 {a_b} & 50 % | *x*", "hostile": '&<img src=x onerror=alert(2)>"><script>alert(1)</script>'}


def large(n: int) -> Table:
    """Make a board of n rows, every third and the last of it without a figure."""
    columns = [Column("Model", "text"), Column("Defense", "text", filter=True), Column("Clean"),
               Column("Detail", views=("attacks",))]  # fmt: skip
    rows = [
        Row([f"model {i}", f"defense {i % 20}", None if i % 3 == 0 else i / 100, float(i)], "reported")
        for i in range(n)
    ]
    return Table(columns, rows)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    defenses = {"weak": "none", "middle": "mixup", "strong": "mixup", "formula": "none", "hostile": "<b>none</b>"}
    for seed, (name, defense) in enumerate(defenses.items()):
        more: dict[str, Any] = {"model__title": TITLES[name]} if name in TITLES else {}
        write_run(root / "results", name, seed, 0.2 + 0.1 * seed, model__defense=defense, **more)
    write_health(root / "results" / "synthav-test-cvpr21-attack@1" / "middle", raised=("audio",))
    boards = make_boards(read_runs([root / "results"]))
    reported = [Reported("ave", "tian2021", number, large(n), ()) for number, n in (("9", 300), ("8", 5000))]
    env = environment()

    def render(path: str, template: str, **context: Any) -> tuple[str, str]:
        return path, env.get_template(template).render(root="../" * path.count("/"), **context)

    shutil.copytree(HERE / "assets", root / "site" / "assets")
    shutil.copytree(HERE / "vendor", root / "site" / "vendor")
    for name, text in pages.files(Content(boards, reported), render):
        path = root / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text), encoding="utf-8")
    return root / "site"


@pytest.fixture
def page(watched: Watched, site: Path) -> Any:  # noqa: F811
    return watched.open(site, BOARD)


def view(page: Any) -> list[Any]:
    """Everything that a reader has chosen, as the page shows it."""
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#table tbody tr").all()]
    ticked = page.locator("#table tbody input:checked").evaluate_all("boxes => boxes.map(box => box.value)")
    chosen = page.locator(".tools select").evaluate_all("all => all.map(select => select.value)")
    sorted_by = page.locator("#table th[aria-sort]").all_inner_texts()
    return [page.locator("#table th").all_inner_texts(), rows, ticked, chosen, sorted_by,
            page.get_by_label("Search").input_value(), page.locator("#basket").inner_text()]  # fmt: skip


def choose(page: Any, title: str, value: str) -> None:
    page.get_by_role("combobox", name=title).select_option(value)


def found(page: Any) -> str:
    return str(page.locator(".dt-info").inner_text())


def test_hidden_rows_are_always_counted(watched: Watched, site: Path) -> None:  # noqa: F811
    page = watched.open(site, LARGE)
    assert found(page) == "300 rows"
    choose(page, "Defense", "defense 7")
    assert found(page) == "15 of 300 (filtered)"
    page.get_by_label("Search").fill("model 1")
    page.wait_for_function("() => document.querySelector('.dt-info').textContent === '5 of 300 (filtered)'")


def test_only_a_page_of_5000_rows_is_in_the_document(watched: Watched, site: Path) -> None:  # noqa: F811
    page = watched.open(site, LARGE.replace("9", "8"))
    assert found(page) == "5000 rows"
    for wanted in ("descending", "ascending"):
        sort(page, "Clean", wanted)
        assert page.locator("#table tbody tr").count() == 100
    page.locator(".dt-paging button[data-dt-idx='last']").click()
    page.wait_for_function("() => document.querySelector('#table tbody tr td:nth-child(3)').textContent === '\u2013'")


def test_a_choice_of_values_hides_the_others(page: Any) -> None:
    choose(page, "Defense", "mixup")
    assert sorted(text.split("\n")[0].strip() for text in column(page, "Model")) == ["Model middle", "Model strong"]
    choose(page, "State", "in review")
    assert found(page) == "1 of 5 (filtered)"
    choose(page, "Defense", "<b>none</b>")
    assert found(page) == "0 of 5 (filtered)"


def test_views_and_single_columns_can_be_chosen(page: Any) -> None:
    choice = page.get_by_role("combobox", name="View")
    choose(page, "View", "attacks")
    heads = [text.strip() for text in page.locator("#table th").all_inner_texts()]
    assert heads[:5] == ["Rank", "Model", "Avg", "Clean", "Worst case"]
    assert len(heads) == 5 + 9
    page.locator(".tools summary").press("Enter")
    page.get_by_role("checkbox", name="XA pgd", exact=True).press("Space")
    assert "XA pgd" not in page.locator("#table th").all_inner_texts()
    assert choice.input_value() == "own"
    page.get_by_role("checkbox", name="XA pgd", exact=True).press("Space")
    assert choice.input_value() == "attacks"
    assert page.get_by_role("checkbox", name="Model", exact=True).is_disabled()


def test_the_whole_view_opens_in_a_second_tab(page: Any) -> None:
    choose(page, "Defense", "mixup")
    choose(page, "View", "provenance")
    page.locator(".tools summary").click()
    page.get_by_role("checkbox", name="Clean", exact=True).check()
    page.get_by_role("checkbox", name="Seed", exact=True).uncheck()
    page.get_by_label("Compare Model strong").check()
    page.get_by_label("Compare Model middle").check()
    page.get_by_label("Search").fill("model")
    sort(page, "Clean", "descending")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#basket a")
    assert view(other) == view(page)
    assert other.url == page.url
    assert "Clean" in str(view(other)[4])
    assert "2 models" in view(other)[6]


def test_what_an_address_names_and_the_board_lacks_is_ignored(page: Any) -> None:
    first = view(page)
    page.goto(f"{page.url}#Defense=nothing&sort=-Nope&view=nope&col=Nope&models=evil,..%2Fx,&State=%3Cb%3E&__proto__=1")
    page.reload()
    page.wait_for_selector("#board.live")
    assert view(page) == first


def test_a_place_in_the_page_leaves_the_view_alone(page: Any) -> None:
    choose(page, "Defense", "mixup")
    page.evaluate("() => { location.hash = '#main'; }")
    page.wait_for_function("() => location.hash === '#main'")
    assert found(page) == "2 of 5 (filtered)"


def test_two_to_four_models_can_be_compared(page: Any) -> None:
    boxes = page.locator("#table tbody input")
    boxes.nth(0).check()
    assert page.locator("#basket a").count() == 0
    for place in (1, 2, 3):
        boxes.nth(place).press("Space")
    assert boxes.nth(4).is_disabled()
    ids = [boxes.nth(place).get_attribute("value") for place in range(4)]
    address = page.locator("#basket a").get_attribute("href")
    assert address == f"../../compare.html#board=synthav/cvpr21-attack&models={','.join(ids)}"
    boxes.nth(0).uncheck()
    assert boxes.nth(4).is_enabled()


def test_every_figure_links_to_the_evaluation_card_of_its_row(page: Any) -> None:
    choose(page, "View", "all")
    row = page.locator("#table tbody tr", has_text="Model strong")
    wanted = f"../../evals/{sha('strong cvpr21-attack')[:12]}.html"
    figures = [cell for cell in row.locator("td.number").all() if cell.inner_text() != MISSING]
    assert len(figures) > 15
    assert {cell.locator("a").get_attribute("href") for cell in figures} == {wanted}
    reached = row.locator("a:not([tabindex='-1'])").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert reached == ["../../models/avbench--strong.html", wanted]


def test_titles_that_are_markup_stay_text_and_load_nothing(page: Any) -> None:
    page.get_by_label("Search").fill("onerror")
    page.wait_for_function("() => document.querySelector('.dt-info').textContent === '1 of 5 (filtered)'")
    choose(page, "View", "all")
    page.locator("#table tbody input").check()
    assert TITLES["hostile"] in page.locator("#table tbody").inner_text()
    assert TITLES["hostile"] in page.locator("#basket").inner_text()
    assert page.locator("#board img, #board script, #board td b:not(.rank b)").count() == 0


def copy(page: Any, name: str) -> str:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    ending = {"CSV": "csv", "Markdown": "md", "LaTeX": "tex", "BibTeX": "bib"}[name]
    assert waiting.value.suggested_filename == f"avbench-synthav-cvpr21-attack.{ending}"
    return Path(waiting.value.path()).read_bytes().decode()


def test_a_csv_holds_the_rows_in_view_and_no_formula(page: Any) -> None:
    choose(page, "Defense", "none")
    sort(page, "Clean", "descending")
    head, *rows = csv.reader(copy(page, "CSV").splitlines(keepends=True))
    assert head[:8] == ["Rank", "Rank group", "Model", "Model id", "Model card", "Avg", "Avg low", "Avg high"]
    shown = [text.split("\n")[0].strip() for text in column(page, "Model")]
    assert [row[2].removeprefix("'") for row in rows] == shown
    assert [row[5] for row in rows] == column(page, "Avg")
    assert {row[2] for row in rows} == {"Model weak", "'" + TITLES["formula"]}
    assert not [text for row in rows for text in row if text[:1] in "=+@" and text]


def test_markdown_and_latex_hold_the_same_rows_escaped(page: Any) -> None:
    choose(page, "Defense", "none")
    markdown, latex = copy(page, "Markdown"), copy(page, "LaTeX")
    assert r"\=" not in markdown
    assert r"=1+1 \{a\_b\} \& 50 % \| \*x\*" in markdown
    assert r"=1+1 \{a\_b\} \& 50 \% | *x*" in latex
    heads = page.locator("#table th").count()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in lines] == [heads] * (2 + 2)
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) + 1 for line in body] == [heads] * (1 + 2)
    assert re.findall(r"begin{tabular}{([lr]+)}", latex) == [
        "".join("r" if "number" in (name or "") else "l" for name in
                [th.get_attribute("class") for th in page.locator("#table th").all()])
    ]  # fmt: skip


def test_the_view_can_be_cited_with_its_address(page: Any) -> None:
    choose(page, "Defense", "none")
    cited = copy(page, "BibTeX")
    assert "note = {2 of 5 (filtered)}" in cited
    assert f"url = {{{page.url}}}" in cited
    assert page.url.endswith("#Defense=none")


def test_without_javascript_the_first_50_rows_stand_in_the_page(browser: Any, site: Path) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False, offline=True)
    plain = context.new_page()
    plain.goto((site / LARGE).as_uri())
    assert plain.locator("#table tbody tr").count() == 50
    assert plain.locator("#table th").all_inner_texts() == ["Model", "Defense", "Clean"]
    assert "50 of 300 rows" in plain.locator("noscript").inner_text()
    assert not plain.locator(".tools").is_visible()
    assert not plain.locator(".downloads").is_visible()
    context.close()
