"""The built site: what every page promises, whatever is in the results."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from site_runs import Page, read_cells, sha, write_health, write_run

from avbench import files
from avbench.diagnose import FLAGS
from avbench.metrics.sketch import sketch
from avbench.site import build
from avbench.site.pages import CSP, DATATABLES, HERE
from avbench.site.published import DIFFERS, read_published
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


def card(pages: dict[str, Page], name: str) -> Page:
    """Find the card of a run under the published suite."""
    return pages[f"evals/{sha(f'{name} cvpr21-attack')[:12]}.html"]


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


def test_the_pages_of_the_first_version_exist(pages: dict[str, Page]) -> None:
    wanted = {"index.html", f"evals/{sha('weak quick')[:12]}.html", "method.html", "404.html", "lb/synthav/cvpr21-attack.html", "lb/synthav/quick.html",
              "models/avbench--weak.html", "models/avbench--hostile.html", "lb/mit-music/tian2021-table3.html",
              "lb/kinetics-sounds/tian2021-table1.html", "lb/ave/tian2021-table5.html",
              "lb/audioset/li2022-table1.html"}  # fmt: skip
    assert wanted <= set(pages)


def test_every_internal_link_and_fragment_resolves(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for tag, attrs in page.tags:
            address = attrs.get("href") or attrs.get("src")
            outside = tag == "a" and attrs.get("rel") == "external noreferrer"  # followed only by who clicks on it
            if not address or (outside and address.startswith("https://")):
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
    boards = [pages["models/avbench--hostile.html"], pages["lb/synthav/cvpr21-attack.html"]]
    for page in (*boards, card(pages, "accepted"), card(pages, "hostile")):
        assert shown in page.text
        pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
        assert all(re.fullmatch(r"[./]*badges/[a-z0-9/.-]+\.svg", source or "") for source in pictures), pictures
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
            case "model":
                return f"{value[0]} evaluation card"
            case "rank" | "notes" | "noted":
                return " ".join(map(str, value))
            case _:
                return "{:.{d}f} {:.{d}f} to {:.{d}f}".format(*value, d=digits)
    return f"{value:.{column['digits']}f}" if column["kind"] == "number" else str(value)


def test_the_rows_in_the_page_are_the_overview_of_the_first_rows_of_its_data(pages: dict[str, Page]) -> None:
    boards = {name: page for name, page in pages.items() if name.startswith("lb/")}
    assert boards
    for name, page in boards.items():
        data = json.loads(page.data)
        overview = [column["kind"] in ("rank", "model") or "overview" in column["views"] for column in data["columns"]]
        table = [
            [shown(v, c) for v, c, kept in zip(row, data["columns"], overview, strict=False) if kept]
            for row in data["rows"]
        ]
        assert [row for row in page.rows if row] == table[:50], name


def test_only_complete_runs_of_published_suites_rank(pages: dict[str, Page]) -> None:
    rows = read_cells(pages["lb/synthav/cvpr21-attack.html"])
    assert rows["Model strong"]["Rank"] == [1, "group 1"]
    assert rows["Model limited"]["Rank"] is None
    assert rows["Model limited"]["State"] == ["partial", "128 of 500"]
    assert list(rows)[-1] == "Model limited"
    assert ["Rank" in row for row in read_cells(pages["lb/synthav/quick.html"]).values()] == [False]


def test_only_runs_without_open_health_flags_rank(pages: dict[str, Page]) -> None:
    rows = read_cells(pages["lb/synthav/cvpr21-attack.html"])
    assert (rows["Model masked"]["Rank"], rows["Model unseen"]["Rank"]) == (None, None)
    assert rows["Model masked"]["State"] == "in review"
    assert rows["Model masked"]["Health"][1] == "zero-gradients"
    assert rows["Model unseen"]["State"] == "not diagnosed"
    assert rows["Model accepted"]["Rank"] is not None
    assert rows["Model accepted"]["State"] == "ranked"


def test_a_card_shows_every_flag_with_its_value_threshold_and_n(pages: dict[str, Page]) -> None:
    page = card(pages, "masked").path.read_text(encoding="utf-8")
    found = re.findall(r"<tr[^>]*>" + r"<td[^>]*>([^<]*)</td>" * 6 + "</tr>", page.partition("Health flags</h2>")[2])
    assert sorted((name, where) for name, where, *_ in found) == sorted((n, w) for n, ws in FLAGS.items() for w in ws)
    assert ("zero-gradients", "video", "raised", "100.00", "1.00", "64") in found
    assert ("zero-gradients", "audio", "passed", "0.00", "1.00", "64") in found
    assert [name for name in FLAGS if name not in pages["method.html"].text] == []
    assert "Accepted by a person" not in page
    accepted = card(pages, "accepted").text
    assert "Accepted by a person: silent clips " in " ".join(accepted.split())
    assert "does not rank" in card(pages, "unseen").text


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
    command = "avbench evaluate avbench--strong"
    row = read_cells(pages["lb/synthav/cvpr21-attack.html"])["Model strong"]
    figures = ["{}{:.2f} % {:.2f} to {:.2f}".format(name, *row[name]) for name in ("Avg", "Clean", "XA", "XV", "XAV")]
    for page, words in (
        (pages["models/avbench--strong.html"], (*figures, sha("strong"))),
        (card(pages, "strong"), (*figures, "clean-accuracy", "95 % interval", "attack-accuracy", command)),
    ):
        for word in words:
            assert word in " ".join(page.text.split()), word


def test_vendored_files_are_the_ones_that_were_vendored() -> None:
    for folder in (HERE / "vendor").iterdir():
        about = json.loads((folder / "VENDORED.json").read_text(encoding="utf-8"))
        assert folder.name == f"{about['name']}-{about['version']}"
        assert {path.name for path in folder.iterdir()} == {"VENDORED.json", *about["sha256"]}
        for name, pinned in about["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == pinned, name
    assert (HERE / "vendor" / DATATABLES / "LICENSE.txt").is_file()


def test_no_page_loads_more_than_20_kb_of_our_own_javascript(site: Path, pages: dict[str, Page]) -> None:
    used: set[str] = set()
    for name, page in pages.items():
        own = [
            Path(attrs["src"]).name
            for tag, attrs in page.tags
            if tag == "script" and "assets/" in (attrs.get("src") or "")
        ]
        assert sum((site / "assets" / script).stat().st_size for script in own) <= 20_000, name
        used |= set(own)
    assert used <= {path.name for path in (HERE / "assets").glob("*.js")}
    assert {"site.js", "board.js", "compare.js", "try.js"} <= used
