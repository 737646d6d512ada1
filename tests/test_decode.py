"""What comes out of a video file: computed for made clips, named for broken ones. See test_decode_real.py for ffmpeg."""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from conftest import thinned
from hypothesis import given
from hypothesis import strategies as st
from media_clips import T21, Made, gray, luma, ramp, tone, turn
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from avbench.datasets.decode import _instants, _pick, _window, decode, to_rgb
from avbench.datasets.media import Limits
from avbench.errors import BrokenClip, BrokenReason
from avbench.types import InputSpec

av.logging.set_level(av.logging.ERROR)
logging.getLogger("libav").setLevel(logging.CRITICAL)
H264 = Made(codec="libx264", options=(("qp", "0"),), audio_codec="aac", rate=44100)
LOSSLESS = InputSpec(11025, 65535, 1, 8, 48, 64)


def shown(times: list[Fraction], end: Fraction, frames: int = 1, fps: int = 8) -> list[int]:
    """Which frames a player shows at the instants, by counting."""
    instants = [i / Fraction(fps) for i in range(10_000) if i / Fraction(fps) < end]
    middle = len(instants) // 2
    first = max(0, min(middle - frames // 2, len(instants) - frames))
    chosen = [instants[(first + j) % len(instants)] for j in range(frames)]
    return [max(i for i, time in enumerate(times) if time <= instant) for instant in chosen]


def every(fps: Fraction | int, count: int) -> tuple[list[Fraction], Fraction]:
    return [i / Fraction(fps) for i in range(count)], count / Fraction(fps)


def refused(path: Path, *reasons: BrokenReason, **how: object) -> BrokenClip:
    with pytest.raises(BrokenClip) as caught:
        decode(path, T21, **how)  # type: ignore[arg-type]
    assert caught.value.reason in reasons, caught.value
    assert str(path) in str(caught.value)
    return caught.value


# --- Which frame ---


@pytest.mark.parametrize("count", thinned([1, 2, 50, 75, 131, 260], 2))
@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 8, 5, 60])
@pytest.mark.parametrize("frames", [1, 4, 16])
def test_the_frames_are_those_shown_at_the_instants_around_the_center(tmp_path: Path, fps, count: int, frames: int):
    path = replace(H264, fps=fps, frames=count).write(tmp_path / "clip.mp4")
    video = decode(path, replace(T21, frames=frames)).video
    assert video.shape == (frames, 3, 224, 224)
    assert video.dtype == np.uint8
    expected = [gray(i) for i in shown(*every(fps, count), frames)]
    np.testing.assert_allclose(video.mean((1, 2, 3)), expected, atol=1)
    assert np.ptp(video, axis=(1, 2, 3)).max() == 0


@pytest.mark.parametrize(
    "times", [[0, 40, 300, 1000, 1040, 2000], [0, 5, 10, 15, 2500], [0, 1999], [0, 990, 1000, 1010]]
)
def test_a_variable_frame_rate_shows_each_frame_until_the_next(tmp_path: Path, times: list[int]) -> None:
    path = Made(frames=len(times), times=times).write(tmp_path / "clip.mkv")
    video = decode(path, replace(LOSSLESS, frames=8)).video
    seconds = [Fraction(time, 1000) for time in times]
    expected = [gray(i) for i in shown(seconds, seconds[-1] + Fraction(1, 25), 8)]
    np.testing.assert_allclose(video.mean((1, 2, 3)), expected, atol=1)


CODECS = {
    "vp8.webm": Made(codec="libvpx", audio_codec="libopus", rate=48000),
    "vp9.webm": Made(codec="libvpx-vp9", audio_codec="libopus", rate=48000),
    "mpeg1.mpg": Made(codec="mpeg1video", audio_codec="mp2", rate=44100),
    "mpeg4.avi": Made(codec="mpeg4", audio_codec="mp2", rate=44100),
    "h264.ts": H264,
    "h264.mov": H264,
    "h264.flv": H264,
    "h265.mp4": replace(H264, codec="libx265", options=(("x265-params", "lossless=1:log-level=none"),)),
    "10bit.mkv": Made(pixels="yuv420p10le"),
    "10bit.mp4": replace(H264, codec="libx265", pixels="yuv420p10le", options=(("x265-params", "log-level=none"),)),
}


@pytest.mark.parametrize("name", CODECS)
def test_every_usual_codec_and_container_gives_the_same_frame(tmp_path: Path, name: str) -> None:
    clip = decode(CODECS[name].write(tmp_path / name), T21)
    np.testing.assert_allclose(clip.video, gray(37), atol=2.5)  # 1.5 s, half way to the next frame's gray
    assert 2**0.5 * clip.audio.std() == pytest.approx(12000, rel=0.02)


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path: Path) -> None:
    right = H264.write(tmp_path / "clip.mp4")
    wrong = right.rename(tmp_path / "clip.mpg")
    np.testing.assert_array_equal(decode(wrong, T21).video, decode(H264.write(right), T21).video)


def test_jumping_to_a_key_frame_gives_what_decoding_from_the_start_gives(tmp_path: Path, monkeypatch) -> None:
    path = replace(H264, frames=500, options=(("g", "24"), ("bf", "3"), ("crf", "30")), draw=noise).write(
        tmp_path / "clip.mp4"
    )
    spec = replace(T21, frames=3)
    jumped = decode(path, spec)
    monkeypatch.setattr("avbench.datasets.decode.INDEXED", ("none",))
    np.testing.assert_array_equal(jumped.video, decode(path, spec).video)
    assert jumped.video.std() > 10


def test_a_jump_that_lands_too_late_is_noticed_and_decoded_from_the_start(tmp_path: Path, monkeypatch) -> None:
    path = replace(H264, options=(("qp", "0"), ("g", "10"))).write(tmp_path / "clip.mp4")
    calls = []

    def pick(container, *rest, **named):  # type: ignore[no-untyped-def]
        calls.append(container)
        if len(calls) == 1:
            container.seek(2_000_000, backward=False)  # us
        return _pick(container, *rest, **named)

    monkeypatch.setattr("avbench.datasets.decode._pick", pick)
    np.testing.assert_allclose(decode(path, T21).video, gray(37), atol=1)
    assert len(calls) == 2


def noise(i: int, height: int, width: int, high: bool) -> list[np.ndarray]:
    random = np.random.default_rng(i)
    return [random.integers(16, 235, (height >> s, width >> s)).astype(np.uint8) for s in (0, 1, 1)]


@given(
    st.fractions(0, 100),
    st.fractions(0, 100),
    st.integers(1, 40),
    st.fractions(Fraction(1, 10), 60, max_denominator=100),
)
def test_instants_are_consecutive_inside_the_clip_and_around_its_middle(start, length, frames: int, fps) -> None:
    spec = InputSpec(11025, 65535, frames, float(fps), 4, 4)
    center, instants = _instants(start, start + length, spec)
    count = max(1, ceil(length * fps))
    numbers = [(instant - start) * fps for instant in instants]
    assert (center - start) * fps == count // 2
    assert len(numbers) == frames
    assert all(0 <= n < count and n == int(n) for n in numbers)
    assert all((after - before) % count == 1 % count for before, after in pairwise(numbers))
    if frames <= count:
        assert numbers == sorted(numbers)
        assert numbers[0] == 0 or numbers[-1] == count - 1 or numbers[frames // 2] == count // 2


# --- Which samples ---


@given(st.integers(1, 300), st.integers(-400, 700), st.integers(1, 200))
def test_a_window_is_unbroken_sound_with_the_center_in_its_middle_where_it_fits(
    length: int, center: int, samples: int
) -> None:
    window = _window(np.arange(length, dtype=np.int16), center, samples)
    assert len(window) == samples
    assert np.all(np.diff(window) % length == 1 % length)
    if length < samples:
        assert window[samples // 2] == center % length
    else:
        assert np.all(np.diff(window) == 1)
        assert window[samples // 2] == center or center < samples // 2 or center > length - samples + samples // 2


@pytest.mark.parametrize(
    ("seconds", "start"), [(20, 10 * 11025 - 32767), (10, 5 * 11025 - 32767), (6, 3 * 11025 - 32767)]
)
def test_a_long_sound_is_cut_around_the_center(tmp_path: Path, seconds: int, start: int) -> None:
    sound = ramp(seconds * 11025)
    path = Made(frames=seconds * 25, sound=sound).write(tmp_path / "clip.mkv")
    np.testing.assert_array_equal(decode(path, T21).audio, sound[start:][:65535])


@pytest.mark.parametrize(("frames", "start"), [(25, 0), (700, 15 * 11025 - 65535)])
def test_a_window_that_would_reach_over_an_end_is_moved_into_the_sound(tmp_path: Path, frames: int, start: int) -> None:
    path = Made(frames=frames, sound=ramp(15 * 11025)).write(tmp_path / "clip.mkv")  # the picture lasts 1 s or 28 s
    np.testing.assert_array_equal(decode(path, T21).audio, ramp(15 * 11025)[start:][:65535])


@pytest.mark.parametrize("length", [1, 100, 33075, 65534])
def test_a_short_sound_loops_and_is_never_padded(tmp_path: Path, length: int) -> None:
    sound = ramp(length)
    path = Made(sound=sound).write(tmp_path / "clip.mkv")
    center = round(1.5 * 11025)
    np.testing.assert_array_equal(decode(path, T21).audio, sound[(np.arange(65535) + center - 32767) % length])


@pytest.mark.parametrize("late", [-5000, 3000])
def test_a_sound_that_begins_before_or_after_the_picture_stays_in_step(tmp_path: Path, late: int) -> None:
    sound = ramp(20 * 11025)
    times = [round(1000 * i / 25) + max(0, -late * 1000 // 11025) for i in range(500)]
    path = Made(frames=500, times=times, sound=sound, audio_at=max(0, late)).write(tmp_path / "clip.mkv")
    audio = decode(path, T21).audio
    start = 10 * 11025 - 32767 - late
    starts = range(start - 12, start + 13)  # Matroska's clock ticks once a millisecond: 11 samples
    assert any(np.array_equal(audio, sound[first:][:65535]) for first in starts)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_resampling_keeps_time_pitch_and_loudness(tmp_path: Path, rate: int) -> None:
    path = Made(frames=250, sound=tone(rate, 10, 440), rate=rate).write(tmp_path / "clip.mkv")
    times = (np.arange(65535) + 5 * 11025 - 32767) / 11025
    np.testing.assert_allclose(decode(path, T21).audio, 12000 * np.sin(2 * np.pi * 440 * times), atol=60)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampling_loses_no_sample_at_the_end(tmp_path: Path, rate: int) -> None:
    path = Made(sound=tone(rate, 1, 441), rate=rate).write(tmp_path / "clip.mkv")
    audio = decode(path, T21).audio
    np.testing.assert_array_equal(audio[:-11025], audio[11025:])  # one second is 11,025 samples, which loop
    assert not np.array_equal(audio[:-11000], audio[11000:])


def test_channels_are_mixed_in_equal_parts(tmp_path: Path) -> None:
    left, right = tone(11025, 10, 440, 8000), tone(11025, 10, 1000, 16000)
    path = Made(frames=250, sound=np.stack([left, right])).write(tmp_path / "clip.mkv")
    expected = (left.astype(float) + right) / 2
    np.testing.assert_allclose(decode(path, T21).audio, expected[5 * 11025 - 32767 :][:65535], atol=1)


def test_a_hole_in_the_sound_is_refused_and_not_bridged(tmp_path: Path) -> None:
    made = Made(frames=250, sound=ramp(5 * 11025), audio_skip=(2 * 11025, 11025))
    assert "from 2.10 s to 3.10 s" in str(refused(made.write(tmp_path / "clip.mkv"), "gap"))


# --- Which pixels ---


@given(st.integers(2, 90), st.integers(2, 90), st.integers(1, 40), st.integers(1, 40))
def test_a_frame_is_resized_and_cropped_as_torchvision_does(height: int, width: int, tall: int, wide: int) -> None:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    side = tall
    whole = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])(Image.fromarray(pixels))
    np.testing.assert_array_equal(to_rgb(frame, side, side), np.asarray(whole).transpose(2, 0, 1))
    assert to_rgb(frame, tall, wide).shape == (3, tall, wide)


def halves(i: int, height: int, width: int, high: bool) -> list[np.ndarray]:
    """Dark above, bright below; the left quarter brightest."""
    picture = np.full((height, width), 60, np.uint8)
    picture[height // 2 :] = 130
    picture[:, : width // 4] = 220
    return [picture, *[np.full((height // 2, width // 2), 128, np.uint8)] * 2]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_is_turned_upright(tmp_path: Path, degrees: int) -> None:
    made = replace(H264, draw=halves, size=(64, 64))
    spec = replace(T21, height=64, width=64)
    upright = decode(made.write(tmp_path / "upright.mp4"), spec).video[0]
    turned = decode(turn(made.write(tmp_path / "clip.mp4"), degrees), spec).video[0]
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90, axes=(1, 2)))
    assert len({upright[0, 10, 4], upright[0, 10, 40], upright[0, 50, 40]}) == 3


@pytest.mark.parametrize(("pixels", "full"), [("yuv420p", False), ("yuvj420p", True)])
def test_full_and_limited_range_become_the_same_black_and_white(tmp_path: Path, pixels: str, full: bool) -> None:
    def draw(i: int, height: int, width: int, high: bool) -> list[np.ndarray]:
        value = 128 if full else 126
        return [np.full((height, width), value, np.uint8), *[np.full((height // 2, width // 2), 128, np.uint8)] * 2]

    path = replace(
        H264, codec="mjpeg" if full else "ffv1", pixels=pixels, draw=draw, options=(), audio_codec="pcm_s16le"
    )
    np.testing.assert_allclose(decode(path.write(tmp_path / "clip.mkv"), T21).video, 128, atol=1)


# --- What is refused ---


def test_what_lacks_a_track_is_refused(tmp_path: Path) -> None:
    refused(Made(audio_codec=None).write(tmp_path / "silent.mkv"), "no-audio")
    refused(Made(codec=None).write(tmp_path / "blind.mkv"), "no-video")
    refused(Made(codec=None, audio_codec="pcm_s16le").write(tmp_path / "sound.wav"), "no-video")
    refused(Made(sound=ramp(0)).write(tmp_path / "no-samples.mkv"), "no-audio")


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        cover, song = container.add_stream("mjpeg", rate=25), container.add_stream("aac", rate=44100)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame(64, 48, "yuvj420p")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        picture.pts, sound.sample_rate, sound.pts = 0, 44100, 0
        for stream, frame in ((cover, picture), (song, sound)):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    refused(tmp_path / "song.mp4", "no-video")


def test_what_is_no_video_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 1000)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(100_000))
    (tmp_path / "link.mkv").symlink_to(Made().write(tmp_path / "clip.mkv"))
    (tmp_path / "dangling.mkv").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.mkv")
    refused(tmp_path / "empty.mp4", "empty")
    refused(tmp_path / "text.mp4", "undecodable")
    refused(tmp_path / "noise.mp4", "undecodable", "no-audio", "no-video")
    refused(tmp_path / "missing.mp4", "missing")
    refused(tmp_path / "clip.mkv" / "below.mp4", "missing")
    for name in ("", "link.mkv", "dangling.mkv", "pipe.mkv"):
        refused(tmp_path / name, "not-regular")
    refused(Path("/dev/zero"), "not-regular")


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile clip.mkv\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nclip.ts\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_playlist_that_names_other_files_opens_none(tmp_path: Path, text: str, monkeypatch) -> None:
    Made().write(tmp_path / "clip.mkv")
    H264.write(tmp_path / "clip.ts")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.m3u8").write_text(text)
    with av.open((tmp_path / "list.m3u8").open("rb")) as container:  # so that libav would open what it names
        assert container.format.name in ("concat", "hls")
    why = repr(refused(tmp_path / "list.m3u8", "undecodable").__cause__)
    assert "not on whitelist" in why or "Not detecting m3u8" in why  # the open file has no name, so no extension


def test_a_title_that_is_no_unicode_does_no_harm(tmp_path: Path) -> None:
    path = Made().write(tmp_path / "clip.mkv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xffavf"))
    assert decode(path, T21).audio.shape == (65535,)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch) -> None:
    def fail(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = Made().write(tmp_path / "clip.mkv")
    monkeypatch.setattr("avbench.datasets.media.os.open", fail)
    assert "Permission denied" in str(refused(path, "unreadable"))


TRUNCATED = {
    "clip.mp4": H264,
    "fast.mp4": replace(H264, muxer=(("movflags", "faststart"),)),
    "clip.mkv": Made(),
    "clip.webm": CODECS["vp8.webm"],
    "clip.avi": CODECS["mpeg4.avi"],
    "clip.mpg": CODECS["mpeg1.mpg"],
    "clip.ts": H264,
}


@pytest.mark.parametrize("left", thinned([0.001, 0.02, 0.1, 0.33, 0.5, 0.75, 0.85], 3))
@pytest.mark.parametrize("name", TRUNCATED)
def test_a_file_that_stops_early_is_never_shortened_silently(tmp_path: Path, name: str, left: float) -> None:
    made = replace(TRUNCATED[name], frames=250, sound=tone(TRUNCATED[name].rate, 10, 440), draw=noise)
    path = made.write(tmp_path / name)
    decode(path, T21, seconds=10)
    os.truncate(path, int(left * path.stat().st_size))
    declared = name not in ("clip.mpg", "clip.ts")  # these do not say how long they are
    error = refused(path, "truncated", "undecodable", "no-audio", "no-video", seconds=None if declared else 10)
    assert left < 0.3 or error.reason == "truncated" or name in ("clip.mp4", "clip.ts")  # index at the end; a cut frame


def test_one_missing_byte_at_the_end_of_the_last_packet_is_noticed(tmp_path: Path) -> None:
    path = TRUNCATED["fast.mp4"].write(tmp_path / "clip.mp4")
    os.truncate(path, path.stat().st_size - 1)
    refused(path, "truncated")


def test_a_promised_length_is_held_up_to_a_quarter_of_a_second(tmp_path: Path) -> None:
    path = Made().write(tmp_path / "clip.mkv")
    decode(path, T21, seconds=3.2)
    assert "3.30 s stops after 3.0" in str(refused(path, "truncated", seconds=3.3))


@pytest.mark.parametrize("where", np.linspace(0.05, 0.95, 12).round(2))
def test_overwritten_bytes_give_a_clip_or_a_named_error(tmp_path: Path, where: float) -> None:
    for name in ("fast.mp4", "clip.webm", "clip.mpg"):
        data = bytearray(replace(TRUNCATED[name], draw=noise).write(tmp_path / name).read_bytes())
        at = int(where * len(data))
        data[at : at + 500] = np.random.default_rng(at).bytes(500)
        (tmp_path / name).write_bytes(data)
        try:
            assert decode(tmp_path / name, T21).audio.shape == (65535,)
        except BrokenClip as error:
            assert error.reason in get_args(BrokenReason)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(seconds=2), "too-long"),
        (Limits(packets=50), "too-long"),
        (Limits(size=1000), "too-large"),
        (Limits(pixels=48 * 64 - 1), "too-large"),
        (Limits(streams=1), "too-many-streams"),
    ],
)
def test_every_limit_is_held(tmp_path: Path, limits: Limits, reason: BrokenReason) -> None:
    path = Made().write(tmp_path / "clip.mkv")
    refused(path, reason, limits=limits)
    decode(path, T21, limits=Limits(seconds=4, packets=500, size=path.stat().st_size, pixels=48 * 64, streams=2))


def test_a_length_that_libav_only_guesses_is_not_held_against_the_file(tmp_path: Path) -> None:
    path = Made(muxer=(("live", "1"),)).write(tmp_path / "clip.mkv")
    with av.open(str(path)) as container:
        assert container.duration > 3_300_000  # us; of 3 s
    decode(path, T21)
    refused(path, "truncated", seconds=3.3)
    refused(path, "too-long", limits=Limits(seconds=2))
    decode(path, T21, limits=Limits(seconds=4))


def test_an_error_survives_the_way_back_from_a_worker_process() -> None:
    error = BrokenClip("gap", "clip.mp4: audio jumps")
    back = pickle.loads(pickle.dumps(error))
    assert (back.reason, str(back)) == (error.reason, str(error)) == ("gap", "clip.mp4: audio jumps (gap)")


def test_the_same_file_gives_the_same_bits(tmp_path: Path) -> None:
    path = replace(H264, draw=noise).write(tmp_path / "clip.mp4")
    one, two = decode(path, T21), decode(path, T21)
    assert one.audio.tobytes() + one.video.tobytes() == two.audio.tobytes() + two.video.tobytes()
    assert luma(0) != luma(1)
