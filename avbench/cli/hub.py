"""`avbench data push` and `avbench data pull`: prepared datasets on the Hugging Face Hub."""

from __future__ import annotations

import rich_click as click


@click.command()
@click.argument("name")
@click.option("--repo", required=True, metavar="ORG/NAME", help="Dataset repository; made if it does not exist.")
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable. The commit holds no others.")
def push(name: str, repo: str, splits: tuple[str, ...]) -> None:
    """Publish the prepared shards of dataset NAME on the Hugging Face Hub, if its card allows passing clips on.

    Log in first: `hf auth login`.
    """
    from avbench.hub.datasets import push_dataset

    commit = push_dataset(name, repo, splits)
    click.echo(f"{name} is published; get it by: avbench data pull {name} --repo {repo} --revision {commit}")


@click.command()
@click.argument("name")
@click.option("--repo", metavar="ORG/NAME", help="Dataset repository; by default the one in the card.")
@click.option("--revision", metavar="HEX", help="Its commit, 40 hexadecimal digits; by default the one in the card.")
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
def pull(name: str, repo: str | None, revision: str | None, splits: tuple[str, ...]) -> None:
    """Get prepared shards of dataset NAME from the Hugging Face Hub; every clip is checked.

    The same command again continues a stopped one.
    """
    from avbench.datasets.cards import read_card
    from avbench.datasets.prepare import read_gaps
    from avbench.errors import BadOption
    from avbench.hub.datasets import pull_dataset

    card = read_card(name)
    if repo is None and card.hub is not None:
        repo, revision = card.hub.repo, revision or card.hub.revision
    if repo is None or revision is None:
        raise BadOption(f"say where {name} is: --repo ORG/NAME --revision HEX (its card has no complete answer)")
    pull_dataset(name, repo, revision, splits)
    for split in splits or card.splits:
        there = card.splits[split] - len(read_gaps(name, split))
        click.echo(f"{name} {split}: {there} of {card.splits[split]} samples, each the pinned one")
