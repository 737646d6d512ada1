"""`avbench attack`: what is written is what was judged, and every version says what the model says of it."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import TEST_DATA
from PIL import Image

from avbench.attack_clip import read_back, write_video
from avbench.cli import main
from avbench.datasets.encoding import Clip
from avbench.datasets.splits import open_split
from avbench.types import InputSpec

MODEL = "avbench--synthav-concat"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("attack")
    sample = f"synthav/test/{open_split('synthav', 'test').ids[0]}"
    result = run("attack", MODEL, sample, "--threat", "XAV:linf:0.02:linf:0.02", "--output-dir", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_the_files_hold_the_clip_rounded_and_the_sound_of_all_is_the_same(attacked: tuple[Path, str]) -> None:
    folder, _ = attacked
    split = open_split("synthav", "test")
    clean = split.stored(0)
    like, spec = Clip(clean.audio, clean.video), split.card.spec
    stored = {name: read_back(folder / f"{name}.mkv", like, spec) for name in ("clean", "adversarial")}
    assert np.array_equal(stored["clean"].audio, clean.audio)
    assert np.array_equal(stored["clean"].video, clean.video)
    bad = stored["adversarial"]
    assert 0 < np.abs(bad.audio.astype(int) - clean.audio).max() <= 0.02 * 32768 + 1
    assert 0 < np.abs(bad.video.astype(int) - clean.video).max() <= 0.02 * 255 + 1
    with wave.open(str(folder / "adversarial.wav")) as file:
        assert np.array_equal(np.frombuffer(file.readframes(file.getnframes()), "<i2"), bad.audio)
    frames = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in sorted((folder / "frames").iterdir())]
    assert np.array_equal(np.stack(frames), bad.video)
    with av.open(str(folder / "adversarial.mp4")) as lossy:
        assert lossy.streams.video[0].codec_context.name == "h264"
        assert lossy.streams.audio[0].codec_context.name == "aac"
    assert (folder / "spectrograms.svg").stat().st_size > 5000
    assert Image.open(folder / "difference.png").size == (4 * 48, 48)


def test_the_table_shows_all_versions_and_sizes(attacked: tuple[Path, str]) -> None:
    _, text = attacked
    lines = text.splitlines()
    versions = {name: next(line for line in lines if line.startswith(name)) for name in
                ("clean", "adversarial ", "in 8 and 16 bit", "after H.264 and AAC")}  # fmt: skip
    answers = {name: line[20:].split()[0] for name, line in versions.items()}
    assert answers["clean"] != answers["adversarial "]
    assert "dB" in text


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize(("frames", "side"), [(1, 28), (4, 48), (8, 96)])
def test_what_is_written_comes_back(tmp_path: Path, lossless: bool, frames: int, side: int) -> None:
    spec = InputSpec(11025, 11025, frames, 8, side, side)
    random = np.random.default_rng(0)
    smooth = np.linspace(40, 200, side).astype(np.uint8)
    video = np.broadcast_to(smooth, (frames, 3, side, side)) if not lossless else random.integers(
        0, 256, (frames, 3, side, side)).astype(np.uint8)  # fmt: skip
    audio = (8000 * np.sin(np.arange(11025) / 5)).astype(np.int16)
    write_video(tmp_path / "x", Clip(audio, video), spec, lossless)
    back = read_back(tmp_path / "x", Clip(audio, video), spec)
    if lossless:
        assert np.array_equal(back.audio, audio)
        assert np.array_equal(back.video, video)
    else:
        assert np.abs(back.video.astype(int) - video).mean() < 6
        assert np.abs(back.audio.astype(int) - audio)[2000:-2000].mean() < 400  # no shift


@pytest.mark.skipif(not TEST_DATA.is_dir(), reason=f"no test data at {TEST_DATA} (set AVBENCH_TEST_DATA)")
def test_a_file_in_any_container_can_be_attacked(tmp_path: Path) -> None:
    for name in ("grid_brbk7n.mpg", "big_buck_bunny_0_30.webm"):
        result = run("attack", MODEL, TEST_DATA / "clips" / name, "--attack", "fgsm", "--output-dir", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name / "adversarial.mp4").is_file()


@pytest.mark.parametrize(
    ("words", "error", "what"),
    [
        (["synthav/test/nothing"], "BadOption", "no sample nothing"),
        (["/nonexistent.mp4"], "BadOption", "neither a file"),
        (["synthav/test/x", "--label", "dog"], "BadOption", "no class 'dog'"),
        ([__file__], "BrokenClip", "undecodable"),
        (["synthav/test/x", "--threat", "standard"], "BadOption", "one threat"),
    ],
)
def test_bad_input_is_named(words: list[str], error: str, what: str) -> None:
    result = run("attack", MODEL, *words)
    assert result.exit_code == 2, result.output
    assert error in result.output
    assert what in result.output.replace("\n", " ")
