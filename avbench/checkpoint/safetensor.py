"""Read .safetensors: a header of plain data, then the numbers without hole, overlap or rest."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avbench.checkpoint.source import LARGEST_HEAD, MOST_TENSORS, Source, are_sizes, check_name
from avbench.checkpoint.strict_json import parse
from avbench.errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_PREFIX = 8  # bytes that tell the header's length


class _Entry(NamedTuple):
    begin: int  # bytes after the header
    end: int
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def read_safetensors(source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata.

    Raises:
        CheckpointError: if anything is not as the format says.
    """
    path = source.path
    length = int.from_bytes(source.bytes(0, _PREFIX), "little")
    if not 2 <= length <= min(LARGEST_HEAD, source.size - _PREFIX):
        raise CheckpointError(f"{path} is truncated or not a safetensors file (a header of {length} bytes)")
    header = parse(source.bytes(_PREFIX, length), f"the header of {path}")
    if not isinstance(header, dict) or len(header) > MOST_TENSORS + 1:
        raise CheckpointError(f"{path} has a header that is no object of at most {MOST_TENSORS} tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} has metadata that are not words")
    place = 0
    entries = sorted(_entry(name, about, source) for name, about in header.items())
    for entry in entries:
        if entry.begin != place:
            raise CheckpointError(f"{path} has a hole or an overlap before {entry.name}")
        place = entry.end
    if _PREFIX + length + place != source.size:
        raise CheckpointError(f"{path} is truncated or has bytes that belong to no tensor")
    start = _PREFIX + length
    return {
        one.name: source.tensor(one.dtype, start + one.begin, math.prod(one.shape)).view(one.shape) for one in entries
    }, metadata


def _entry(name: str, about: Any, source: Source) -> _Entry:
    check_name(name, source.path)
    where = f"{source.path}: {name}"
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} has other keys than dtype, shape and data_offsets")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where} has dtype {ascii(dtype)[:40]}, which is not one of {', '.join(DTYPES)}")
    if not (are_sizes(shape) and are_sizes(offsets) and len(offsets) == 2):
        raise CheckpointError(f"{where} has a shape or offsets that cannot be")
    if math.prod(shape) * DTYPES[dtype].itemsize != offsets[1] - offsets[0]:
        raise CheckpointError(f"{where} has a shape that does not fit its offsets")
    return _Entry(offsets[0], offsets[1], name, DTYPES[dtype], tuple(shape))
