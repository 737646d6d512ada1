"""`avbench convert`: checkpoints of others' released code, as weights that `avbench evaluate` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from typing import Literal

_FILE = click.Path(path_type=Path)


@click.group()
def convert() -> None:
    """Turn checkpoints of others' released code into weights that `avbench evaluate` takes."""


@convert.command()
@click.argument("sound", type=_FILE)
@click.argument("frame", type=_FILE)
@click.argument("classifier", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="The .safetensors file to write.")
@click.option(
    "--fusion", type=click.Choice(["concat", "sum"]), default="concat", show_default=True, help="What CLASSIFIER reads."
)
def cvpr21(sound: Path, frame: Path, classifier: Path, out: Path, fusion: Literal["concat", "sum"]) -> None:
    """Convert what the code of Tian & Xu (CVPR 2021) saves: sound_best.pth, frame_best.pth and classifier_best.pth."""
    from avbench.convert import convert_cvpr21

    classes = convert_cvpr21(sound, frame, classifier, out, fusion)
    click.echo(f"{out}: avnet, {fusion}, {classes} classes; now: avbench evaluate {out} --dataset NAME")
