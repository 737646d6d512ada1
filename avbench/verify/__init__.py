"""`avbench verify`: follow every hash of a result, measure its clips in integers, and ask its model again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from avbench import store, summarize
from avbench.adversarial import FOLDER
from avbench.attacks import parse_attack
from avbench.attacks.mask import Mask
from avbench.cells import Cell
from avbench.checkpoint import Candidate
from avbench.datasets.splits import Split, open_split
from avbench.errors import BadOption, BudgetViolation, DataError, VerificationFailed
from avbench.judge import SAME
from avbench.metrics import CLEAN, Rows
from avbench.options import RunOptions
from avbench.provenance import precision_of
from avbench.runner import Run
from avbench.sandbox import open_model
from avbench.submission import ID
from avbench.suites import SUITES, Suite
from avbench.threats import parse_threat
from avbench.verify.replay import Replay, compare, prepare
from avbench.verify.tree import check_files, check_health, read_finished

SHOWN = 20  # differences that an error names


@dataclass
class Report:
    """What was checked, and found as the result says."""

    result: str  # its id
    samples: int
    cells: int
    rows: int = 0  # rows whose answers were asked for again
    clips: int = 0  # adversarial clips measured and judged
    kept: bool = False  # whether the run kept its clips
    close: int = 0  # rows that are right by no more than SAME; they do not count as robust in `scores`
    used: dict[str, float] = field(default_factory=dict)  # largest share of each budget, by threat and modality
    unchecked: list[str] = field(default_factory=list)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)  # as `avbench.summarize.score` makes them


def verify(
    run: Path, model: str | None = None, device: str = "auto", trust_remote_code: bool = False
) -> tuple[Report, Replay]:
    """Check a finished run as far as what it holds allows; nothing in its folder is changed.

    Args:
        run: the run's folder.
        model: which model to ask, as `avbench evaluate` takes it; by default the submission of the run.
        device: where the model computes.
        trust_remote_code: whether a model that is code may run, in a sandbox.

    Raises:
        VerificationFailed: naming what differs.
        UntrustedCode: if the model is code and that was not allowed.
        IncompleteRun, DataError, SubmissionError: and their kin, if something cannot be read.
    """
    record = read_finished(run)
    differences, unchecked = check_files(run, record)
    refuse(run, differences)
    replay = open_replay(run, record, model, device, trust_remote_code)
    refuse(run, list(_check_record(replay)))
    made = replay.run
    report = Report(store.result_id(record), len(made.positions), len(record["cells"]), unchecked=unchecked)
    report.kept = bool(record.get("adversarial_sha256"))
    if not report.kept and (replay.frame["threat"] != CLEAN).any():
        report.unchecked.append("attacked rows: their clips were not kept (`avbench evaluate --save-adversarial`)")
    refuse(run, list(_check_rows(replay, report)))
    differences, unflagged = check_health(run, record, replay.frame)
    refuse(run, differences)
    report.unchecked += unflagged
    report.close, report.scores = count_close(replay.frame, made)
    return report, replay


def count_close(rows: pd.DataFrame, run: Run) -> tuple[int, pd.DataFrame]:
    """Count the rows that are right by no more than rounding, and score the run as if these were wrong."""
    strict = rows.assign(correct=rows["margin"] > SAME)
    cells = tuple(cell.columns for cell in run.cells)
    return int((rows["correct"] != strict["correct"]).sum()), summarize.score(Rows(strict, cells=cells))


def open_replay(run: Path, record: dict[str, Any], model: str | None, device: str, trust_remote_code: bool) -> Replay:
    """Open the model, split and suite that a record names.

    Raises:
        BadOption: if the model is no submission and is not given.
        VerificationFailed: if the model here or the split here is another one.
    """
    named = str(record["model"]["id"])
    if model is None and not ID.fullmatch(named):
        raise BadOption(f"{named[:100]!a} is no submission; say by --model which model it is")
    candidate, card = open_model(model or named, record["dataset"]["name"], trust_remote_code=trust_remote_code)
    split = open_split(card.name, record["dataset"]["split"])
    refuse(run, _check_identity(record, candidate, split))
    made = Run(candidate, split, _suite(record), _options(record, split, device))
    most = len(made.positions) * len([*made.references, *made.cells])
    return prepare(made, record, store.read_rows(run, most), run)


def refuse(run: Path, differences: Sequence[str]) -> None:
    """Stop if anything differs.

    Raises:
        VerificationFailed: naming what differs.
    """
    if differences:
        more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise VerificationFailed(f"{run} is not what it says: {'; '.join(differences[:SHOWN])}{more}")


def _suite(record: dict[str, Any]) -> Suite:
    told = record["suite"]
    corruptions = [parse_attack(text) for text in record.get("corruptions", ())]
    return Suite(
        told["name"],
        told["version"],
        "",
        tuple(map(parse_threat, record["threats"])),
        tuple(map(parse_attack, record["attacks"])),
        told["mode"],
        published=told["published"],
        corruptions=tuple(one for one in corruptions if isinstance(one, Mask)),
    )


def _options(record: dict[str, Any], split: Split, device: str) -> RunOptions:
    count = record["dataset"]["evaluated"]
    limit = split.present[count - 1] + 1 if 0 < count <= len(split.present) else None
    return RunOptions(limit=limit, device=device, seed=record["seed"])


def _check_identity(record: dict[str, Any], candidate: Candidate, split: Split) -> list[str]:
    """Compare model and split with the record."""
    wanted = {"id": candidate.id, **candidate.identity}
    differing = [f"the model's {name}" for name, value in wanted.items() if record["model"].get(name) != value]
    data = record["dataset"]
    true = {
        "lock_sha256": split.lock.sha256,
        "fixed_sha256": split.fixed_sha256,
        "size": len(split),
        "missing": len(split) - len(split.present),
    }
    differing += [f"the split's {name}" for name, value in true.items() if name in data and data[name] != value]
    return [f"{what} is not that of the one here" for what in differing]


def _check_record(replay: Replay) -> Iterator[str]:
    """Compare what the record says with what follows from model, split, suite and rows."""
    run, record, suite = replay.run, replay.record, replay.record["suite"]
    if record["dataset"]["evaluated"] != len(run.positions):
        yield f"{record['dataset']['evaluated']} samples evaluated, and the split has {len(run.positions)}"
    if record.get("draws", 1) != (run.victim.draws if run.victim.random else 1):
        yield "the number of draws is not that of this model"
    if record["track"] != run.track:
        yield f"the track is {run.track}"
    if record["run"] != run.run_fingerprint:
        yield "the run's fingerprint is not that of this model, split, suite and seed"
    if suite["published"] and suite["name"] in SUITES.names():
        known = SUITES.get(suite["name"])
        if (known.version, known.mode, known.digest) != (run.suite.version, run.suite.mode, run.suite.digest):
            yield f"the suite is not {known}"
        if (precision := precision_of(record["numerics"])) not in known.precisions:
            yield f"its clips are crafted in {precision}, and {known} is published for {', '.join(known.precisions)}"
    elif suite["published"]:
        yield f"no suite is called {str(suite['name'])[:100]!a}"
    order = [*run.references, *run.cells]
    told = [(cell["threat"], cell["attack"], cell["fingerprint"], cell["rows"]) for cell in record["cells"]]
    true = [(*cell.columns, run.fingerprint(cell), len(replay.stored(cell))) for cell in order]
    if told != [cell for cell in true if cell[-1]]:
        yield "the cells, their fingerprints or their numbers of rows are not those of these rows"
    if sum(cell[-1] for cell in true) != len(replay.frame):
        yield "there are rows of cells that the suite does not have"


def _check_rows(replay: Replay, report: Report) -> Iterator[str]:
    """Go through the cells in the run's order, so that it is known which samples each has to have."""
    run = replay.run
    shards: set[Path] = set()
    every = run.suite.mode == "every" or run.split.card.task == "multilabel"
    for cell in [*run.references, *run.cells]:
        stored, name = replay.stored(cell), ", ".join(cell.columns)
        positions = run.positions if every or not cell.threat else run.survivors(cell)
        if list(stored["sample"]) != [run.split.ids[position] for position in positions]:
            yield f"{name}: the rows are not those of the {len(positions)} samples that this cell has to have"
            return  # which samples the next ones have to have follows from these
        run.parts[cell] = {0: store.Part(stored, 0, 0, 0.0)}  # for the survivors of later cells
        if cell.threat and not report.kept:
            continue
        for start in range(0, len(positions), run.micro_batch):
            chunk, rows = positions[start : start + run.micro_batch], stored[start : start + run.micro_batch]
            yield from (f"{name}: {what}" for what in _check_part(replay, report, cell, chunk, rows, shards))
    unread = sorted(path.name for path in run.folder.glob(f"{FOLDER}/**/*.npz") if path not in shards)
    yield from (f"{name} holds clips of no rows" for name in unread)


def _check_part(
    replay: Replay, report: Report, cell: Cell, chunk: Sequence[int], stored: pd.DataFrame, shards: set[Path]
) -> Iterator[str]:
    """Compare one micro-batch of rows with what the model answers on their clips; note which file holds these."""
    report.rows += len(chunk)
    if not cell.threat:
        yield from compare(stored, replay.unattacked(cell, chunk))
        return
    path = replay.run.cell_store(cell).shard(chunk, list(stored["sample"]))
    shards.add(path)
    try:
        kept, _, _, answers, used = replay.attacked(path)
    except (BudgetViolation, DataError) as error:
        yield str(error)
        return
    if (list(kept.samples), kept.threat) != (list(stored["sample"]), cell.threat):
        yield f"{path.name} holds clips of other samples, or within another threat"
        return
    report.clips += len(chunk)
    for modality, share in used.items():
        key = f"{cell.threat} {modality}"
        report.used[key] = max(share, report.used.get(key, 0.0))
    yield from compare(stored, answers)
