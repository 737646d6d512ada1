"""Scores as plain tables in a terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import rich_click as click
from tabulate import tabulate

from avbench import store
from avbench.metrics import CLEAN, NONE

_ACCURACIES = ("attack-accuracy", "robust-accuracy", "avg", "ri")


def print_run(run: Path, scores: pd.DataFrame) -> None:
    """Print accuracies by attack and threat, and where everything else lies."""
    record = store.read_record(run)
    data = record["dataset"]
    click.echo(f"{record['model']['id']} on {record['track']}: {data['evaluated']} of {data['size']} samples")
    clean = scores[(scores["metric"] == "clean-accuracy") & (scores["attack"] == NONE)].iloc[0]
    shown = scores[scores["metric"].isin(_ACCURACIES)]
    threats = [name for name in shown["threat"].unique() if name != CLEAN]
    rows = [["clean", _cell(clean)]]
    for attack in dict.fromkeys(shown["attack"]):
        row = [str(attack)]
        for threat in threats:
            here = shown[(shown["attack"] == attack) & (shown["threat"] == threat)]
            row.append("; ".join(f"RI {_cell(s)}" if s["metric"] == "ri" else _cell(s) for _, s in here.iterrows()))
        rows.append(row)
    click.echo(tabulate(rows, ["accuracy in % [95 % interval]", *threats], disable_numparse=True))
    click.echo(f"rows and record: {run}\nall metrics:     avbench score {run}")


def print_scores(scores: pd.DataFrame) -> None:
    """Print every score of a run."""
    rows = [
        [
            s["metric"],
            s["threat"],
            s["attack"],
            f"{s['value']:.2f}",
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
