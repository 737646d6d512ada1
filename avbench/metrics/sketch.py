"""Small runs written by hand, so that a formula and its expected value fit on one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
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


def sketch_scores(cells: Mapping[str, Sequence[Sequence[float]]], labels: Sequence[Sequence[int]]) -> Rows:
    """Draw a run whose clips have several labels, with every row there.

    Args:
        cells: by threat and attack, a score for each sample and class.
        labels: true classes of each sample.

    >>> sketch_scores({"clean none": [[2, -1], [1, 3]]}, labels=[[0], [1]]).frame["correct"].tolist()
    [True, False]
    """
    run = sketch({name: "0" * len(labels) for name in cells})
    scores = np.concatenate([np.asarray(of_samples, dtype=np.float32) for of_samples in cells.values()])
    repeated = [np.asarray(one, dtype=np.int16) for one in labels] * len(cells)
    truth = np.array([np.isin(np.arange(scores.shape[1]), one) for one in repeated])
    margin = np.where(truth, scores, -scores).min(axis=1)
    frame = run.frame.drop(columns=["label", "prediction"]).assign(
        correct=margin > 0,
        margin=margin,
        loss=(np.logaddexp(0, scores) - truth * scores).sum(axis=1),
        labels=pd.Series(repeated),
        scores=pd.Series(list(scores)),
    )
    return Rows(frame, cells=run.cells)


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
