"""Media files: open one safely, read all its times and its sound once, refuse what is broken or too large."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avbench.errors import BrokenClip

TOLERANCE = Fraction(1, 4)  # s; what may lack at the end, or between two timestamps, of a clip that counts as whole
LONGER = Fraction(3, 2)  # s; by how much, or else by a tenth, a clip may be longer than its list promises
# Containers only: a playlist (HLS, DASH, concat) would make libav open the other files and addresses that it names.
FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,mpegvideo,h264,wav,mp3,aac,flac"


@dataclass(frozen=True)
class Limits:
    """What a clip may cost; memory holds all its resampled sound (22 kB a second at 11025 Hz) but only a few frames."""

    seconds: int = 3600  # length of a stream
    size: int = 4 << 30  # bytes of the file
    pixels: int = 4096 * 2304  # of one frame
    streams: int = 32
    packets: int = 2_000_000  # of all streams; about one a video frame


@contextmanager
def open_regular(path: Path, limits: Limits) -> Iterator[BinaryIO]:
    """Open a file that is one: no symbolic link, no device, no pipe that would wait for ever."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BrokenClip("not-regular", "not a regular file")
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BrokenClip("missing", "no such file") from error
    with os.fdopen(opened, "rb") as file:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenClip("not-regular", "not a regular file")
        if status.st_size == 0:
            raise BrokenClip("empty", "0 bytes")
        if status.st_size > limits.size:
            raise BrokenClip("too-large", f"{status.st_size} bytes, the limit is {limits.size}")
        yield file


@contextmanager
def open_container(file: BinaryIO, limits: Limits) -> Iterator[InputContainer]:
    """Open from the start, with what libav may do cut to reading this file in one thread."""
    file.seek(0)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "", "fflags": "+genpts"}
    with av.open(file, "r", options=options, metadata_errors="replace") as container:
        if len(container.streams) > limits.streams:
            raise BrokenClip("too-many-streams", f"{len(container.streams)} streams, the limit is {limits.streams}")
        video, audio = streams_of(container)
        if video.width * video.height > limits.pixels:
            raise BrokenClip("too-large", f"frames of {video.width} x {video.height}, the limit is {limits.pixels}")
        for stream in (video, audio):
            stream.codec_context.options = {"max_pixels": str(limits.pixels), "flags": "+bitexact"}
            stream.codec_context.thread_count = 1
        yield container


def streams_of(container: InputContainer) -> tuple[VideoStream, AudioStream]:
    """Choose the streams that a player chooses."""
    video, audio = container.streams.best("video"), container.streams.best("audio")
    if not isinstance(video, VideoStream):
        raise BrokenClip("no-video", "no video track")
    if not isinstance(audio, AudioStream):
        raise BrokenClip("no-audio", "no audio track")
    return video, audio


class Span(NamedTuple):
    """Part of the time of a file, in seconds."""

    start: Fraction
    end: Fraction


class Scan(NamedTuple):
    """What one reading of the whole file tells, before any picture is decoded."""

    times: list[Fraction]  # s; when each video frame is shown, in order
    end: Fraction  # s; when the last one ends
    audio: NDArray[np.int16]  # all of it: mono, resampled
    audio_start: Fraction  # s


@dataclass
class _Sound:
    """Decode, mix and resample audio packet by packet."""

    resampler: av.AudioResampler
    start: Fraction | None = None  # s
    heard: Fraction = Fraction(0)  # s
    chunks: list[NDArray[np.int16]] = field(default_factory=list)

    def add(self, packet: Packet[Stream]) -> None:
        for frame in packet.decode():
            assert isinstance(frame, av.AudioFrame)
            at = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            if self.start is None:
                self.start = at or Fraction(0)
            elif at is not None and abs(at - self.start - self.heard) > TOLERANCE:
                raise BrokenClip("gap", f"audio jumps from {float(self.start + self.heard):.2f} s to {float(at):.2f} s")
            self.heard += Fraction(frame.samples, frame.sample_rate)
            self._keep(self.resampler.resample(frame))

    def finish(self) -> NDArray[np.int16]:
        if self.start is not None:
            self._keep(self.resampler.resample(None))
        audio = np.concatenate([np.zeros(0, np.int16), *self.chunks])
        if not len(audio):
            raise BrokenClip("no-audio", "the audio track is empty")
        return audio

    def _keep(self, frames: Sequence[av.AudioFrame]) -> None:
        self.chunks += [frame.to_ndarray()[0].copy() for frame in frames if frame is not None]


def scan_all(container: InputContainer, file: BinaryIO, rate: int, promised: float | None, limits: Limits) -> Scan:
    """Read every packet once: all times, all audio; a file that stops early is refused here."""
    video, audio = streams_of(container)
    # In float64, so that MP2, FLAC and PCM sound, which are decoded in integers, are the same bits on every processor.
    sound = _Sound(av.AudioResampler("s16", "mono", rate, options={"internal_sample_fmt": "dblp"}))
    times: list[Fraction] = []
    spans: dict[int, Span] = {}  # by stream
    for count, packet in enumerate(container.demux()):
        if count >= limits.packets:
            raise BrokenClip("too-long", f"more than {limits.packets} packets")
        if packet.is_corrupt:
            raise BrokenClip("truncated", "a packet is cut short")
        span = _span(packet)
        if span and packet.size and not packet.is_discard:
            known = spans.get(packet.stream_index, span)
            known = spans[packet.stream_index] = Span(min(known.start, span.start), max(known.end, span.end))
            if known.end - known.start > limits.seconds:
                raise BrokenClip("too-long", f"longer than {limits.seconds} s")
            if packet.stream_index == video.index:
                times.append(span.start)
        if packet.stream_index == audio.index:
            sound.add(packet)
    if not times:
        raise BrokenClip("no-video", "the video track holds no moving pictures")
    heard = sound.finish()
    assert sound.start is not None
    spans[audio.index] = Span(sound.start, sound.start + sound.heard)
    _check_whole(container, spans, file, promised)
    return Scan(sorted(times), spans[video.index].end, heard, sound.start)


def _span(packet: Packet[Stream]) -> Span | None:
    """Tell when a packet is shown and when it ends."""
    shown = packet.dts if packet.pts is None else packet.pts
    if shown is None:
        return None
    start, duration = shown * Fraction(packet.time_base), (packet.duration or 0) * Fraction(packet.time_base)
    if not duration and isinstance(packet.stream, VideoStream) and packet.stream.guessed_rate:
        duration = 1 / Fraction(packet.stream.guessed_rate)
    return Span(start, start + duration)


def _check_whole(container: InputContainer, found: dict[int, Span], file: BinaryIO, promised: float | None) -> None:
    """Hold what was read against what the file (only mov declares each stream) and the dataset declare."""
    video, audio = streams_of(container)
    start, end = min(span.start for span in found.values()), max(span.end for span in found.values())
    declared: list[tuple[str, Fraction, Fraction]] = [
        (stream.type, stream.duration * stream.time_base, found[stream.index].end - start)
        for stream in (video, audio)
        if container.format.name.startswith("mov") and stream.duration is not None and stream.time_base is not None
    ]
    if container.duration is not None:
        declared.append(("file", Fraction(container.duration, av.time_base), end - start))
    if any(length - there > TOLERANCE for _, length, there in declared) and not _declares_length(file, container):
        declared.clear()
    if container.format.name == "avi" and video.average_rate:  # whose other lengths libav takes from the file's size
        declared.append(("video", video.frames / video.average_rate, found[video.index].end - start))
    if promised is not None:
        declared.append(("file of this dataset", Fraction(promised), end - start))
        if end - start - Fraction(promised) > max(LONGER, Fraction(promised) / 10):
            raise BrokenClip("other-length", f"{float(end - start):.2f} s long, the list promises {promised:.2f} s")
    for what, length, there in declared:
        if length - there > TOLERANCE:
            raise BrokenClip("truncated", f"{what} of {float(length):.2f} s stops after {float(there):.2f} s")


def _declares_length(file: BinaryIO, container: InputContainer) -> bool:
    """Tell a length that a header holds from one that libav guesses from file size and bit rate where none does."""
    if not container.format.name.startswith(("matroska", "flv")):
        return True

    class Pipe:
        """A file without a size, so that nothing can be guessed from it."""

        read = file.read

    file.seek(0)
    with av.open(Pipe(), "r", options={"format_whitelist": FORMATS}, metadata_errors="replace") as again:
        return again.duration is not None
