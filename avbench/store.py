"""Rows in Parquet: their schema with units, parts that appear whole or not at all, and one merged file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import rfc8785

from avbench import adversarial, bounded, files
from avbench.errors import BadOption, IncompleteRun, ProtocolMismatch

PROTOCOL = 1  # rises whenever a stored number could change its meaning

JOBS = "jobs"  # folder of a run, where a scheduler's jobs meet the command while it runs
_KEYS = ("run", "track", "model", "suite", "threats", "attacks", "cells", "provenance", "rows_sha256")  # of run.json

Columns = dict[str, tuple[pa.DataType, str, str]]  # name to type, unit and meaning

COLUMNS: Columns = {
    "sample": (pa.string(), "", "id of the clip in the split's lock file"),
    "threat": (pa.string(), "", "threat model, or 'clean'"),
    "attack": (pa.string(), "", "attack, or 'none', 'silence-audio', 'silence-video'"),
    "label": (pa.int32(), "", "true class"),
    "prediction": (pa.int32(), "", "class with the largest logit"),
    "correct": (pa.bool_(), "", "whether the margin is positive"),
    "margin": (pa.float32(), "logit", "logit of the true class minus the largest other"),
    "loss": (pa.float32(), "nat", "cross-entropy"),
    "audio_linf": (pa.float32(), "full scale", "largest change of the waveform"),
    "audio_l2": (pa.float32(), "full scale", "root of the sum of squared changes of the waveform"),
    "audio_snr_db": (pa.float32(), "dB", "energy of the clean waveform over that of the change"),
    "audio_db_x": (pa.float32(), "dB", "peak of the change relative to the peak of the clean waveform (CW 2018)"),
    "video_linf": (pa.float32(), "full scale", "largest change of a pixel"),
    "video_l2": (pa.float32(), "full scale", "root of the sum of squared changes of the pixels"),
    "video_psnr_db": (pa.float32(), "dB", "peak signal-to-noise ratio of the frames, peak 1"),
}
_SEVERAL: Columns = {  # where a clip has several labels
    "margin": (pa.float32(), "logit", "least of the logits of true classes and the negated logits of all others"),
    "loss": (pa.float32(), "nat", "binary cross-entropy, summed over classes"),
    "labels": (pa.list_(pa.int16()), "", "true classes, ascending"),
    "scores": (pa.list_(pa.float32()), "logit", "logits of all classes"),
}


def columns(multilabel: bool) -> Columns:
    """Columns of a row, which depend on whether its clip has one label or several."""
    if not multilabel:
        return COLUMNS
    return {name: column for name, column in COLUMNS.items() if name not in ("label", "prediction")} | _SEVERAL


def schema(multilabel: bool) -> pa.Schema:
    """Column types, with unit and meaning in each field's metadata."""
    return pa.schema(
        [
            pa.field(name, kind, nullable=True, metadata={"unit": unit, "description": meaning})
            for name, (kind, unit, meaning) in columns(multilabel).items()
        ]
    )


def publish_table(path: Path, table: pd.DataFrame, about: Mapping[str, str] | None = None) -> None:
    """Write a table of figures whole or not at all, as Parquet; rows of a run have a schema of their own."""
    data = pa.Table.from_pandas(table, preserve_index=False)
    data = data.replace_schema_metadata({**(data.schema.metadata or {}), **(about or {})})
    files.publish(path, lambda temporary: pq.write_table(data, temporary))


def write_table(path: Path, rows: pd.DataFrame, metadata: Mapping[str, str], replace: bool = True) -> None:
    """Write rows whole or not at all; equal rows give equal bytes; `replace` as for `avbench.files.publish`.

    Raises:
        DiskFull: if there is no space; nothing is left behind.
    """
    fields = schema(multilabel="scores" in rows).with_metadata(dict(metadata))
    arrays = [pa.array(rows[field.name], type=field.type, from_pandas=False) for field in fields]
    table = pa.Table.from_arrays(arrays, schema=fields)
    files.publish(
        path,
        lambda temporary: pq.write_table(table, temporary, compression="snappy", write_page_checksum=True),
        replace,
    )


class Part(NamedTuple):
    """Rows of one micro-batch of one cell, and what making them cost."""

    rows: pd.DataFrame
    forward: int  # samples passed through the attacked part of the model
    backward: int
    seconds: float
    clips: str | None = None  # sha256 of the file that holds its adversarial clips, if they are kept


@dataclass(frozen=True)
class CellStore:
    """Keep the parts of one cell: one file for each micro-batch, named by range and by the ids inside.

    A part counts only if its footer names this cell and these numerics and it can be read; else it goes to
    quarantine and its samples are evaluated again.
    """

    folder: Path
    cell: str  # fingerprint of what was measured
    numerics: str  # fingerprint of the arithmetic

    @classmethod
    def of(cls, run: Path, title: str, cell: str, numerics: str) -> CellStore:
        """Place a cell in a run's folder."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", title)[:80]
        return cls(run / "cells" / f"{slug}-{cell[:12]}-{numerics[:8]}", cell, numerics)

    def path(self, positions: Sequence[int], ids: Sequence[str]) -> Path:
        """File of the part that holds these samples; positions are those in the split."""
        return self.folder / f"part-{positions[0]:07d}-{positions[-1]:07d}-{files.fingerprint(list(ids))[:12]}.parquet"

    def shard(self, positions: Sequence[int], ids: Sequence[str]) -> Path:
        """File of the adversarial clips of the same samples."""
        name = self.path(positions, ids).with_suffix(".npz").name
        return self.folder.parent.parent / adversarial.FOLDER / self.folder.name / name

    def keeps(self, positions: Sequence[int], part: Part) -> bool:
        """Tell whether the clips that a part was judged on are there."""
        path = self.shard(positions, list(part.rows["sample"]))
        return part.clips is not None and path.exists() and files.sha256_file(path) == part.clips

    def read(self, positions: Sequence[int], ids: Sequence[str]) -> Part | None:
        """Return a part, or None if it has to be made."""
        path = self.path(positions, ids)
        if not path.exists():
            return None
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            rows: pd.DataFrame = table.to_pandas()
            passes = int(found["forward"]), int(found["backward"])
            part = Part(rows, *passes, float(found["seconds"]), found.get("clips"))
            if (found["cell"], found["numerics"]) == (self.cell, self.numerics) and list(rows["sample"]) == list(ids):
                return part
        except (OSError, pa.ArrowException, KeyError, ValueError):
            pass
        quarantine = self.folder.parent.parent / "quarantine"
        quarantine.mkdir(exist_ok=True)
        path.replace(quarantine / f"{self.folder.name}-{path.name}")
        return None

    def write(self, positions: Sequence[int], part: Part) -> None:
        """Publish a part, unless there is one; one with clips replaces one whose clips are not kept."""
        metadata = {
            "cell": self.cell,
            "numerics": self.numerics,
            "protocol": str(PROTOCOL),
            "forward": str(part.forward),
            "backward": str(part.backward),
            "seconds": f"{part.seconds:.6f}",
        } | ({"clips": part.clips} if part.clips else {})
        replace = part.clips is not None
        write_table(self.path(positions, list(part.rows["sample"])), part.rows, metadata, replace)


def merge(run: Path, parts: Sequence[pd.DataFrame], metadata: Mapping[str, str]) -> str:
    """Write rows.parquet from all parts in plan order, a pure function of them; return its sha256.

    Raises:
        IncompleteRun: if a sample occurs twice in a cell.
    """
    rows = pd.concat(parts, ignore_index=True)
    twice = rows["sample"][rows.duplicated(["sample", "threat", "attack"])]
    if len(twice):
        raise IncompleteRun(f"{run}: {twice.iloc[0]} has two rows in one cell; use --fresh")
    write_table(run / "rows.parquet", rows, metadata)
    return files.sha256_file(run / "rows.parquet")


def most_rows(record: Mapping[str, Any]) -> int:
    """Tell how many rows a run can have: one of each sample in each cell."""
    return int(record["dataset"]["evaluated"]) * len(record["cells"])


def read_rows(run: Path, most: int | None = None) -> pd.DataFrame:
    """Read the merged rows of a finished run, or a file of rows; no more than the run's record or `most` allow.

    Raises:
        IncompleteRun: if there are none, or they are not rows of avbench; the message says what to do.
        DataError: if there are more than that, before they are read.
    """
    path = run / "rows.parquet" if run.is_dir() else run
    if most is None and (run / "run.json").exists():
        record = read_record(run)
        if record["rows_sha256"] is None:
            raise IncompleteRun(f"{run} is not finished; repeat `avbench evaluate`")
        most = most_rows(record)
    try:
        file = bounded.open_rows(path, bounded.MOST_ROWS if most is None else most)
        found = file.metadata.schema.to_arrow_schema()
        wanted = schema(multilabel="scores" in found.names)
        if missing := [name for name in wanted.names if name not in found.names]:
            raise IncompleteRun(
                f"{path} lacks the columns {', '.join(missing)}; it was not written by avbench evaluate"
            )
        if other := [field.name for field in wanted if found.field(field.name).type != field.type]:
            raise IncompleteRun(
                f"{path} has {', '.join(other)} of another type; it was not written by avbench evaluate"
            )
        frame: pd.DataFrame = bounded.read_columns(path, file, wanted.names).to_pandas()
    except FileNotFoundError as error:
        raise IncompleteRun(f"no rows in {run}; run `avbench evaluate` first, or finish it") from error
    except (OSError, KeyError, pa.ArrowException) as error:
        raise IncompleteRun(f"{path} cannot be read ({error}); repeat `avbench evaluate`") from error
    return frame


def read_record(run: Path) -> dict[str, Any]:
    """Read run.json.

    Raises:
        IncompleteRun: if there is none or it is not JSON.
        ProtocolMismatch: if another protocol version wrote it.
    """
    path = run / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        protocol = record["protocol"]
        if protocol == PROTOCOL:
            _ = [record[key] for key in _KEYS], most_rows(record), record["numerics"]["micro_batch"]
    except FileNotFoundError as error:
        raise IncompleteRun(f"{run} holds no run (no run.json); run `avbench evaluate` first") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise IncompleteRun(f"{path} is not the record of a run ({error}); use --fresh or another folder") from error
    if protocol != PROTOCOL:
        raise ProtocolMismatch(
            f"{run} was written under protocol {protocol}, this avbench has protocol {PROTOCOL}; "
            "choose another --output-dir, or --fresh to discard it"
        )
    return record


def result_id(record: Mapping[str, Any]) -> str:
    """Name a result: hex sha256 of its record as canonical JSON (RFC 8785), which pins rows and clips in turn.

    Raises:
        BadOption: if the record has a number that JSON cannot hold exactly.
    """
    try:
        return hashlib.sha256(rfc8785.dumps(dict(record))).hexdigest()
    except rfc8785.CanonicalizationError as error:
        raise BadOption(f"the record has no canonical form ({error}); a --seed below 2^53 has one") from error


def seal(run: Path) -> str:
    """Say which files make up a finished run, by their hashes as `sha256sum -c` reads them."""
    names = ("run.json", "rows.parquet", "health.json", f"{adversarial.FOLDER}/{adversarial.SUMS}")
    sealed = [path for path in (*(run / name for name in names), *run.glob("counter/*/counter.json")) if path.exists()]
    return adversarial.sums(run, [(path, files.sha256_file(path)) for path in sealed])


def publish_seal(run: Path) -> None:
    """Write the seal beside what it seals."""
    files.publish_text(run / adversarial.SUMS, seal(run))


def discard(run: Path) -> None:
    """Remove a run's rows, record and parts, and nothing else that may lie in its folder."""
    for name in ("rows.parquet", "run.json", adversarial.SUMS):
        (run / name).unlink(missing_ok=True)
    for name in ("cells", "quarantine", JOBS, adversarial.FOLDER):
        shutil.rmtree(run / name, ignore_errors=True)
