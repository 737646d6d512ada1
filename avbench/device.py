"""Where and how arithmetic runs: the device, deterministic kernels, and the largest micro-batch that fits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from avbench.errors import BadOption
from avbench.oracle import Oracle, Victim
from avbench.types import MODALITIES, Batch, modalities_of

MEMORY_SHARE = 2**30  # bytes of saved activations that a micro-batch may hold on CPU; on CUDA half of what is free
LARGEST = {"cpu": 64, "cuda": 1024}  # samples


def find_device(name: str) -> torch.device:
    """Resolve --device; `auto` takes a GPU if there is one.

    Raises:
        BadOption: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadOption(f"{name!r} is not a device; use cpu, cuda, cuda:N or auto") from error
    if device.type not in LARGEST or (device.type == "cpu" and device.index):
        raise BadOption(f"device {name!r} is not supported; use cpu, cuda, cuda:N or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadOption(f"there is no {name} here ({torch.cuda.device_count()} CUDA devices); use --device cpu")
    return device


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Choose deterministic CUDA kernels and full float32 precision inside the block, and restore the flags after it.

    On CPU the kernels are deterministic for a fixed number of threads, and setting the flag would cost two seconds.
    """
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, with the first product of matrices
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[3:]


def threads_of(engine: str) -> AbstractContextManager[None]:
    """Compute with one thread inside the block, as the workers of an engine do, unless it is this process alone.

    Workers share the cores; the number of threads is part of the numerics, which have to be the same for all of them.
    """
    return threads(0 if engine == "local" else 1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside the block; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def probe_micro_batch(victim: Victim, batch: Batch, gradients: bool = True) -> int:
    """Find the largest power of two whose activations fit, from the bytes that one sample's gradient keeps."""
    if not gradients:
        return LARGEST[victim.device.type]
    one = Batch(batch.ids[:1], batch.inputs.pick(slice(0, 1)), batch.labels[:1])
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    attacked = tuple(m for m in MODALITIES if m in modalities_of(victim.model))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        victim.rescue(lambda: Oracle(victim, one, attacked, {}).gradient(one.inputs))
    held = (tensor for model in (victim.model, victim.quick) for tensor in (*model.parameters(), *model.buffers()))
    weights = {tensor.untyped_storage().data_ptr() for tensor in held}
    needed = sum(size for pointer, size in saved.items() if pointer not in weights) or 1
    share = MEMORY_SHARE
    if victim.device.type == "cuda":
        share = torch.cuda.mem_get_info(victim.device)[0] // 2
    size = 1
    while 2 * size <= LARGEST[victim.device.type] and 2 * size * needed <= share:
        size *= 2
    return size
