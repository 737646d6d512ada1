"""What parent and worker say to each other: messages of one fixed size, and tensors in a sealed shared memory.

A message says what lies in the memory; the memory can neither shrink nor grow, so neither side can fault the other.
Nothing is ever unpickled. Whoever receives copies first and trusts only the copy's own checks.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avbench.errors import BadOption, BadReply

MEMORY = 1 << 30  # bytes that one call's tensors may take; pages that are never touched cost nothing
START = 8192  # bytes before the first tensor, which hold the state of torch's generator
STATE = 5056  # bytes of that state
MOST_DIMENSIONS = 6
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
STAGES = ("forward", "encode_audio", "encode_video", "fuse")
PARTS = (*STAGES, *(f"differentiable_{stage}" for stage in STAGES))
READY, LOAD, RUN, BACK, DROP, DONE, FAILED = range(7)  # kinds of message
_TENSOR = struct.Struct(f"<bB{MOST_DIMENSIONS}Q")  # index of the dtype or -1 for none, dimensions, shape
_HEAD = struct.Struct("<BBBQQ")
SIZE = _HEAD.size + 2 * _TENSOR.size  # bytes of every message


class Message(NamedTuple):
    """One question or answer; the last field is not sent but lies in the memory."""

    kind: int
    part: int = 0  # index in PARTS
    flags: int = 0  # of RUN: bit 0 gradients wanted, bits 1 and 2 by which inputs; of its DONE: bit 0 has a gradient
    ticket: int = 0  # the call whose graph is meant
    size: int = 0  # bytes of text, else bytes that a backward pass will need
    tensors: tuple[Tensor | None, ...] = ()  # at most two


class Wire:
    """One end of the wire."""

    def __init__(self, channel: socket.socket, memory: int) -> None:
        self.channel = channel
        if os.fstat(memory).st_size != MEMORY:
            raise BadReply("the shared memory has another size than it was made with")
        self._map = mmap.mmap(memory, MEMORY)

    def send(self, message: Message, text: bytes = b"") -> None:
        """Put the tensors or the text into the memory, then say so.

        Raises:
            BadOption: if they do not fit.
        """
        if text:
            message = message._replace(size=len(text))
            self._map[START : START + len(text)] = text
        packed, place = b"", START
        for tensor in (*message.tensors, None, None)[:2]:
            if tensor is None:
                packed += _TENSOR.pack(-1, 0, *[0] * MOST_DIMENSIONS)
                continue
            shape = tuple(tensor.shape)
            view, place = self._view(DTYPES.index(tensor.dtype), shape, place)
            view.copy_(tensor.detach())
            packed += _TENSOR.pack(
                DTYPES.index(tensor.dtype), len(shape), *shape, *[0] * (MOST_DIMENSIONS - len(shape))
            )
        self._map[:STATE] = torch.get_rng_state().numpy().tobytes()
        self.channel.sendall(_HEAD.pack(*message[:-1]) + packed)

    def receive(self) -> Message | None:
        """Take one message, with its own copy of the tensors; None if the other end is closed.

        Raises:
            BadReply: if it is no message, or says what cannot be.
        """
        data = self.channel.recv(SIZE + 1)
        if not data:
            return None
        if len(data) != SIZE:
            raise BadReply(f"a message has {SIZE} bytes, this one {len(data)}")
        message = Message(*_HEAD.unpack_from(data))
        tensors: list[Tensor | None] = []
        place = START
        for index in range(2):
            kind, dimensions, *shape = _TENSOR.unpack_from(data, _HEAD.size + index * _TENSOR.size)
            if kind == -1:
                tensors.append(None)
                continue
            if not (0 <= kind < len(DTYPES) and dimensions <= MOST_DIMENSIONS):
                raise BadReply("a message describes a tensor that cannot be")
            try:
                view, place = self._view(kind, shape[:dimensions], place)
            except BadOption as error:
                raise BadReply(f"a message describes a tensor of shape {tuple(shape)}") from error
            tensors.append(view.clone())
        return message._replace(tensors=tuple(tensors))

    def text(self, message: Message, most: int) -> bytes:
        """Copy the text of a message.

        Raises:
            BadReply: if it is longer than it may be.
        """
        if message.size > most:
            raise BadReply(f"a text of {message.size} bytes, where {most} are allowed")
        return self._map[START : START + message.size]

    def draw_on(self) -> None:
        """Let this process's generator continue where the other's stood when it sent its last message.

        Raises:
            BadReply: if that is no state of a generator.
        """
        try:
            torch.set_rng_state(torch.frombuffer(bytearray(self._map[:STATE]), dtype=torch.uint8))
        except RuntimeError as error:
            raise BadReply("the state of the generator is none") from error

    def close(self) -> None:
        """Close this end."""
        self.channel.close()

    def _view(self, dtype: int, shape: Sequence[int], place: int) -> tuple[Tensor, int]:
        """Lay a tensor at a place of the memory; return it and the next place."""
        count = math.prod(shape)
        end = place + count * DTYPES[dtype].itemsize
        if count < 1 or end > MEMORY or len(shape) > MOST_DIMENSIONS:
            raise BadOption(
                f"a tensor of shape {tuple(shape)} does not fit into the {MEMORY} bytes that are shared with the "
                "worker; repeat the command with a smaller --batch-size"
            )
        return torch.frombuffer(self._map, dtype=DTYPES[dtype], count=count, offset=place).view(*shape), -(
            -end // 64
        ) * 64


def shared() -> int:
    """Make the shared memory: a descriptor whose size is sealed and whose seals are too."""
    memory = os.memfd_create("avbench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, MEMORY)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory


def escaped(data: bytes) -> str:
    """Show a stranger's text so that no terminal, log or page takes it for anything but text."""
    text = data.decode("utf-8", "backslashreplace").strip()
    return "".join(sign if sign.isascii() and sign.isprintable() else ascii(sign)[1:-1] for sign in text)
