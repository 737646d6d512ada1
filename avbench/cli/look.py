"""`avbench list`, `show`, `score` and `env`: look at what there is."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import rich_click as click

# What `list` knows: the module and the variable of each registry. Listing does not import what is registered.
REGISTRIES = {
    "architectures": ("avbench.models", "ARCHITECTURES"),
    "attacks": ("avbench.attacks", "ATTACKS"),
    "budgets": ("avbench.threats", "BUDGETS"),
    "defenses": ("avbench.defenses", "DEFENSES"),
    "metrics": ("avbench.metrics", "METRICS"),
    "suites": ("avbench.suites", "SUITES"),
    "threats": ("avbench.threats", "PRESETS"),
}
LISTS = sorted([*REGISTRIES, "datasets", "models"])


@click.command("list")
@click.argument("what", type=click.Choice(LISTS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def listing(what: str, as_json: bool) -> None:
    """List attacks, threats, suites, datasets, models and so on."""
    found = {"models": _models, "datasets": _datasets}.get(what, lambda: _registered(what))()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        click.echo(f"{name:<{width}}  {summary}")


def _registered(what: str) -> dict[str, str]:
    module, variable = REGISTRIES[what]
    registry = getattr(importlib.import_module(module), variable)
    if what == "suites":
        return {str(suite): suite.summary for suite in map(registry.outline, registry.names())}
    if what == "threats":
        return {name: _threats(registry.get(name)) for name in registry.names()}
    return {name: registry.summary(name) for name in registry.names()}


def _threats(preset: tuple[object, ...]) -> str:
    texts = list(map(str, preset))
    return ", ".join(texts) if len(texts) <= 3 else f"{len(texts)} threats, {texts[0]} to {texts[-1]}"


def _datasets() -> dict[str, str]:
    from avbench.datasets.cards import names, read_card

    return {name: read_card(name).summary for name in names()}


def _models() -> dict[str, str]:
    from avbench import files
    from avbench.errors import SubmissionError
    from avbench.form import read_submission

    folders = sorted((files.root() / "submissions").glob("*--*"))
    found = {}
    for folder in folders:
        try:
            found[folder.name] = read_submission(folder).summary
        except SubmissionError as error:  # one bad submission must not hide the others
            click.echo(f"{type(error).__name__}: {error}", err=True)
    return found


@click.command()
@click.argument("one", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(one: Path, other: Path, as_json: bool) -> None:
    """Compare runs ONE and OTHER sample by sample, on the samples that both have."""
    from avbench import api
    from avbench.cli.tables import print_comparison

    found = api.compare(one, other)
    if as_json:
        click.echo(found.to_json(orient="records", indent=2))
    else:
        print_comparison(one, other, found)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score(run: Path, as_json: bool) -> None:
    """Compute all metrics of RUN again, from its rows alone."""
    from avbench import api
    from avbench.cli.tables import print_scores

    scores = api.score(run)
    if as_json:
        click.echo(scores.to_json(orient="records", indent=2))
    else:
        print_scores(scores)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def show(run: Path) -> None:
    """Show the record of RUN: what was measured, on what, at what cost, and its accuracies."""
    from avbench import api, store
    from avbench.cli.diagnose import print_health
    from avbench.cli.tables import print_run

    record = store.read_record(run)
    click.echo(json.dumps({key: value for key, value in record.items() if key != "cells"}, indent=2))
    for cell in record["cells"]:
        passes = f"{cell['forward']} forward, {cell['backward']} backward"
        click.echo(f"{cell['threat']} {cell['attack']}: {cell['rows']} rows, {passes}, {cell['seconds']} s")
    if record["rows_sha256"] is None:
        click.echo("not finished; repeat `avbench evaluate` to continue")
        return
    print_run(run, api.score(run))
    print_health(run)
    click.echo(f"result:          {store.result_id(record)}")


@click.command()
def env() -> None:
    """Print versions, hardware and where avbench keeps its files; paste it into a bug report."""
    from avbench import files
    from avbench.device import find_device
    from avbench.provenance import provenance

    found: dict[str, Any] = provenance(find_device("auto"))
    found.pop("command")
    click.echo(json.dumps(found | {"cache": str(files.cache()), "root": str(files.root())}, indent=2))
