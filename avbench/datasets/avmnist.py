"""AV-MNIST: the image of a handwritten digit with a recording of the same digit spoken."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import wave
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avbench.datasets import DATASETS, Dataset, Entry
from avbench.datasets.cards import Card
from avbench.datasets.encoding import Clip, Encoded, encode
from avbench.datasets.fetch import check_pinned, fetch, fetch_checked, folder
from avbench.errors import DataError

FSDD_ARCHIVE = "fsdd.zip"
FSDD_URL = (
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/26eb9aaf76e81b692f806f9140c2d2777410d7a1.zip"
)
FSDD_SHA256 = "dbd573d7cafe79c4b49f65718115e1304e24e067fa39eff18a660dc6cb9c360f"  # of recordings_sha256
FSDD_LIMIT = 64 << 20  # bytes of the archive
RECORDING_LIMIT = 1 << 20  # bytes
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TEST_TAKES = range(5)  # FSDD's own rule: takes 0-4 test, 5-49 train
VAL_TAKES = 5  # of the 45 training takes of each speaker and digit


class Recording(NamedTuple):
    """One spoken digit, by the parts of its file name."""

    digit: int
    speaker: str
    take: int

    @property
    def stem(self) -> str:
        """File name without `.wav`."""
        return f"{self.digit}_{self.speaker}_{self.take}"


RECORDINGS = tuple(Recording(d, s, t) for d in range(10) for s in SPEAKERS for t in range(50))


@DATASETS.register("avmnist")
class AVMnist(Dataset):
    """Pair MNIST images with FSDD recordings of the same digit, never across splits."""

    def entries(self, split: str) -> list[Entry]:
        """List the pairs of a split; images are used once, recordings about equally often."""
        if self.source is None:
            self.source = _fetch_all(self.card)
        self.sounds = read_recordings(self.source)
        part = "t10k" if split == "test" else "train"
        self.images, labels = _read_mnist(self.source, self.card, part)
        spoken = spoken_in(split)
        used = [0] * 10
        found = []
        for index in images_in(split, len(labels), self.card.splits):
            label = int(labels[index])
            recording = spoken[label][used[label] % len(spoken[label])]
            used[label] += 1
            found.append(Entry(f"{split}-{index:05d}-{recording.stem}", label))
        return found

    def clips(self, entries: Sequence[Entry]) -> Iterator[Encoded]:
        """Join image and recording."""
        for entry in entries:
            _, index, stem = entry.id.split("-")
            audio = fit(read_wav(stem, self.sounds[stem]), self.card.samples)
            video = np.repeat(self.images[int(index)][None, None], 3, axis=1)
            yield encode(Clip(audio, video), self.card.sample_rate)


def spoken_in(split: str) -> list[list[Recording]]:
    """List the recordings of a split for each digit, in the order in which images take them."""
    chosen: list[list[Recording]] = [[] for _ in range(10)]
    for digit in range(10):
        for speaker in SPEAKERS:
            takes = [one for one in RECORDINGS if (one.digit, one.speaker) == (digit, speaker)]
            train = _shuffled((one for one in takes if one.take not in TEST_TAKES), "val")
            by_split = {"test": takes[: len(TEST_TAKES)], "val": train[:VAL_TAKES], "train": train[VAL_TAKES:]}
            chosen[digit] += by_split[split]
    return [_shuffled(some, "pair") for some in chosen]


def images_in(split: str, available: int, sizes: Mapping[str, int]) -> list[int]:
    """Choose the images of a split, as indices in their MNIST file; val comes before train, so train can grow."""
    order = sorted(range(available), key=lambda index: _hash(f"image/{index}"))
    start = sizes["val"] if split == "train" else 0
    return order[start : start + sizes[split]]


def _shuffled(recordings: Iterable[Recording], purpose: str) -> list[Recording]:
    return sorted(recordings, key=lambda one: _hash(f"{purpose}/{one.stem}"))


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"avmnist/{text}".encode()).digest()


def _fetch_all(card: Card) -> Path:
    for source in card.sources:
        fetch(card.name, source)
    fetch_checked(card.name, FSDD_ARCHIVE, FSDD_URL, lambda path: _check_recordings(_read_zip(path), path), FSDD_LIMIT)
    return folder(card.name)


def read_recordings(source: Path) -> dict[str, bytes]:
    """Read the wav files, by stem, of `fsdd/recordings/` or else of the archive `fsdd.zip`.

    Raises:
        DataError: if one is missing, or they are not the pinned ones.
    """
    place, archive = source / "fsdd" / "recordings", source / FSDD_ARCHIVE
    if not place.is_dir() and archive.is_file():
        return _check_recordings(_read_zip(archive), archive)
    missing = [one.stem for one in RECORDINGS if not (place / f"{one.stem}.wav").is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(RECORDINGS)} recordings are missing in {place}, first {missing[0]}.wav; "
            "avmnist reads fsdd/recordings/*.wav and mnist/*.gz below its source folder"
        )
    try:
        sounds = {one.stem: (place / f"{one.stem}.wav").read_bytes() for one in RECORDINGS}
    except OSError as error:
        raise DataError(f"the recording {error.filename} cannot be read: {error.strerror}") from error
    return _check_recordings(sounds, place)


def recordings_sha256(sounds: Mapping[str, bytes]) -> str:
    """One hash over all recordings: sha256 of the sorted lines `<file name> <sha256>`."""
    lines = sorted(f"{stem}.wav {hashlib.sha256(data).hexdigest()}\n" for stem, data in sounds.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_recordings(sounds: dict[str, bytes], place: Path) -> dict[str, bytes]:
    if (found := recordings_sha256(sounds)) != FSDD_SHA256:
        raise DataError(f"the recordings in {place} are not the pinned ones: sha256 {found}, expected {FSDD_SHA256}")
    return sounds


def _read_zip(path: Path) -> dict[str, bytes]:
    """Read the known recordings out of the archive into memory; no member name ever becomes a path."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            wanted = {one.stem: members[f"recordings/{one.stem}.wav"] for one in RECORDINGS}
            if large := [info.filename for info in wanted.values() if info.file_size > RECORDING_LIMIT]:
                raise DataError(f"{large[0]} in {path} is larger than {RECORDING_LIMIT} bytes")
            return {stem: archive.read(info) for stem, info in wanted.items()}
    except KeyError as error:
        raise DataError(f"{path} lacks {error.args[0]}") from error
    except (OSError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable zip file: {error}") from error


def read_wav(name: str, data: bytes) -> NDArray[np.int16]:
    """Decode a recording: (samples,), mono, 16 bit, 8000 Hz.

    Raises:
        DataError: if it is anything else, or truncated.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            kind = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            frames, sound = file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(f"the recording {name} is not a wav file: {error}") from error
    if kind != (1, 16, 8000):
        raise DataError(f"the recording {name} has (channels, bits, Hz) {kind}, expected (1, 16, 8000)")
    if frames == 0 or len(sound) != 2 * frames:
        raise DataError(f"the recording {name} is truncated: {len(sound)} bytes of {2 * frames}")
    return np.frombuffer(sound, "<i2").astype(np.int16)


def fit(sound: NDArray[np.int16], samples: int) -> NDArray[np.int16]:
    """Zero-pad a recording on both sides alike, or cut the loudest part: the middle of a few holds no speech."""
    if len(sound) > samples:
        energy = np.concatenate([[0], np.cumsum(sound.astype(np.int64) ** 2)])
        start = int(np.argmax(energy[samples:] - energy[:-samples]))
        return sound[start : start + samples]
    before = (samples - len(sound)) // 2
    return np.pad(sound, (before, samples - len(sound) - before))


def _read_mnist(source: Path, card: Card, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (count, 28, 28) and labels (count,) of one part of MNIST."""
    for pinned in card.sources:
        if pinned.file.startswith(f"mnist/{part}-"):
            check_pinned(source / pinned.file, pinned)
    place = source / "mnist"
    return read_idx(place / f"{part}-images-idx3-ubyte.gz", 3), read_idx(place / f"{part}-labels-idx1-ubyte.gz", 1)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a gzipped idx file of bytes.

    Raises:
        DataError: if it is not one, has other dimensions, or is truncated.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an idx file of bytes with {dimensions} dimensions (header {data[:4].hex()})")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise DataError(f"{path} holds {len(data) - head} bytes, its header says {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
