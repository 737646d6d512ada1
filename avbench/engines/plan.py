"""What another process needs to compute parts of a run: the model, where the split is, and the numerics to be met."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avbench import files
from avbench.cells import Cell
from avbench.checkpoint import Candidate
from avbench.datasets.splits import Split, open_split
from avbench.device import deterministic
from avbench.engines.bench import Bench, Made, Work
from avbench.errors import AvbenchError, EngineUnavailable, OtherNumerics
from avbench.options import RunOptions
from avbench.rng import seeded


@dataclass(frozen=True)
class Plan:
    """Hold what can be sent: a model in a sandbox goes as the names of its files, any other as code and arrays."""

    candidate: Candidate
    split: Split | tuple[str, str, str]  # dataset, split and the sha256 of its lock; or one that is not prepared
    cells: Sequence[Cell]
    options: RunOptions
    numerics: dict[str, Any]
    code: str  # of avbench
    identities: list[dict[str, Any]]  # of the cells, with the versions of their attacks, which may be of plug-ins

    @classmethod
    def of(
        cls, candidate: Candidate, split: Split, cells: Sequence[Cell], bench: Bench, numerics: dict[str, Any]
    ) -> Plan:
        """Describe what a process has opened."""
        options = replace(bench.options, device=bench.victim.device.type)
        named = (split.card.name, split.name, split.lock.sha256) if type(split) is Split else split
        return cls(candidate, named, cells, options, numerics, _code(), [cell.identity for cell in cells])

    def open(self) -> Bench:
        """Open the same here.

        Raises:
            OtherNumerics: if this process would compute other bits.
        """
        if self.code != _code():
            raise OtherNumerics("a worker has another avbench; install the same everywhere")
        for cell, identity in zip(self.cells, self.identities, strict=True):
            if cell.identity != identity:
                raise OtherNumerics(
                    f"a worker knows {cell.attack} as {cell.identity['attack']}, not {identity['attack']}"
                )
        split = self._open_split()
        bench = Bench(self.candidate, split, self.cells, self.options)
        device = bench.victim.device
        with deterministic(device), seeded(device, "run"):
            found = bench.numerics(self.numerics["micro_batch"], bench.look())
        if differing := [name for name in self.numerics if found.get(name) != self.numerics[name]]:
            told = "; ".join(f"{name} is {found.get(name)}, not {self.numerics[name]}" for name in differing)
            raise OtherNumerics(
                f"a worker would compute other bits: {told}; let all machines be alike, or use --engine local"
            )
        return bench

    def _open_split(self) -> Split:
        if isinstance(self.split, Split):
            return self.split
        dataset, name, lock = self.split
        split = open_split(dataset, name)
        if split.lock.sha256 != lock:
            raise OtherNumerics(f"a worker has other clips of {dataset} {name}; prepare them there from the same files")
        return split


@cache
def _code() -> str:
    """Identify the code of avbench, which a version does not."""
    package = Path(files.__file__).parent
    return files.fingerprint({str(p.relative_to(package)): files.sha256_file(p) for p in package.rglob("*.py")})


def opened(load: Callable[[], Plan]) -> Bench:
    """Open a plan in a worker.

    Raises:
        EngineUnavailable: if the model, or a plug-in, cannot be had there.
        OtherNumerics: if the worker would compute other bits.
    """
    try:
        plan = load()
    except Exception as error:  # whatever the code of a model raises when it comes here
        said = str(error).strip().rpartition("\n")[2]
        raise EngineUnavailable(f"a worker cannot open the model ({said}); use --engine local") from None
    return plan.open()


def serve(find: Callable[[], Bench], unit: Sequence[Work]) -> Iterator[Made | AvbenchError]:
    """Compute a unit in a process of its own; errors that have a name are answers."""
    torch.set_num_threads(1)
    try:
        bench = find()
        device = bench.victim.device
        with deterministic(device), seeded(device, "run"):
            yield from bench.compute(unit)
    except AvbenchError as error:
        yield error


@contextmanager
def sending() -> Iterator[None]:
    """Let tensors be pickled as arrays inside the block: Ray keeps these once for all processes of a machine.

    Raises:
        EngineUnavailable: if a model cannot be pickled.
    """
    before = {kind: copyreg.dispatch_table.get(kind) for kind in (Tensor, nn.Parameter)}
    for kind in before:
        copyreg.pickle(kind, _reduce)
    try:
        yield
    except (TypeError, AttributeError, RuntimeError, PicklingError) as error:
        raise EngineUnavailable(f"the work cannot be sent to workers ({error}); use --engine local") from error
    finally:
        for kind, reducer in before.items():
            if reducer:
                copyreg.dispatch_table[kind] = reducer
            else:
                del copyreg.dispatch_table[kind]


def _reduce(tensor: Tensor) -> tuple[Any, ...]:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    like = torch.empty_like(tensor, device="meta")  # of the same layout
    kind = nn.Parameter if isinstance(tensor, nn.Parameter) else None
    return _rebuild, (values, tensor.dtype, tuple(like.shape), like.stride(), tensor.device.type, kind)


def _rebuild(
    values: NDArray[np.uint8],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    device: str,
    kind: type[nn.Parameter] | None,
) -> Tensor:
    """Copy values out of memory that is shared, into what a model may change."""
    made = torch.empty_strided(shape, stride, dtype=dtype, device=device)
    made.copy_(torch.from_numpy(values.copy()).view(dtype).reshape(shape))
    return kind(made, requires_grad=False) if kind else made
