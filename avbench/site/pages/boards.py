"""One page for each board, measured or reported, and beside it the table that its script reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from avbench.site.boards import Board
from avbench.site.content import Content
from avbench.site.pages import File, Render
from avbench.site.published import PAPERS
from avbench.site.tables import Table


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for group in content.groups.values():
        for board in group.boards:
            address = f"{group.name}/{board.name}"
            data = f"data/lb/{address}.js"
            yield render(f"lb/{address}.html", "board.html.j2", board=board, data=data)
            yield data, _script(board.table, address, _about(group.title, board), board)
        for one in group.reported:
            address = f"{group.name}/{one.name}"
            data, paper = f"data/lb/{address}.js", ", ".join(PAPERS[one.paper])
            context = {"reported": one, "dataset_title": group.title, "reference": paper, "data": data}
            yield render(f"lb/{address}.html", "reported.html.j2", **context)
            yield data, _script(one.table, address, f"{group.title}, {one.title}, as printed ({paper})")


def _about(group: str, board: Board) -> str:
    """Say what a copy of the table has to say of itself."""
    record = board.record
    suite = f"{record.suite.name}@{record.suite.version}, split {record.dataset.split}"
    return f"{group}, {suite}, newest run of {record.provenance.date}"


def _script(table: Table, address: str, title: str, board: Board | None = None) -> str:
    """Write the table for the script of its page; without a board its models are not to be compared."""
    file = f"avbench-{address.replace('/', '-')}"
    about = {
        "board": address,
        "file": file,
        "title": title,
        "compare": board is not None and not board.multilabel,
        "bibtex": _bibtex(file, title, board.record.provenance.date[:4] if board else ""),
    }
    text = json.dumps({"about": about} | table.data, allow_nan=False, separators=(",", ":"))
    return f"window.avbenchTable={text};\n"


def _bibtex(key: str, title: str, year: str) -> str:
    """Cite a view; the script fills in ROWS and ADDRESS."""
    title = re.sub("([&_%#$])", r"\\\1", title)
    when = f"  year = {{{year}}},\n" if year else ""
    return (
        f"@misc{{{key},\n  author = {{{{The avbench authors}}}},\n  title = {{{{avbench: {title}}}}},\n{when}"
        "  note = {ROWS},\n  url = {ADDRESS}\n}\n"
    )
