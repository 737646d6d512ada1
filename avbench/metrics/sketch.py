"""Small runs written by hand, so that a formula and its expected value fit on one screen."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from avbench.metrics import CLEAN, Rows

PERCEPTIBILITY = (
    "audio_linf",
    "audio_l2",
    "audio_snr_db",
    "audio_db_x",
    "video_linf",
    "video_l2",
    "video_psnr_db",
)


def sketch(cells: Mapping[str, str], baseline: Mapping[str, str] | None = None, **columns: float) -> Rows:
    """Draw a run for doctests and tests: one character per sample, 1 right, 0 wrong, a dot for no row.

    Args:
        cells: outcomes by threat and attack, as in `{"clean none": "110", "XA:linf:0.1 pgd": "10."}`.
        baseline: the same for the undefended baseline.
        columns: a value for a column of every attacked row.

    >>> sketch({"clean none": "10"}).frame[["sample", "threat", "attack", "correct"]].values.tolist()
    [['s0', 'clean', 'none', True], ['s1', 'clean', 'none', False]]
    """
    suite = [(threat, attack) for threat, attack in map(str.split, cells) if threat != CLEAN]
    return Rows(_draw(cells, columns), None if baseline is None else _draw(baseline, columns), tuple(suite))


def _draw(cells: Mapping[str, str], columns: Mapping[str, float]) -> pd.DataFrame:
    rows = [
        (f"s{number}", *name.split(), mark == "1")
        for name, marks in cells.items()
        for number, mark in enumerate(marks)
        if mark != "."
    ]
    frame = pd.DataFrame(rows, columns=["sample", "threat", "attack", "correct"])
    frame = frame.assign(label=0, prediction=1 - frame["correct"].astype(int), margin=0.0, loss=0.0)
    attacked = frame["threat"] != "clean"
    for column in PERCEPTIBILITY:
        frame[column] = attacked.map({True: columns.get(column, float("nan")), False: float("nan")})
    return frame
