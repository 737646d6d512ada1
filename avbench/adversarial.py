"""Adversarial clips on disk: those that were judged, bit for bit, and their budgets measured in integers.

A file holds, for each attacked modality, how many float32 numbers lie between the clean value and the adversarial one:
zero is no change, and what is added to the bits of the clean clip gives back the bits of the adversarial one.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import floor, prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from avbench import files
from avbench.errors import BudgetViolation, DataError
from avbench.threats import ThreatModel, parse_threat
from avbench.types import BOX, MODALITIES, AVInput, Batch, InputSpec, Modality

FOLDER, SUMS = "adversarial", "SHA256SUMS"
LARGEST = 4 << 30  # bytes of a file
MOST = 1024  # samples in a file
_SCALE = 61  # lengths are whole numbers of 2**-61, rounded up; only float32 numbers below 2**-37 are not whole
_END = struct.Struct("<4s4H2LH")  # how a zip file without a comment ends
_LEAST, _MOST = ~0x3F800000, 0x3F800000  # places of -1 and 1 in the order of float32 numbers
_LONGEST = 200  # characters of an id or a threat


class Kept(NamedTuple):
    """What a file of clips holds."""

    samples: tuple[str, ...]
    threat: ThreatModel
    steps: dict[Modality, NDArray[np.int32]]  # (samples, ...), float32 numbers from the clean value up

    def restore(self, clean: AVInput) -> AVInput:
        """Return the clips, from the clean ones of the same samples on the CPU.

        Raises:
            BudgetViolation: naming the first sample that is not in the box.
        """
        clips = clean
        for modality, steps in self.steps.items():
            low, high = BOX[modality]
            order = _order(getattr(clean, modality).numpy()).astype(np.int64) + steps
            fits = (order >= _LEAST) & (order <= _MOST)
            clip = _unorder(np.where(fits, order, 0).astype(np.int32))
            for sample, inside in zip(self.samples, fits & (clip >= low) & (clip <= high), strict=True):
                if not inside.all():
                    raise BudgetViolation(f"the {modality} of sample {sample} is outside [{low:g}, {high:g}]")
            clips = clips._replace(**{modality: torch.from_numpy(clip)})
        return clips

    def check(self, clean: AVInput, clips: AVInput) -> dict[Modality, float]:
        """Measure every clip in integers; return the largest share that is used of each budget.

        Raises:
            BudgetViolation: naming the first sample outside its budget.
        """
        used = {}
        for modality, budget in self.threat.budgets.items():
            allowed = floor(Fraction(budget.radius) * 2**_SCALE)
            changes = _change(getattr(clean, modality).numpy(), getattr(clips, modality).numpy())
            taken = [budget.length(change) for change in changes]
            for sample, length in zip(self.samples, taken, strict=True):
                if length > allowed:
                    over = float(Fraction(length, 2**_SCALE))
                    raise BudgetViolation(
                        f"the {modality} of sample {sample} is {over!r} from the clean one in {budget.norm}, "
                        f"outside {self.threat}"
                    )
            used[modality] = max(taken) / allowed if allowed else 0.0
        return used


def write_clips(path: Path | str, threat: ThreatModel | str, batch: Batch, clips: AVInput) -> str:
    """Write adversarial clips of a batch whole or not at all, equal ones as equal bytes; return the file's sha256.

    Args:
        path: file to write, .npz.
        threat: what the clips are within.
        batch: the clean clips with their ids; see `avbench.datasets.splits.Split.batch`.
        clips: the adversarial ones.

    Raises:
        BudgetViolation: naming the first sample that is not within the threat.
        DiskFull: if there is no space; nothing is left behind.
    """
    content = pack_clips(threat, batch, clips)
    files.publish_bytes(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def pack_clips(threat: ThreatModel | str, batch: Batch, clips: AVInput) -> bytes:
    """Make the content of such a file.

    Raises:
        BudgetViolation: naming the first sample that is not within the threat.
    """
    threat = parse_threat(str(threat))
    clean, clips = batch.inputs.to("cpu"), clips.to("cpu")
    for modality in MODALITIES:
        if modality not in threat.budgets and not torch.equal(getattr(clean, modality), getattr(clips, modality)):
            raise BudgetViolation(f"the {modality} is changed, and {threat} leaves it alone")
    steps = {m: _order(getattr(clips, m).numpy()) - _order(getattr(clean, m).numpy()) for m in threat.budgets}
    kept = Kept(batch.ids, threat, steps)
    kept.check(clean, kept.restore(clean))
    content = io.BytesIO()
    np.savez_compressed(content, samples=np.array(batch.ids), threat=np.array(str(threat)), **steps)  # type: ignore[arg-type]
    return content.getvalue()


def read_clips(path: Path, spec: InputSpec) -> Kept:
    """Read a file of clips that anybody may have written; no more is read than its shapes allow.

    Raises:
        DataError: if it is not one.
        BadBudget, UnknownName: if it names no threat.
    """
    try:
        with _open(path) as file, zipfile.ZipFile(file) as archive:
            samples = tuple(map(str, _array(archive, "samples", None)))
            threat = parse_threat(str(_array(archive, "threat", ())))
            shapes = {m: (len(samples), *spec.shape(m)) for m in threat.budgets}
            names = sorted(f"{name}.npy" for name in ("samples", "threat", *shapes))
            if sorted(archive.namelist()) != names or not samples or len(set(samples)) != len(samples):
                raise ValueError(f"it does not hold {', '.join(names)}, of samples that differ")
            return Kept(samples, threat, {m: _array(archive, m, shape).astype(np.int32) for m, shape in shapes.items()})
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no file of adversarial clips: {str(error)[:300]}") from error


def publish_sums(run: Path, shards: Mapping[Path, str | None]) -> str | None:
    """List the files of a finished run with their hashes, remove others; return the list's sha256, None if some lack.

    Args:
        run: the run's folder.
        shards: sha256 of each file, None if it was not kept.
    """
    folder = run / FOLDER
    if not shards or not all(digest and path.exists() for path, digest in shards.items()):
        return None
    for path in folder.rglob("*.npz"):
        if path not in shards:
            path.unlink()
    files.publish_text(folder / SUMS, sums(folder, shards.items()))
    return files.sha256_file(folder / SUMS)


def sums(folder: Path, hashes: Iterable[tuple[Path, str | None]]) -> str:
    """Write hashes as `sha256sum -c` reads them."""
    return "".join(f"{digest}  {path.relative_to(folder).as_posix()}\n" for path, digest in sorted(hashes))


def _order(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Give float32 values their place in the order of all; neighbors differ by one, and -0 lies just below 0."""
    bits = np.ascontiguousarray(values).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unorder(order: NDArray[np.int32]) -> NDArray[np.float32]:
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).view(np.float32)


def _change(clean: NDArray[np.float32], clip: NDArray[np.float32]) -> NDArray[np.int64]:
    """Absolute difference in whole units of 2**-61, rounded up."""
    low, high = (np.ldexp(pick(clean, clip).astype(np.float64), _SCALE) for pick in (np.minimum, np.maximum))
    change: NDArray[np.int64] = np.ceil(high).astype(np.int64) - np.floor(low).astype(np.int64)
    return change


def _open(path: Path) -> IO[bytes]:
    """Open a regular file that ends as a small zip file does, so that listing it is quick."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _END.size < status.st_size <= LARGEST:
            raise ValueError(f"it is no regular file of at most {LARGEST} bytes")
        file.seek(max(0, status.st_size - _END.size - 20))
        tail = file.read()
        mark, *_, entries, size, _, comment = _END.unpack(tail[-_END.size :])
        if mark != b"PK\5\6" or entries > 4 or size > 4096 or comment or tail.startswith(b"PK\6\7"):
            raise ValueError("it is no .npz file of up to four arrays")
    except BaseException:
        file.close()
        raise
    return file


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...] | None) -> NDArray[np.generic]:
    """Read one array of a known kind: int32 of a given shape, or text."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in another way than deflate")
    with archive.open(entry) as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is no array of version 1.0")
        found, fortran, dtype = npy.read_array_header_1_0(stream, max_header_size=1000)
        text = dtype.kind == "U" and 0 < dtype.itemsize <= 4 * _LONGEST
        fits = found == shape if shape is not None else len(found) == 1 and 0 < found[0] <= MOST
        if fortran or not fits or not (text if name in ("samples", "threat") else dtype == np.dtype("<i4")):
            raise ValueError(f"{name} is {dtype} {found}, not as the data set's card says")
        data = stream.read(prod(found) * dtype.itemsize + 1)
    return np.frombuffer(data, dtype).reshape(found)
