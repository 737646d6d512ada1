"""AV-MNIST's source files: read only if pinned, fetched only whole."""

from __future__ import annotations

import gzip
import io
import os
import struct
import threading
import wave
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import made_by, thinned

from avbench import files
from avbench.datasets import avmnist
from avbench.datasets.avmnist import fit, read_idx, read_wav
from avbench.datasets.cards import read_card
from avbench.datasets.prepare import prepare
from avbench.errors import DataError

SPLITS = ("train", "val", "test")


@pytest.fixture
def data() -> Path:
    path = Path(os.environ.get("AVBENCH_TEST_DATA") or files.root().parent / "shared" / "data")
    if not (path / "fsdd").is_dir():
        pytest.skip(f"no real data in {path}; set AVBENCH_TEST_DATA to a folder with fsdd/recordings and mnist")
    return path


def copied(data: Path, to: Path) -> Path:
    """A folder of links to the real files, to be damaged."""
    for part in ("fsdd/recordings", "mnist"):
        (to / part).mkdir(parents=True)
        for path in (data / part).iterdir():
            (to / part / path.name).symlink_to(path)
    return to


def test_a_folder_without_the_files_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(
            DataError, match=r"3000 of 3000 recordings are missing in .*fsdd/recordings/\*\.wav and mnist"
        ):
            next(made_by("avmnist", "test", folder))


@pytest.mark.parametrize("split", thinned(SPLITS, 2))
def test_a_changed_missing_or_truncated_file_is_refused_before_the_first_sample(
    split: str, data: Path, tmp_path: Path
) -> None:
    source = copied(data, tmp_path)
    part = "t10k" if split == "test" else "train"
    names = (
        f"mnist/{part}-images-idx3-ubyte.gz",
        f"mnist/{part}-labels-idx1-ubyte.gz",
        "fsdd/recordings/3_theo_20.wav",
    )
    for name in names:
        path = source / name
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=Path(name).name):
            next(made_by("avmnist", split, source))
        for bad in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
            path.write_bytes(bad)
            with pytest.raises(DataError, match="not the pinned"):
                next(made_by("avmnist", split, source))
        path.write_bytes(whole)
    assert next(made_by("avmnist", split, source)).id.startswith(split)


def test_a_file_that_is_no_idx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    good = bytes((0, 0, 8, 1)) + struct.pack(">I", 3) + b"abc"
    path.write_bytes(gzip.compress(good))
    assert read_idx(path, 1).tolist() == [97, 98, 99]
    bad = {
        b"": "header",
        good[:6]: "header",
        b"\x08" + good[1:]: "header",
        good[:-1]: "holds 2 bytes",
        good + b"d": "4",
    }
    for data, why in bad.items():
        path.write_bytes(gzip.compress(data))
        with pytest.raises(DataError, match=why):
            read_idx(path, 1)
    for data in (gzip.compress(good)[:-9], b"no gzip", gzip.compress(good)[:10] + b"\xff" * 20):
        path.write_bytes(data)
        with pytest.raises(DataError, match="gzip"):
            read_idx(path, 1)
    with pytest.raises(DataError, match=r"missing\.gz"):
        read_idx(tmp_path / "missing.gz", 1)


def wav(channels: int = 1, width: int = 2, rate: int = 8000, frames: int = 10) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(channels * width * frames))
    return out.getvalue()


def test_a_recording_of_another_kind_is_refused() -> None:
    assert len(read_wav("x", wav())) == 10
    for bad in (wav(channels=2), wav(width=1), wav(rate=16000)):
        with pytest.raises(DataError, match=r"x has \(channels, bits, Hz\)"):
            read_wav("x", bad)
    for bad in (wav(frames=0), wav()[:-3]):
        with pytest.raises(DataError, match="x is truncated"):
            read_wav("x", bad)
    for bad in (b"", b"RIFF", b"no wav file at all"):
        with pytest.raises(DataError, match="x is not a wav file"):
            read_wav("x", bad)


@pytest.mark.parametrize("length", [1, 9, 10])
def test_a_short_recording_is_padded_on_both_sides_alike(length: int) -> None:
    sound = np.arange(1, length + 1, dtype=np.int16)
    out = fit(sound, 10)
    assert len(out) == 10
    assert out[out != 0].tolist() == sound.tolist()
    assert abs(np.argmax(out != 0) - np.argmax(out[::-1] != 0)) <= 1


@pytest.mark.parametrize(("loud", "kept"), [(0, 0), (3, 0), (12, 3), (24, 15)])
def test_a_long_recording_is_cut_where_it_is_loudest(loud: int, kept: int) -> None:
    sound = np.zeros(25, np.int16)
    sound[loud] = -32768
    assert fit(sound, 10).tolist() == sound[kept : kept + 10].tolist()


# Fetching, from a server on this machine that holds the real files.


@pytest.fixture
def mirror(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served in place of the public addresses."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for path in (data / "mnist").iterdir():
        (folder / path.name).symlink_to(path)
    with zipfile.ZipFile(folder / "fsdd.zip", "w") as archive:
        for path in (data / "fsdd" / "recordings").iterdir():
            archive.write(path, f"free-spoken-digit-dataset-26eb9aa/recordings/{path.name}")
        archive.writestr("../../evil.wav", b"never written")
        archive.writestr("free-spoken-digit-dataset-26eb9aa/README.md", b"ignored")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    card = read_card("avmnist")
    sources = [one.model_copy(update={"url": url + Path(one.url).name}) for one in card.sources]
    served = card.model_copy(update={"sources": tuple(sources)})
    for module in ("avbench.datasets.prepare", "conftest"):
        monkeypatch.setattr(f"{module}.read_card", lambda _: served)
    monkeypatch.setattr(avmnist, "FSDD_URL", url + "fsdd.zip")
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_what_is_fetched_gives_the_locked_split_and_serves_again_without_the_net(mirror: Path, tmp_path: Path) -> None:
    assert len(prepare("avmnist", "test").lock.rows) == 2000
    for path in mirror.iterdir():
        path.unlink()
    assert len(prepare("avmnist", "val").lock.rows) == 2000
    downloads = tmp_path / "cache" / "downloads" / "avmnist"
    assert next(made_by("avmnist", "test", downloads)).id.startswith("test-")
    assert sorted(path.name for path in downloads.iterdir() if path.suffix != ".lock") == ["fsdd.zip", "mnist"]
    assert not list(tmp_path.rglob("evil.wav"))


def test_an_archive_with_other_or_fewer_recordings_is_refused(mirror: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mirror / "fsdd.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("free-spoken-digit-dataset-26eb9aa/recordings/0_theo_0.wav", wav())
    with pytest.raises(DataError, match=r"cannot fetch fsdd\.zip of avmnist .*not the pinned ones"):
        next(made_by("avmnist", "test", None))
    for content, why in ((b"PK no zip", "not a readable zip"), (None, r"lacks recordings/0_george_0\.wav")):
        (mirror / "fsdd.zip").unlink()
        if content:
            (mirror / "fsdd.zip").write_bytes(content)
        else:
            zipfile.ZipFile(mirror / "fsdd.zip", "w").close()
        with pytest.raises(DataError, match=why):
            next(made_by("avmnist", "test", None))
    assert not (tmp_path / "cache" / "downloads" / "avmnist" / "fsdd.zip").exists()


def test_a_swollen_member_is_refused_before_it_is_unpacked(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avmnist, "RECORDING_LIMIT", 10_000)
    with pytest.raises(DataError, match="larger than 10000 bytes"):
        next(made_by("avmnist", "test", mirror))
