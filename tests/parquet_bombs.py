"""Parquet files written by hand, whose few bytes claim far more than they hold."""

from __future__ import annotations

import struct
from collections.abc import Sequence

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12  # types of the compact protocol
BOOLEAN, FLOAT, BYTE_ARRAY = 0, 4, 6  # physical types
PLAIN, RLE = 0, 3
ROWS = 2
MAGIC = b"PAR1"


def varint(number: int) -> bytes:
    """Write an unsigned number, seven bits a byte."""
    head, rest = number & 0x7F, number >> 7
    return bytes([head | 0x80]) + varint(rest) if rest else bytes([head])


def number(value: int) -> bytes:
    """Write a signed number."""
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def record(*fields: tuple[int, int, bytes]) -> bytes:
    """Write a struct of (field, type, content), fields ascending."""
    out, last = b"", 0
    for field, kind, content in fields:
        out += bytes([(field - last) << 4 | kind]) + content
        last = field
    return out + b"\0"


def sequence(kind: int, parts: Sequence[bytes]) -> bytes:
    """Write a list."""
    return bytes([0xF0 | kind]) + varint(len(parts)) + b"".join(parts)


def text(words: str) -> bytes:
    """Write a text."""
    return varint(len(words)) + words.encode()


def page(data: bytes, values: int, encoding: int, size: int) -> bytes:
    """Write a data page."""
    about = record((1, I32, number(values)), (2, I32, number(encoding)), (3, I32, number(RLE)), (4, I32, number(RLE)))
    header = (1, I32, number(0)), (2, I32, number(size)), (3, I32, number(len(data))), (5, STRUCT, about)
    return record(*header) + data


def parquet(
    rows: int = ROWS, values: int = ROWS, size: int | None = None, run: int | None = None, extra: bytes = b""
) -> bytes:
    """Write two rows as a run has them.

    Args:
        rows: how many the footer claims.
        values: how many each page claims.
        size: bytes of each page, unpacked, as its header claims.
        run: length of the run in `correct`, which is then encoded in runs.
        extra: further fields of the footer.
    """
    columns = {"sample": (b"a", b"b"), "threat": (b"clean",) * 2, "attack": (b"none",) * 2, "correct": (), "margin": ()}
    body, chunks, schema = MAGIC, [], [record((4, BINARY, text("schema")), (5, I32, number(len(columns))))]
    for name, words in columns.items():
        kind = {"correct": BOOLEAN, "margin": FLOAT}.get(name, BYTE_ARRAY)
        data = b"".join(struct.pack("<I", len(word)) + word for word in words)
        data = struct.pack("<ff", 1, 1) if kind == FLOAT else b"\3" if kind == BOOLEAN else data
        encoding = RLE if kind == BOOLEAN and run else PLAIN
        if encoding == RLE:
            content = varint((run or 0) << 1) + b"\1"
            data = struct.pack("<I", len(content)) + content
        written = page(data, values, encoding, len(data) if size is None else size)
        about = [(1, I32, number(kind)), (2, LIST, sequence(I32, [number(encoding)])),
                 (3, LIST, sequence(BINARY, [text(name)])), (4, I32, number(0)), (5, I64, number(rows)),
                 (6, I64, number(len(written))), (7, I64, number(len(written))), (9, I64, number(len(body)))]  # fmt: skip
        chunks.append(record((2, I64, number(len(body))), (3, STRUCT, record(*about))))
        utf8 = [(6, I32, number(0))] if kind == BYTE_ARRAY else []
        schema.append(record((1, I32, number(kind)), (3, I32, number(0)), (4, BINARY, text(name)), *utf8))
        body += written
    group = record((1, LIST, sequence(STRUCT, chunks)), (2, I64, number(len(body))), (3, I64, number(rows)))
    footer = record((1, I32, number(1)), (2, LIST, sequence(STRUCT, schema)), (3, I64, number(rows)),
                    (4, LIST, sequence(STRUCT, [group])))  # fmt: skip
    footer = footer[:-1] + extra + b"\0"
    return body + footer + struct.pack("<I", len(footer)) + MAGIC


BOMBS = {
    "rows without end": parquet(rows=10**15),
    "more rows than there are": parquet(rows=10**6),
    "values without end": parquet(values=2**31 - 1),
    "a page of 2 GB": parquet(size=2**31 - 1),
    "a run without end": parquet(run=2**30),
    "a list without end": parquet(extra=bytes([0x19, 0xF0 | I32]) + varint(2**28)),
    "lists in lists": parquet(extra=bytes([0x19]) + (bytes([0xF0 | LIST]) + varint(2**24)) * 1000),
    "structs in structs": parquet(extra=bytes([0x1C]) * 500_000),
    "a number without end": parquet(extra=bytes([0x16]) + b"\xff" * 3_000_000),
}
