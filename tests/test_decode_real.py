"""Real clips come out as ffmpeg and ffprobe read them: sound sample by sample, pictures at the times they are shown."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from conftest import TEST_DATA, thinned
from media_clips import T21, Made, tone
from numpy.typing import NDArray
from PIL import Image
from test_decode import H264, halves, noise
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from avbench.datasets.decode import decode

CLIPS = (
    sorted((TEST_DATA / "clips").glob("*.*")) + sorted((TEST_DATA / "grid_s1_pack" / "grid_s1").glob("*.mp4"))[::200]
)
pytestmark = pytest.mark.skipif(
    not shutil.which("ffmpeg") or not shutil.which("ffprobe"), reason="needs ffmpeg, ffprobe"
)
real = pytest.mark.parametrize(
    "path",
    CLIPS or [pytest.param(None, marks=pytest.mark.skip(reason=f"no clips in {TEST_DATA}"))],
    ids=lambda p: p and p.stem,
)
FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


class Probe(NamedTuple):
    """What ffprobe says of the streams that a player chooses."""

    video: int  # index of the stream
    audio: int
    start: float  # s; first picture
    end: float  # s; end of the last one
    audio_start: float  # s
    size: tuple[int, int]  # height, width


def run(*words: object) -> bytes:
    return subprocess.run([str(word) for word in words], capture_output=True, check=True).stdout


def packets(path: Path, stream: int) -> list[dict[str, str]]:
    what = "packet=pts_time,duration_time"
    found = json.loads(
        run("ffprobe", "-v", "error", "-of", "json", "-select_streams", stream, "-show_entries", what, path)
    )
    return found["packets"]  # type: ignore[no-any-return]


def probe(path: Path) -> Probe:
    with av.open(str(path)) as container:  # only to know which of several streams it is
        video, audio = (container.streams.best(kind) for kind in ("video", "audio"))
        assert video is not None
        assert audio is not None
        chosen = video.index, audio.index, (video.height, video.width)  # type: ignore[attr-defined]
    shown = [(float(p["pts_time"]), float(p.get("duration_time", 0))) for p in packets(path, chosen[0])]
    frames = json.loads(
        run("ffprobe", "-v", "error", "-of", "json", "-select_streams", chosen[1], "-read_intervals", "%+1",
            "-show_entries", "frame=pts_time", path)
    )["frames"]  # fmt: skip
    last = max(shown)
    return Probe(chosen[0], chosen[1], min(shown)[0], last[0] + last[1], float(frames[0]["pts_time"]), chosen[2])


def sound_of(path: Path, stream: int) -> NDArray[np.int16]:
    raw = run("ffmpeg", "-v", "error", "-i", path, "-map", f"0:{stream}", "-ac", 1, "-ar", 11025, "-f", "s16le", "-")
    return np.frombuffer(raw, "<i2")


def pictures_of(path: Path, probed: Probe, fps: int, turned: bool = False) -> NDArray[np.uint8]:
    """All pictures (count, 3, 224, 224) shown at i / fps: round=up makes ffmpeg show a frame from its time on."""
    filters = f"setpts=PTS-STARTPTS,fps={fps}:round=up,scale=flags={FLAGS},format=rgb24"
    raw = run("ffmpeg", "-v", "error", "-i", path, "-map", f"0:{probed.video}", "-vf", filters, "-f", "rawvideo", "-")
    height, width = probed.size[::-1] if turned else probed.size
    resize = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    return np.stack([np.asarray(resize(Image.fromarray(picture))).transpose(2, 0, 1) for picture in pictures])


@real
def test_sound_is_ffmpegs(path: Path) -> None:
    probed, sound = probe(path), sound_of(path, probe(path).audio)
    count = max(1, ceil(Fraction(round(probed.end - probed.start, 4)).limit_denominator(1000) * 8))
    first = round((probed.start + count // 2 / 8 - probed.audio_start) * 11025) - 32767
    if len(sound) >= 65535:
        first = max(0, min(first, len(sound) - 65535))
    expected = sound[np.arange(first, first + 65535) % len(sound)].astype(float)
    audio = decode(path, T21).audio.astype(float)
    assert audio.std() > 100
    np.testing.assert_allclose(audio, expected, atol=4)  # of 32768; two versions of libswresample
    assert np.corrcoef(audio, expected)[0, 1] > 0.999999


@real
@pytest.mark.parametrize("frames", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_pictures_are_ffmpegs_at_the_same_times(path: Path, frames: int) -> None:
    probed = probe(path)
    pictures = pictures_of(path, probed, 8)
    count = max(1, ceil(Fraction(round(probed.end - probed.start, 4)).limit_denominator(1000) * 8))
    assert abs(len(pictures) - count) <= 1
    first = count // 2 - frames // 2
    video = decode(path, replace(T21, frames=frames)).video
    np.testing.assert_array_equal(video, pictures[first : first + frames])


def surround(rate: int) -> NDArray[np.int16]:
    return np.stack([tone(rate, 10, 200 + 130 * i, 5000) for i in range(6)])


@pytest.mark.parametrize("codec", ["flac", "aac", "libopus", "mp2"])
@pytest.mark.parametrize("rate", thinned([48000, 32000, 44100, 22050, 8000], 2))
def test_made_sound_is_ffmpegs(tmp_path: Path, codec: str, rate: int) -> None:
    if (codec == "libopus" and rate in (44100, 22050, 32000)) or (codec == "mp2" and rate < 16000):
        pytest.skip(f"{codec} has no {rate} Hz")
    sound = surround(rate)[:2] if codec == "mp2" else surround(rate)
    kind = {"aac": "mp4", "mp2": "ts"}.get(codec, "mkv")  # where ffmpeg 5 too drops or times the encoder's priming
    made = replace(H264 if kind != "mkv" else Made(), frames=250, sound=sound, rate=rate, audio_codec=codec)
    path = made.write(tmp_path / f"clip.{kind}")
    expected, probed = sound_of(path, 1), probe(path)
    start = round((probed.start + 5 - probed.audio_start) * 11025) - 32767
    np.testing.assert_allclose(decode(path, T21).audio, expected[start:][:65535], atol=2)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotate_tag_turns_as_ffmpeg_turns(tmp_path: Path, degrees: int) -> None:
    straight = replace(H264, draw=halves).write(tmp_path / "straight.mp4")
    path = tmp_path / "clip.mp4"
    run("ffmpeg", "-v", "error", "-i", straight, "-c", "copy", "-metadata:s:v:0", f"rotate={degrees}", path)
    assert not np.array_equal(decode(path, T21).video, decode(straight, T21).video)
    expected = pictures_of(path, probe(path), 8, turned=degrees != 180)[12]
    np.testing.assert_allclose(decode(path, T21).video[0].astype(int), expected, atol=2)


@pytest.mark.parametrize("tags", [("-colorspace", "bt709"), ("-colorspace", "smpte170m"), ("-color_range", "pc"), ()])
def test_color_tags_are_followed_as_ffmpeg_follows_them(tmp_path: Path, tags: tuple[str, ...]) -> None:
    source = replace(Made(), draw=noise, size=(224, 224), frames=9, sound=tone(11025, 1, 440)).write(
        tmp_path / "source.mkv"
    )
    path = tmp_path / "clip.mkv"
    run("ffmpeg", "-v", "error", "-i", source, "-c:a", "copy", "-c:v", "libx264", "-qp", "0", *tags, path)
    expected = pictures_of(path, probe(path), 8)[1]
    np.testing.assert_array_equal(decode(path, T21).video[0], expected)


def test_a_copied_part_whose_edit_list_hides_its_head_is_whole(tmp_path: Path) -> None:
    source = replace(H264, frames=250, sound=tone(44100, 10, 440), options=(("g", "50"),)).write(
        tmp_path / "source.mp4"
    )
    path = tmp_path / "clip.mp4"
    run("ffmpeg", "-v", "error", "-ss", "3.1", "-i", source, "-t", "4", "-c", "copy", path)
    expected = pictures_of(path, probe(path), 8)
    video = decode(path, T21).video[0].astype(int)
    assert min(np.abs(video - picture).max() for picture in expected[15:18]) <= 2
