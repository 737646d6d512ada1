"""Look for the labels, bend the judge, or break the protocol."""

import gc
import os
import struct
import sys
import threading

import torch
from honest import passing
from torch import nn

from avbench.sandbox import wire
from avbench.sandbox.wire import Message, Wire


class Base(nn.Module):
    def __init__(self, classes, spec):
        super().__init__()
        self.classes, self.scores = classes, nn.Linear(spec.samples, classes)

    def forward(self, audio, video):
        self.deed(len(audio))
        return self.scores(audio)

    def deed(self, batch):
        pass


def line():
    return next(thing for thing in gc.get_objects() if isinstance(thing, Wire))


class FrameWalker(Base):
    """Answer the labels, where a caller has them."""

    def forward(self, audio, video):
        frame = sys._getframe()
        while frame is not None:
            for value in frame.f_locals.values():
                labels = getattr(value, "labels", None)
                if isinstance(labels, torch.Tensor) and len(labels) == len(audio):
                    return nn.functional.one_hot(labels, self.classes).float() + 0 * audio.sum(1, keepdim=True)
            frame = frame.f_back
        return torch.zeros(len(audio), self.classes) + audio.sum(1, keepdim=True)


class Monkey(Base):
    """Let the judge find everything right."""

    def __init__(self, classes, spec):
        super().__init__(classes, spec)
        import avbench.judge
        import avbench.objectives

        avbench.judge.margin = avbench.objectives.margin = lambda logits, labels: torch.ones(len(labels))


class Exits(Base):
    def deed(self, batch):
        sys.exit(3)


class HardExits(Base):
    def deed(self, batch):
        os.write(2, b"\x1b]0;owned\x07\x1b[31mfarewell\r\n")
        os._exit(7)


class Escapes(Base):
    def deed(self, batch):
        raise RuntimeError("\x1b[2J\x1b]0;owned\x07 \u202e good \x9b31m" + "x" * 100_000)


class Truncates(Base):
    """Shrink or grow the shared memory, or lift its seals."""

    found = False

    def deed(self, batch):
        import fcntl

        done = []
        for name in os.listdir("/proc/self/fd"):
            if os.path.exists(link := f"/proc/self/fd/{name}") and "memfd" in os.readlink(link):
                for size in (0, wire.MEMORY // 2, 2 * wire.MEMORY):
                    try:
                        os.ftruncate(int(name), size)
                        done.append(size)
                    except OSError:
                        pass
                if fcntl.fcntl(int(name), fcntl.F_GET_SEALS) != 7:
                    done.append("seals")
                self.found = True
        if done or not self.found:
            raise RuntimeError(f"breach: {done}")


class Rewrites(Base):
    """Overwrite the shared memory all the time, inputs and answers."""

    def deed(self, batch):
        memory = line()._map

        def scribble():
            while True:
                memory[: 1 << 20] = b"\xff" * (1 << 20)

        threading.Thread(target=scribble, daemon=True).start()


class Nan(Base):
    def forward(self, audio, video):
        scores = self.scores(audio)
        return torch.where(torch.arange(len(audio))[:, None] == 2, torch.nan, scores)


class NanGradient(Base):
    def forward(self, audio, video):
        return self.scores(passing(lambda cotangent: cotangent * torch.nan)(audio))


class MoreClasses(Base):
    def forward(self, audio, video):
        return self.scores(audio).repeat(1, 2)


class FewerSamples(Base):
    def forward(self, audio, video):
        return self.scores(audio)[1:]


class NoTensor(Base):
    def forward(self, audio, video):
        return {"logits": self.scores(audio)}


class Huge(Base):
    def forward(self, audio, video):
        return self.scores(audio)[:, :1].expand(-1, 1 << 30)


class Spoof(Base):
    """Say something else before the worker does."""

    def deed(self, batch):
        self.say(line(), batch)


class SpoofShape(Spoof):
    def say(self, at, batch):
        at.send(Message(wire.DONE, tensors=(torch.zeros(batch + 1, 3),)))


class SpoofTwo(Spoof):
    def say(self, at, batch):
        at.send(Message(wire.DONE, tensors=(torch.zeros(batch, 3), torch.zeros(batch, 3))))


class SpoofNothing(Spoof):
    def say(self, at, batch):
        at.send(Message(wire.DONE))


class SpoofKind(Spoof):
    def say(self, at, batch):
        at.send(Message(99))


class SpoofText(Spoof):
    def say(self, at, batch):
        at.send(Message(wire.FAILED, size=1 << 50))


class SpoofDimensions(Spoof):
    def say(self, at, batch):
        tensor = wire._TENSOR.pack(0, 6, *[1 << 60] * 6)
        at.channel.sendall(wire._HEAD.pack(wire.DONE, 0, 0, 0, 0) + 2 * tensor)


class SpoofDtype(Spoof):
    def say(self, at, batch):
        tensor = wire._TENSOR.pack(77, 255, *[1] * 6)
        at.channel.sendall(wire._HEAD.pack(wire.DONE, 0, 0, 0, 0) + 2 * tensor)


class SpoofShort(Spoof):
    def say(self, at, batch):
        at.channel.send(b"x")


class SpoofLong(Spoof):
    def say(self, at, batch):
        at.channel.send(b"x" * 5000)


class SpoofGenerator(Spoof):
    def say(self, at, batch):
        state = bytearray(struct.pack("<Q", 1) * (wire.STATE // 8))
        torch.get_rng_state = lambda: torch.frombuffer(state, dtype=torch.uint8)
        at.send(Message(wire.DONE, tensors=(torch.zeros(batch, 3),)))


class SpoofName(Base):
    """Claim, before the worker speaks, to be another submission, with a path for a name."""

    def __init__(self, classes, spec):
        super().__init__(classes, spec)
        line().send(Message(wire.DONE), b'{"parts": ["forward"], "modalities": ["audio"], "id": "../../canary"}')


class SpoofHello(Base):
    """Say nonsense, before the worker speaks."""

    def __init__(self, classes, spec):
        super().__init__(classes, spec)
        line().send(Message(wire.DONE), b"[" * 60_000)


class SpoofGradient(Base):
    """Answer a gradient of another shape."""

    def forward(self, audio, video):
        return self.scores(passing(self.spoof)(audio))

    def spoof(self, cotangent):
        line().send(Message(wire.DONE, tensors=(torch.zeros(1, 1),)))
        return cotangent


class Deaf(Base):
    """Close the wire."""

    def deed(self, batch):
        line().channel.close()
