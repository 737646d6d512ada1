"""The embedded dataset: eight procedural classes of which sound and sight each tell a half.

The bits are the same on every machine by construction. Random bits come from Philox's raw stream, never from numpy's
distributions, whose streams may change; and the only floating-point operations used are those that IEEE 754 rounds
exactly (+ - * / sqrt floor), in a fixed order: no sin, no exp, no reduction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from avbench.datasets import DATASETS, Dataset, Entry
from avbench.datasets.encoding import Clip, Encoded, encode

Array: TypeAlias = NDArray[np.float64]

VERSION = 1  # part of every key; another version is another dataset
SIZES = {"train": 4000, "val": 400, "test": 500}  # samples
RATE, SAMPLES = 8000, 8192  # Hz, audio samples
FRAMES, SIDE = 4, 48  # frames, pixels
SOUNDS = ("chime", "burst", "chirp", "tremolo")
SHAPES = ("disc", "ring", "triangle", "cross")
PRESENT = 0.96  # probability that a sound is in the audio; independently, that a shape is in the video
LEVEL, HISS = (0.05, 0.25), (0.01, 0.07)  # of a sound before its echoes, and of white noise; full scale 1
SIZE = (6.5, 11.0)  # of a shape, pixels
CONTRAST, GRAIN = (0.05, 0.2), (0.01, 0.07)  # of a shape, and of white noise; white 1

_TIME = np.arange(SAMPLES) / RATE  # s
_FRAME = np.arange(FRAMES, dtype=np.float64).reshape(FRAMES, 1, 1)
_Y, _X = np.arange(SIDE, dtype=np.float64).reshape(SIDE, 1), np.arange(SIDE, dtype=np.float64)  # pixels
_UNIT = 65536 / sqrt(3)  # standard deviation of a sum of four 16-bit uniforms


class Kinds(NamedTuple):
    """What a class sounds and looks like."""

    sound: str
    shape: str


def kinds(label: int) -> Kinds:
    """Pair sounds and shapes around a cycle, so that each alone leaves two classes open and both leave one."""
    return Kinds(SOUNDS[label // 2], SHAPES[(label + 1) % 8 // 2])


CLASSES = tuple("+".join(kinds(label)) for label in range(8))


class Draws:
    """Give one stream of random numbers, the same on every machine."""

    def __init__(self, key: bytes) -> None:
        self._bits = Philox(key=int.from_bytes(key, "little"))

    def uniform(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def sign(self) -> float:
        """-1 or 1."""
        return -1.0 if self.uniform(0, 1) < 0.5 else 1.0

    def color(self, low: float, high: float) -> Array:
        """Three numbers in [low, high), to be broadcast over (frames, 3, height, width)."""
        return np.array([self.uniform(low, high) for _ in range(3)]).reshape(3, 1, 1)

    def noise(self, *shape: int) -> Array:
        """Nearly normal numbers: each the sum of four 16-bit uniforms, scaled to mean 0 and variance 1."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        total = sum((raw >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (16, 32, 48)) + (raw & np.uint64(0xFFFF))
        return ((total.astype(np.float64) - 2 * 65535) / _UNIT).reshape(shape)


def _wave(cycles: Array) -> Array:
    """Stand in for sin(2 pi cycles), within 0.0011, in exactly rounded operations."""
    z = cycles - np.floor(cycles) - 0.5
    y = 8 * z * (2 * np.abs(z) - 1)
    wave: Array = y * (0.775 + 0.225 * np.abs(y))
    return wave


def _decay(x: Array) -> Array:
    """Stand in for exp(-x), x >= 0, in exactly rounded operations."""
    y = 1 / (1 + x / 8)
    y = y * y
    y = y * y
    return y * y


def sound(draws: Draws, kind: str) -> Array:
    """Play one kind of sound, (samples,), about 1 at its peak; every kind makes the same draws."""
    pitch = 260 / draws.uniform(0.35, 1)  # Hz
    onset, period = draws.uniform(0, 0.2), draws.uniform(0.2, 0.5)  # s
    ring, phase = draws.uniform(0.05, 0.2), draws.uniform(0, 1)  # s, cycles
    sweep, up = draws.uniform(0.6, 2), draws.sign()
    rate, depth = draws.uniform(7, 16), draws.uniform(0.6, 1)  # Hz, 1
    tilt, overtone = draws.uniform(-0.6, 0.6), draws.uniform(0.3, 0.8)
    noise = draws.noise(SAMPLES)
    since = _TIME - onset
    local = since - np.floor(since / period) * period  # s since the last strike
    gate = np.clip(since / 0.01, 0, 1)
    strike = gate * np.clip(local / 0.005, 0, 1) * _decay(local / ring)
    match kind:
        case "chime":
            first, second, third = (_wave(n * pitch * _TIME + n * phase) for n in (1, 2, 3))
            return strike * (first + overtone * (second + overtone * third)) / (1 + overtone)
        case "burst":
            return strike * (noise + tilt * np.roll(noise, 1)) * 0.5
        case "chirp":
            done = local / period
            rising = done / 2 if up > 0 else 1 - done / 2  # mean of the sweep so far
            return strike * _wave(pitch * (1 + sweep * rising) * local + phase)
        case _:
            tone = _wave(pitch * _TIME + phase) + overtone * _wave(2 * pitch * _TIME)
            return gate * tone / (1 + overtone) * (1 + depth * _wave(rate * since)) / 2


def reverberate(draws: Draws, dry: Array) -> Array:
    """Add the echoes of a random room."""
    reach = draws.uniform(0.02, 0.15)  # s
    wet = dry.copy()
    for _ in range(10):
        delay = int(draws.uniform(20, 2400))  # samples
        wet[delay:] += draws.sign() * 0.5 * float(_decay(np.array(delay / RATE / reach))) * dry[:-delay]
    return wet


def _audio(draws: Draws, kind: str) -> NDArray[np.int16]:
    """Record a sound in a room, over hiss, rumble and hum; or only these."""
    level = draws.uniform(*LEVEL) if draws.uniform(0, 1) < PRESENT else 0.0
    wave = level * reverberate(draws, sound(draws, kind)) + background(draws)
    return np.rint(np.clip(wave * 32768, -32768, 32767)).astype(np.int16)


def background(draws: Draws) -> Array:
    """Make background noise, (samples,)."""
    hiss = draws.noise(SAMPLES)
    slow = draws.noise(SAMPLES // 32 + 1)
    part = _TIME * RATE / 32 - np.floor(_TIME * RATE / 32)
    step = np.arange(SAMPLES) // 32
    rumble = slow[step] * (1 - part) + slow[step + 1] * part
    hum = _wave(draws.uniform(40, 160) * _TIME + draws.uniform(0, 1))
    return draws.uniform(*HISS) * hiss + draws.uniform(0, 0.03) * rumble + draws.uniform(0, 0.02) * hum


def _texture(draws: Draws, finest: float) -> Array:
    """Make a moving grating, (frames, 1, height, width) in [-1, 1]; `finest` in cycles per pixel."""
    across, down = draws.uniform(-finest, finest), draws.uniform(-finest, finest)
    cycles = across * _X + down * _Y + draws.uniform(-0.3, 0.3) * _FRAME + draws.uniform(0, 1)
    return _wave(cycles).reshape(FRAMES, 1, SIDE, SIDE)


def mask(draws: Draws, kind: str) -> Array:
    """Draw a moving, turning shape with soft edges, (frames, 1, height, width) in [0, 1]."""
    size = draws.uniform(*SIZE)  # pixels
    x = _X - draws.uniform(14, 33) - draws.uniform(-2, 2) * (_FRAME - 1.5)
    y = _Y - draws.uniform(14, 33) - draws.uniform(-2, 2) * (_FRAME - 1.5)
    turn = draws.uniform(0, 1) + draws.uniform(-0.05, 0.05) * _FRAME  # cycles
    sin, cos = _wave(turn), _wave(turn + 0.25)
    u, v = cos * x + sin * y, cos * y - sin * x
    far = np.sqrt(u * u + v * v)
    match kind:
        case "disc":
            outside = far - size
        case "ring":
            outside = np.abs(far - 0.85 * size) - 0.32 * size
        case "triangle":
            sides = 0.5 * v + sqrt(0.75) * np.abs(u)
            outside = np.maximum(sides, -v) - 0.78 * size
        case _:
            u, v = np.abs(u), np.abs(v)
            outside = np.maximum(np.maximum(u, v) - 1.2 * size, np.minimum(u, v) - 0.4 * size)
    return np.clip(0.5 - outside, 0, 1).reshape(FRAMES, 1, SIDE, SIDE)


def backdrop(draws: Draws, base: Array) -> Array:
    """Make a moving background around a color, (frames, 3, height, width)."""
    scene = base + np.zeros((FRAMES, 3, SIDE, SIDE))
    for finest in (0.04, 0.1, 0.2):
        scene += draws.color(-0.06, 0.06) * _texture(draws, finest)
    return scene


def surface(draws: Draws, base: Array) -> Array:
    """Make the look of a shape, which stands out from a background of the color `base`."""
    contrast = draws.sign() * draws.uniform(*CONTRAST) + draws.color(-0.05, 0.05)
    return base + contrast + draws.color(-0.05, 0.05) * _texture(draws, 0.2)


def develop(draws: Draws, scene: Array) -> NDArray[np.uint8]:
    """Put a scene under changing light, add grain, and round it to pixels."""
    slant = draws.uniform(-0.006, 0.006) * (_X - 23.5) + draws.uniform(-0.006, 0.006) * (_Y - 23.5)
    light = draws.uniform(0.85, 1.15) + draws.uniform(-0.06, 0.06) * (_FRAME - 1.5) + slant
    scene = scene * light[:, None]
    scene += draws.uniform(*GRAIN) * draws.noise(FRAMES, 3, SIDE, SIDE)
    return np.rint(np.clip(scene * 255, 0, 255)).astype(np.uint8)


def _video(draws: Draws, kind: str) -> NDArray[np.uint8]:
    """Film a shape over a moving background under changing light; or only the background."""
    opaque = 1.0 if draws.uniform(0, 1) < PRESENT else 0.0
    base = draws.color(0.35, 0.65)
    scene = backdrop(draws, base)
    shown = surface(draws, base)
    return develop(draws, scene + opaque * mask(draws, kind) * (shown - scene))


def make(split: str, index: int, label: int) -> Clip:
    """Make one clip; each modality has its own stream and sees of the label only its own kind."""
    key = hashlib.sha256(f"synthav/{VERSION}/{split}/{index}".encode()).digest()
    sound, shape = kinds(label)
    return Clip(_audio(Draws(key[:16]), sound), _video(Draws(key[16:]), shape))


@DATASETS.register("synthav")
class SynthAV(Dataset):
    """Give a small benchmark that needs both senses and no download."""

    embedded = True

    def entries(self, split: str) -> list[Entry]:
        """List the samples of a split; labels go round, so classes are balanced."""
        return [Entry(f"{split}-{index:05d}", index % len(CLASSES)) for index in range(SIZES[split])]

    def clips(self, entries: Sequence[Entry]) -> Iterator[Encoded]:
        """Make the clips."""
        for entry in entries:
            split, _, index = entry.id.rpartition("-")
            assert isinstance(entry.label, int)
            yield encode(make(split, int(index), entry.label), RATE)
