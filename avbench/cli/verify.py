"""`avbench verify`: check a result without believing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from avbench.cli.models import trust_option

if TYPE_CHECKING:
    from avbench.verify import Report


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--model", help="The model of RESULT, if it is not a submission of the same name.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@trust_option
def verify(result: Path, model: str | None, device: str, trust_remote_code: bool) -> None:
    """Check RESULT, the folder of a finished run: hashes, budgets, labels, and the model's answers.

    Of a run without --save-adversarial the attacked rows cannot be asked for again; what was not checked is listed.
    """
    from avbench.counter import check_counters
    from avbench.progress import working
    from avbench.verify import verify as check

    with working("verifying", quiet=False):
        report, replay = check(result, model, device, trust_remote_code)
        counters = check_counters(replay)
    print_report(report)
    for counter in counters:
        click.echo(f"counter attack:  {len(counter.frame)} clips of {counter.record.credit.name}, same answers")


def print_report(report: Report) -> None:
    """Print what was checked, the recomputed accuracies, and what was not."""
    from tabulate import tabulate

    from avbench.metrics import CLEAN, WORST_CASE

    click.echo(f"result:          {report.result}")
    click.echo(f"samples, cells:  {report.samples}, {report.cells}")
    click.echo(f"rows:            {report.rows} asked for again, same answers")
    click.echo(f"clips:           {report.clips} measured in integers, all within their budgets")
    for name, share in report.used.items():
        click.echo(f"budget used:     {100 * share:.4f} % of {name}")
    wanted = ("clean-accuracy", "robust-accuracy", "avg")
    s = report.scores
    s = s[s["metric"].isin(wanted) & ((s["threat"] == CLEAN) | (s["attack"] == WORST_CASE))]
    click.echo(tabulate(s[["metric", "threat", "value", "n"]].to_numpy().tolist(), floatfmt=".2f"))
    if report.close:
        click.echo(f"{report.close} rows are right by less than 0.0001 and do not count above")
    for what in report.unchecked:
        click.echo(f"not checked:     {what}")
