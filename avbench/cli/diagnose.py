"""`avbench diagnose`: whether a robust accuracy can be believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from avbench.cli.models import model_options

if TYPE_CHECKING:
    from avbench.diagnose import Flag


@click.command()
@click.argument("target", metavar="RUN|MODEL")
@click.option("--model", help="The model of RUN, if it is not a submission of the same name.")
@model_options
@click.option("--split", default="test", show_default=True, help="Split of the dataset of MODEL.")
@click.option("--threat", default="standard", show_default=True, help="Preset or threat model to probe MODEL under.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diagnose(
    target: str, model: str | None, how: dict[str, Any], split: str, threat: str, device: str, as_json: bool
) -> None:
    """Look for signs that RUN, or any run of MODEL, shows more robustness than there is.

    Gradients, randomness and a few stronger attacks are tried on 64 samples. The flags of a run are written to its
    health.json; a raised one keeps it from ranking until a person has looked.
    """
    from avbench.datasets.splits import open_split
    from avbench.diagnose.runs import diagnose_model, diagnose_run
    from avbench.progress import working
    from avbench.sandbox import open_model
    from avbench.threats import find_threats

    run = Path(target)
    flags: Sequence[Flag]
    if (run / "run.json").is_file():
        given = open_model(model, **how)[0] if model else None
        with working("looking for health flags", as_json):
            health = diagnose_run(run, given, device=device)
        flags = health.flags
        if not health.probed:
            click.echo(
                "no such submission here: its rows alone were checked, so it does not rank; give the model by --model",
                err=True,
            )
    else:
        candidate, card = open_model(target, **how)
        opened = open_split(card.name, split)
        with working("looking for health flags", as_json):
            flags = diagnose_model(candidate, opened, list(find_threats(threat)), device=device)
    if as_json:
        click.echo(json.dumps([flag.model_dump() for flag in flags], indent=2))
    else:
        print_flags(flags)


def print_health(run: Path) -> None:
    """Print the raised flags of a run, or that none is, or that nobody looked."""
    from avbench import store
    from avbench.diagnose import read_health, read_review

    record = store.read_record(run)
    health = read_health(run, record["run"], record["rows_sha256"])
    if health is None:
        click.echo(f"health flags:    not looked for; avbench diagnose {run}")
    elif not health.raised:
        click.echo(f"health flags:    none raised; all: avbench diagnose {run}")
    else:
        reason = read_review(run)
        click.echo(
            f"health flags:    raised, {f'accepted: {reason}' if reason else 'so it does not rank until reviewed'}"
        )
        print_flags(health.raised)


def print_flags(flags: Sequence[Flag]) -> None:
    """Print each flag with its value; raised ones first."""
    from tabulate import tabulate

    order = ("raised", "passed", "not checked")
    rows = [
        [flag.state, flag.name, flag.where, *(_number(x) for x in (flag.value, flag.threshold)), flag.n or ""]
        for flag in sorted(flags, key=lambda flag: order.index(flag.state))
    ]
    click.echo(tabulate(rows, ["state", "flag", "where", "value, %", "threshold, %", "n"], disable_numparse=True))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
