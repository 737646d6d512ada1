"""The built site: what every page promises, whatever is in the results."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from site_runs import Page, sha, write_health, write_run

from avbench import files, store
from avbench.diagnose import FLAGS
from avbench.metrics.sketch import sketch
from avbench.site import build
from avbench.site.boards import make_boards
from avbench.site.pages import CSP, DATATABLES, HERE
from avbench.site.published import DIFFERS, read_published
from avbench.site.records import read_runs
from avbench.site.tables import MISSING
from avbench.summarize import score

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)></script>'{{7*7}}\u202e"
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "audio": "src",
    "video": "src",
    "source": "src",
    "iframe": "src",
}
LOADS |= {"object": "data", "embed": "src", "form": "action", "base": "href", "use": "href"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    results = root / "results"
    for seed, (name, strength) in enumerate([("weak", 0.2), ("twin", 0.21), ("strong", 0.8)]):
        write_run(results, name, seed, strength)
    write_run(results, "limited", 3, 0.9, n=128)
    write_health(write_run(results, "masked", 6, 0.95), raised=("video",))
    accepted = write_run(results, "accepted", 7, 0.3)
    write_health(accepted, raised=("audio",))
    review = {"health_sha256": files.sha256_file(accepted / "health.json"), "reason": f"silent clips {HOSTILE}"}
    (accepted / "review.json").write_text(json.dumps(review), encoding="utf-8")
    (write_run(results, "unseen", 8, 0.99) / "health.json").unlink()
    write_run(results, "weak", 0, 0.2, n=64, suite="quick")
    words = {"title": HOSTILE, "architecture": HOSTILE, "description": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    write_run(results, "hostile", 5, 0.4, numerics={"micro_batch": 8, HOSTILE: HOSTILE}, provenance__command=HOSTILE,
              provenance__cpu=HOSTILE, **{f"model__{key}": value for key, value in words.items()})  # fmt: skip
    build([results], root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


def test_the_pages_of_the_first_version_exist(pages: dict[str, Page]) -> None:
    wanted = {"index.html", "method.html", "404.html", "lb/synthav/cvpr21-attack.html", "lb/synthav/quick.html",
              "models/avbench--weak.html", "models/avbench--hostile.html", "lb/mit-music/tian2021-table3.html",
              "lb/kinetics-sounds/tian2021-table1.html", "lb/ave/tian2021-table5.html",
              "lb/audioset/li2022-table1.html"}  # fmt: skip
    assert wanted <= set(pages)


def test_every_internal_link_and_fragment_resolves(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for tag, attrs in page.tags:
            address = attrs.get("href") or attrs.get("src")
            if not address:
                continue
            parts = urlsplit(address)
            assert (parts.scheme, parts.netloc, parts.path[:1] == "/") == ("", "", False), (name, tag, address)
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            assert target.is_file(), (name, address)
            assert target.is_relative_to(site), (name, address)
            if parts.fragment:
                assert parts.fragment in pages[str(target.relative_to(site))].ids, (name, address)


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for page in pages.values():
        for tag, attrs in page.tags:
            address = attrs.get(LOADS.get(tag, ""), "") or ""
            assert not re.match(r"\s*([a-z][a-z0-9+.-]*:|//)", address, re.IGNORECASE), (page.path, address)
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(|@import", path.read_text(encoding="utf-8")), path


def test_every_page_has_the_policy_and_no_inline_code_or_style(pages: dict[str, Page]) -> None:
    for page in pages.values():
        [policy] = [
            a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy == CSP
        assert page.tags.index(("meta", {"charset": "utf-8"})) < 5
        for tag, attrs in page.tags:
            assert tag != "style"
            assert not [name for name in attrs if name == "style" or name.startswith("on")], page.path
            assert tag != "script" or attrs.get("src") or attrs.get("type") == "application/json", page.path


def test_ids_are_unique_and_each_page_has_one_heading_a_title_and_a_language(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert len(page.ids) == len(set(page.ids)), page.path
        tags = [tag for tag, _ in page.tags]
        assert (tags.count("h1"), tags.count("title"), tags.count("main")) == (1, 1, 1), page.path
        assert ("html", {"lang": "en"}) in page.tags


def test_hostile_metadata_stays_text(pages: dict[str, Page]) -> None:
    shown = HOSTILE.replace("\u202e", "\ufffd")
    for name in ("models/avbench--hostile.html", "models/avbench--accepted.html", "lb/synthav/cvpr21-attack.html"):
        page = pages[name]
        assert shown in page.text
        assert "img" not in [tag for tag, _ in page.tags]
        raw = page.path.read_text(encoding="utf-8")
        assert "<script>alert" not in raw
        assert "\u202e" not in raw
    board = json.loads(pages["lb/synthav/cvpr21-attack.html"].data)
    assert shown in [row[1][0] for row in board["rows"]]


def test_templates_escape_everything() -> None:
    for path in (HERE / "templates").iterdir():
        assert not re.search(r"\|\s*safe|autoescape", path.read_text(encoding="utf-8")), path


def shown(value: object, column: dict[str, object]) -> str:
    """Text of a cell as the script writes it."""
    if value is None:
        return MISSING
    if isinstance(value, list):
        digits = column["digits"]
        match column["kind"]:
            case "link":
                return str(value[0])
            case "rank" | "notes":
                return " ".join(map(str, value))
            case _:
                return "{:.{d}f} {:.{d}f} to {:.{d}f}".format(*value, d=digits)
    return f"{value:.{column['digits']}f}" if column["kind"] == "number" else str(value)


def test_the_rows_in_the_page_are_the_first_rows_of_its_data(pages: dict[str, Page]) -> None:
    boards = {name: page for name, page in pages.items() if name.startswith("lb/")}
    assert boards
    for name, page in boards.items():
        data = json.loads(page.data)
        table = [[shown(v, c) for v, c in zip(row, data["columns"], strict=False)] for row in data["rows"]]
        assert [row for row in page.rows if row] == table[:50], name


def test_only_complete_runs_of_published_suites_rank(pages: dict[str, Page]) -> None:
    rows = {row[1][0]: row for row in json.loads(pages["lb/synthav/cvpr21-attack.html"].data)["rows"]}
    assert rows["Model strong"][0] == [1, "group 1"]
    assert rows["Model limited"][0] is None
    assert rows["Model limited"][-2:] == ["partial: 128 of 500", "partial"]
    assert list(rows)[-1] == "Model limited"
    quick = json.loads(pages["lb/synthav/quick.html"].data)["rows"]
    assert [row[0] for row in quick] == [None]


def test_only_runs_without_open_health_flags_rank(pages: dict[str, Page]) -> None:
    rows = {row[1][0]: row for row in json.loads(pages["lb/synthav/cvpr21-attack.html"].data)["rows"]}
    assert (rows["Model masked"][0], rows["Model masked"][-2]) == (None, "in review: zero-gradients (video)")
    assert (rows["Model unseen"][0], rows["Model unseen"][-2]) == (None, "not diagnosed")
    assert rows["Model accepted"][0] is not None
    assert rows["Model accepted"][-2] == "ranked"


def test_a_models_page_shows_every_flag_with_its_value_threshold_and_n(pages: dict[str, Page]) -> None:
    page = pages["models/avbench--masked.html"].path.read_text(encoding="utf-8")
    found = re.findall(r"<tr[^>]*>" + r"<td[^>]*>([^<]*)</td>" * 6 + "</tr>", page.partition("Health flags</h3>")[2])
    assert sorted((name, where) for name, where, *_ in found) == sorted((n, w) for n, ws in FLAGS.items() for w in ws)
    assert ("zero-gradients", "video", "raised", "100.00", "1.00", "64") in found
    assert ("zero-gradients", "audio", "passed", "0.00", "1.00", "64") in found
    assert "Accepted by a person" not in page
    accepted = pages["models/avbench--accepted.html"].text
    assert "Accepted by a person: silent clips " in " ".join(accepted.split())
    assert "does not rank" in pages["models/avbench--unseen.html"].text


def test_runs_that_do_not_differ_share_a_tie_group(pages: dict[str, Page]) -> None:
    rows = {row[1][0]: row for row in json.loads(pages["lb/synthav/cvpr21-attack.html"].data)["rows"]}
    assert rows["Model weak"][0][1] == rows["Model twin"][0][1] != rows["Model strong"][0][1]


def test_reported_rows_have_no_rank_and_say_so(pages: dict[str, Page]) -> None:
    boards = [page for name, page in pages.items() if re.search(r"lb/.*-table\d", name)]
    assert len(boards) == 11
    for page in boards:
        data = json.loads(page.data)
        assert "rank" not in [column["kind"] for column in data["columns"]]
        assert {row[-1] for row in data["rows"]} == {"reported"}
        assert "Reported, not re-evaluated" in page.text


def test_the_corrections_are_exactly_those_of_the_protocol() -> None:
    published = read_published(Path(__file__).resolve().parent.parent / "leaderboard" / "published")
    found = {
        (one.dataset, one.name, str(row.cells[0]), str(row.cells[2]), str(row.cells[3]), kind)
        for one in published
        for row in one.table.rows
        for kind, text in DIFFERS.items()
        if text in one.notes and one.notes.index(text) + 1 in (row.cells[-1] or [])  # type: ignore[operator]
    }
    multilabel = {key[2:4] for key in found if key[5] == "d"}
    assert {key for key in found if key[5] != "d"} == {
        ("mit-music", "tian2021-table3", "resnet18-anet", "pcl", "FGSM", "avg"),
        ("mit-music", "tian2021-table1", "resnet18-anet", "none", "PGD", "avg"),
        ("kinetics-sounds", "tian2021-table3", "resnet18-anet", "minsim", "FGSM", "ri"),
        ("mit-music", "tian2021-table6", "resnet18-anet", "maxsim", "MIM", "ri"),
    }
    assert len([key for key in found if key[5] == "d"]) == 6, multilabel  # five attacked mid-fusion rows, AT clean


def test_the_site_shows_the_scores_of_the_package(pages: dict[str, Page]) -> None:
    cells = {"clean none": "1110"} | {
        f"{t} fgsm": "1100" for t in ("XA:linf:0.1", "XV:linf:0.1", "XAV:linf:0.1:linf:0.1")
    }
    assert set(score(sketch(cells))["metric"]) >= {"clean-accuracy", "robust-accuracy", "avg", "attack-accuracy"}
    page = pages["models/avbench--strong.html"]
    for word in (
        "clean-accuracy",
        "robust-accuracy",
        "95 % interval",
        "avbench evaluate avbench--strong",
        sha("strong"),
    ):
        assert word in page.text, word


def test_vendored_files_are_the_ones_that_were_vendored() -> None:
    for folder in (HERE / "vendor").iterdir():
        about = json.loads((folder / "VENDORED.json").read_text(encoding="utf-8"))
        assert folder.name == f"{about['name']}-{about['version']}"
        assert {path.name for path in folder.iterdir()} == {"VENDORED.json", *about["sha256"]}
        for name, pinned in about["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == pinned, name
    assert (HERE / "vendor" / DATATABLES / "LICENSE.txt").is_file()


def test_a_board_of_300_rows_keeps_to_its_budget(tmp_path: Path) -> None:
    from avbench.site.pages import environment
    from avbench.site.tables import Column, Row, Table

    columns = [Column("Rank", "rank"), Column("Model", "link"), *(Column(f"c{i}") for i in range(17))]
    row = Row([[100, "group 20"], ["A model with a long name", "../../models/avbench--a-long-name.html"],
               *([50.25, 45.75, 55.75] for _ in range(6)), *(50.25 for _ in range(11))], "ranked")  # fmt: skip
    macros = environment().get_template("macros.html.j2").make_module({"root": "../../"})
    html = macros.board(Table(columns, [row] * 300), "caption")  # type: ignore[attr-defined]
    assert len(html.encode()) < 120_000
    assert len((HERE / "assets" / "site.js").read_bytes()) <= 20_000


def test_a_model_of_which_nothing_survives_has_zero_and_no_gap(tmp_path: Path) -> None:
    """In a worst-case suite nothing is left to attack, so that the later threats have no row."""
    root = HERE.parent.parent / "leaderboard" / "results" / "avmnist-test-256-standard@1"
    run = root / "avbench--avmnist-g-blend"
    assert "XAV" not in {str(threat)[:3] for threat in store.read_rows(run)["threat"].unique()}
    [board] = make_boards(read_runs([run]))
    heads = [column.title for column in board.table.columns]
    cells = dict(zip(heads, board.table.rows[0].cells, strict=True))
    assert cells["XAV"][0] == 0.0
    assert cells["Avg"] is not None
