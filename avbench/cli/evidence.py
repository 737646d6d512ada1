"""`avbench evidence`: a few clips of a run, to be shown beside its scores."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from avbench.cli.models import trust_option


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--model", help="The model of RUN, if it is not a submission of the same name.")
@trust_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
def evidence(runs: tuple[Path, ...], model: str | None, trust_remote_code: bool, device: str) -> None:
    """Keep a few clips of each RUN, clean and attacked, for its model's page.

    They are chosen by a fixed rule, made again and compared with the rows of the run. Written: evidence.parquet, beside
    them; without sound and pictures, unless the card of the dataset allows these to be shown.
    """
    from avbench.evidence.make import make_evidence
    from avbench.progress import working

    for run in runs:
        with working(f"making evidence of {run}", quiet=False):
            path = make_evidence(run, model, device, trust_remote_code)
        click.echo(f"{path}: {path.stat().st_size} bytes")
