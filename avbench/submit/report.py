"""What a check found, as a table for a terminal and as Markdown in which nothing of a stranger can break out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from avbench.sandbox.wire import escaped

Status = Literal["pass", "warn", "fail", "skip"]
COLORS: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
LONGEST = 400  # characters of a value that are shown


class Finding(NamedTuple):
    """What one step found."""

    step: str
    status: Status
    sentence: str  # ours alone: no word of the submission, of its files or of its model
    value: str = ""  # may hold anything, so it is shown escaped


def worst(findings: Sequence[Finding]) -> Status:
    """Status of several findings together."""
    order: list[Status] = ["skip", "pass", "warn", "fail"]
    return max((finding.status for finding in findings), key=order.index, default="skip")


def table(title: str, findings: Sequence[Finding]) -> Table:
    """Draw the findings for a terminal."""
    drawn = Table("step", "status", "what was found", title=Text(shown(title)), title_justify="left")
    for step, status, sentence, value in findings:
        what = Text(sentence) + Text(f": {shown(value)}" if value else "", "dim")
        drawn.add_row(step, Text(status, COLORS[status]), what)
    return drawn


def markdown(title: str, findings: Sequence[Finding]) -> str:
    """Write the findings as Markdown, as GitHub reads it."""
    counts = [f"{sum(f.status == status for f in findings)} {status}" for status in COLORS]
    rows = [f"| {f.step} | {f.status} | {f.sentence}{f': {code(f.value)}' if f.value else ''} |" for f in findings]
    head = [f"### Check of {code(title)}", "", ", ".join(counts), "", "| step | status | what was found |"]
    return "\n".join([*head, "|---|---|---|", *rows]) + "\n"


def shown(value: str) -> str:
    """Show text of a stranger in one line of plain ASCII, cut where it is long."""
    text = escaped(value.encode("utf-8", "backslashreplace"))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def code(value: str) -> str:
    """Put text of a stranger into a code span, where GitHub reads no HTML, link or mention.

    What ends a span or a table's cell is replaced, since neither can be escaped in all places.
    """
    text = shown(value).replace("`", "'").replace("|", "/")
    return f"`{text}`" if text else ""
