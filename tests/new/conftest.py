"""Give each test a folder of its own, and clips to put there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import video_sets
from video_sets import Inline, made


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    for module in ("videos", *(() if "workers" in request.fixturenames else ("clips", "hf"))):
        monkeypatch.setattr(f"avbench.datasets.{module}.Workers", Inline)
    return video_sets.enter(tmp_path, monkeypatch)


@pytest.fixture
def workers() -> None:
    """Ask for the real worker processes; but for decoding, which test_prepare has."""


@pytest.fixture(scope="session")
def bytes_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """The files of clips by number, each made once."""
    place, known = tmp_path_factory.mktemp("clips"), dict[int, bytes]()

    def of(number: int) -> bytes:
        if number not in known:
            known[number] = made(number).write(place / f"{number}.mkv").read_bytes()
        return known[number]

    return of


@pytest.fixture
def put(bytes_of: Callable[[int], bytes]) -> Callable[..., Path]:
    """Write clips below a folder; equal numbers are equal files."""

    def write(place: Path, *paths: str, number: int | None = None) -> Path:
        for count, path in enumerate(paths):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(bytes_of(count if number is None else number))
        return place

    return write
