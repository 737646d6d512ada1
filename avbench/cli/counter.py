"""`avbench submit attack`: adversarial clips of a third party for an existing row."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from avbench.cli.models import trust_option


@click.command("attack")
@click.argument("clips", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Who made the clips; shown with what they break.")
@click.option("--url", help="Where to read about the attack: https, and one of few sites.")
@click.option("--model", help="The model of RUN, if it is not a submission of the same name.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@trust_option
def attack(
    clips: Path, run: Path, name: str, url: str | None, model: str | None, device: str, trust_remote_code: bool
) -> None:
    """Verify the adversarial CLIPS of a folder against RUN, and keep those that break what nobody had broken.

    They are written below RUN, with credit, and lower its best known robust accuracy; its own figures stay. Write
    CLIPS by `avbench.adversarial.write_clips`.
    """
    from avbench.counter import accept, alive_samples
    from avbench.progress import working
    from avbench.verify import verify

    with working("verifying", quiet=False):
        _, replay = verify(run, model, device, trust_remote_code)
        before = alive_samples(replay)
        counter = accept(clips, replay, name, url)
        after = alive_samples(replay)
    total = len(replay.run.positions)
    for threat, alive in before.items():
        old, new = (100 * len(samples) / total for samples in (alive, after[threat]))
        click.echo(f"{threat}: best known {old:.2f} % -> {new:.2f} %")
    click.echo(f"kept: {counter.folder} ({len(counter.frame)} clips)")
