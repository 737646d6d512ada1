"""BibTeX of the site, and of each dataset, suite and model on it."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.datasets.cards import names
from avbench.site.boards import find_card
from avbench.site.citation import bibtex, read_citation
from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.suites import SUITES


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    entries = {
        "The benchmark": [_site()],
        "Datasets": [_dataset(name) for name in names()],
        "Suites": [_suite(name) for name in SUITES.names()],
        "Models": [_model(content, name) for name in content.models],
    }
    yield render("cite.html", "cite.html.j2", entries=entries)


def _authors() -> str:
    return " and ".join(author.name for author in read_citation().authors)


def _site() -> tuple[str, str]:
    about = read_citation()
    version = f"Version {about.version}" if about.version else ""
    address = about.url or about.repository
    return "avbench", bibtex("software", "avbench", title=about.title, author=_authors(), year=about.date[:4],
                             note=version, url=address)  # fmt: skip


def _dataset(name: str) -> tuple[str, str]:
    card = find_card(name)
    title, note = (card.title, f"License: {card.license}") if card else (name, "")
    entry = bibtex("misc", f"avbench-dataset-{name}", title=f"{title}: {card.summary}" if card else title, note=note,
                   url=card.homepage if card else "")  # fmt: skip
    return title, entry


def _suite(name: str) -> tuple[str, str]:
    suite = SUITES.get(name)
    return str(suite), bibtex(
        "misc", f"avbench-suite-{name}-{suite.version}", title=f"Suite {suite} of avbench", author=_authors(),
        year=read_citation().date[:4], note=f"{suite.summary} Identity: {suite.digest}",
    )  # fmt: skip


def _model(content: Content, name: str) -> tuple[str, str]:
    newest = content.newest(name)
    year = max(entry.scored.run.record.provenance.date for entry in content.models[name])[:4]
    return newest.title, bibtex(
        "misc", f"avbench-model-{name}", title=newest.title, author=newest.authors, year=year,
        howpublished=f"avbench submission {name}", note=f"Weights sha256 {newest.weights_sha256}",
    )  # fmt: skip
