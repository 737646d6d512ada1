"""Rows of strangers: what cannot be rows of the run that they claim to be of is refused before it takes memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from site_runs import write_run

from avbench import files, store
from avbench.cli import main
from avbench.errors import DataError, IncompleteRun

MIB = 1 << 20
SAMPLES, CELLS = 10, 12
ROWS = SAMPLES * CELLS
Write = Callable[[Path, pa.Table], None]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ten samples in twelve cells."""
    return write_run(tmp_path / "results", "weak", n=SAMPLES, dataset__evaluated=SAMPLES)


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if much memory is taken in between, also if it is given back at once."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < 64 * MIB


def memory(kind: str) -> int:
    found = re.search(rf"{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def change(run: Path, name: str, values: pa.Array, **how: object) -> None:
    """Put another column into the rows of a run, or one more, and pin them."""
    table = pq.read_table(run / "rows.parquet").take(pa.array(np.arange(len(values)) % ROWS))
    place = table.schema.get_field_index(name)
    table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    pq.write_table(table, run / "rows.parquet", compression="zstd", **how)
    record = json.loads((run / "run.json").read_text()) | {"rows_sha256": files.sha256_file(run / "rows.parquet")}
    (run / "run.json").write_text(json.dumps(record))


def too_many_rows(run: Path) -> None:
    change(run, "margin", pa.array(np.zeros(1_000_000, np.float32)))


def one_row_too_many(run: Path) -> None:
    change(run, "margin", pa.array(np.zeros(ROWS + 1, np.float32)))


def long_names(run: Path) -> None:
    change(run, "attack", pa.array(["x" * 100_000] * ROWS), use_dictionary=False)


def one_long_name_in_all_rows(run: Path) -> None:
    change(run, "sample", pa.array(["x" * 1_000_000] * ROWS), use_dictionary=True, dictionary_pagesize_limit=4 * MIB)


def long_lists(run: Path) -> None:
    ends = pa.array(np.arange(ROWS + 1, dtype=np.int32) * 100_000)
    change(run, "scores", pa.ListArray.from_arrays(ends, pa.array(np.zeros(ROWS * 100_000, np.float32))))


def a_large_file(run: Path) -> None:
    with (run / "rows.parquet").open("ab") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        (too_many_rows, f"1000000 rows, and what this run can need is {ROWS}"),
        (one_row_too_many, f"{ROWS + 1} rows, and what this run can need is {ROWS}"),
        (long_names, "bytes when unpacked"),
        (one_long_name_in_all_rows, "1000000 bytes in one sample"),
        (long_lists, "values in one column"),
        (a_large_file, "1099511627776 bytes, and"),
    ],
)
def test_rows_that_no_run_of_these_samples_writes_take_no_memory(
    run: Path, bomb: Callable[[Path], None], words: str
) -> None:
    bomb(run)
    assert (run / "rows.parquet").stat().st_size < 2 * MIB or bomb is a_large_file, "small as a file, or it is no bomb"
    with little_memory(), pytest.raises(DataError, match=words):
        store.read_rows(run)


def test_what_is_no_column_of_rows_is_not_read(run: Path) -> None:
    plain = store.read_rows(run)
    change(run, "surprise", pa.array(["x" * 200_000] * ROWS), dictionary_pagesize_limit=4 * MIB)
    with little_memory():
        assert store.read_rows(run).equals(plain)


@pytest.mark.parametrize("evaluated", [float("inf"), "many", None, -1], ids=str)
def test_a_record_without_a_number_of_samples_is_a_named_error(run: Path, evaluated: object) -> None:
    record = json.loads((run / "run.json").read_text())
    record["dataset"]["evaluated"] = evaluated
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises((IncompleteRun, DataError)):
        store.read_rows(run)


def test_rows_beside_the_record_of_an_unfinished_run_are_not_read(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"rows_sha256": None, "cells": []}))
    with pytest.raises(IncompleteRun, match="is not finished"):
        store.read_rows(run)


def test_a_column_of_another_type_is_named(run: Path) -> None:
    change(run, "margin", pa.array(["1.0"] * ROWS))
    with pytest.raises(IncompleteRun, match="margin of another type"):
        store.read_rows(run)


@pytest.mark.parametrize("command", ["leaderboard build --results {} --out {}/site", "score {}"])
def test_a_command_that_reads_such_rows_names_them_and_ends(run: Path, command: str, tmp_path: Path) -> None:
    too_many_rows(run)
    done = CliRunner().invoke(main, command.format(run, tmp_path).split())
    assert done.exit_code == 2
    assert done.stderr.startswith("DataError: ")
    assert "1000000 rows" in done.output.replace("\n", " ")


def test_the_rows_of_twenty_thousand_samples_with_several_labels_are_read(run: Path) -> None:
    samples, classes = 20_371, 527
    ends = pa.array(np.arange(samples + 1, dtype=np.int32) * classes)
    scores = np.random.default_rng(0).normal(size=samples * classes).astype(np.float32)
    columns = {
        "sample": pa.array([f"{i:011d}_30000" for i in range(samples)]),
        "threat": pa.array(["XAV:linf:0.006:linf:0.006"] * samples),
        "attack": pa.array(["apgd-ce:restarts=1,steps=50"] * samples),
        "correct": pa.array(np.arange(samples) % 2 == 0),
        "labels": pa.ListArray.from_arrays(np.arange(samples + 1, dtype=np.int32) * 3,
                                           pa.array(np.arange(samples * 3, dtype=np.int16) % classes)),
        "scores": pa.ListArray.from_arrays(ends, pa.array(scores)),
    }  # fmt: skip
    schema = store.schema(multilabel=True)
    random = pa.array(scores[:samples])
    table = pa.Table.from_arrays([columns.get(field.name, random) for field in schema], schema=schema)
    pq.write_table(table, run / "rows.parquet", compression="snappy", write_page_checksum=True)
    record = json.loads((run / "run.json").read_text())
    record["dataset"] |= {"size": samples, "evaluated": samples}
    (run / "run.json").write_text(json.dumps(record | {"cells": record["cells"][:1]}))
    read = store.read_rows(run)
    assert len(read) == samples
    assert read["scores"].iloc[-1].tolist() == scores[-classes:].tolist()
