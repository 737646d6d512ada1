"""`avbench leaderboard`: build the static site and show it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click


def _site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the folders of runs that a site is made of, and its own."""

    @click.option(
        "--results",
        "own",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Folder of runs to add to the committed results; repeatable.",
    )
    @click.option("--only", is_flag=True, help="Leave out the committed results.")
    @click.option(
        "--out",
        default=Path("build/site"),
        show_default=True,
        type=click.Path(path_type=Path),
        help="Folder of the site.",
    )
    @functools.wraps(command)
    def with_results(own: tuple[Path, ...], only: bool, **rest: Any) -> Any:
        from avbench.site import HOME

        return command(results=[*([] if only else [HOME / "results"]), *own], **rest)

    return with_results


@click.group()
def leaderboard() -> None:
    """Build the static leaderboard and show it."""


@leaderboard.command()
@_site_options
def build(results: list[Path], out: Path) -> None:
    """Build the site from the committed results, the published figures of the papers, and your own runs."""
    from avbench.site import build as build_site

    index = build_site(results, out)
    click.echo(f"leaderboard: {index.resolve().as_uri()}")


@leaderboard.command()
@_site_options
@click.option("--port", default=8000, show_default=True, help="Port on this machine.")
def serve(results: list[Path], out: Path, port: int) -> None:
    """Show the site at http://127.0.0.1:PORT until Ctrl-C, and build it anew when a run changes."""
    from avbench.site import build as build_site
    from avbench.site.server import serve as serve_site

    serve_site(out, port, results, lambda: build_site(results, out))


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
