"""Video files made by PyAV whose every frame and sample has a known value, so that what must come out is computable."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from avbench.types import InputSpec

T21 = InputSpec(sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224)


def luma(frame: int) -> int:
    """Distinct for 70 frames in a row."""
    return 20 + 3 * (frame % 70)


def gray(frame: int) -> float:
    """What RGB value the luma of a frame is in, by ITU-R BT.601."""
    return (luma(frame) - 16) * 255 / 219


def ramp(samples: int) -> NDArray[np.int16]:
    """(samples,), every value distinct for 65,536 samples in a row."""
    return (np.arange(samples, dtype=np.int64) * 7919 % 65536 - 32768).astype(np.int16)


def tone(rate: int, seconds: float, hertz: float, amplitude: float = 12000) -> NDArray[np.int16]:
    return np.round(amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.int16)


def flat(frame: int, height: int, width: int, high: bool) -> list[NDArray[Any]]:
    """Planes of a gray picture, 8 or 10 bits."""
    planes = [np.full(s, v) for s, v in (((height, width), luma(frame)), *[((height // 2, width // 2), 128)] * 2)]
    return [(plane * 4).astype(np.uint16) if high else plane.astype(np.uint8) for plane in planes]


@dataclass(frozen=True)
class Made:
    """How to make a clip; the default is lossless."""

    frames: int = 75
    fps: Fraction | int = 25
    times: Sequence[int] | None = None  # ms, one a frame, for a variable frame rate
    size: tuple[int, int] = (48, 64)  # height, width
    codec: str | None = "ffv1"
    pixels: str = "yuv420p"
    draw: Callable[[int, int, int, bool], list[NDArray[Any]]] = flat
    options: tuple[tuple[str, str], ...] = ()
    sound: NDArray[np.int16] | None = None  # (samples,) or (channels, samples); None: 3 s of a 440 Hz tone
    rate: int = 11025
    audio_codec: str | None = "pcm_s16le"
    audio_at: int = 0  # samples that the sound begins after the picture
    audio_skip: tuple[int, int] = (0, 0)  # (from sample, how many later), for a gap
    muxer: tuple[tuple[str, str], ...] = ()
    format: str | None = None

    def write(self, path: Path) -> Path:
        with av.open(str(path), "w", format=self.format, options=dict(self.muxer)) as container:
            video = audio = None
            if self.codec:
                video = container.add_stream(self.codec, rate=Fraction(self.fps), options=dict(self.options))
                (video.height, video.width), video.pix_fmt = self.size, self.pixels
                if self.times:
                    video.codec_context.time_base = video.time_base = Fraction(1, 1000)
            if self.audio_codec:
                sound = np.atleast_2d(tone(self.rate, 3, 440) if self.sound is None else self.sound)
                audio = container.add_stream(self.audio_codec, rate=self.rate)
                audio.layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            if video:
                self._write_video(container, video)
            if audio:
                self._write_audio(container, audio, sound)
        return path

    def _write_video(self, container: Any, video: Any) -> None:
        for i in range(self.frames):
            frame = av.VideoFrame(self.size[1], self.size[0], self.pixels)
            for plane, values in zip(frame.planes, self.draw(i, *self.size, "10" in self.pixels), strict=True):
                padded = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                padded[:, : values.shape[1]] = values
                plane.update(padded.tobytes())
            frame.pts, frame.time_base = (
                (self.times[i], Fraction(1, 1000)) if self.times else (i, 1 / Fraction(self.fps))
            )
            container.mux(video.encode(frame))
        container.mux(video.encode(None))

    def _write_audio(self, container: Any, audio: Any, sound: NDArray[np.int16]) -> None:
        step = self.rate // 10
        resampler = av.AudioResampler(
            audio.format, audio.layout, self.rate, frame_size=audio.codec_context.frame_size or 0
        )
        for start in range(0, sound.shape[1], step):
            part = np.ascontiguousarray(sound[:, start : start + step].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=audio.layout.name)
            skipped = self.audio_skip[1] if start >= self.audio_skip[0] else 0
            frame.pts, frame.sample_rate, frame.time_base = (
                start + self.audio_at + skipped,
                self.rate,
                Fraction(1, self.rate),
            )
            for ready in resampler.resample(frame):
                container.mux(audio.encode(ready))
        for ready in [*resampler.resample(None)]:
            container.mux(audio.encode(ready))
        container.mux(audio.encode(None))


def turn(path: Path, degrees: int) -> Path:
    """Write a clockwise turn for display into the track header of the first (video) track of an mp4 file."""
    data = bytearray(path.read_bytes())
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
