"""`avbench data new`: a user's own clips become a dataset, and are prepared."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from avbench.datasets.new import Kind


@click.command()
@click.argument("name")
@click.argument("source")
@click.option("--from", "kind", type=click.Choice(["folder", "csv", "hf"]), required=True, help="What SOURCE is.")
@click.option(
    "--videos", type=click.Path(path_type=Path), help="Folder of the files that a csv names; by default its own."
)
@click.option("--label", default="label", show_default=True, help="Column of the labels, of a csv or hf.")
@click.option("--seconds", type=float, help="Sound in a clip; by default the median length, at most 5.94.")
@click.option("--frames", default=1, show_default=True, help="Pictures in a clip, at 8 a second.")
@click.option("--size", default=224, show_default=True, help="Height and width of a picture, in pixels.")
@click.pass_context
def new(
    context: click.Context,
    name: str,
    source: str,
    kind: Kind,
    videos: Path | None,
    label: str,
    seconds: float | None,
    frames: int,
    size: int,
) -> None:
    """Make your own clips a dataset called NAME, in ./datasets/NAME, and prepare it.

    SOURCE is a folder, <class>/<clip> or {train,val,test}/<class>/<clip>; a csv with a column `file` and one of labels
    (several with `;` between), and perhaps id, split, start and end; or a Hugging Face dataset, as a folder or as
    ORG/NAME@REVISION.
    """
    from avbench.cli.data import prepare
    from avbench.datasets.new import new_dataset

    made = new_dataset(name, kind, source, videos, label, seconds, frames, size)
    card = made.card
    sizes = ", ".join(f"{split} {count}" for split, count in card.splits.items())
    click.echo(
        f"datasets/{name}: {sum(card.splits.values())} clips ({sizes}) of {len(card.classes)} classes; each "
        f"{card.samples / card.sample_rate:.2f} s of sound and {card.frames} x {card.height} x {card.width} pixels"
    )
    for remark in made.remarks:
        click.echo(f"  {remark}")
    click.echo(f"preparing; if stopped, continue by: avbench data prepare {name} --videos {quote(str(made.videos))}")
    context.invoke(prepare, name=name, videos=made.videos, lists=None, splits=())
    click.echo(
        f"fill in title, summary and license in datasets/{name}/card.yaml; look for leaks: avbench data audit {name}\n"
        f"then:  avbench train datasets/{name}/recipe.yaml\n"
        f"       avbench evaluate runs/train/{name}/weights.safetensors"
    )
