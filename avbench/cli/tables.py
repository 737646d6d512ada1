"""Scores as plain tables in a terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import rich_click as click
from tabulate import tabulate

from avbench import store
from avbench.metrics import CLEAN, NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS


def print_run(run: Path, scores: pd.DataFrame) -> None:
    """Print accuracies by attack and threat, and where everything else lies."""
    record = store.read_record(run)
    data = record["dataset"]
    click.echo(f"{record['model']['id']} on {record['track']}: {data['evaluated']} of {data['size']} samples")
    found = {(s["metric"], s["threat"], s["attack"]): _cell(s) for _, s in scores.iterrows()}
    columns = [("", threat) for threat in record["threats"]] + [("avg", MEAN_OF_THREATS), ("ri", MEAN_OF_THREATS)]
    rows = [["clean", found["clean-accuracy", CLEAN, NONE]]]
    for attack in [*record["attacks"], WORST_CASE]:
        accuracy = "robust-accuracy" if attack == WORST_CASE else "attack-accuracy"
        rows.append([attack, *(found.get((metric or accuracy, threat, attack), "") for metric, threat in columns)])
    heads = ["% [95 % interval]", *(threat for _, threat in columns[:-2]), "Avg", "RI (points)"]
    rows = [row for row in rows if any(row[1:])]
    click.echo(tabulate(rows, heads, disable_numparse=True))
    if record["suite"]["mode"] == "worst-case":
        click.echo(
            "worst-case suite: a later attack runs only on what is still robust, so it has no accuracy of its own"
        )
    if "ri" not in set(scores["metric"]):
        click.echo("no RI: the dataset's baseline has no run on these samples under this protocol, here or committed")
    click.echo(f"rows and record: {run}\nall metrics:     avbench score {run}")


def print_scores(scores: pd.DataFrame) -> None:
    """Print every score of a run."""
    rows = [
        [
            s["metric"],
            s["threat"],
            s["attack"],
            f"{s['value']:.{4 if s['unit'] == 'input units' else 2}f}",
            f"[{s['low']:.2f}, {s['high']:.2f}]",
            s["n"],
            s["unit"],
        ]
        for _, s in scores.iterrows()
    ]
    click.echo(
        tabulate(rows, ["metric", "threat", "attack", "value", "95 % interval", "n", "unit"], disable_numparse=True)
    )


def _cell(score: pd.Series) -> str:
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
