"""Counter attacks: third parties' adversarial clips for a run, verified as its own, kept beside it with credit."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from avbench import files, store
from avbench.adversarial import write_clips
from avbench.errors import AvbenchError, BadOption, DataError, StaleCounter, VerificationFailed
from avbench.form import Name, Sha256, Url
from avbench.judge import SAME
from avbench.metrics import Rows
from avbench.metrics.outcomes import TRIPLE, read
from avbench.threats import parse_threat
from avbench.verify import refuse
from avbench.verify.replay import Replay, compare
from avbench.verify.tree import COUNTER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECORD = "counter.json"
LARGEST = 1_000_000  # bytes of it
MOST_FILES = 1000  # of clips that are handed in at once


class Credit(BaseModel):
    """Who made the clips."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    url: Url | None = None


class Record(BaseModel):
    """The counter.json of one counter attack."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: Sha256  # fingerprint of the run that it is for
    run_rows_sha256: Sha256
    credit: Credit
    clips: dict[str, Sha256]  # by file name
    rows_sha256: Sha256


@dataclass(frozen=True)
class Counter:
    """An accepted counter attack."""

    folder: Path
    record: Record
    frame: pd.DataFrame  # rows of the clips


def read_counters(run: Path, record: Mapping[str, Any]) -> list[Counter]:
    """Read the counter attacks that were accepted for a run.

    Raises:
        StaleCounter, DataError: if one is for other rows, or malformed.
        IncompleteRun: if its rows cannot be read.
    """
    return [read_counter(folder, record) for folder in counter_folders(run)]


def counter_folders(run: Path) -> list[Path]:
    """List the folders of the counter attacks that were accepted for a run."""
    return sorted(path for path in (run / COUNTER).glob("*") if not path.name.startswith("."))


def read_counter(folder: Path, record: Mapping[str, Any]) -> Counter:
    """Read one counter attack, which is to be for the run of this record.

    Raises:
        StaleCounter: if it is for other rows.
        DataError: if it is malformed.
        IncompleteRun: if its rows cannot be read.
    """
    path = folder / RECORD
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST:
            raise DataError(f"{path} is a link or larger than {LARGEST} bytes")
        found = Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # ValidationError is a ValueError
        raise DataError(f"{path} is not the record of a counter attack: {str(error)[:300]}") from error
    if (found.run, found.run_rows_sha256) != (record["run"], record["rows_sha256"]):
        raise StaleCounter(
            f"{folder} is for another run than the one that it lies in; remove it, and hand its clips in again"
        )
    rows = folder / "rows.parquet"
    if not rows.is_file() or files.sha256_file(rows) != found.rows_sha256:
        raise DataError(f"{rows} is not the file that {RECORD} pins")
    return Counter(folder, found, store.read_rows(rows, store.most_rows(record)))


def best_known(rows: Rows, counters: Sequence[Counter]) -> dict[str, NDArray[np.bool_]]:
    """Tell for each threat which samples nobody has broken: neither the run nor a counter attack in a threat inside."""
    outcomes = read(rows)
    alive = {name: outcomes.robust(name) for name in outcomes.threats}
    for counter in counters:
        for name, broken in counter.frame[~counter.frame["correct"]].groupby("threat")["sample"]:
            inside = parse_threat(str(name))
            for outer, threat in outcomes.threats.items():
                if threat.contains(inside):
                    alive[outer] &= ~outcomes.samples.isin(broken)
    return alive


def best_known_avg(rows: Rows, counters: Sequence[Counter]) -> float | None:
    """Average the best known robust accuracies of XA, XV and XAV, %; None unless each is one threat."""
    alive = {parse_threat(name).label: marks for name, marks in best_known(rows, counters).items()}
    if sorted(alive) != sorted(TRIPLE) or len(alive) != len(read(rows).threats):
        return None
    return float(sum(100 * marks.mean() for marks in alive.values()) / len(alive))


def accept(clips: Path, replay: Replay, name: str, url: str | None) -> Counter:
    """Verify a folder of clips against a run, and keep those that break what nobody had broken, with credit.

    Args:
        clips: folder of .npz files as `avbench.adversarial.write_clips` makes them.
        replay: the verified run.
        name: who made them.
        url: where to read about them.

    Raises:
        VerificationFailed: if nothing is gained.
        BudgetViolation, DataError: naming the first clip that is not legal, or is of something else.
        BadOption: if name or address cannot be shown, or clips have several labels.
    """
    try:
        credit = Credit(name=name, url=url)
    except ValidationError as error:
        raise BadOption(f"credit: {error.errors()[0]['loc'][0]} {error.errors()[0]['msg']}") from error
    if replay.run.split.card.task == "multilabel":
        raise BadOption("clips with several labels are not simply broken or not; there is no best known for them")
    handed_in = sorted(clips.glob("*.npz"))
    if not 0 < len(handed_in) <= MOST_FILES:
        raise DataError(f"{clips} holds {len(handed_in)} .npz files of clips; hand in 1 to {MOST_FILES}")
    base = replay.run.folder / COUNTER
    base.mkdir(exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".", dir=base))
    try:
        staged.chmod(0o755)
        if not _gain(handed_in, replay, staged):
            raise VerificationFailed(f"{clips} breaks no sample that was not broken already; nothing is kept")
        hashes = {path.name: files.sha256_file(path) for path in sorted(staged.iterdir())}
        slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "anonymous"
        slug = f"{slug}-{files.fingerprint(hashes)[:8]}"
        store.write_table(staged / "rows.parquet", _rows(staged, hashes, replay, slug), {"counter": slug})
        pinned = {"run": replay.record["run"], "run_rows_sha256": replay.record["rows_sha256"]}
        record = Record(**pinned, credit=credit, clips=hashes, rows_sha256=files.sha256_file(staged / "rows.parquet"))
        files.publish_text(staged / RECORD, files.readable_json(record.model_dump()))
        os.replace(staged, base / slug)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    if "adversarial_sha256" in replay.record:
        store.publish_seal(replay.run.folder)
    return read_counter(base / slug, replay.record)


def _gain(handed_in: Sequence[Path], replay: Replay, staged: Path) -> int:
    """Judge all clips, and write those to the staged folder that break a sample nobody had broken; return how many."""
    alive = alive_samples(replay)
    gained = 0
    for number, path in enumerate(handed_in):
        kept, batch, clips, answers, _ = replay.attacked(path)
        if str(kept.threat) not in alive:
            raise DataError(f"{path} is within {kept.threat}; the run has {', '.join(alive)}")
        broken = answers.rows["margin"].to_numpy() < -SAME  # so that it is broken on every machine
        new = [i for i, name in enumerate(kept.samples) if broken[i] and name in alive[str(kept.threat)]]
        if new:
            chosen = torch.tensor(new)
            ids = tuple(kept.samples[i] for i in new)
            some = type(batch)(ids, batch.inputs.pick(chosen), batch.labels[chosen])
            write_clips(staged / f"clips-{number:04d}.npz", kept.threat, some, clips.pick(chosen))
            for name, samples in alive.items():
                if parse_threat(name).contains(kept.threat):
                    samples -= set(ids)
            gained += len(new)
    return gained


def alive_samples(replay: Replay) -> dict[str, set[str]]:
    """Name the samples that nobody has broken, for each threat."""
    rows = Rows(replay.frame, cells=tuple(cell.columns for cell in replay.run.cells))
    samples = read(rows).samples
    counters = read_counters(replay.run.folder, replay.record)
    return {name: set(samples[marks]) for name, marks in best_known(rows, counters).items()}


def _rows(folder: Path, clips: Iterable[str], replay: Replay, slug: str) -> pd.DataFrame:
    """Judge the clips that are kept, one file a batch."""
    parts = []
    for name in sorted(clips):
        kept, _, _, answers, _ = replay.attacked(folder / name)
        parts.append(answers.rows.assign(threat=str(kept.threat), attack=f"counter:{slug}"))
    return pd.concat(parts, ignore_index=True)


def check_counters(replay: Replay) -> list[Counter]:
    """Verify and return the counter attacks that were accepted for a run.

    Raises:
        VerificationFailed: naming what differs.
    """
    counters = read_counters(replay.run.folder, replay.record)
    refuse(replay.run.folder, [what for counter in counters for what in check_counter(counter, replay)])
    return counters


def check_counter(counter: Counter, replay: Replay) -> list[str]:
    """Say what of an accepted counter attack is not as its record, its clips or the model say."""
    folder, record = counter.folder, counter.record
    if (folder / RECORD).read_text(encoding="utf-8") != files.readable_json(record.model_dump()):
        return [f"{folder.name}: {RECORD} is not written as avbench writes it"]
    if {path.name for path in folder.iterdir()} != {RECORD, "rows.parquet", *record.clips}:
        return [f"{folder.name}: its files are not those that {RECORD} names"]
    if changed := [name for name, pinned in record.clips.items() if files.sha256_file(folder / name) != pinned]:
        return [f"{folder.name}: {changed[0]} is not the file that {RECORD} pins"]
    return [f"{folder.name}: {what}" for what in _check_rows(counter, replay)]


def _check_rows(counter: Counter, replay: Replay) -> Iterator[str]:
    """Ask the model again for its answers on the clips."""
    start, attack = 0, f"counter:{counter.folder.name}"
    for name in sorted(counter.record.clips):
        try:
            kept, _, _, answers, _ = replay.attacked(counter.folder / name)
        except AvbenchError as error:
            yield str(error)
            return
        stored = counter.frame[start : start + len(kept.samples)]
        start += len(stored)
        keys = stored[["sample", "threat", "attack"]].to_numpy().tolist()
        if keys != [[sample, str(kept.threat), attack] for sample in kept.samples]:
            yield f"the rows are not those of {name}"
            return
        yield from compare(stored, answers)
        if (answers.rows["margin"] > 0).any():
            yield f"{name} holds a clip that breaks nothing"
    if start != len(counter.frame):
        yield "there are rows without clips"
