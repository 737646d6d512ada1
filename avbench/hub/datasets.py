"""Prepared splits on the Hub: publish them, and get them at a pinned commit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from avbench import __version__, files
from avbench.datasets.cards import Card, card_folder, read_card
from avbench.datasets.foreign import (
    check_listing,
    copy_shards,
    fixed_rows,
    gaps_text,
    put_in_place,
    read_tables,
    shard_paths,
)
from avbench.datasets.prepare import Prepared, alone, read_gaps
from avbench.datasets.shards import GAPS, LOCK, folder
from avbench.errors import BadOption, DataError
from avbench.hub.client import HubError, api, commit, license_word, login, talking
from avbench.progress import track

_OURS = re.compile(r"[^/]+/([0-9]{5}\.parquet|lock\.csv|gaps\.csv)")  # what `push_dataset` puts into a repository


def push_dataset(name: str, repo: str, splits: Sequence[str] | None = None) -> str:
    """Publish prepared splits as a dataset repository; its new commit holds exactly these splits.

    Args:
        name: a dataset whose card allows passing its clips on.
        repo: ORG/NAME; made if it does not exist.
        splits: None for all of the card's.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        DataError: if the clips may not be passed on, or are not the pinned ones.
        HubError: if nobody is logged in, or the Hub refuses or cannot be reached; then nothing was published.
    """
    card = read_card(name)
    chosen = _chosen(card, splits)
    if card.media != "full":
        raise DataError(
            f"{name} is not pushed: its card says `media: {card.media}`, so its clips may not be passed on; let others "
            f"run `avbench data prepare {name}` (and only if the license allows it, change the card to `media: full`)"
        )
    token = login(repo)
    prepared = {split: _read_prepared(card, split) for split in chosen}
    contents: dict[str, bytes | Path] = {
        "README.md": _readme(card, repo, prepared).encode(),
        "card.yaml": card_folder(name) / "card.yaml",
    }
    for split, made in prepared.items():
        contents |= {str(path): folder(name) / path for path in shard_paths(card, split)}
        contents |= {f"{split}/{LOCK}": made.lock.text.encode(), f"{split}/{GAPS}": gaps_text(made.gaps).encode()}
    message = f"{name}: {', '.join(chosen)} (avbench {__version__})"
    return commit(repo, "dataset", token, contents, message, _OURS)


def pull_dataset(name: str, repo: str, revision: str, splits: Sequence[str] | None = None) -> None:
    """Get prepared splits from a commit of a dataset repository; a stopped call continues with the missing files.

    A stranger's repository is not believed: its lists must be the fixed ones, every clip must be the one that its
    lock pins, and what is put in place are shards written here.

    Raises:
        BadOption: if `revision` is no commit.
        DataError: if the repository holds anything else than the dataset; then nothing of it is kept.
        HubError: if it cannot be had.
    """
    card = read_card(name)
    chosen = _chosen(card, splits)
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise BadOption(f"{revision!r} is no commit: give its 40 hexadecimal digits, since branches and tags can move")
    fixed = {split: fixed_rows(card, split) for split in chosen}
    with talking(repo):
        info = api().dataset_info(repo, revision=revision, files_metadata=True)
    if info.sha != revision:
        raise HubError(f"{repo} has no commit {revision}: the Hub answers with {info.sha}")
    sizes = {one.rfilename: one.size for one in info.siblings or ()}
    staged = files.cache() / "hub" / f"{repo.replace('/', '--')}@{revision}"
    with alone(staged.parent):
        try:
            for split in chosen:
                check_listing(card, split, sizes)
            _download(repo, revision, staged, [f"{split}/{table}" for split in chosen for table in (LOCK, GAPS)])
            found = {split: read_tables(card, staged / split, fixed[split]) for split in chosen}
            _download(repo, revision, staged, [str(path) for split in chosen for path in shard_paths(card, split)])
            copy_shards(card, {split: made.lock for split, made in found.items()}, staged, staged / "checked")
        except DataError as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise DataError(f"{repo} at {revision} is refused, and nothing of it was kept: {error}") from error
        for split in chosen:
            put_in_place(staged / "checked" / split, folder(name) / split, found[split])
        shutil.rmtree(staged)


def _chosen(card: Card, splits: Sequence[str] | None) -> list[str]:
    if unknown := [split for split in splits or () if split not in card.splits]:
        raise BadOption(f"{card.name} has the splits {', '.join(card.splits)}, not {unknown[0]!r}")
    return list(dict.fromkeys(splits or card.splits))


def _read_prepared(card: Card, split: str) -> Prepared:
    """Read every clip of a prepared split and compare it with its pinned hash."""
    from avbench.datasets.splits import open_split

    opened = open_split(card.name, split)
    for index in track(opened.present, f"{card.name} {split}"):
        opened.stored(index)
    return Prepared(opened.lock, read_gaps(card.name, split))


def _readme(card: Card, repo: str, prepared: Mapping[str, Prepared]) -> str:
    """Write the dataset card that the Hub shows, and from which `datasets.load_dataset` learns of the splits."""
    splits = [{"split": re.sub(r"\W", "_", split), "path": f"{split}/*.parquet"} for split in prepared]
    head = {
        "pretty_name": card.title,
        "license": license_word(card.license),
        "task_categories": ["audio-classification", "video-classification"],
        "tags": ["avbench", "audio-visual", "adversarial-robustness"],
        "configs": [{"config_name": "default", "data_files": splits}],
    }
    rows = [
        f"| {split} | {len(made.lock.rows) - len(made.gaps)} of {len(made.lock.rows)} ({100 * made.coverage:.2f} %) "
        f"| {made.reasons or '-'} | `{made.lock.sha256}` |"
        for split, made in prepared.items()
    ]
    return (
        Path(__file__)
        .with_name("dataset.md")
        .read_text(encoding="utf-8")
        .format(
            head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
            card=card,
            repo=repo,
            notes="".join(f"- {note}\n" for note in (f"License: {card.license}", *card.notes, card.homepage) if note),
            rows="\n".join(rows),
            labels="classes (indices)" if card.task == "multilabel" else "class (index)",
            classes=len(card.classes),
        )
    )


def _download(repo: str, revision: str, to: Path, paths: Sequence[str]) -> None:
    with talking(repo):
        api().snapshot_download(repo, repo_type="dataset", revision=revision, local_dir=to, allow_patterns=list(paths))
    if missing := [path for path in paths if not (to / path).is_file()]:
        raise HubError(f"{missing[0]} of {repo} could not be had; repeat the command")
