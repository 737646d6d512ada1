"""The worker process: it loads one model and answers calls on it. It sees clips and cotangents, nothing else."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avbench.errors import AvbenchError, BadModel
from avbench.sandbox import wire
from avbench.sandbox.wire import PARTS, Message, Wire
from avbench.types import modalities_of


def main(channel: int, memory: int, threads: int, limits: list[int]) -> None:
    """Serve until the parent closes its end.

    Args:
        channel: descriptor of the socket.
        memory: descriptor of the shared memory.
        threads: of torch's kernels, as many as the parent's.
        limits: address space, size of a file, open files, threads.
    """
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    for kind, most in (*zip(kinds, limits, strict=True), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))
    torch.set_num_threads(threads)
    connection = Wire(socket.socket(fileno=channel), memory)
    connection.send(Message(wire.READY))
    asked = connection.receive()
    assert asked is not None
    try:
        model, hello = _load(json.loads(connection.text(asked, asked.size)))
        connection.send(Message(wire.DONE), json.dumps(hello).encode())
        _serve(connection, model.eval().requires_grad_(False))
    except Exception as error:
        connection.send(Message(wire.FAILED), _reason(error))


def _load(what: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Load the model; return it and what the parent needs to know of it."""
    about: dict[str, Any] = {}
    if "factory" in what:
        from avbench.sandbox.code import load_code
        from avbench.types import InputSpec

        spec = InputSpec(**what["spec"])
        weights = Path(what["weights"]) if what.get("weights") else None
        model = load_code(Path(what["file"]), what["factory"], what["classes"], spec, what["arguments"], weights)
    else:
        from avbench.submission import find_candidate

        found, card = find_candidate(what["model"], what["dataset"], what["architecture"], what["arguments"])
        model, about = found.module, {"id": found.id, "dataset": card.name, **found.identity}
    parts = [part for part in PARTS if callable(getattr(model, part, None))]
    return model, about | {"parts": parts, "modalities": list(modalities_of(model))}


def _serve(connection: Wire, model: nn.Module) -> None:
    """Answer one call after the other; graphs are kept until the parent drops them."""
    graphs: dict[int, tuple[list[Tensor | None], Tensor]] = {}
    while asked := connection.receive():
        if asked.kind == wire.DROP:
            graphs.pop(asked.ticket, None)
            continue
        connection.draw_on()
        try:
            reply = _run(model, asked, graphs) if asked.kind == wire.RUN else _back(asked, graphs)
            connection.send(reply)
        except BaseException as error:  # also SystemExit: the model may say what it likes, the worker goes on
            connection.send(Message(wire.FAILED), _reason(error))


def _run(model: nn.Module, asked: Message, graphs: dict[int, tuple[list[Tensor | None], Tensor]]) -> Message:
    inputs = [tensor for tensor in asked.tensors if tensor is not None]
    leaves = [tensor.requires_grad_() if asked.flags >> (i + 1) & 1 else None for i, tensor in enumerate(inputs)]
    part = PARTS[asked.part]
    run = model if part == "forward" else getattr(model, part)
    with torch.set_grad_enabled(bool(asked.flags & 1)), _kept(model, len(inputs[0]) == 1) as kept:
        value = run(*(tensor.clone() for tensor in inputs))
    if not isinstance(value, Tensor) or value.dtype not in wire.DTYPES:
        raise BadModel(
            f"{part} answers {getattr(value, 'dtype', type(value).__name__)}, must be a floating-point tensor"
        )
    if value.requires_grad:
        graphs[asked.ticket] = leaves, value
    return Message(wire.DONE, flags=int(value.requires_grad), size=sum(kept.values()), tensors=(value,))


def _back(asked: Message, graphs: dict[int, tuple[list[Tensor | None], Tensor]]) -> Message:
    leaves, value = graphs[asked.ticket]
    wanted = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(value, wanted, asked.tensors[0], retain_graph=True, allow_unused=True))
    return Message(wire.DONE, tensors=tuple(None if leaf is None else next(found) for leaf in leaves))


@contextlib.contextmanager
def _kept(model: nn.Module, measured: bool) -> Iterator[dict[int, int]]:
    """Measure, on one sample, the bytes that a backward pass will need, as `avbench.device` does in process."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would be a cycle that is never freed

    if not measured:
        yield sizes
        return
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes
    for weight in (*model.parameters(), *model.buffers()):
        sizes.pop(weight.untyped_storage().data_ptr(), None)


def _reason(error: BaseException) -> bytes:
    """Say what went wrong, short enough to be read; the name of an error of ours goes first."""
    name = type(error).__name__
    text = f"{name}: {error}" if isinstance(error, AvbenchError) else f"BadModel: in its worker: {name}: {error}"
    return text.encode("utf-8", "backslashreplace")[:2000]
