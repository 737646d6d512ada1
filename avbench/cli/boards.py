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
    from avbench.site import HOME
    from avbench.site import build as build_site

    index = build_site([HOME / "results", *results], out)
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


@leaderboard.command()
@click.argument("version")
def release(version: str) -> None:
    """Freeze the numbers of all boards as leaderboard/releases/VERSION, which nobody changes later."""
    from avbench.site import HOME, read_content
    from avbench.site.releases import freeze

    click.echo(f"release: {freeze(read_content([HOME / 'results']), version, HOME / 'releases')}")


@leaderboard.command()
@click.argument("reason")
def explain(reason: str) -> None:
    """Write to leaderboard/history.csv why numbers changed since the last release; a build refuses them before."""
    from avbench.site import HOME, read_content
    from avbench.site.releases import explain as write_reasons

    count = write_reasons(read_content([HOME / "results"]), reason, HOME / "history.csv")
    click.echo(f"{count} changed numbers explained in {HOME / 'history.csv'}")
