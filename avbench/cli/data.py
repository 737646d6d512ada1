"""`avbench data`: prepare, verify and look at datasets."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.group()
def data() -> None:
    """Prepare, verify and look at datasets."""


@data.command("list")
def list_datasets() -> None:
    """List the datasets, their splits and which are prepared here."""
    from tabulate import tabulate

    from avbench.datasets import DATASETS
    from avbench.datasets.cards import read_card
    from avbench.datasets.shards import folder

    rows = []
    for name in DATASETS.names():
        for split, size in read_card(name).splits.items():
            state = "prepared" if (folder(name) / split).is_dir() else "not prepared"
            rows.append([name, split, size, "built on first use" if DATASETS.get(name).embedded else state])
    click.echo(tabulate(rows, ["dataset", "split", "samples", "here"]))


@data.command()
@click.argument("name")
@click.option(
    "--source", type=click.Path(path_type=Path), help="Folder with the original files; without it they are fetched."
)
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
def prepare(name: str, source: Path | None, splits: tuple[str, ...]) -> None:
    """Make the shards of dataset NAME and check every sample against its lock file."""
    _each(name, splits, source, write_lock=False)


@data.command()
@click.argument("name")
@click.option(
    "--source", type=click.Path(path_type=Path), help="Folder with the original files; without it they are fetched."
)
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
def lock(name: str, source: Path | None, splits: tuple[str, ...]) -> None:
    """Write the lock files of dataset NAME anew; for maintainers, since it changes what is measured."""
    _each(name, splits, source, write_lock=True)


def _each(name: str, splits: tuple[str, ...], source: Path | None, write_lock: bool) -> None:
    from avbench.datasets.cards import read_card
    from avbench.datasets.shards import prepare as prepare_split

    for split in splits or read_card(name).splits:
        made = prepare_split(name, split, source, write_lock)
        click.echo(f"{name} {split}: {len(made.rows)} samples, lock sha256 {made.sha256}")


@data.command()
@click.argument("name")
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
def verify(name: str, splits: tuple[str, ...]) -> None:
    """Read every prepared sample of dataset NAME and compare it with its pinned hash."""
    from rich.progress import track

    from avbench.datasets.cards import read_card
    from avbench.datasets.shards import open_split

    for split in splits or read_card(name).splits:
        opened = open_split(name, split)
        for index in track(range(len(opened)), f"{name} {split}", transient=True):
            opened.stored(index)
        click.echo(f"{name} {split}: {len(opened)} samples are the pinned ones")


@data.command()
@click.argument("name")
def info(name: str) -> None:
    """Print the card of dataset NAME."""
    import yaml

    from avbench.datasets.cards import read_card

    click.echo(yaml.safe_dump(read_card(name).model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())
