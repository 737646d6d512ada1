"""Read what torch.save wrote without unpickling: where each storage lies, and what the pickle tells of the tensors."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any, NamedTuple

from torch import Tensor

from avbench.checkpoint.source import LARGEST_HEAD, MOST_TENSORS, Source, check_name
from avbench.checkpoint.steps import Other, Pairs, Stored, Weight, follow
from avbench.errors import CheckpointError, UnsafeCheckpoint


class Saved(NamedTuple):
    """What a file describes, and where each of its storages lies."""

    content: Any
    places: dict[str, tuple[int, int]]  # start and bytes


def read_pickled(source: Source) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a state dict, plain or Lightning's, and the latter's hyper-parameters.

    Raises:
        CheckpointError: if the file is not what torch.save writes, or holds no state dict.
        UnsafeCheckpoint: if it asks for more than weights.
    """
    try:
        saved = _zipped(source) if source.bytes(0, 4) == b"PK\x03\x04" else _legacy(source)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes zipfile and pickletools raise nearly anything
        reason = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        raise CheckpointError(f"{source.path} is truncated or not a PyTorch checkpoint ({reason})") from error
    content, header = saved.content, {}
    outer = plain(content)
    if isinstance(inner := outer.get("state_dict"), Pairs):
        content, header = inner, plain(outer.get("hyper_parameters"))
    if not isinstance(content, Pairs) or not 0 < len(content) <= MOST_TENSORS:
        raise CheckpointError(f"{source.path} holds no state dict (a mapping of 1 to {MOST_TENSORS} names to tensors)")
    names = [name for name, _ in content if isinstance(name, str)]
    if len(set(names)) != len(content):
        raise CheckpointError(f"{source.path} holds no state dict (a weight's name is given twice, or is no text)")
    stored: dict[str, Tensor] = {}
    return {name: _tensor(name, value, source, saved.places, stored) for name, value in content}, header


def plain(value: Any) -> dict[str, Any]:
    """Make a dictionary of what has words as keys, and leave out the rest."""
    return {key: part for key, part in value if isinstance(key, str)} if isinstance(value, Pairs) else {}


def _tensor(
    name: str, value: Any, source: Source, places: dict[str, tuple[int, int]], stored: dict[str, Tensor]
) -> Tensor:
    """Read one tensor; what several of them share is read once."""
    check_name(name, source.path)
    where = f"{source.path}: {name}"
    if isinstance(value, Other):
        raise CheckpointError(f"{where} is a sparse, meta, quantized or other tensor; save plain weights")
    if not isinstance(value, Weight):
        raise CheckpointError(f"{where} is no tensor, so the file holds no state dict")
    (dtype, key, count), offset, shape, strides = value
    elements = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if places.get(key, (0, -1))[1] != count * dtype.itemsize:
        raise CheckpointError(f"{where} claims {count} numbers, which its file does not hold")
    if elements and not (elements <= count and last < count):
        raise CheckpointError(f"{where} is {shape}, more than the {count} numbers that are stored for it")
    if key not in stored:
        stored[key] = source.tensor(dtype, places[key][0], count)
    if stored[key].dtype != dtype:
        raise CheckpointError(f"{where} reads another weight's numbers as another dtype")
    return stored[key].as_strided(shape, strides, offset) if elements else stored[key].new_empty(shape)


def _zipped(source: Source) -> Saved:
    """Read a zip archive: a folder with data.pkl, and a member for each storage."""
    with zipfile.ZipFile(source) as archive:
        members, end = sorted(archive.infolist(), key=lambda one: one.header_offset), archive.start_dir
    found: dict[str, tuple[int, int]] = {}
    folder = members[0].filename.partition("/")[0]
    for number, one in enumerate(members):
        name, parts = one.filename, one.filename.split("/")
        if one.compress_type != zipfile.ZIP_STORED or name in found or one.compress_size != one.file_size:
            raise UnsafeCheckpoint(f"{source.path} holds compressed or repeated members, which torch.save never writes")
        if parts[0] != folder or len(parts) < 2 or {"", ".", ".."} & set(parts) or not name.isprintable():
            raise UnsafeCheckpoint(f"{source.path} has a member {ascii(name)[:80]}, as torch.save never writes")
        local = source.bytes(one.header_offset, 30)  # which has lengths of its own for name and padding
        start = one.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:], "little")
        after = members[number + 1].header_offset if number + 1 < len(members) else end
        if local[:4] != b"PK\x03\x04" or start + one.file_size > after:
            raise UnsafeCheckpoint(f"{source.path} holds members that overlap, which torch.save never writes")
        found[name] = start, one.file_size
    if source.bytes(*found.get(f"{folder}/byteorder", (0, 0))) not in (b"", b"little"):
        raise CheckpointError(f"{source.path} is of a big-endian machine; save it again there as .safetensors")
    content = follow(io.BytesIO(source.bytes(*found[f"{folder}/data.pkl"])), source, {})
    return Saved(content, {name.removeprefix(f"{folder}/data/"): place for name, place in found.items()})


def _legacy(source: Source) -> Saved:
    """Read a file as before PyTorch 1.6: five pickles, then each storage after its number of elements."""
    source.seek(0)
    head, stored = io.BytesIO(source.read(LARGEST_HEAD)), dict[str, Stored]()
    magic, version, system = (follow(head, source, {}) for _ in range(3))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001) or plain(system).get("little_endian") is not True:
        raise ValueError("no magic number")
    content, keys = follow(head, source, stored), follow(head, source, {})
    at, places = head.tell(), dict[str, tuple[int, int]]()
    for key in keys:
        size = int.from_bytes(source.bytes(at, 8), "little") * stored[key].dtype.itemsize
        places[key] = at + 8, size
        at += 8 + size
    if at != source.size:
        raise ValueError("bytes are missing, or belong to no storage")
    return Saved(content, places)
