"""Scores as plain tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
import rich_click as click
from tabulate import tabulate

from avbench import store
from avbench.metrics import CLEAN, DIGITS, NONE, WORST_CASE
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.provenance import precision_of

WIDE = 8  # columns; a wider table is turned, one row a threat
Found = Mapping[tuple[str, str, str], str]  # figure with its interval by metric, threat, attack


def print_run(run: Path, scores: pd.DataFrame) -> None:
    """Print accuracies, or means over classes if multi-label, by attack and threat, and where everything else lies."""
    record = store.read_record(run)
    data = record["dataset"]
    click.echo(f"{record['model']['id']} on {record['track']}: {data['evaluated']} of {data['size']} samples")
    if (precision := precision_of(record["numerics"])) != "fp32":
        click.echo(f"clips are crafted in {precision} and judged in fp32; such a run does not rank")
    found = {(s["metric"], s["threat"], s["attack"]): _cell(s) for _, s in scores.iterrows()}
    if ("clean-accuracy", CLEAN, NONE) in found:
        _print_accuracies(record, found)
    else:
        _print_means(record, found)
    click.echo(f"rows and record: {run}\nall metrics:     avbench score {run}")


def print_comparison(one: Path, other: Path, found: pd.DataFrame) -> None:
    """Print two runs and the paired differences between them."""
    sizes = [store.read_record(run)["dataset"] for run in (one, other)]
    n = found["n"].iloc[0]
    click.echo(f"{n} samples that both have, of {sizes[0]['evaluated']} and {sizes[1]['evaluated']}")
    rows = [
        [s["threat"], f"{s['one']:.2f}", f"{s['other']:.2f}", f"{s['difference']:+.2f}", _interval(s), f"{s['p']:.4g}"]
        for _, s in found.iterrows()
    ]
    heads = ["right, %", one.name, other.name, "difference (points)", "95 % interval", "p (exact, paired)"]
    click.echo(tabulate(rows, heads, disable_numparse=True))


def print_scores(scores: pd.DataFrame) -> None:
    """Print every score of a run."""
    rows = [
        [
            s["metric"],
            s["threat"],
            s["attack"],
            f"{s['value']:.{DIGITS[s['unit']]}f}",
            f"[{s['low']:.{DIGITS[s['unit']]}f}, {s['high']:.{DIGITS[s['unit']]}f}]",
            s["n"],
            s["unit"],
        ]
        for _, s in scores.iterrows()
    ]
    click.echo(
        tabulate(rows, ["metric", "threat", "attack", "value", "95 % interval", "n", "unit"], disable_numparse=True)
    )


def _print_accuracies(record: Mapping[str, Any], found: Found) -> None:
    columns = [("", threat) for threat in record["threats"]] + [("avg", MEAN_OF_THREATS), ("ri", MEAN_OF_THREATS)]
    rows = [["clean", found["clean-accuracy", CLEAN, NONE]]]
    for attack in [*record["attacks"], WORST_CASE]:
        accuracy = "robust-accuracy" if attack == WORST_CASE else "attack-accuracy"
        rows.append([attack, *(found.get((metric or accuracy, threat, attack), "") for metric, threat in columns)])
    heads = ["% [95 % interval]", *(threat for _, threat in columns[:-2]), "Avg", "RI (points)"]
    rows = [row for row in rows if any(row[1:])]
    if len(heads) > WIDE:
        heads, *rows = (list(line) for line in zip_longest(heads, *rows, fillvalue="") if any(line[1:]))
    click.echo(tabulate(rows, heads, disable_numparse=True))
    if record["suite"]["mode"] == "worst-case":
        click.echo(
            "worst-case suite: a later attack runs only on what is still robust, so it has no accuracy of its own"
        )
    if not any(metric == "ri" for metric, _, _ in found):
        click.echo("no RI: the dataset's baseline has no run on these samples under this protocol, here or committed")


def _print_means(record: Mapping[str, Any], found: Found) -> None:
    heads = {"mean-average-precision": "mAP", "mean-auc": "mean AUC", "d-prime": "d'"}
    cells = [(CLEAN, NONE), *((t, a) for t in record["threats"] for a in [*record["attacks"], WORST_CASE])]
    rows = [[*cell, *(found.get((metric, *cell), "") for metric in heads)] for cell in cells]
    click.echo(tabulate(rows, ["threat", "attack", *heads.values()], disable_numparse=True))
    left_out = found["classes-left-out", CLEAN, NONE].partition(" ")[0]
    click.echo(f"means over classes [95 % interval]; left out, without a positive or a negative sample: {left_out}")


def _interval(row: pd.Series) -> str:
    return f"[{row['low']:+.2f}, {row['high']:+.2f}]"


def _cell(score: pd.Series) -> str:
    digits = DIGITS[score["unit"]]
    return f"{score['value']:.{digits}f} [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"


def print_geometry(table: pd.DataFrame, classes: Sequence[str]) -> None:
    """Print density and convexity by class; log-volumes and intervals are in the file only."""
    shown = table[table["measure"] != "log-volume"]
    shown = shown.assign(column=[_geometry_head(row) for _, row in shown.iterrows()])
    wide = shown.pivot_table(index="class", columns="column", values="value", sort=False, dropna=False)
    rows = [
        [classes[label], *map("{:.3f}".format, row)] for label, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    click.echo(tabulate(rows, ["class", *wide.columns], disable_numparse=True))


def _geometry_head(row: pd.Series) -> str:
    tau = "" if pd.isna(row["parameter"]) else f"{row['parameter']:g}"
    return "\n".join([*row["measure"].split("-"), row["streams"], tau])
