"""`avbench leaderboard`: build the static site and show it."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.group()
def leaderboard() -> None:
    """Build the static leaderboard and show it."""


@leaderboard.command()
@click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of runs to add to the committed results; repeatable.",
)
@click.option(
    "--out", default=Path("build/site"), show_default=True, type=click.Path(path_type=Path), help="Folder of the site."
)
def build(results: tuple[Path, ...], out: Path) -> None:
    """Build the site from the committed results, the published figures of the papers, and your own runs."""
    from avbench import files
    from avbench.site import build as build_site

    index = build_site([files.root() / "leaderboard" / "results", *results], out)
    click.echo(f"leaderboard: {index.resolve().as_uri()}")


@leaderboard.command()
@click.option(
    "--out", default=Path("build/site"), show_default=True, type=click.Path(path_type=Path), help="Folder of the site."
)
@click.option("--port", default=8000, show_default=True, help="Port on this machine.")
def serve(out: Path, port: int) -> None:
    """Show a built site at http://127.0.0.1:PORT until Ctrl-C."""
    from avbench.site import serve as serve_site

    serve_site(out, port)
