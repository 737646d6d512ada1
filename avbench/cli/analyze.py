"""`avbench analyze`: the geometry of a model's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from avbench.cli.models import model_options


@click.command()
@click.argument("what", metavar="RUN|MODEL")
@model_options
@click.option("--split", default="test", show_default=True, help="Split, for a MODEL.")
@click.option("--seed", default=0, show_default=True, help="Of pairs and points.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option(
    "--output-dir", type=click.Path(path_type=Path), help="Folder of the tables; by default RUN, or runs/analyze/<id>."
)
def analyze(what: str, how: dict[str, Any], split: str, seed: int, device: str, output_dir: Path | None) -> None:
    """Measure density and convexity of the classes of a model ([L22]).

    Of a RUN the model is the submission that it evaluated, and each class's accuracy drop is drawn against both. Writes
    geometry.parquet and, for a RUN, drops.parquet and drops.svg and .png.
    """
    from avbench import analyze as work
    from avbench import store
    from avbench.cli.tables import print_geometry
    from avbench.datasets.splits import open_split
    from avbench.errors import RunConflict
    from avbench.sandbox import open_model

    is_run = (Path(what) / "run.json").is_file()
    record = store.read_record(Path(what)) if is_run else None
    if record:
        candidate, card = open_model(record["model"]["id"], **how | {"dataset": record["dataset"]["name"]})
        split = record["dataset"]["split"]
        if candidate.identity["weights_sha256"] != record["model"]["weights_sha256"]:
            raise RunConflict(f"{what} evaluated other weights than {candidate.id} has now; give the MODEL instead")
    else:
        candidate, card = open_model(what, **how)
    table = work.analyze(candidate, open_split(card.name, split), seed, device)
    folder = output_dir or (Path(what) if is_run else Path("runs") / "analyze" / candidate.id)
    store.publish_table(folder / "geometry.parquet", table)
    if is_run:
        drops = work.accuracy_drop(store.read_rows(Path(what)))
        store.publish_table(folder / "drops.parquet", drops)
        work.draw(folder / "drops", table, drops, card.classes)
    print_geometry(table, card.classes)
    click.echo(f"tables: {folder}")
