"""How a clip is stored: a WAV file and one PNG file a frame, lossless, which every tool reads."""

from __future__ import annotations

import hashlib
import io
import wave
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avbench.types import InputSpec

PNG_LEVEL = 1  # of zlib: twice as fast to write as the default for a few percent more bytes


class Clip(NamedTuple):
    """What a sample stores, without id and label."""

    audio: NDArray[np.int16]  # (samples,)
    video: NDArray[np.uint8]  # (frames, 3, height, width), RGB


class Encoded(NamedTuple):
    """A clip as files in memory."""

    audio: bytes  # WAV, mono, 16 bit
    frames: tuple[bytes, ...]  # PNG, RGB
    sha256: str  # of the integers, see `digest`


def digest(clip: Clip) -> str:
    """Hex sha256 of a clip: its audio as little-endian int16, then its video bytes."""
    found = hashlib.sha256(np.ascontiguousarray(clip.audio, dtype="<i2").data)
    found.update(np.ascontiguousarray(clip.video).data)
    return found.hexdigest()


def encode(clip: Clip, sample_rate: int) -> Encoded:
    """Turn integers into files."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, sample_rate, 0, "NONE", "NONE"))
        file.writeframes(np.ascontiguousarray(clip.audio, dtype="<i2").tobytes())
    return Encoded(sound.getvalue(), tuple(_png(frame) for frame in clip.video), digest(clip))


def _png(frame: NDArray[np.uint8]) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(picture, "png", compress_level=PNG_LEVEL)
    return picture.getvalue()


def decode(audio: bytes, frames: Sequence[bytes], spec: InputSpec) -> Clip:
    """Turn files back into the integers that they were made from.

    Raises:
        ValueError: if they are not files of clips of this shape.
    """
    try:
        with wave.open(io.BytesIO(audio)) as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, spec.sample_rate):
                raise ValueError(f"the audio is not mono, 16 bit, {spec.sample_rate} Hz")
            sound = np.frombuffer(file.readframes(spec.samples + 1), "<i2")
    except (wave.Error, EOFError, RuntimeError) as error:  # RuntimeError: a chunk that ends outside the file
        raise ValueError(f"the audio is no WAV file: {error}") from error
    if sound.shape != (spec.samples,) or len(frames) != spec.frames:
        raise ValueError(f"it has {len(sound)} samples and {len(frames)} frames")
    # Contiguous: torch 2.11 corrupts its heap in the backward pass of a 1 x 1 convolution on transposed pictures.
    return Clip(sound, np.ascontiguousarray(np.stack([_pixels(frame, spec) for frame in frames])))


def _pixels(png: bytes, spec: InputSpec) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(png), formats=("png",)) as image:
            if (image.width, image.height, image.mode) != (spec.width, spec.height, "RGB"):
                raise ValueError(f"a frame has {image.width} x {image.height} pixels of {image.mode}")
            return np.asarray(image).transpose(2, 0, 1)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a frame is no PNG file: {error}") from error
