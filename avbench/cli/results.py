"""`avbench hub`: results on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.group()
def hub() -> None:
    """Publish results on the Hugging Face Hub. Log in first: `hf auth login`."""


@hub.command()
@click.option("--repo", required=True, metavar="ORG/NAME", help="Dataset repository; made if it does not exist.")
@click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of runs, in place of the committed results; repeatable.",
)
def push(repo: str, results: tuple[Path, ...]) -> None:
    """Publish rows, records and scores of runs as a dataset; it then holds exactly these runs."""
    from avbench import files
    from avbench.publish import push_results

    commit = push_results(repo, results or [files.root() / "leaderboard" / "results"])
    click.echo(f"the results are published: {repo} at {commit}")


@hub.command()
@click.argument("repo", metavar="ORG/MODEL")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--results", required=True, metavar="ORG/NAME", help="Dataset repository that holds the runs.")
def card(repo: str, runs: tuple[Path, ...], results: str) -> None:
    """Write the clean and robust accuracy of finished runs RUN... into the model repository ORG/MODEL.

    The text of its card stays. Publish the runs first: `avbench hub push`.
    """
    from avbench.publish import push_figures

    click.echo(f"the figures are published: {repo} at {push_figures(repo, runs, results)}")
