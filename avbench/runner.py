"""The loop: model x split x threat x attack to rows. It polices the budget, judges success, and resumes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from avbench import adversarial, files, store
from avbench.attacks import Attack
from avbench.cells import REFERENCES, Cell, check_cells, check_stages
from avbench.checkpoint import Candidate
from avbench.datasets.splits import Split
from avbench.device import deterministic, probe_micro_batch, threads_of
from avbench.diagnose import read_health
from avbench.diagnose.runs import diagnose_run
from avbench.engines import open_engine
from avbench.engines.bench import Bench, Made, Work
from avbench.engines.plan import Plan
from avbench.errors import RunConflict
from avbench.metrics import NONE
from avbench.options import RunOptions
from avbench.progress import working
from avbench.provenance import precision_of, provenance
from avbench.rng import seeded
from avbench.run_progress import RunProgress
from avbench.suites import Suite
from avbench.threats import ThreatModel
from avbench.types import Batch


def evaluate(candidate: Candidate, split: Split, suite: Suite, options: RunOptions, quiet: bool = False) -> Path:
    """Run a suite on a model and return the run's folder, which holds rows.parquet and run.json.

    A run that was stopped at any moment continues when the same call is repeated. One that may rank, of a whole split
    under a published suite, is diagnosed at its end and holds health.json too.

    Raises:
        RunConflict: if the folder holds another run, or another process writes to it.
        BudgetViolation, BadModel, NonFiniteOutput, CorruptShard, DiskFull: as they say; finished parts are kept.
        EngineUnavailable, OtherNumerics, WorkFailed: as they say, of another engine than the default; parts are kept.
    """
    with threads_of(options.engine), ExitStack() as stack:
        run = Run(candidate, split, suite, options)
        device = run.victim.device
        for block in (run.locked(), deterministic(device), seeded(device, "run")):
            stack.enter_context(block)
        folder = run.execute(quiet)
        if run.may_rank:
            record = store.read_record(folder)
            if read_health(folder, record["run"], record["rows_sha256"]) is None:
                with working("looking for health flags", quiet):
                    diagnose_run(folder, candidate, split, options.device)
        store.publish_seal(folder)
        return folder


class Run:
    """One model, one split, one suite, one folder."""

    def __init__(self, candidate: Candidate, split: Split, suite: Suite, options: RunOptions) -> None:
        self.candidate, self.split, self.options = candidate, split, options
        self.suite = suite if options.precision in suite.precisions else replace(suite, published=False)
        limit = min(x for x in (options.limit, suite.limit, len(split)) if x is not None)
        self.positions = [position for position in split.present if position < limit]
        self.track = f"{split.card.name}-{split.name}-{suite}"
        self.folder = options.output_dir / self.track / candidate.id
        self.references = (*REFERENCES, *(Cell(None, corruption) for corruption in suite.corruptions))
        self.cells = [Cell(t, a) for t in sorted(suite.threats, key=self._depth) for a in suite.attacks]
        check_cells(split, self.cells)
        self.bench = Bench(candidate, split, self.cells, options)
        self.victim, self.crafting = self.bench.victim, self.bench.crafting
        self.parts: dict[Cell, dict[int, store.Part]] = {}  # by position of their first sample
        self.micro_batch = 0
        self.made = 0  # parts that this process has written
        self.earlier: dict[str, Any] | None = None
        self.numerics: dict[str, Any] = {}

    def execute(self, quiet: bool) -> Path:
        """Make what is missing, then merge."""
        self._prepare()
        order = [*self.references, *self.cells]
        plan = partial(Plan.of, self.candidate, self.split, self.cells, self.bench, self.numerics)
        with (
            RunProgress(len(self.positions) * len(order), quiet) as self.progress,
            open_engine(self.bench, plan, self.folder) as self.compute,
        ):
            if not self.worst_case:
                self._stage(self.positions, order)
            else:
                self._stage(self.positions, self.references)
                for cell in self.cells:
                    alive = self.survivors(cell)
                    self.progress.skip(cell.columns, len(self.positions) - len(alive))
                    self._stage(alive, [cell])
        rows = [part.rows for cell in order for _, part in sorted(self.parts.get(cell, {}).items())]
        metadata = {"protocol": str(store.PROTOCOL), "run": self.run_fingerprint, "track": self.track}
        sha256 = store.merge(self.folder, rows, metadata)
        self._write_record(order, sha256)
        return self.folder

    def fingerprint(self, cell: Cell) -> str:
        """Identity of what a cell measures; a row is never served to anything else."""
        return files.fingerprint(self._identity | self._identity_of(cell))

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process out of the folder; a reader needs no lock."""
        return files.locked(self.folder)

    def choose_micro_batch(self, first: Batch, earlier: Mapping[str, Any] | None) -> int:
        """Choose what the caller said, else what the run began with, else what memory allows; fixed for the run."""
        kept: int | None = earlier["numerics"]["micro_batch"] if earlier else None
        if chosen := self.options.batch_size or kept:
            return chosen
        gradients = {c.model for c in map(self.crafting.aim, self.cells) if c.attack.needs == "gradients"}
        return min(
            probe_micro_batch(model, first, model in gradients) for model in (self.victim, *self.crafting.models)
        )

    @property
    def may_rank(self) -> bool:
        """Whether it is of a whole split under a published suite, so that it is diagnosed at its end."""
        return self.suite.published and len(self.positions) == len(self.split.present)

    @property
    def worst_case(self) -> bool:
        """Whether broken samples are left out; clips with several labels are never all right, or all wrong."""
        return self.suite.mode == "worst-case" and self.split.card.task == "multiclass"

    @property
    def _identity(self) -> dict[str, Any]:
        identity = {
            "protocol": store.PROTOCOL,
            "model": self.candidate.identity,
            "split": self.split.lock.sha256,
            "seed": self.options.seed,
        }
        return identity | ({"draws": self.victim.draws} if self.victim.random else {})

    def _identity_of(self, cell: Cell) -> dict[str, Any]:
        return cell.identity | self.crafting.identity(cell)

    @property
    def run_fingerprint(self) -> str:
        """Identity of all that the run measures."""
        cells = sorted(
            map(self._identity_of, (*self.references[len(REFERENCES) :], *self.cells)), key=files.canonical_json
        )
        return files.fingerprint(self._identity | {"mode": self.suite.mode, "cells": cells})

    def _prepare(self) -> None:
        if self.options.fresh:
            store.discard(self.folder)
        shutil.rmtree(self.folder / store.JOBS, ignore_errors=True)  # of a command that was killed
        first = self.bench.look()
        earlier = store.read_record(self.folder) if (self.folder / "run.json").exists() else None
        if earlier and earlier["run"] != self.run_fingerprint:
            raise RunConflict(
                f"{self.folder} holds a run with another model, split, seed or set of attacks; "
                "choose another --output-dir, or --fresh to discard it (in Python: RunOptions)"
            )
        if earlier and (other := precision_of(earlier["numerics"])) != self.options.precision:
            raise RunConflict(
                f"{self.folder} holds a run whose clips are crafted in {other}; "
                "choose another --output-dir, or --fresh to discard it"
            )
        if earlier and earlier["rows_sha256"] and earlier["dataset"]["evaluated"] > len(self.positions):
            raise RunConflict(
                f"{self.folder} holds this run on {earlier['dataset']['evaluated']} samples, "
                f"which {len(self.positions)} would replace; leave --limit out, or choose another --output-dir"
            )
        self.earlier = earlier
        check_stages(self.victim, first)
        self.micro_batch = self.choose_micro_batch(first, earlier)
        self.numerics = self.bench.numerics(self.micro_batch, first)
        if not earlier:
            self._write_record([], None)

    def _depth(self, threat: ThreatModel) -> int:
        return sum(threat.contains(other) for other in self.suite.threats)

    def survivors(self, cell: Cell) -> list[int]:
        """Positions still robust: right when clean, unbroken so far in this threat and in those it contains."""
        assert cell.threat is not None
        broken = set[str]()
        for other, parts in self.parts.items():
            if other.threat is None and other.attack != NONE:
                continue
            if other.threat is None or cell.threat.contains(other.threat):
                for part in parts.values():
                    broken |= set(part.rows["sample"][~part.rows["correct"]])
        return [i for i in self.positions if self.split.ids[i] not in broken]

    def _stage(self, positions: Sequence[int], cells: Sequence[Cell]) -> None:
        """Bring cells that share their samples to completion."""
        with closing(self.compute(self._missing(positions, cells))) as parts:
            for made in parts:
                self._write(made)

    def _write(self, made: Made) -> None:
        """Write a part after its clips, and count it."""
        kept = self.cell_store(made.cell)
        if made.clips is not None:
            files.publish_bytes(kept.shard(made.positions, list(made.part.rows["sample"])), made.clips)
        kept.write(made.positions, made.part)
        self.made += 1
        self._take(made.cell, made.positions, made.part)

    def _missing(self, positions: Sequence[int], cells: Sequence[Cell]) -> Iterator[Work]:
        """Take the parts that are there, and yield the micro-batches of which some are not."""
        ids = self.split.ids
        for start in range(0, len(positions), self.micro_batch):
            chunk = tuple(positions[start : start + self.micro_batch])
            names = [ids[i] for i in chunk]
            missing = []
            for cell in cells:
                kept = self.cell_store(cell)
                part = kept.read(chunk, names)
                if part is None or (self.options.save_adversarial and cell.threat and not kept.keeps(chunk, part)):
                    missing.append(cell)
                else:
                    self._take(cell, chunk, part)
            if missing:
                yield Work(chunk, {cell: self._attack(cell) for cell in missing})

    def _attack(self, cell: Cell) -> Attack | None:
        """Make a cell's attack ready to run."""
        return self.crafting.craft(cell, self.cell_store(cell), self.micro_batch).attack if cell.threat else None

    def shards(self) -> dict[Path, str | None]:
        """List the files of adversarial clips of all parts with their hashes, None where clips were not kept."""
        place = {name: position for position, name in enumerate(self.split.ids)}
        found = {}
        for cell, part in ((c, part) for c, parts in self.parts.items() if c.threat for part in parts.values()):
            ids = list(part.rows["sample"])
            found[self.cell_store(cell).shard([place[ids[0]], place[ids[-1]]], ids)] = part.clips
        return found

    def _take(self, cell: Cell, chunk: Sequence[int], part: store.Part) -> None:
        self.parts.setdefault(cell, {})[chunk[0]] = part
        self.progress.advance(cell.columns, part.rows)

    def cell_store(self, cell: Cell) -> store.CellStore:
        """Where a cell's parts lie."""
        title = "-".join(cell.columns)
        return store.CellStore.of(self.folder, title, self.fingerprint(cell), files.fingerprint(self.numerics))

    def _write_record(self, order: Sequence[Cell], rows_sha256: str | None) -> None:
        card, suite = self.split.card, self.suite
        kept = self.earlier["provenance"] if self.earlier else None  # of the rows, if none of them is new
        record = {
            "protocol": store.PROTOCOL,
            "run": self.run_fingerprint,
            "track": self.track,
            "model": {"id": self.candidate.id, "title": self.candidate.id}
            | {**self.candidate.about, **self.candidate.identity},
            "dataset": {
                "name": card.name,
                "split": self.split.name,
                "lock_sha256": self.split.lock.sha256,
                "fixed_sha256": self.split.fixed_sha256,
                "size": len(self.split),
                "missing": len(self.split) - len(self.split.present),
                "evaluated": len(self.positions),
            },
            "suite": {"name": suite.name, "version": suite.version, "mode": suite.mode, "published": suite.published},
            "seed": self.options.seed,
            "draws": self.victim.draws if self.victim.random else 1,
            "threats": [str(threat) for threat in suite.threats],
            "attacks": [str(attack) for attack in suite.attacks],
            "corruptions": [str(corruption) for corruption in suite.corruptions],
            "cells": [self._cell_record(cell) for cell in order if cell in self.parts],
            "numerics": self.numerics,
            "provenance": provenance(self.victim.device) if self.made or not kept else kept,
            "rows_sha256": rows_sha256,
            "adversarial_sha256": adversarial.publish_sums(self.folder, self.shards()) if rows_sha256 else None,
        }
        files.publish_text(self.folder / "run.json", files.readable_json(record))

    def _cell_record(self, cell: Cell) -> dict[str, Any]:
        parts = self.parts[cell].values()
        return {
            "threat": cell.columns[0],
            "attack": cell.columns[1],
            "fingerprint": self.fingerprint(cell),
            "rows": sum(len(part.rows) for part in parts),
            "forward": sum(part.forward for part in parts),
            "backward": sum(part.backward for part in parts),
            "seconds": round(sum(part.seconds for part in parts), 3),
            **self.crafting.record(cell, self.cell_store(cell)),
        }
