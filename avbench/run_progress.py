"""Live progress of a run: samples a second and the lowest accuracy so far."""

from __future__ import annotations

from types import TracebackType

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from avbench.metrics import CLEAN


class RunProgress:
    """Show rows done, rows a second and the lowest attacked accuracy; on standard error, so that output stays clean."""

    def __init__(self, rows: int, quiet: bool) -> None:
        self._right: dict[tuple[str, str], tuple[int, int]] = {}
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TextColumn("{task.fields[worst]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._bar.add_task("", total=rows, worst="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, cell: tuple[str, str], rows: pd.DataFrame) -> None:
        """Count the rows of a part."""
        right, seen = self._right.get(cell, (0, 0))
        if "scores" not in rows:  # of several labels hardly a clip is all right
            self._right[cell] = (right + int(rows["correct"].sum()), seen + len(rows))
        attacked = {key: r / n for key, (r, n) in self._right.items() if key[0] != CLEAN and n}
        worst = ""
        if attacked:
            threat, attack = min(attacked, key=attacked.__getitem__)
            worst = f"lowest {100 * attacked[threat, attack]:.1f} % ({threat.partition(':')[0]} {attack})"
        self._bar.update(self._task, advance=len(rows), worst=worst)

    def skip(self, cell: tuple[str, str], rows: int) -> None:
        """Count rows that need no work, because their samples are broken already."""
        right, seen = self._right.get(cell, (0, 0))
        self._right[cell] = (right, seen + rows)
        self._bar.update(self._task, advance=rows)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"rows, {task.speed:.0f}/s" if task.speed else "rows", style="dim")
