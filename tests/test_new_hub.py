"""Clips in Parquet, on disk or from a repository on the Hub."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from huggingface_hub import constants
from own_clips import MINE, as_folder, bytes_of, outcome, put, put_all, refused, root, write_parquet

from avbench import files
from avbench.datasets import hf
from avbench.datasets.new import new_dataset


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label": [-1] * 30}, "has the label -1, but names 3 classes"),
        ({"label": [3] * 30}, "has the label 3, but names 3 classes"),
        ({"label": [None] * 30}, "has 'None' where a label is due"),
        ({"label": [0.5] * 30}, "has '0.5' where a label is due"),
        ({"label": None}, r"has no column 'label'; it has 'video'"),
        ({"video": [{"bytes": None, "path": "https://example.org/1.mp4"}] * 30}, "has 0 columns|without the bytes"),
        ({"video": [{"bytes": b"x", "path": "1.mp4"}] * 29 + [None]}, "without the bytes"),
        ({"video": ["1.mp4"] * 30}, "0 columns of embedded videos"),
        ({"video": None, "one": [b"x"] * 30, "two": [b"y"] * 30}, "2 columns of embedded videos"),
        (
            {"video": [{"bytes": b"x" * 200_000, "path": "1.mp4"}] * 30},
            "holds a file of 200000 bytes, the limit is 100000",
        ),
        ({"names": ["a", "x;y", "b"], "label": [1] * 30}, "rename it"),
    ],
)
def test_parquet_that_cannot_be_used_is_refused(
    root: Path, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], match: str
) -> None:
    monkeypatch.setattr(hf, "LARGEST_CLIP", 100_000)
    write_parquet(put, root / "hub/train.parquet", MINE, **change)
    refused(match, "mine", "hf", "hub")


@pytest.mark.parametrize("metadata", [b"[", b"[]", b'{"info": 1}', b'{"info": {"features": {"video": 1}}}', None])
def test_parquet_that_is_none_or_lies_in_its_metadata_is_refused(root: Path, metadata: bytes | None) -> None:
    (root / "hub").mkdir()
    if metadata is None:
        (root / "hub/all.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    else:
        odd = pa.table({"label": ["a"], "video": [b"x"]}).replace_schema_metadata({b"huggingface": metadata})
        pq.write_table(odd, root / "hub/all.parquet")
    refused("cannot be read", "mine", "hf", "hub")


def test_unpacked_clips_are_named_by_their_hash_whatever_they_were_called(root: Path, put: Callable[..., Path]) -> None:
    scratch = put_all(put, root / "scratch")
    bodies = [(scratch / clip.path).read_bytes() for clip in MINE]
    called = ["../../../evil.mkv", "/etc/cron.d/x.sh", None, "C:\\x\\y.webm", "a\nb.mkv", ".."] * 5
    videos = [{"bytes": body, "path": path} for body, path in zip(bodies, called, strict=True)]
    write_parquet(put, root / "hub/all.parquet", MINE, video=videos, names=None, split=True)
    given = new_dataset("mine", "hf", "hub")
    assert given.videos == files.cache() / "downloads/mine/clips"
    there = {path.name for path in given.videos.iterdir()}
    assert {name.partition(".")[0] for name in there} == {hashlib.sha256(body).hexdigest() for body in bodies}
    assert {name.partition(".")[2] for name in there} == {"mkv", "mp4", "webm"}
    assert not [*root.rglob("evil*"), *root.rglob("x.sh")]


def test_a_column_of_plain_bytes_and_numbers_will_do(root: Path, put: Callable[..., Path]) -> None:
    scratch = put_all(put, root / "scratch")
    bodies = [(scratch / clip.path).read_bytes() for clip in MINE]
    numbers = ["ab".index(clip.label) for clip in MINE]
    write_parquet(put, root / "hub/all.parquet", MINE, names=None, split=True, video=bodies, label=numbers)
    assert new_dataset("mine", "hf", "hub").card.classes == ("0", "1")


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer(root / "server")
    for name, value in {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root / "home"),
                        "no_proxy": "127.0.0.1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    server.create("dataset", "org/clips")
    yield server
    server.close()


def test_a_repository_on_the_hub_is_fetched_at_its_commit(hub: HubServer, root: Path, put: Callable[..., Path]) -> None:
    as_folder(put, root / "local", said=True)
    changes = {path.relative_to(root / "local").as_posix(): path.read_bytes() for path in (root / "local").rglob("*.*")}
    commit = hub.commit("dataset", "org/clips", changes | {"weights.bin": b"not wanted", "../../evil.mkv": b"x"})
    hub.commit("dataset", "org/clips", dict.fromkeys(changes, b"changed later"))
    given = new_dataset("mine", "hf", f"org/clips@{commit}", size=12, frames=2)
    assert given.videos == files.cache() / "downloads/mine" / f"org--clips@{commit}"
    assert not [*root.rglob("weights.bin"), *root.rglob("evil*")]
    assert f"--from hf org/clips@{commit}" in given.card.notes[1]
    assert outcome("mine", given)["card"]["splits"] == Counter(clip.split for clip in MINE)


def test_a_hub_that_does_not_answer_is_a_named_error(hub: HubServer) -> None:
    refused("fetching org/clips at .* failed .* repeat the command", "mine", "hf", f"org/clips@{'0' * 40}")
    refused("fetching org/none at .* failed", "mine", "hf", f"org/none@{'0' * 40}")
    hub.close()
    refused("fetching org/clips at .* failed .*check its name, the network", "mine", "hf", f"org/clips@{'0' * 40}")
