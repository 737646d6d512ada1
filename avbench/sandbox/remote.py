"""A model in a worker process, as an ordinary differentiable module: no attack and no judge can tell."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from avbench import files
from avbench.errors import BadOption, CheckpointError
from avbench.sandbox import wire
from avbench.sandbox.process import Limits, Worker
from avbench.sandbox.wire import PARTS, Message


class RemoteModel(nn.Module):
    """Offer the parts that the worker's model has, under their names; two-stage if it is."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.worker = worker
        self.modalities = worker.hello.modalities
        for part in worker.hello.parts:
            if part != "forward":
                setattr(self, part, partial(_call, worker, part))

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return _call(self.worker, "forward", audio, video)

    def __reduce__(self) -> Any:
        """Go to another process as what opens the model there, behind walls of its own."""
        return _open_again, (self.worker.load, self.worker.visible, self.worker.limits, _hashes(self.worker.visible))


def _open_again(load: dict[str, Any], visible: tuple[Path, ...], limits: Limits, hashes: list[str]) -> RemoteModel:
    if not all(path.exists() for path in visible) or _hashes(visible) != hashes:
        raise CheckpointError(f"{visible[0]} is not the same in a worker; put the model where all can read it")
    return RemoteModel(Worker(load, visible, limits))


def _hashes(visible: tuple[Path, ...]) -> list[str]:
    held = [file for one in visible for file in (sorted(one.rglob("*")) if one.is_dir() else [one])]
    return [files.sha256_file(file) for file in held if file.is_file()]


def _call(worker: Worker, part: str, *inputs: Tensor) -> Tensor:
    if any(tensor.device.type != "cpu" for tensor in inputs):
        raise BadOption("a model in a worker process computes on the CPU; add --device cpu")
    value: Tensor = _Remote.apply(worker, part, torch.is_grad_enabled(), *inputs)  # type: ignore[no-untyped-call]
    return value


class _Remote(torch.autograd.Function):
    """Forward and vector-Jacobian product of one part, both computed by the worker."""

    @staticmethod
    def forward(ctx: Any, worker: Worker, part: str, grad: bool, *inputs: Tensor) -> Tensor:
        wanted = [grad and needed for needed in ctx.needs_input_grad[3:]]
        flags = int(grad) | sum(2 << index for index, needed in enumerate(wanted) if needed)
        ctx.call = _Ticket(worker, part, [tuple(tensor.shape) for tensor in inputs])
        reply = worker.call(Message(wire.RUN, PARTS.index(part), flags, ctx.call.number, tensors=inputs))
        value, *rest = reply.tensors
        if value is None or rest != [None] or value.shape[:1] != inputs[0].shape[:1]:
            shape = None if value is None else tuple(value.shape)
            raise worker.refuse(f"{part} answers {shape} on a batch of {len(inputs[0])}")
        if not any(wanted) or not reply.flags & 1:
            ctx.mark_non_differentiable(value)
        # Never touched: it only stands for what the worker keeps, where memory is probed for the micro-batch.
        ctx.save_for_backward(torch.empty(min(reply.size, wire.MEMORY), dtype=torch.uint8))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        call: _Ticket = ctx.call
        message = Message(wire.BACK, PARTS.index(call.part), 0, call.number, tensors=(cotangent,))
        found = call.worker.call(message).tensors[: len(call.shapes)]
        for gradient, shape in zip(found, call.shapes, strict=True):
            if gradient is not None and tuple(gradient.shape) != shape:
                raise call.worker.refuse(f"the gradient of {call.part} has the shape {tuple(gradient.shape)}")
        return None, None, None, *found


class _Ticket:
    """A call whose graph the worker keeps, until this is forgotten."""

    def __init__(self, worker: Worker, part: str, shapes: list[tuple[int, ...]]) -> None:
        self.worker, self.part, self.shapes = worker, part, shapes
        self.number = worker.ticket()
        weakref.finalize(self, worker.drop, self.number)
