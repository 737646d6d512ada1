"""The pages around the boards: cards, datasets, threats, data, citations, changes, releases, badges and previews."""

from __future__ import annotations

import io
import json
import re
import subprocess
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image
from site_runs import Page, sha, write_run

from avbench.datasets.cards import names, read_card
from avbench.site import HOME, build, read_content
from avbench.site.citation import Citation, bibtex
from avbench.site.content import Content
from avbench.site.pages import environment
from avbench.site.published import read_published
from avbench.site.releases import explain, freeze
from avbench.suites import SUITES
from avbench.threats import PRESETS

HOSTILE = "\"}><script>alert(1)</script>{\\end & 100 % $x_1$ '{{7*7}}"
ATOM = "{http://www.w3.org/2005/Atom}"
TRACK = "synthav-test-cvpr21-attack@1"
COMMAND = "avbench evaluate avbench--weak"
FORMULA = '=HYPERLINK("https://example.org")'
SITE = ("index.html", "compare.html", "submit.html", "try.html", "data/index.html", "method.html", "changes.html",
        "feed.xml", "cite.html")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a release, a run that supersedes another, one that was withdrawn, and their history."""
    home = tmp_path_factory.mktemp("pages") / "home"
    (home / "published").mkdir(parents=True)
    for path in (HOME / "published").iterdir():
        (home / "published" / path.name).write_bytes(path.read_bytes())
    results = home / "results"
    write_run(results, "weak", 1, 0.2, model__authors=HOSTILE, model__title=FORMULA, provenance__command=COMMAND)
    write_run(results, "hostile", 2, 0.8, model__title=HOSTILE)
    gone = write_run(results, "gone", 3, 0.7, 50)
    old = write_run(results, "again", 4, 0.5, 60, provenance__created="2026-01-01T00:00:00+00:00")
    freeze(read_content([results], home), "2026.11", home / "releases")
    old.rename(home / "results" / "old")
    write_run(results, "again", 5, 0.6, 70, provenance__created="2026-02-02T00:00:00+00:00")
    rows = json.loads((gone / "run.json").read_text(encoding="utf-8"))["rows_sha256"]
    why = {"rows_sha256": rows, "date": "2026-12-02", "reason": f"wrong weights {HOSTILE}"}
    (gone / "withdrawn.json").write_text(json.dumps(why), encoding="utf-8")
    explain(read_content([results], home), f"more samples {HOSTILE}", home / "history.csv")
    return home


@pytest.fixture(scope="module")
def content(home: Path) -> Content:
    return read_content([home / "results"], home)


@pytest.fixture(scope="module")
def site(home: Path) -> Path:
    return build([home / "results"], home.parent / "out", home).parent


def page(site: Path, name: str) -> Page:
    return Page(site / name)


def links(site: Path, name: str) -> set[str]:
    """Pages of the site that a page links to."""
    found = page(site, name)
    hrefs = [a["href"] or "" for tag, a in found.tags if tag == "a" and a.get("href")]
    here = (site / name).parent
    paths = [(here / href.partition("#")[0]).resolve() for href in hrefs if not href.startswith(("#", "https:"))]
    return {str(path.relative_to(site)) for path in paths}


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_page_leads_to_all_others(site: Path) -> None:
    wanted = {name for name in SITE if (site / name).is_file()}
    assert {"index.html", "submit.html", "data/index.html", "changes.html", "feed.xml", "cite.html"} <= wanted
    for path in site.rglob("*.html"):
        assert wanted <= links(site, str(path.relative_to(site))), path
    everything = {
        str(p.relative_to(site))
        for folder in ("lb", "models", "datasets", "threats")
        for p in (site / folder).rglob("*.html")
    }
    assert everything <= links(site, "index.html")


def test_the_first_page_names_the_best_model_with_its_numbers_and_their_card(site: Path, content: Content) -> None:
    board = next(b for b in content.boards if b.ranked)
    best = board.ranked[0]
    text = words(page(site, "index.html").text)
    for metric, threat in (("clean-accuracy", "clean"), ("avg", "mean of XA, XV, XAV")):
        s = best.scores
        [score] = (
            s[(s["metric"] == metric) & (s["threat"] == threat) & s["attack"].isin(["none", "worst case"])]
            .head(1)
            .to_dict("records")
        )
        assert f"{score['value']:.2f} {score['low']:.2f} to {score['high']:.2f}" in text
    assert HOSTILE in page(site, "index.html").text
    assert f"evals/{best.run.record.run[:12]}.html" in links(site, "index.html")


def test_a_card_tells_all_that_a_number_rests_on(site: Path, content: Content) -> None:
    for board in content.boards:
        for scored in board.runs:
            record = scored.run.record
            text = words(page(site, f"evals/{record.run[:12]}.html").text)
            made = record.provenance
            wanted = [made.command, record.rows_sha256, record.model.weights_sha256, record.dataset.lock_sha256,
                      record.run, str(made.git_commit), made.torch, made.python, made.cpu, f"Seed{record.seed}",
                      f"n{record.dataset.evaluated}", f"{sum(c.forward for c in record.cells):,}",
                      f"{sum(c.seconds for c in record.cells):.2f} s"]  # fmt: skip
            assert [what for what in wanted if what not in text] == []
            assert all(cell.fingerprint[:16] in text for cell in record.cells)


def test_a_run_that_no_board_shows_has_a_card_that_says_so(site: Path, content: Content) -> None:
    states = {one.scored.run.record.model.id: one for one in content.retired}
    assert set(states) == {"avbench--gone", "avbench--again"}
    shown = {scored.run.record.rows_sha256 for board in content.boards for scored in board.runs}
    for one in content.retired:
        card = f"evals/{one.key}.html"
        assert one.scored.run.record.rows_sha256 not in shown
        assert one.scored.run.record.rows_sha256 in page(site, card).text
        assert card in links(site, "changes.html")
    gone, again = states["avbench--gone"], states["avbench--again"]
    assert f"Withdrawn on 2026-12-02: wrong weights {HOSTILE}" in words(page(site, f"evals/{gone.key}.html").text)
    assert not (site / "models" / "avbench--gone.html").exists()
    assert f"evals/{sha('again cvpr21-attack')[:12]}.html" in links(site, f"evals/{again.key}.html")


def test_old_and_new_numbers_stand_on_the_changes_page_with_their_reason(site: Path, content: Content) -> None:
    text = words(page(site, "changes.html").text)
    changed = [event for event in content.events if event.model == "avbench--again"]
    assert len(changed) >= 4
    for event in changed:
        assert f"{event.old} → {event.new}" in text
    assert f"more samples {HOSTILE}" in text
    assert "alert(1)</script>" not in (site / "changes.html").read_text(encoding="utf-8")


def test_the_feed_is_atom_and_holds_what_the_changes_page_shows(site: Path) -> None:
    feed = ElementTree.parse(site / "feed.xml").getroot()
    assert feed.tag == f"{ATOM}feed"
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == (site / "changes.html").read_text(encoding="utf-8").count("<tr><td>20")
    stamp = re.compile(r"\d{4}-\d\d-\d\dT00:00:00Z")
    for element in (feed, *entries):
        assert [len(element.findall(f"{ATOM}{name}")) for name in ("id", "title", "updated")] == [1, 1, 1]
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", element.findtext(f"{ATOM}id") or "")
        assert stamp.fullmatch(element.findtext(f"{ATOM}updated") or "")
        assert element.findtext(f"{ATOM}title")
        href = element.find(f"{ATOM}link").attrib["href"]  # type: ignore[union-attr]
        assert (site / href).is_file()
    ids = [entry.findtext(f"{ATOM}id") for entry in entries]
    assert len(set(ids)) == len(ids)
    dates = [entry.findtext(f"{ATOM}updated") or "" for entry in entries]
    assert dates == sorted(dates, reverse=True)
    assert feed.findtext(f"{ATOM}updated") == dates[0]
    assert feed.findtext(f"{ATOM}author/{ATOM}name")
    assert any(HOSTILE in (entry.findtext(f"{ATOM}content") or "") for entry in entries)


def test_a_release_keeps_its_numbers_and_links_each_row_to_its_own_card(site: Path, home: Path) -> None:
    text = words(page(site, "v/2026.11/index.html").text)
    frame = pd.read_parquet(home / "releases" / "2026.11" / "boards.parquet")
    headline = frame[frame["headline"]]
    assert len(headline) == 4 * 5
    for row in headline.to_dict("records"):
        assert f"{row['value']:.2f} {row['low']:.2f} to {row['high']:.2f}" in text
    old = sha("again cvpr21-attack")[:12]
    targets = links(site, "v/2026.11/index.html")
    assert f"evals/{old}.html" not in targets
    assert [name for name in targets if name.startswith(f"evals/{old}-")]
    for name in ("boards.parquet", "release.json"):
        assert (site / "v" / "2026.11" / name).read_bytes() == (home / "releases" / "2026.11" / name).read_bytes()


def test_every_run_can_be_downloaded_and_checked_by_sha256sum(site: Path, content: Content) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=site / "data", check=True)
    sums = (site / "data" / "SHA256SUMS").read_text(encoding="utf-8")
    for board in content.boards:
        for scored in board.runs:
            record = scored.run.record
            assert f"{record.rows_sha256}  {record.run[:12]}/rows.parquet\n" in sums
            for name in ("rows.parquet", "run.json"):
                copied = site / "data" / record.run[:12] / name
                assert copied.read_bytes() == (scored.run.folder / name).read_bytes()
    assert "gone" not in " ".join(path.read_text(encoding="utf-8") for path in (site / "data").rglob("run.json"))


def test_the_three_lines_of_pandas_on_the_data_page_run(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    code = re.search(r"import pandas.*?mean\(\)\)", page(site, "data/index.html").text, re.DOTALL)
    assert code is not None
    lines = textwrap.dedent(code[0])
    assert lines.count("\n") == 2
    scope: dict[str, object] = {}
    exec(lines, scope)
    assert len(scope["rows"]) > 100  # type: ignore[arg-type]


def test_the_summary_holds_every_score_and_no_cell_of_it_is_a_formula(site: Path, content: Content) -> None:
    frame = pd.read_parquet(site / "data" / "boards.parquet")
    expected = pd.concat([scored.scores for board in content.boards for scored in board.runs])
    assert list(frame["value"]) == pytest.approx(list(expected["value"]), nan_ok=True)
    table = pd.read_csv(site / "data" / "boards.csv", dtype=str, keep_default_na=False)
    assert len(table) == len(frame)
    assert f"'{FORMULA}" in set(table["title"])
    for name in ("title", "model", "track", "metric", "threat", "attack", "state"):
        assert not table[name].str.match(r"[=+@\t\r-]").any(), name


def test_badges_say_rank_and_avg_as_plain_shapes(site: Path, content: Content) -> None:
    for board in content.boards:
        for scored in board.runs:
            path = site / "badges" / "synthav" / board.name / f"{scored.run.record.model.id}.svg"
            root = ElementTree.parse(path).getroot()
            text = " ".join(root.itertext())
            assert (f"rank {scored.place}" if scored.place else "partial") in text
            s = scored.scores
            avg = s[(s["metric"] == "avg") & (s["attack"] == "worst case")]["value"].iloc[0]
            assert f"Avg {avg:.2f} %" in text
            tags = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert tags == {"svg", "title", "rect", "path", "g", "text"}
            assert not any(name == "style" or name.startswith("on") for e in root.iter() for name in e.attrib)


def test_a_link_has_a_picture_for_the_site_and_one_for_each_board(site: Path, content: Content) -> None:
    paths = ["site.png", *(f"{board.record.dataset.name}/{board.name}.png" for board in content.boards)]
    pictures = [(site / "previews" / path).read_bytes() for path in paths]
    assert len(set(pictures)) == len(paths)
    for data in pictures:
        picture = Image.open(io.BytesIO(data)).convert("L")
        assert picture.size == (1200, 630)
        assert len(picture.crop((60, 60, 1140, 570)).getcolors()) > 10  # words, with smooth edges
        assert picture.crop((1160, 0, 1200, 630)).getextrema() == (255, 255)  # nothing runs over the edge


def test_social_tags_have_absolute_addresses_or_are_not_there(site: Path) -> None:
    env = environment()
    template = env.from_string('{% extends "base.html.j2" %}{% block title %}a "b" <c>{% endblock %}')
    for about, wanted in (
        (Citation(url="https://example.org/board"), "https://example.org/board/previews/site.png"),
        (Citation(), None),
    ):
        html = template.render(root="", about=about)
        found = re.search(r'og:image" content="([^"]*)"', html)
        assert (found[1] if found else None) == wanted
        assert (
            '<meta property="og:title" content="a &#34;b&#34; &lt;c&gt;">' in html
            or "a &#34;b&#34; &lt;c&gt;" not in html
        )


@pytest.mark.parametrize("url", ["http://example.org", "javascript:alert(1)", 'https://x"onload=', "https://x y"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        Citation(url=url)


def entries_of(text: str) -> dict[str, dict[str, str]]:
    """Read BibTeX as BibTeX does: braces count, also behind a backslash."""
    found = {}
    for start in re.finditer(r"@(\w+)\{([^,\s]+),", text):
        depth, place, fields = 1, start.end(), ""
        while depth:
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            fields += text[place]
            place += 1
        assert start[2] not in found
        found[start[2]] = dict(re.findall(r"^  (\w+) = \{(.*)\},$", fields, re.MULTILINE))
    return found


def test_the_site_each_dataset_suite_and_model_has_a_bibtex_entry(site: Path, content: Content) -> None:
    entries = entries_of(page(site, "cite.html").text)
    wanted = {"avbench", *(f"avbench-dataset-{name}" for name in names())}
    wanted |= {f"avbench-suite-{name}-{SUITES.get(name).version}" for name in SUITES.names()}
    wanted |= {f"avbench-model-{name}" for name in content.models}
    assert set(entries) == wanted
    assert all(entry.get("title") for entry in entries.values())
    assert sha("weak") in entries["avbench-model-avbench--weak"]["note"]


def test_no_text_can_end_a_field_of_bibtex() -> None:
    text = bibtex("misc", "a {key}, @misc{", title=HOSTILE, author="A, B and C }{", note="")
    [(key, fields)] = entries_of(text).items()
    assert re.fullmatch(r"[A-Za-z0-9.-]+", key)
    assert set(fields) == {"title", "author"}
    plain = re.sub(r"\\text\w+\{\}|\\[$&#%_]", "", fields["title"])
    assert not re.search(r"[\\{}$&#%_~^]", plain)


def test_every_dataset_has_a_page_with_its_splits_license_and_sources(site: Path) -> None:
    for name in names():
        card, text = read_card(name), words(page(site, f"datasets/{name}.html").text)
        assert words(card.license) in text
        for split, size in card.splits.items():
            assert f"{split}{size:,}" in text.replace(" ", "")
        for source in card.sources:
            assert source.url in text
            assert (source.sha256 or "checked by its contents") in text
        for note in card.notes:
            assert words(note) in text
    assert "lb/synthav/cvpr21-attack.html" in links(site, "datasets/synthav.html")


def test_every_preset_and_suite_has_a_page_with_its_threats_and_attacks(site: Path) -> None:
    for name in PRESETS.names():
        text = page(site, f"threats/{name}.html").text
        assert all(str(threat) in text for threat in PRESETS.get(name))
    for name in SUITES.names():
        suite, text = SUITES.get(name), page(site, f"threats/{name}.html").text
        assert suite.digest in text
        assert all(str(what) in text for what in (*suite.threats, *suite.attacks))
        assert ("lb/synthav/cvpr21-attack.html" in links(site, f"threats/{name}.html")) == (name == "cvpr21-attack")


def test_every_note_on_a_papers_figures_is_cited_and_every_mark_has_its_note() -> None:
    for one in read_published(HOME / "published"):
        marks = {mark for row in one.table.rows for mark in (row.cells[-1] or [])}  # type: ignore[union-attr]
        marks |= {
            int(n) for _, text in one.facts if "notes" in text for n in re.findall(r"\d+", text.partition("notes")[2])
        }
        assert marks == set(range(1, len(one.notes) + 1)), one.name
        assert {row.state for row in one.table.rows} == {"reported"}
        assert "rank" not in {column.kind for column in one.table.columns}
