"""Badges for READMEs, and the pictures that social media show for a link."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from avbench.site.boards import Board
from avbench.site.content import Content, Entry
from avbench.site.history import average
from avbench.site.pages import File, Render

SIZE = (1200, 630)  # what social media ask for
PAGE, INK, SOFT, ACCENT = "#ffffff", "#1b2430", "#566272", "#1f5f8b"
LETTER = 6.8  # width of one in a badge, as set


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for entries in content.models.values():
        for entry in entries:
            yield _badge(entry, render)
    runs = sum(len(board.runs) for board in content.boards)
    words = [
        f"{len(content.models)} models, {runs} runs",
        "sound, picture or both attacked, an interval on every number",
    ]
    yield "previews/site.png", _preview("avbench", "adversarial robustness of audio-visual models", words)
    for board in content.boards:
        yield f"previews/{board.record.dataset.name}/{board.name}.png", _of_board(board)


def _badge(entry: Entry, render: Render) -> File:
    record = entry.scored.run.record
    label = f"{entry.board.card.title if entry.board.card else record.dataset.name} {entry.board.name}"
    rank = f"rank {entry.scored.place}" if entry.scored.place is not None else entry.state.partition(":")[0]
    avg = average(entry)
    value = f"{rank}, Avg {avg} %" if avg else rank
    widths = [round(LETTER * len(text)) for text in (label, value)]
    path = f"badges/{record.dataset.name}/{entry.board.name}/{record.model.id}.svg"
    ranked = entry.scored.place is not None
    return render(path, "badge.svg.j2", label=label, value=value, widths=widths, ranked=ranked)


def _of_board(board: Board) -> bytes:
    record = board.record
    words = [f"{len(board.runs)} runs, {len(board.ranked)} ranked, {record.dataset.size} samples"]
    if board.ranked:
        best = Entry(board, board.ranked[0])
        words.insert(0, f"{best.scored.run.record.model.title}: Avg {average(best)} %")
    title = board.card.title if board.card else record.dataset.name
    return _preview(title, f"{record.suite.name}@{record.suite.version} on avbench", words)


def _preview(title: str, below: str, words: list[str]) -> bytes:
    picture = Image.new("RGB", SIZE, PAGE)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 28, SIZE[1]), fill=ACCENT)
    lines = [
        (title, 96, 110, INK),
        (below, 40, 250, ACCENT),
        *((w, 36, 370 + 70 * i, SOFT) for i, w in enumerate(words)),
    ]
    for text, size, top, color in lines:
        draw.text((90, top), _fit(text, size), font=_font(size), fill=color)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _fit(text: str, size: int) -> str:
    """Cut what would leave the picture."""
    room = SIZE[0] - 150
    while _font(size).getlength(text) > room:
        text = f"{text.rstrip('…')[:-1]}…"
    return text


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
