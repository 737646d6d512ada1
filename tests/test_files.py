"""Files appear whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from avbench import files


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = [bytes([i]) * 2_000_000 for i in range(2)]
    path.write_bytes(contents[0])
    stop = threading.Event()

    def write() -> None:
        for turn in range(60):
            files.publish(path, lambda temporary, turn=turn: temporary.write_bytes(contents[turn % 2]))
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        assert path.read_bytes() in contents
    writer.join()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("power cut")

    (tmp_path / "f").write_text("old")
    with pytest.raises(RuntimeError):
        files.publish(tmp_path / "f", fail)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"f": "old"}


def test_canonical_json_is_one_text_per_value() -> None:
    assert files.canonical_json({"b": 1, "a": [1.5, "é"]}) == files.canonical_json({"a": [1.5, "é"], "b": 1})
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": "1"})
    with pytest.raises(ValueError, match="compliant"):
        files.canonical_json({"a": float("nan")})
