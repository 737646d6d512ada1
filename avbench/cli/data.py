"""`avbench data`: prepare, verify and look at datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import rich_click as click

from avbench.cli.audit import audit
from avbench.cli.hub import pull, push
from avbench.cli.new import new

_FOLDER = click.Path(path_type=Path)


@click.group()
def data() -> None:
    """Prepare, verify and look at datasets."""


@data.command("list")
def list_datasets() -> None:
    """List the datasets, their splits and which are prepared here."""
    from tabulate import tabulate

    from avbench.datasets import DATASETS
    from avbench.datasets.cards import Lock, names, read_card
    from avbench.datasets.shards import LOCK, folder

    rows = []
    for name in names():
        card = read_card(name)
        for split, size in card.splits.items():
            state = "not prepared"
            if (path := folder(name) / split / LOCK).is_file():
                missing = sum(not row.sha256 for row in Lock.read(path, card.task).rows)
                state = f"prepared, {missing} missing" if missing else "prepared"
            elif card.lists is None and DATASETS.get(name).embedded:
                state = "built on first use"
            rows.append([name, split, size, state])
    click.echo(tabulate(rows, ["dataset", "split", "samples", "here"]))


def _sources(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--split", "splits", multiple=True, help="Only this split; repeatable."),
        click.option("--lists", type=_FOLDER, help="Folder of the official lists; without it they are fetched."),
        click.option("--videos", type=_FOLDER, help="Folder of the original files; without it they are fetched."),
        click.argument("name"),
    ):
        command = option(command)
    return command


@data.command()
@_sources
def prepare(name: str, videos: Path | None, lists: Path | None, splits: tuple[str, ...]) -> None:
    """Decode the clips of dataset NAME into shards, and report what is missing.

    The same command again continues a stopped one, and tries missing clips again. Videos on YouTube cannot be
    fetched: give the folder of those that you have.
    """
    from avbench.datasets.prepare import prepare as prepare_split
    from avbench.datasets.shards import GAPS, folder

    for split in splits or _splits(name):
        made = prepare_split(name, split, videos, lists)
        there = len(made.lock.rows) - len(made.gaps)
        coverage = f"{there} of {len(made.lock.rows)} samples ({100 * made.coverage:.2f} %)"
        click.echo(f"{name} {split}: {coverage}, lock sha256 {made.lock.sha256}")
        if made.gaps:
            click.echo(f"  missing: {made.reasons}; each with its reason in {folder(name) / split / GAPS}")


@data.command()
@_sources
def lock(name: str, videos: Path | None, lists: Path | None, splits: tuple[str, ...]) -> None:
    """Write the lock files of dataset NAME anew; for maintainers, since it changes what is measured."""
    from avbench.datasets.prepare import prepare as prepare_split

    for split in splits or _splits(name):
        made = prepare_split(name, split, videos, lists, write_lock=True)
        click.echo(f"{name} {split}: {len(made.lock.rows)} samples, lock sha256 {made.lock.sha256}")


def _splits(name: str) -> list[str]:
    from avbench.datasets.cards import read_card

    return list(read_card(name).splits)


@data.command()
@click.argument("name")
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
def verify(name: str, splits: tuple[str, ...]) -> None:
    """Read every prepared sample of dataset NAME and compare it with its pinned hash."""
    from avbench.datasets.splits import open_split
    from avbench.progress import track

    for split in splits or _splits(name):
        opened = open_split(name, split)
        for index in track(opened.present, f"{name} {split}"):
            opened.stored(index)
        click.echo(f"{name} {split}: {len(opened.present)} samples are the pinned ones")


@data.command()
@click.argument("name")
def info(name: str) -> None:
    """Print the card of dataset NAME."""
    import yaml

    from avbench.datasets.cards import read_card

    click.echo(yaml.safe_dump(read_card(name).model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())


for command in (new, audit, push, pull):
    data.add_command(command)
