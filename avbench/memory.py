"""Let the passes of an attack use one another's memory; giving it back each time can cost more than the arithmetic."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of glibc's malloc.h, with what it arrives at by itself in a process that frees large tensors.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
_depth = 0


@contextmanager
def reused_memory(device: torch.device) -> Iterator[None]:
    """Keep what is freed inside the block for what is allocated next, and give it back to the system at the end.

    Otherwise glibc maps every tensor above 32 MiB anew, and the kernel clears its pages one fault at a time. A block
    is one micro-batch: over many, what stays between freed tensors lets the memory grow without end. Values do not
    depend on it. On a GPU, or elsewhere than on glibc, nothing happens.
    """
    global _depth
    if device.type != "cpu":
        yield
        return
    libc = ctypes.CDLL(None)
    mallopt: Callable[[int, int], int] | None = getattr(libc, "mallopt", None)
    _depth += 1
    if mallopt and _depth == 1:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        _depth -= 1
        if mallopt and not _depth:
            for name, value in _USUAL.items():
                mallopt(name, value)
            libc.malloc_trim(0)
