"""One file of a stranger, opened once: whatever it claims of itself, no more is allocated than it really holds."""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avbench.errors import CheckpointError

LARGEST_FILE = 8 << 30  # bytes
LARGEST_HEAD = 8 << 20  # bytes that are read at once, and not as a tensor
MOST_TENSORS = 10_000
MOST_DIMENSIONS = 8
LONGEST_NAME = 200  # characters


class Source(io.FileIO):
    """A regular file, of which tensors and short heads are read.

    Raises:
        CheckpointError: if it is missing, a link, not regular, empty or too large; later, if it is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            super().__init__(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
        except (OSError, ValueError) as error:
            if os.path.islink(path):
                raise CheckpointError(f"{path} is a link; give the file that it names") from error
            raise CheckpointError(f"no model at {path}; give a submission folder or a weights file") from error
        status = os.fstat(self.fileno())
        self.size = status.st_size
        if not (stat.S_ISREG(status.st_mode) and 0 < self.size <= LARGEST_FILE):
            self.close()
            raise CheckpointError(f"{path} is no regular file of 1 to {LARGEST_FILE} bytes")

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does, but never much."""
        if size is None or size < 0:
            size = LARGEST_HEAD
        if size > LARGEST_HEAD:
            raise CheckpointError(f"{self.path} has a head of {size} bytes; at most {LARGEST_HEAD} are read")
        return super().read(size)

    def bytes(self, start: int, count: int) -> bytes:
        """Read a short piece at a place."""
        self.seek(start)
        found = self.read(count)
        if len(found) != count:
            raise CheckpointError(f"{self.path} is truncated: {count} bytes are missing at {start}")
        return found

    def tensor(self, dtype: torch.dtype, start: int, count: int) -> Tensor:
        """Copy `count` numbers out of the file, (count,)."""
        size = count * dtype.itemsize
        if not 0 <= start <= start + size <= self.size:
            raise CheckpointError(f"{self.path} is truncated: it has {self.size} bytes, not {start + size}")
        numbers = torch.empty(size, dtype=torch.uint8)
        self.seek(start)
        left = memoryview(numbers.numpy().data)
        while left:
            if not (got := self.readinto(left)):
                raise CheckpointError(f"{self.path} changed while it was read")
            left = left[got:]
        return numbers != 0 if dtype is torch.bool else numbers.view(dtype)  # other bytes than 0 and 1 are no bool

    def sha256(self) -> str:
        """Hex sha256 of the whole file."""
        self.seek(0)
        digest = hashlib.sha256()
        while piece := self.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()


def check_name(name: str, path: Path) -> None:
    """Refuse a weight's name that could not be shown.

    Raises:
        CheckpointError: if it is empty, long, or has signs that are not printed.
    """
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise CheckpointError(f"{path} has a weight named {ascii(name)[:80]}; 1 to {LONGEST_NAME} printable characters")


def are_sizes(value: Any) -> bool:
    """Tell whether something is a shape whose elements can be counted, even where one size is zero."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= MOST_DIMENSIONS
        and all(type(size) is int and size >= 0 for size in value)
        and math.prod(size or 1 for size in value) < 2**62
    )
