"""Perceptibility: how large the perturbations are that were used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from avbench.metrics import CLEAN, METRICS, Rows, Score
from avbench.metrics.intervals import median
from avbench.threats import parse_threat

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNITS: dict[str, Literal["dB", "input units"]] = {
    "audio_linf": "input units",
    "audio_l2": "input units",
    "audio_snr_db": "dB",
    "audio_db_x": "dB",
    "video_linf": "input units",
    "video_l2": "input units",
    "video_psnr_db": "dB",
}


@METRICS.register("perceptibility")
def perceptibility(rows: Rows) -> list[Score]:
    """Show whether a person could notice: the median size of the perturbation of each attacked modality.

    linf and l2 in input units; audio signal-to-noise ratio; dB_x = 20 log10 max|delta| - 20 log10 max|x| (Carlini &
    Wagner 2018); video peak signal-to-noise ratio. The median, because an unchanged clip has infinite decibels:
    it takes its place at the end of the order, where a mean would be infinite or would have to drop it. n counts
    every clip that the attack made with a figure, in a worst-case suite the survivors of earlier attacks; a median
    that is itself infinite (most clips unchanged) is left out.

    >>> from avbench.metrics.sketch import sketch
    >>> run = sketch({"clean none": "111", "XA:linf:0.1 pgd": "000"}, audio_linf=0.1, video_linf=0.0)
    >>> [(score.metric, score.threat, score.value, score.n, score.unit) for score in perceptibility(run)]
    [('median-audio-linf', 'XA:linf:0.1', 0.1, 3, 'input units')]
    """
    sizes = {column: rows.frame[column].to_numpy(dtype=np.float64) for column in UNITS}
    grouped = rows.frame.groupby(["threat", "attack"], observed=True).indices
    cells: dict[tuple[str, str], NDArray[np.intp]] = dict(grouped)  # type: ignore[arg-type]
    scores = []
    for threat, attack in sorted(cells):
        budgets = parse_threat(threat).budgets if threat != CLEAN else {}
        for column, unit in UNITS.items():
            values = sizes[column][cells[threat, attack]]
            values = values[~np.isnan(values)]
            if column.partition("_")[0] not in budgets or not len(values):
                continue
            value, (low, high) = median(values)
            if np.isfinite(value):
                name = f"median-{column.replace('_', '-')}"
                scores.append(Score(name, threat, attack, value, low, high, len(values), unit))
    return scores
