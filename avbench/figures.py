"""Figures as SVG and PNG, drawn from tables that lie beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from avbench import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Same bytes for the same table: no date, fixed ids, text as text.
_STYLE: Any = {"svg.hashsalt": "avbench", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
_WINDOW = 256  # samples
SINE = 20 * math.log10((_WINDOW - 1) / 4)  # dB of a full-scale sine in `decibels`
_METADATA = {".svg": {"Date": None}, ".png": {"Software": None}}


class Points(NamedTuple):
    """Named points of one panel."""

    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]


class Line(NamedTuple):
    """One curve with its 95 % band."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False  # of a reference


def scatter(path: Path, panels: Mapping[tuple[str, str], Points], y: str) -> None:
    """Draw points with the least-squares line and Pearson's r, one panel for each (title, x label).

    Args:
        path: without extension; .svg and .png are written.
        panels: what to draw; points that are not finite are left out.
        y: label of all vertical axes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, ((title, x), points) in zip(axes, panels.items(), strict=True):
            _trend(ax, points)
            ax.set(title=title, xlabel=x)
        axes[0].set_ylabel(y)

    write(path, draw, width=3.4 * len(panels))


def curves(path: Path, panels: Mapping[str, Mapping[str, Line]], x: str, y: str) -> None:
    """Draw lines, one panel for each title and one color for each name; .svg and .png are written.

    A reference has no band. One legend for all panels.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colors = {name: f"C{number}" for number, name in enumerate(names)}

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        drawn = {}
        for ax, (title, lines) in zip(axes, panels.items(), strict=True):
            for name, line in lines.items():
                [drawn[name]] = ax.plot(line.x, line.y, "--" if line.dashed else "-", color=colors[name])
                if not line.dashed:
                    ax.fill_between(line.x, line.low, line.high, color=colors[name], alpha=0.15, linewidth=0)
            ax.set(title=title, xlabel=x, ylim=(0, 100))
        axes[0].set_ylabel(y)
        figure.legend([drawn[name] for name in names], names, loc="outside lower center", ncols=len(panels), fontsize=8)

    write(path, draw, width=3.4 * len(panels))


def training(path: Path, log: Sequence[Mapping[str, float]]) -> None:
    """Draw a training's loss, and its accuracies, of each epoch; .svg and .png are written.

    Args:
        path: without extension.
        log: rows with `epoch`, `loss` in nats, and names that end in `accuracy`, in percent.
    """
    epochs = [row["epoch"] + 1 for row in log]

    def draw(figure: Figure) -> None:
        loss, accuracy = figure.subplots(1, 2)
        loss.plot(epochs, [row["loss"] for row in log], ".-")
        loss.set(xlabel="epoch", ylabel="loss (nats)")
        for name in (name for name in log[0] if name.endswith("accuracy")):
            accuracy.plot(epochs, [row[name] for row in log], ".-", label=name.replace("_", " "))
        accuracy.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100))
        accuracy.legend(fontsize=7)

    write(path, draw, width=6.8)


def decibels(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power of each frequency over time, (frequencies, columns): windows of 256 samples, 64 apart; SINE at most."""
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(sound, _WINDOW // 2), _WINDOW)[:: _WINDOW // 4]
    power: NDArray[np.float64] = np.abs(np.fft.rfft(pieces * np.hanning(_WINDOW))) ** 2
    return 10 * np.log10(power.T + 1e-12)


def spectrograms(path: Path, sounds: Mapping[str, NDArray[np.int16]], rate: int) -> None:
    """Draw spectrograms, and that of the difference of the first two, on one range of decibels; .svg and .png.

    Args:
        path: without extension.
        sounds: (samples,) by title.
        rate: Hz.
    """
    first, second, *_ = (sound.astype(np.float64) / 32768 for sound in sounds.values())
    shown = {name: sound.astype(np.float64) / 32768 for name, sound in sounds.items()} | {"difference": second - first}

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for ax, (title, sound) in zip(axes, shown.items(), strict=True):
            extent = (0, len(sound) / rate, 0, rate / 2)
            image = ax.imshow(
                decibels(sound), origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=20, cmap="magma"
            )
            ax.set(title=title, xlabel="time (s)")
            ax.grid(visible=False)
        axes[0].set_ylabel("frequency (Hz)")
        figure.colorbar(image, ax=axes, label="dB")

    write(path, draw, width=3.4 * len(shown))


def _trend(ax: Axes, points: Points) -> None:
    both = np.isfinite(points.x) & np.isfinite(points.y)
    x, y = np.asarray(points.x)[both], np.asarray(points.y)[both]
    ax.plot(x, y, "o", markersize=4)
    for one, two, name in zip(x, y, np.asarray(points.names)[both], strict=True):
        ax.annotate(str(name), (one, two), fontsize=6, xytext=(3, 3), textcoords="offset points")
    if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        r = np.corrcoef(x, y)[0, 1]
        ax.plot(ends, slope * ends + intercept, "-", linewidth=1, label=f"r = {r:.2f}, {len(x)} classes")
        ax.legend(fontsize=7)


def write(path: Path, draw: Callable[[Figure], None], width: float, height: float = 3) -> None:
    """Write what `draw` draws as .svg and .png, of a width and height in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        for extension, metadata in _METADATA.items():
            files.publish(
                path.with_suffix(extension),
                lambda temporary, kind=extension, about=metadata: figure.savefig(  # type: ignore[misc]
                    temporary, format=kind[1:], metadata=about, dpi=150
                ),
            )
