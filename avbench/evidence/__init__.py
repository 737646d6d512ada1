"""Evidence beside a run: a few of its clips, clean and attacked, small enough to be shown and kept with its rows.

evidence.parquet holds one row for each clip, and in its footer what it belongs to and a t-SNE map. Clips are rounded to
16-bit sound and 8-bit pictures, toward the clean ones, so that what is shown lies within the budget as well.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avbench import files
from avbench.errors import DataError
from avbench.form import Sha256

VERSION = 1
FILE = "evidence.parquet"
LARGEST = 900_000  # bytes of the file
MOST = 4  # clips
VALUES = 50_000  # numbers and texts in the file
_META = b"evidence"

Media = Literal["none", "thumbnail", "full"]
MEDIA: tuple[Media, ...] = ("none", "thumbnail", "full")  # what may be shown, least first
Version = Literal["clean", "adversarial", "as shown"]
VERSIONS: tuple[Version, ...] = ("clean", "adversarial", "as shown")
Text = Annotated[str, Field(max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
Weights = Annotated[tuple[Annotated[tuple[Share, ...], Field(max_length=64)], ...], Field(max_length=64)]  # of places
Place = Annotated[int, Field(ge=0, le=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(_Part):
    """The most likely classes of one version of a clip, first first."""

    classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=3)]
    confidences: tuple[Share, ...]  # softmax; sigmoid if clips have several labels

    @model_validator(mode="after")
    def _paired(self) -> Answer:
        if len(self.classes) != len(self.confidences):
            raise ValueError("there must be one confidence for each class")
        return self


class Stored(_Part):
    """A clip as a WAV file and PNG files."""

    audio: bytes
    frames: tuple[bytes, ...]
    sha256: Sha256  # of the integers, see avbench.datasets.encoding.digest


class Exhibit(_Part):
    """One sample, clean and attacked."""

    sample: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.#-]{1,200}$")]
    threat: Text
    attack: Text
    answers: Annotated[tuple[Answer, ...], Field(min_length=3, max_length=3)]  # of VERSIONS
    maps: Annotated[
        tuple[Weights, ...], Field(max_length=2)
    ] = ()  # where it looks, clean and adversarial, middle frame
    clean: Stored | None = None  # None where the card allows no media
    change: Stored | None = None  # what is added to the integers of `clean`, modulo 2**16 and 2**8

    @model_validator(mode="after")
    def _grids(self) -> Exhibit:
        if any(not one or {len(row) for row in one} != {len(one[0])} or not one[0] for one in self.maps):
            raise ValueError("a map must be a grid of weights")
        return self


class Dot(_Part):
    """One sample on a map, in thousandths of its sides, and whether the model still gives it its label."""

    label: int
    clean: tuple[Place, Place]
    attacked: tuple[Place, Place]
    right: bool


class Map(_Part):
    """A t-SNE map of embeddings, clean and attacked ones together."""

    threat: Text
    attack: Text
    features: Literal["embeddings", "logits"]
    seed: int
    perplexity: float
    dots: Annotated[tuple[Dot, ...], Field(max_length=200)]


class Evidence(_Part):
    """What evidence.parquet holds."""

    version: int
    run: str  # fingerprint
    rows_sha256: str
    media: Media  # what the dataset's card allowed when it was made
    map: Map | None = None
    exhibits: Annotated[tuple[Exhibit, ...], Field(max_length=MOST)] = ()


_STORED = pa.struct([("audio", pa.binary()), ("frames", pa.list_(pa.binary())), ("sha256", pa.string())])
_ANSWER = pa.struct([("classes", pa.list_(pa.int32())), ("confidences", pa.list_(pa.float32()))])
SCHEMA = pa.schema(
    [
        ("sample", pa.string()),
        ("threat", pa.string()),
        ("attack", pa.string()),
        ("answers", pa.list_(_ANSWER)),
        ("maps", pa.list_(pa.list_(pa.list_(pa.float32())))),
        ("clean", _STORED),
        ("change", _STORED),
    ]
)


def write_evidence(run: Path, evidence: Evidence) -> Path:
    """Write the file whole or not at all; equal evidence gives equal bytes.

    Raises:
        DataError: if it is too large to be kept with the run.
    """
    about = files.canonical_json(evidence.model_dump(exclude={"exhibits"}))
    rows = [exhibit.model_dump() for exhibit in evidence.exhibits]
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({_META: about}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy", use_dictionary=False, write_statistics=False)
    content = sink.getvalue().to_pybytes()
    if len(content) > LARGEST:
        raise DataError(f"the evidence of {run} takes {len(content)} bytes; at most {LARGEST} are kept beside a run")
    files.publish(run / FILE, lambda temporary: _fill(temporary, content))
    return run / FILE


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read_evidence(run: Path, record: Mapping[str, Any]) -> Evidence | None:
    """Read the evidence beside a run, which anybody may have written; None if there is none.

    Args:
        run: the run's folder.
        record: `run` and `rows_sha256` of its run.json.

    Raises:
        DataError: if it is malformed, too large, or of another run.
    """
    path = run / FILE
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise ValueError(f"it is no regular file of at most {LARGEST} bytes")
        parquet = pq.ParquetFile(path)
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
        if parquet.metadata.num_rows > MOST or values > VALUES or not parquet.schema_arrow.equals(SCHEMA):
            raise ValueError(f"its columns are not those of {MOST} clips at most")
        about = Evidence.model_validate_json((parquet.schema_arrow.metadata or {})[_META])
        exhibits = [Exhibit.model_validate(row) for row in parquet.read().to_pylist()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, RecursionError, MemoryError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)[:300]
        raise DataError(f"{path} is no evidence of a run ({what}); repeat `avbench evidence`") from error
    if (about.version, about.run, about.rows_sha256) != (VERSION, record["run"], record["rows_sha256"]):
        raise DataError(f"{path} is of another run, or of other rows; repeat `avbench evidence`")
    return about.model_copy(update={"exhibits": tuple(exhibits)})
