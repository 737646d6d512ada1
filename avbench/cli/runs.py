"""`avbench evaluate` and `avbench train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from avbench.cli.models import model_options
from avbench.errors import BadOption
from avbench.options import RunOptions

if TYPE_CHECKING:
    from avbench.runner import Run

_Command = Callable[..., Any]


def run_options(command: _Command) -> _Command:
    """Generate one flag from each field of RunOptions."""
    for field in reversed(dataclasses.fields(RunOptions)):
        flag = f"--{field.name.replace('_', '-')}"
        if field.default is False:
            option = click.option(flag, is_flag=True, help=field.metadata["help"])
        else:
            option = click.option(
                flag, default=field.default, type=_kind(field), metavar=field.metadata["metavar"], show_default=True,
                help=field.metadata["help"],
            )  # fmt: skip
        command = option(command)
    return command


class _CountOrAuto(click.ParamType[int | None]):
    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in (None, "auto"):
            return None
        try:
            return int(value)
        except ValueError:
            raise BadOption(f"{param.opts[0] if param else 'value'} is a whole number or auto, not {value!r}") from None


def _kind(field: dataclasses.Field[Any]) -> Any:
    kinds = {"limit": int, "batch_size": _CountOrAuto(), "seed": int, "workers": int}
    return {**kinds, "output_dir": click.Path(path_type=Path)}.get(field.name, str)


@click.command()
@click.argument("model")
@click.option("--split", default="test", show_default=True, help="Split, or the first of it: test-200.")
@click.option("--suite", help="Protocol, such as cvpr21-attack or cvpr21-attack@1 (the default).")
@click.option(
    "--threat", "threats", multiple=True, metavar="THREAT", help="standard, standard/XA or XA:linf:0.006; repeatable."
)
@click.option(
    "--attack", "attacks", multiple=True, metavar="ATTACK", help="pgd or pgd:steps=20,restarts=5; repeatable."
)
@model_options
@run_options
@click.option(
    "--dry-run", is_flag=True, help="Print cells and passes, and after a trial of ten seconds the time, and stop."
)
def evaluate(
    model: str,
    how: dict[str, Any],
    split: str,
    suite: str | None,
    threats: tuple[str, ...],
    attacks: tuple[str, ...],
    dry_run: bool,
    **options: Any,
) -> None:
    """Attack MODEL and write one row per sample and attack.

    MODEL is a submission (its folder or its id), a .safetensors file, a .ckpt, .pt or .pth state dict, or with
    --trust-remote-code FILE.py:Factory, where Factory(classes, spec) makes a torch module. The same command again
    continues a run that was stopped.
    """
    run_with = RunOptions(**options)

    from avbench import api, store, summarize
    from avbench.cli.diagnose import print_health
    from avbench.cli.tables import print_run
    from avbench.curve import draw_curve
    from avbench.datasets.splits import open_split
    from avbench.device import threads_of
    from avbench.metrics.multilabel import per_class
    from avbench.runner import Run
    from avbench.runner import evaluate as run_suite
    from avbench.sandbox import open_model
    from avbench.suites import find_suite

    chosen = find_suite(suite, threats, attacks)
    with threads_of(run_with.engine):
        candidate, card = open_model(model, **how)
        opened = open_split(card.name, split)
        if dry_run:
            _print_estimate(Run(candidate, opened, chosen, run_with))
            return
        folder = run_suite(candidate, opened, chosen, run_with)
    rows = api.read_run(folder)
    scores = summarize.score(rows)
    print_run(folder, scores)
    print_health(folder)
    if draw_curve(folder, scores):
        click.echo(f"curves:          {folder / 'curve.png'}")
    if rows.multilabel:
        store.publish_table(folder / "classes.parquet", per_class(rows))
        click.echo(f"classes:         {folder / 'classes.parquet'}")


def _print_estimate(run: Run) -> None:
    from tabulate import tabulate

    from avbench.estimate import estimate
    from avbench.progress import working

    with working("trying the attacks for about ten seconds", quiet=False):
        found = estimate(run)
    heads = ["threat", "attack", "samples", "forward", "backward", "seconds", "expected seconds"]
    rows = [[*one[:5], f"{one.seconds:.1f}", f"{one.expected:.1f}"] for one in found]
    total = [sum(column) for column in zip(*[(*one[2:6], one.expected) for one in found], strict=True)]
    rows.append(["all", "", *total[:3], *(f"{seconds:.1f}" for seconds in total[3:])])
    if run.worst_case or run.may_rank:
        click.echo(tabulate(rows, heads))
        where = (
            "in a worst-case suite and in looking for health flags" if run.worst_case else "in looking for health flags"
        )
        click.echo(f"upper bounds, and what a short trial expects: {where}, broken samples are left out")
    else:
        click.echo(tabulate([row[:-1] for row in rows], heads[:-1]))
    if run.options.engine != "local":
        click.echo("seconds are those of one worker")
    click.echo(f"nothing was run; the results would go to {run.folder}")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help="Folder of the weights; by default runs/train/<recipe's folder or name>.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--fresh", is_flag=True, help="Discard earlier weights and states in the folder.")
def train(recipe: Path, output_dir: Path | None, device: str, fresh: bool) -> None:
    """Train RECIPE (YAML) and write weights.safetensors with the recipe in its header.

    The same command again continues after the last full epoch.
    """
    from avbench.defenses.train import read_recipe
    from avbench.defenses.train import train as run_recipe

    parsed = read_recipe(recipe)
    name = recipe.resolve().parent.name if recipe.stem == "recipe" else recipe.stem
    weights = run_recipe(parsed, output_dir or Path("runs") / "train" / name, device, fresh)
    click.echo((weights.parent / "log.csv").read_text(encoding="utf-8").splitlines()[-1])
    click.echo(
        f"weights: {weights}\nlog:     {weights.parent / 'log.csv'}\ntry it:  avbench evaluate {weights} --suite quick"
    )
