"""`avbench figures`: figures of the papers, of finished runs."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from avbench.cli.models import trust_option


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of t-SNE.")
@trust_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Folder of the figures; by default RUN/figures.")
def figures(runs: tuple[Path, ...], seed: int, trust_remote_code: bool, device: str, output_dir: Path | None) -> None:
    """Draw finished runs beside each other, as SVG and PNG.

    t-SNE of clean and attacked embeddings, where a model looks, density against convexity, strength curves. The models
    are the submissions that the runs evaluated.
    """
    from avbench.run_figures import draw_figures

    for path in draw_figures(
        runs, output_dir or runs[0] / "figures", seed, device, trust_remote_code=trust_remote_code
    ):
        click.echo(f"{path}.svg {path}.png")
