"""Part of benchmarks/speed.py about workers: two measured, up to a thousand simulated.

The simulation runs the very code that hands out work, `avbench.engines.drive` and the unit sizes of `RayWorkers`,
against a clock of its own. What a cell, a part and a start cost is measured here first.
"""

from __future__ import annotations

import heapq
import itertools
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from speed_growth import HERE, SMALL
from speed_peers import CLASSES, problem
from tabulate import tabulate

import avbench.engines.ray as ray_engine
from avbench import figures, files
from avbench.cells import REFERENCES, Cell, embed, make_parts
from avbench.datasets.splits import open_split
from avbench.device import threads_of
from avbench.engines.bench import Made, Work
from avbench.engines.drive import Ended, Event, Lost, drive
from avbench.engines.ray import RayWorkers
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.store import Part
from avbench.submission import find_candidate
from avbench.suites import Suite, find_suite
from avbench.types import MODALITIES, Modality

MICRO_BATCH, SAMPLES = 8, 3104  # of the simulation; samples as in the papers' Kinetics-Sounds
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SHOWN = (1, 8, 64, 256, 1000)  # in the table
SURVIVORS = 0.3  # share of samples that the first attack of a threat leaves to the others, in a worst-case suite


@dataclass(frozen=True)
class Weather:
    """What goes wrong, in seconds and shares."""

    slow: float = 0.0  # share of workers that take three times as long
    lives: float = float("inf")  # mean seconds until a worker is pre-empted
    back: float = 60.0  # seconds until another takes its place


WEATHER = {
    "calm": Weather(),
    "5 % of workers three times slower": Weather(slow=0.05),
    "pre-empted every 30 min": Weather(lives=1800),
    "both": Weather(slow=0.05, lives=1800),
}


class Costs(NamedTuple):
    """Seconds, measured."""

    start: float  # of Ray, once
    part: float  # that the command itself spends on a part: fetching and writing it
    embed: dict[Modality, float]  # of a worker, for a micro-batch
    cells: dict[Cell, float]  # the same, without embeddings that cells of a micro-batch share

    @property
    def whole(self) -> float:
        """Of a worker, for a micro-batch in all cells."""
        return sum((*self.embed.values(), *self.cells.values()))

    def steps(self, work: Work) -> Iterator[tuple[Cell, float]]:
        """Seconds until each part is made; the first cell waits for the embeddings."""
        first = sum(self.embed[m] for m in MODALITIES if any(m not in cell.attacked for cell in work.cells))
        for cell in work.cells:
            yield cell, first + self.cells[cell]
            first = 0.0


class Simulated(RayWorkers):
    """Workers that do nothing but let a clock run; how work is cut and handed out is that of Ray's."""

    def __init__(self, costs: Costs, count: int, weather: Weather) -> None:
        super().__init__(lambda: None, None, count, 0)  # type: ignore[arg-type, return-value]
        self._costs, self._weather, self._random = costs, weather, random.Random(count)
        self._events: list[tuple[float, int, int, Event]] = []
        self._number, self._units = itertools.count(), itertools.count()
        self.now = self.busy = 0.0
        self._free = [
            (0.0, worker) for worker in range(count)
        ]  # from when, busy ones too: Ray gives a unit to whoever is free first
        self._pace = [3.0 if self._random.random() < weather.slow else 1.0 for _ in range(count)]
        self._end = [0.0] * count

    def start(self) -> None:
        if self.now == 0:
            self.now = self._costs.start
            self._end = [self.now + self._life() for _ in self._end]

    def _life(self) -> float:
        return self._random.expovariate(1 / self._weather.lives) if self._weather.lives < float("inf") else float("inf")

    def submit(self, units: Sequence[list[Work]]) -> list[int]:
        return [self._begin(unit) for unit in units]

    def _begin(self, unit: list[Work]) -> int:
        name = next(self._units)
        at, worker = self._next_free()
        for one, cell, seconds in ((piece, *step) for piece in unit for step in self._costs.steps(piece)):
            spent = seconds * self._pace[worker]
            self.busy += min(spent, self._end[worker] - at)
            at += spent
            if at >= self._end[worker]:
                at = self._end[worker]
                self._note(at, name, Lost("pre-empted"))
                self._revive(worker)
                return name
            self._note(at, name, Made(one.positions, cell, Part(pd.DataFrame(), 0, 0, spent), None))
        self._note(at, name, Ended())
        heapq.heappush(self._free, (at, worker))
        return name

    def _next_free(self) -> tuple[float, int]:
        """Take whoever can begin first; who died while it had nothing to do comes back later."""
        while True:
            since, worker = heapq.heappop(self._free)
            if (at := max(self.now, since)) < self._end[worker]:
                return at, worker
            self._revive(worker)

    def _revive(self, worker: int) -> None:
        since = self._end[worker] + self._weather.back
        self._end[worker] = since + self._life()
        heapq.heappush(self._free, (since, worker))

    def _note(self, at: float, unit: int, event: Event) -> None:
        heapq.heappush(self._events, (at, next(self._number), unit, event))

    def poll(self, units: Sequence[int], seconds: float) -> Iterator[tuple[int, Event]]:
        at, _, unit, event = heapq.heappop(self._events)
        self.now = max(self.now, at)
        if isinstance(event, Made):
            self.now += self._costs.part
            self._made, self._seconds = self._made + 1, self._seconds + event.part.seconds
        yield unit, event


def stages(suite: Suite) -> list[tuple[list[int], list[Cell]]]:
    """What has to be complete before the next begins: samples left, with cells."""
    cells = [Cell(threat, attack) for threat in suite.threats for attack in suite.attacks]
    everyone = list(range(SAMPLES))
    if suite.mode == "every":
        return [(everyone, [*REFERENCES, *cells])]
    left = everyone[: int(SURVIVORS * SAMPLES)]
    first = {threat: cell for cell in reversed(cells) for threat in [cell.threat]}
    return [(everyone, list(REFERENCES)), *((everyone if first[c.threat] == c else left, [c]) for c in cells)]


def simulate(costs: Costs, suite: Suite, count: int, weather: Weather) -> tuple[float, float]:
    """Run a suite; return seconds, and the share of the workers' time in which they computed."""
    workers = Simulated(costs, count, weather)
    for positions, cells in stages(suite):
        chunks = [tuple(positions[i : i + MICRO_BATCH]) for i in range(0, len(positions), MICRO_BATCH)]
        for _ in drive(workers, [Work(chunk, dict.fromkeys(cells)) for chunk in chunks]):
            pass
    return workers.now, workers.busy / (workers.now * count)


class Timed(NamedTuple):
    """What one run took, in seconds: all of it, and from its first part to its last, so without starting workers."""

    whole: float
    parts: float
    rows_sha256: str


def timed(engine: str, suite: str, samples: int, micro_batch: int, workers: int | None = None) -> Timed:
    """Run a suite on a committed model with one thread a process."""
    candidate, card = find_candidate(SMALL)
    with tempfile.TemporaryDirectory() as folder, threads_of("ray"):
        options = RunOptions(
            limit=samples, batch_size=micro_batch, device="cpu", output_dir=Path(folder), engine=engine, workers=workers
        )
        start = time.perf_counter()
        run = evaluate(candidate, open_split(card.name, "test"), find_suite(suite), options, quiet=True)
        whole = time.perf_counter() - start
        times = [path.stat().st_mtime for path in run.rglob("part-*.parquet")]
        return Timed(whole, max(times) - min(times), files.sha256_file(run / "rows.parquet"))


def measure_costs(suite: Suite) -> Costs:
    """Time what the simulation is made of."""
    waits: list[tuple[float, bool]] = []  # seconds, and whether a part came
    opened = ray_engine._import_ray

    def watched(address: str | None) -> Any:
        ray = opened(address)
        wait = ray.wait

        def waiting(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = wait(*arguments, **options)
            waits.append((time.perf_counter() - start, bool(found[0])))
            return found

        ray.wait = waiting
        return ray

    ray_engine._import_ray = watched
    tiny = timed("ray", "cvpr21-attack", 64, 1, 1)  # parts of one sample
    ray_engine._import_ray = opened
    waited = sum(seconds for seconds, _ in list(itertools.dropwhile(lambda one: not one[1], waits))[1:])
    model, batch = problem(1, MICRO_BATCH)
    victim = Victim(model, CLASSES, torch.device("cpu"))
    cells = [*REFERENCES, *(Cell(threat, attack) for threat in suite.threats for attack in suite.attacks)]
    embeddings = {}
    for modality in MODALITIES:
        embed(victim, batch, [modality])  # the first time makes kernels
        start = time.perf_counter()
        embed(victim, batch, [modality])
        embeddings[modality] = time.perf_counter() - start
    found = {cell: part.seconds for cell, part in make_parts(victim, batch, cells, 0)}
    return Costs(tiny.whole - tiny.parts, max(tiny.parts - waited, 0.0) / (64 * len(cells)), embeddings, found)


def measure_workers(full: bool) -> str:
    """Two workers, then a thousand."""
    rounds, suite = (2, "iclr25") if full else (1, "cvpr21-attack")
    samples = 256 if full else 48
    rows: list[list[Any]] = []
    for number in range(rounds):
        one, two = timed("local", suite, samples, 16), timed("ray", suite, samples, 16, 2)
        assert one.rows_sha256 == two.rows_sha256
        times = (one.whole, two.whole, one.whole / two.whole, one.parts, two.parts, one.parts / two.parts)
        rows.append([number + 1, *times])
    heads = ["round", "one process, s", "2 workers, s", "gain", "first to last part, s", "2 workers, s", "gain"]
    about = f"`{SMALL}`, {suite}, {samples} samples, micro-batches of 16; seconds of the clock; equal "
    about += "bytes were checked."
    text = [about, tabulate(rows, heads, "github", floatfmt=".2f")]
    return "\n\n".join([*text, *simulated()])


def simulated() -> Iterator[str]:
    """Tables and a plot of many workers."""
    suite = find_suite("cvpr21-attack")
    costs = measure_costs(suite)
    yield (
        f"Simulated: {suite} on the network at its published size, {SAMPLES} samples, micro-batches of {MICRO_BATCH}. "
        f"Measured for it: start {costs.start:.1f} s,\n{1000 * costs.part:.0f} ms of the command's time for each part, "
        f"{costs.whole:.1f} s of a worker for a micro-batch of all {len(costs.cells)} cells. Whoever is "
        f"pre-empted is replaced after\n{Weather().back:.0f} s. *Worst case*: each attack waits for the one before, "
        f"and the first under a threat leaves {100 * SURVIVORS:.0f} % to the others. "
        "Gains are to one worker in calm, of the same mode."
    )
    runs = {title: (suite, weather) for title, weather in WEATHER.items()}
    runs["worst case, calm"] = replace(suite, mode="worst-case"), Weather()
    gains, rows = {}, []
    for title, (how, weather) in runs.items():
        found = [simulate(costs, how, count, weather) for count in WORKERS]
        alone, _ = simulate(costs, how, 1, Weather())
        gains[title] = [alone / seconds for seconds, _ in found]
        rows += [
            [title, n, seconds, gain, 100 * busy]
            for n, (seconds, busy), gain in zip(WORKERS, found, gains[title], strict=True)
            if n in SHOWN
        ]
    yield tabulate(rows, ["", "workers", "whole run, s", "gain", "workers compute, %"], "github", floatfmt=".1f")

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for title, gain in gains.items():
            ax.plot(WORKERS, gain, ".-", label=title)
        ax.plot(WORKERS, WORKERS, "k:", label="as many times as workers")
        ax.set(xscale="log", yscale="log", xlabel="workers", ylabel="times as fast as one")
        ax.legend(fontsize=7)

    figures.write(HERE / "growth-workers", draw, width=5)
    (HERE / "growth-workers.png").unlink()
    yield "![Gain against workers](growth-workers.svg)"
