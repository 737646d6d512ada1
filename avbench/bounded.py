"""Read a file of rows without believing it: what it states is held against what a run can need, before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avbench.errors import DataError

MOST_ROWS = 5_000_000  # the largest board has under a million: 20,371 samples of AudioSet in 45 cells
LARGEST = 4 << 30  # bytes; the same board takes 2 GiB, nearly all of it scores
NARROW, WIDE = 512, 8192  # bytes of a row with one label, and of one with the scores of all classes
CLASSES = 1000  # values of a row in one column, at most
NAME = 1000  # bytes of a sample's, a threat's or an attack's name
SPARE = 1 << 20  # bytes of a file that are no rows
NAMES = ("sample", "threat", "attack")


def open_rows(path: Path, most: int) -> pq.ParquetFile:
    """Open a Parquet file of at most so many rows; names are read as a dictionary, so a long one takes memory once.

    Raises:
        DataError: if it is larger than so many rows can be.
        OSError, ArrowException: if it is no Parquet file.
    """
    most = min(most, MOST_ROWS)
    _hold(path, "bytes", path.stat().st_size, min(SPARE + most * WIDE, LARGEST))
    file = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=list(NAMES))
    wide = "scores" in file.schema_arrow.names
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    unpacked = sum(max(chunk.total_uncompressed_size, 0) for chunk in chunks)
    _hold(path, "rows", file.metadata.num_rows, most)
    _hold(path, "bytes when unpacked", unpacked, min(SPARE + most * (WIDE if wide else NARROW), LARGEST))
    values = max((chunk.num_values for chunk in chunks), default=0)
    _hold(path, "values in one column", values, file.metadata.num_rows * (CLASSES if wide else 1))
    return file


def read_columns(path: Path, file: pq.ParquetFile, names: Sequence[str]) -> pa.Table:
    """Read some columns of an opened file, and no others.

    Raises:
        DataError: if a name in it is too long.
        ArrowException: if it cannot be read.
    """
    table = file.read(list(names))
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kept = [chunk.dictionary for chunk in table.column(i).chunks]
            longest = max((pc.max(pc.binary_length(one)).as_py() or 0 for one in kept), default=0)
            _hold(path, f"bytes in one {field.name}", longest, NAME)
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table


def _hold(path: Path, what: str, found: int, most: int) -> None:
    if found > most:
        raise DataError(f"{path} has {found} {what}, and what this run can need is {most}; no run writes that")
