"""One page for each dataset: what its clips are, how its splits are pinned, what may be shown, and its boards."""

from __future__ import annotations

from collections.abc import Iterator

from avbench import files as places
from avbench.datasets.cards import card_folder, names
from avbench.errors import UnknownName
from avbench.site.boards import find_card
from avbench.site.content import Content, Group
from avbench.site.pages import File, Render

MEDIA = {
    "none": "no clip is shown, since its rights do not allow it",
    "thumbnail": "small pictures of clips may be shown",
    "full": "clips may be shown and played",
}


def files(content: Content, render: Render) -> Iterator[File]:
    """Yield the files."""
    for name in sorted({*names(), *content.groups}):
        card = find_card(name)
        group = content.groups.get(name) or Group(name, card.title if card else name, card.summary if card else "")
        splits = {split: (size, _lock(name, split)) for split, size in (card.splits if card else {}).items()}
        context = {"card": card, "group": group, "splits": splits, "media": MEDIA[card.media] if card else ""}
        yield render(f"datasets/{name}.html", "dataset.html.j2", **context)


def _lock(name: str, split: str) -> str:
    """Hash of the file that pins the split's clips, or nothing where there is none."""
    try:
        path = card_folder(name) / f"{split}.csv"
    except UnknownName:
        return ""
    return places.sha256_file(path) if path.is_file() else ""
