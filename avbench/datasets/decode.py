"""Decoding: one video file in, the integers of one clip out, by the protocol of [T21]; a broken file is a named gap.

Time 0 is the first video frame. The clip is looked at at the instants i / fps before its end, and an instant shows the
frame that a player shows then; the middle instant is the *center*. Video is the center or, for more than one frame,
the consecutive instants around it; audio is the mono mix around it. Both windows are moved into the clip where they
reach over an end, and loop where the clip is shorter. Pixels are as stored (the pixel aspect ratio is ignored, as in
[T21]), turned by the nearest quarter turn of the display matrix; neither deinterlaced nor tone-mapped.

Resizing is Pillow's, in integers; color conversion is ffmpeg's scale filter on its bit-exact path; one thread. Pictures
(MPEG-1, H.264, VP8) and MP2 sound were the same bits with and without a processor's vector instructions. AAC, Vorbis
and Opus are decoded in float32: some 10 of 65,535 samples may differ by 1 between processors.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import av.filter
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from avbench.datasets.encoding import Clip
from avbench.datasets.media import TOLERANCE, Limits, Scan, open_container, open_regular, scan_all, streams_of
from avbench.errors import BrokenClip
from avbench.types import InputSpec

Frames = dict[Fraction, NDArray[np.uint8]]  # (3, height, width) by the instant in seconds that they are shown at
CUT = Fraction(1)  # s; by how much a cut clip may be longer or shorter than the list says
INDEXED = ("mov", "matroska")  # formats in which a jump to a key frame is exact
EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


def decode(
    path: Path,
    spec: InputSpec,
    seconds: float | None = None,
    span: tuple[float, float] | None = None,
    limits: Limits | None = None,
) -> Clip:
    """Read one clip from a video file, whole or not at all.

    Args:
        path: a regular file; its name says nothing about its format.
        spec: what the clip becomes.
        seconds: length that the dataset promises. MPEG program streams (GRID's .mpg) do not declare their own, so only
            this tells a file that stops early from a short one.
        span: start and end, in seconds, of the part of a longer video that is the clip. A file about as long as that
            part is taken for the part itself, cut out before.
        limits: what the file may cost.

    Raises:
        BrokenClip: if the file cannot be used, with its reason.
    """
    limits = limits or Limits()
    try:
        with open_regular(path, limits) as file:
            with open_container(file, limits) as container:
                scan = scan_all(container, file, spec.sample_rate, seconds, limits)
                start, end = _part(scan, span)
                center, instants = _instants(start, end, spec)
                sound, began = _sound(scan, start, end, span, spec.sample_rate)
                audio = _window(sound, round((center - began) * spec.sample_rate), spec.samples)
                frames = _jump(container, scan, instants, spec)
            if frames is None:
                with open_container(file, limits) as container:
                    frames = _pick(container, scan, instants, spec, TOLERANCE)
        if frames is None:
            raise BrokenClip("undecodable", "the frames that its timestamps promise do not come out of the decoder")
        return Clip(audio, np.stack([frames[instant] for instant in instants]))
    except BrokenClip as error:
        raise BrokenClip(error.reason, f"{path}: {error.what}") from None
    except (av.FFmpegError, ValueError, RuntimeError, OverflowError, EOFError) as error:
        raise BrokenClip("undecodable", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except OSError as error:
        raise BrokenClip("unreadable", f"{path}: {error.strerror}") from error


def _instants(start: Fraction, end: Fraction, spec: InputSpec) -> tuple[Fraction, list[Fraction]]:
    """Choose when to look: the center, and the instant of each frame of the clip, in seconds."""
    fps = Fraction(spec.fps).limit_denominator(1_000_000)
    count = max(1, ceil((end - start) * fps))
    center = count // 2
    first = min(max(center - spec.frames // 2, 0), max(count - spec.frames, 0))
    return start + center / fps, [start + (first + i) % count / fps for i in range(spec.frames)]


def _part(scan: Scan, span: tuple[float, float] | None) -> tuple[Fraction, Fraction]:
    """Start and end of the clip, in seconds of the file's own time."""
    start, end = scan.times[0], scan.end
    if span is None:
        return start, end
    first, last = (Fraction(moment).limit_denominator(1_000_000) for moment in span)
    if abs(end - start - (last - first)) <= CUT:
        return start, end
    if start + last > end + TOLERANCE:
        raise BrokenClip("other-length", f"{float(end - start):.2f} s hold no part from {span[0]:g} to {span[1]:g} s")
    return start + first, min(start + last, end)


def _sound(
    scan: Scan, start: Fraction, end: Fraction, span: tuple[float, float] | None, rate: int
) -> tuple[NDArray[np.int16], Fraction]:
    """Cut the sound to the clip, and tell when it starts, in seconds."""
    if span is None:
        return scan.audio, scan.audio_start
    first = max(round((start - scan.audio_start) * rate), 0)
    last = max(round((end - scan.audio_start) * rate), 0)
    if not len(cut := scan.audio[first:last]):
        raise BrokenClip("no-audio", f"no sound from {float(start):g} to {float(end):g} s")
    return cut, scan.audio_start + Fraction(first, rate)


def _window(audio: NDArray[np.int16], center: int, samples: int) -> NDArray[np.int16]:
    """Cut `samples` around the center, moved into the sound; a shorter sound loops, the center where it was."""
    first = center - samples // 2
    if len(audio) >= samples:
        first = min(max(first, 0), len(audio) - samples)
    return audio[np.arange(first, first + samples) % len(audio)]


def _jump(container: InputContainer, scan: Scan, instants: list[Fraction], spec: InputSpec) -> Frames | None:
    """Decode from the key frame before the first instant; None if the format or the file cannot do so exactly."""
    video, _ = streams_of(container)
    if not container.format.name.startswith(INDEXED) or video.time_base is None:
        return None
    wanted = _shown(scan, min(instants))
    container.seek(round(wanted / video.time_base), stream=video)
    try:
        return _pick(container, scan, instants, spec, tolerance=Fraction(0))
    except av.FFmpegError:
        return None


def _shown(scan: Scan, instant: Fraction) -> Fraction:
    """When the frame that is shown at an instant began, in seconds."""
    return scan.times[max(bisect_right(scan.times, instant) - 1, 0)]


def _pick(
    container: InputContainer, scan: Scan, instants: list[Fraction], spec: InputSpec, tolerance: Fraction
) -> Frames | None:
    """Decode up to the last instant and keep what is shown at each; None if another frame than due is shown."""
    video, _ = streams_of(container)
    found: Frames = {}
    shown: VideoFrame | None = None
    pending = sorted(set(instants))

    def keep(frame: VideoFrame, instant: Fraction) -> bool:
        found[instant] = to_rgb(frame, spec.height, spec.width)
        return abs(_time(frame) - _shown(scan, instant)) <= tolerance and not frame.is_corrupt

    for frame in container.decode(video):
        if frame.pts is None:
            continue
        while pending and _time(frame) > pending[0]:
            if not keep(shown or frame, pending.pop(0)):
                return None
        if not pending:
            return found
        shown = frame
    if shown is None or not all(keep(shown, instant) for instant in pending):
        return None
    return found


def _time(frame: VideoFrame) -> Fraction:
    assert frame.pts is not None
    assert frame.time_base is not None
    return frame.pts * frame.time_base


def to_rgb(frame: VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    """Turn a decoded frame upright, resize it so that it just covers the target, and cut out the middle.

    The sizes and the corner are rounded as torchvision's Resize and CenterCrop round them.

    Returns:
        (3, height, width), RGB.
    """
    turn = round(frame.rotation / 90)  # counterclockwise
    image = Image.fromarray(np.ascontiguousarray(np.rot90(_colors(frame), turn)))
    if image.width * height < image.height * width:
        size = width, int(width * image.height / image.width)
    else:
        size = int(height * image.width / image.height), height
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    resized = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _colors(frame: VideoFrame) -> NDArray[np.uint8]:
    """Convert to (height, width, 3) RGB as ffmpeg's scale filter does: VideoFrame.reformat puts chroma elsewhere."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    scale, rgb = graph.add("scale", f"flags={EXACT}"), graph.add("format", "rgb24")
    graph.link_nodes(source, scale, rgb, graph.add("buffersink"))
    graph.configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray().astype(np.uint8, copy=False)
