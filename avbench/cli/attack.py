"""`avbench attack`: one clip, before and after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import rich_click as click

from avbench.cli.models import model_options


@click.command()
@click.argument("model")
@click.argument("clip")
@click.option("--attack", "attack_text", default="pgd", show_default=True, metavar="ATTACK", help="As in evaluate.")
@click.option("--threat", default="standard/XAV", show_default=True, metavar="THREAT", help="As in evaluate; one only.")
@click.option("--label", help="True class of a file; by default what the model answers.")
@model_options
@click.option("--seed", default=0, show_default=True, help="Of the attack.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="By default runs/attack/<model>/<clip>.")
def attack(
    model: str,
    clip: str,
    attack_text: str,
    threat: str,
    label: str | None,
    how: dict[str, Any],
    seed: int,
    device: str,
    output_dir: Path | None,
) -> None:
    """Attack one CLIP and write it: to be heard and seen beside the clean one.

    CLIP is a video file, or DATASET/SPLIT/ID. The table says what is left of the attack when the clip is rounded to
    16-bit sound and 8-bit pictures, and after lossy coding.
    """
    from tabulate import tabulate

    from avbench.attack_clip import attack_clip, find_clip
    from avbench.attacks import parse_attack
    from avbench.errors import BadOption
    from avbench.sandbox import open_model
    from avbench.threats import find_threats

    threats = list(find_threats(threat))
    if len(threats) != 1:
        raise BadOption(f"one clip is attacked under one threat; {threat} names {len(threats)}: try {threat}/XAV")
    candidate, card = open_model(model, **how)
    sample = find_clip(clip, card, label)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", sample.id)
    folder = output_dir or Path("runs") / "attack" / candidate.id / name
    found = attack_clip(candidate, card, sample, threats[0], parse_attack(attack_text), folder, seed, device)
    rows = [
        [one.version, one.prediction, f"{100 * one.confidence:.2f}", f"{100 * one.confidence_in_label:.2f}"]
        for one in found.answers
    ]
    heads = [f"{sample.id} under {attack_text}", "answer", "confidence, %", f"in {found.label}, %"]
    click.echo(tabulate(rows, heads, disable_numparse=True))
    click.echo(
        f"{threats[0]}: audio SNR {found.sizes['audio_snr_db']:.2f} dB (dB_x {found.sizes['audio_db_x']:.2f}), "
        f"video PSNR {found.sizes['video_psnr_db']:.2f} dB"
    )
    click.echo(
        f"written to {folder}: clean.mkv and adversarial.mkv (lossless), adversarial.mp4 (lossy), adversarial.wav, "
        "frames/, difference.png (amplified), spectrograms.svg and .png"
    )
