"""The Hub: what is pushed can be pulled at its commit, and a repository that lies is refused and leaves nothing."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from conftest import thinned
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, HfApi, constants, file_download

from avbench import files
from avbench.cli import main
from avbench.datasets import foreign, shards
from avbench.datasets.cards import Lock, Pinned, canonical, read_card
from avbench.datasets.encoding import Clip, Encoded, encode
from avbench.datasets.foreign import Copy, copy_shard, gaps_text
from avbench.datasets.prepare import Gap, read_gaps
from avbench.datasets.shards import folder
from avbench.datasets.splits import open_split
from avbench.errors import BadOption, CorruptShard, DataError, DatasetNotPrepared, DiskFull
from avbench.hub.client import HubError
from avbench.hub.datasets import pull_dataset, push_dataset

REPO = "org/toy"
CLIPS = 510  # three shards
CARD = {
    "title": "Toy", "summary": "For tests.", "license": "CC BY 4.0", "task": "multiclass", "media": "full",
    "sample_rate": 8000, "samples": 24, "frames": 2, "fps": 1, "height": 3, "width": 5, "classes": ["a", "b"],
    "splits": {"test": CLIPS, "val-1": 3}, "lists": {"format": "table", "files": {"test": "t.csv", "val-1": "v.csv"}},
    "notes": ["Made by nobody."],
}  # fmt: skip
TREE = {".gitattributes", "README.md", "card.yaml", "test/00000.parquet", "test/00001.parquet", "test/00002.parquet",
        "test/gaps.csv", "test/lock.csv", "val-1/00000.parquet", "val-1/gaps.csv", "val-1/lock.csv"}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)
    one = HubServer.serving(tmp_path, monkeypatch)
    write_card()
    publisher(monkeypatch)
    prepare_toy()
    yield one
    one.close()


class InProcess:
    """Workers without their processes, which take seconds to start."""

    def __init__(self, function: Callable[[Copy], object], seconds: float, count: int) -> None:
        self.function = function

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, tasks: list[Copy]) -> Iterator[object]:
        return map(self.function, tasks)


@pytest.fixture(autouse=True)
def _few_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "workers" not in request.fixturenames:
        monkeypatch.setattr(foreign, "Workers", InProcess)


@pytest.fixture
def workers() -> None:
    """Ask for the real worker processes."""


def publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(Path("publisher").resolve()))


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become someone with an empty cache."""
    return lambda name: monkeypatch.setenv("AVBENCH_CACHE", str(Path(name).resolve()))


def write_card(**changes: object) -> None:
    place = Path("datasets/toy")
    place.mkdir(parents=True, exist_ok=True)
    (place / "card.yaml").write_text(yaml.safe_dump(CARD | changes))
    for split, name in {"test": "t.csv", "val-1": "v.csv"}.items():
        rows = [f"{row.id},{'ab'[row.label]},{row.id}.mp4\n" for row in entries(split)]  # type: ignore[index]
        (place / name).write_text("id,label,file\n" + "".join(rows))


def entries(split: str) -> list[Pinned]:
    return sorted((Pinned(f"{split}-{i:03d}", i % 2, "") for i in range(CARD["splits"][split])), key=canonical)  # type: ignore[index]


def clip(id_: str, salt: int = 0) -> Encoded:
    random = np.random.default_rng([salt, *id_.encode()])
    audio = random.integers(-9999, 9999, 24).astype(np.int16)
    return encode(Clip(audio, random.integers(0, 255, (2, 3, 3, 5)).astype(np.uint8)), 8000)


def prepare_toy(missing: tuple[str, ...] = ("test-007", "test-400")) -> None:
    """Put a prepared dataset into the cache, as `avbench data prepare` does."""
    card = read_card("toy")
    for split in card.splits:
        gaps = [Gap(row.id, "missing", "no file /home/me/x.mp4") for row in entries(split) if row.id in missing]
        clips = {row.id: clip(row.id) for row in entries(split) if row.id not in missing}
        place = folder("toy") / split
        for number, start in enumerate(range(0, card.splits[split], shards.SHARD)):
            part = [row for row in entries(split)[start : start + shards.SHARD] if row.id in clips]
            rows = [shards.Row(row.id, row.label, clips[row.id]) for row in part]
            shards.write(shards.shard_path(place, number), card, rows, {"identity": "0" * 64})
        lock = Lock(row._replace(sha256=clips[row.id].sha256 if row.id in clips else "") for row in entries(split))
        files.publish_text(place / "lock.csv", lock.text)
        files.publish_text(place / "gaps.csv", gaps_text(gaps).replace(",\n", ",no file /home/me/x.mp4\n"))


def everything(where: Path) -> set[str]:
    """Files below a folder, but for the locks of processes."""
    return {str(p.relative_to(where)) for p in where.rglob("*") if p.is_file() and p.name != ".preparing"}


def nothing_was_kept() -> bool:
    return everything(files.cache()) == set()


@pytest.mark.slow
def test_what_is_pushed_can_be_pulled(hub: HubServer, visit: Callable[[str], None], workers: None) -> None:
    commit = push_dataset("toy", REPO)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert set(hub.files("dataset", REPO, commit)) == TREE
    before = {split: open_split("toy", split) for split in ("test", "val-1")}
    stored = {path.name: path.read_bytes() for path in (folder("toy") / "test").glob("*.parquet")}
    visit("other")
    with pytest.raises(DatasetNotPrepared):
        open_split("toy", "test")
    pull_dataset("toy", REPO, commit)
    for split, one in before.items():
        assert open_split("toy", split).lock == one.lock
        for index in one.present:
            assert open_split("toy", split).stored(index).id == one.lock.rows[index].id
    assert {path.name: path.read_bytes() for path in (folder("toy") / "test").glob("*.parquet")} == stored
    assert everything(files.cache()) == {f"data/toy/{path}" for path in TREE if "/" in path}
    assert [gap[:2] for gap in read_gaps("toy", "test")] == [
        (row.id, "missing") for row in before["test"].lock.rows if not row.sha256
    ]


def test_no_path_of_the_publisher_and_no_token_leaves(
    hub: HubServer, tmp_path: Path, visit: Callable[[str], None]
) -> None:
    publishers = folder("toy") / "test" / "gaps.csv"
    commit = push_dataset("toy", REPO)
    visit("other")
    pull_dataset("toy", REPO, commit)
    assert b"/home/me" in publishers.read_bytes()
    assert not any(one.token for one in hub.seen if one.cdn)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert hub.token.encode() not in path.read_bytes()
            assert b"/home/me" not in path.read_bytes() or path == publishers


def test_the_dataset_card_tells_the_hub_where_the_splits_are(hub: HubServer) -> None:
    push_dataset("toy", REPO)
    _, head, body = hub.read("dataset", REPO, "README.md").decode().split("---\n", 2)
    parsed = yaml.safe_load(head)
    assert parsed["license"] == "cc-by-4.0"
    assert parsed["pretty_name"] == "Toy"
    assert parsed["configs"] == [{"config_name": "default", "data_files": [
        {"split": "test", "path": "test/*.parquet"}, {"split": "val_1", "path": "val-1/*.parquet"}]}]  # fmt: skip
    assert "| test | 508 of 510 (99.61 %) | 2 missing |" in body
    assert "- License: CC BY 4.0\n- Made by nobody.\n" in body
    assert f"avbench data pull toy --repo {REPO} --revision" in body
    assert yaml.safe_load(hub.read("dataset", REPO, "card.yaml")) == CARD


def test_a_license_that_the_hub_has_no_word_for_is_other(hub: HubServer) -> None:
    write_card(license="videos belong to their uploaders")
    push_dataset("toy", REPO, ["val-1"])
    assert yaml.safe_load(hub.read("dataset", REPO, "README.md").decode().split("---\n")[1])["license"] == "other"


def test_each_commit_keeps_its_bytes_and_holds_exactly_its_splits(
    hub: HubServer, visit: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = push_dataset("toy", REPO)
    assert push_dataset("toy", REPO) == first
    hub.commit("dataset", REPO, {"NOTES.md": b"by hand", "test/00009.parquet": b"left behind"})
    prepare_toy(missing=("test-011",))
    second = push_dataset("toy", REPO, ["test"])
    assert set(hub.files("dataset", REPO)) == {p for p in TREE if not p.startswith("val-1")} | {"NOTES.md"}
    for commit, missing in (
        (first, {"test-007", "test-400"}),
        (second, {"test-011"}),
        (first, {"test-007", "test-400"}),
    ):
        visit("other")
        pull_dataset("toy", REPO, commit, ["test"])
        assert {gap.id for gap in read_gaps("toy", "test")} == missing
        split = open_split("toy", "test")
        assert [split.stored(i).id for i in split.present[:3]] == [split.ids[i] for i in split.present[:3]]
    with pytest.raises(DataError, match=r"no split 'val-1'.*--split"):
        pull_dataset("toy", REPO, second)


@pytest.mark.parametrize("media", ["none", "thumbnail"])
def test_clips_that_may_not_be_passed_on_are_not_pushed(hub: HubServer, media: str) -> None:
    write_card(media=media)
    with pytest.raises(DataError, match=f"not pushed: its card says `media: {media}`.*data prepare toy"):
        push_dataset("toy", REPO)
    assert hub.seen == []


def test_a_clip_that_is_not_the_pinned_one_is_not_pushed(hub: HubServer) -> None:
    path = folder("toy") / "test" / "00000.parquet"
    row = next(shards.read_rows(path))
    data = bytearray(path.read_bytes())
    data[data.index(row.clip.audio) + 50] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=row.id):
        push_dataset("toy", REPO)
    assert hub.heads == {}


def test_without_a_login_nothing_is_pushed_and_the_error_says_how(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"answers 401 .*`hf auth login`") as error:
        push_dataset("toy", REPO)
    assert "hf_wrong" not in str(error.value)
    assert hub.heads == {}
    monkeypatch.delenv("HF_TOKEN")
    hub.seen = []
    with pytest.raises(HubError, match=r"nobody is logged in to the Hub; run `hf auth login`"):
        push_dataset("toy", REPO)
    assert hub.seen == []


def test_a_repository_of_others_is_named(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"answers 403 for other/toy.*hf auth login"):
        push_dataset("toy", "other/toy")


@pytest.mark.parametrize("repo", ["toy", "a/b/c", "org/..", "org/a--b", "", "../x", "org/t y", "https://x.org/a"])
def test_what_is_no_repository_is_refused(hub: HubServer, repo: str) -> None:
    for call in (lambda: push_dataset("toy", repo), lambda: pull_dataset("toy", repo, "0" * 40)):
        with pytest.raises(BadOption, match="ORG/NAME"):
            call()
    assert hub.seen == []


def test_half_a_push_is_never_visible(hub: HubServer) -> None:
    first = push_dataset("toy", REPO, ["val-1"])
    for place, status in (
        ("/upload/", 403),
        (f"/api/datasets/{REPO}/commit", 500),
        (f"/api/datasets/{REPO}/commit", 412),
    ):
        hub.broken = {place: status}
        with pytest.raises(HubError, match="someone else changed" if status == 412 else str(status)):
            push_dataset("toy", REPO)
        assert hub.heads[f"dataset/{REPO}"] == first
    hub.broken, hub.seen = {}, []
    push_dataset("toy", REPO)
    assert set(hub.files("dataset", REPO)) == TREE
    assert not any(one.method == "PUT" for one in hub.seen)  # what an earlier try uploaded is there


def test_a_push_does_not_undo_what_someone_else_pushed_meanwhile(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, theirs = HfApi.create_commit, []

    def late(*arguments: object, **more: object) -> object:
        theirs.append(hub.commit("dataset", REPO, {"card.yaml": b"theirs"}))
        return real(*arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(HubError, match="someone else changed org/toy"):
        push_dataset("toy", REPO, ["val-1"])
    assert hub.heads[f"dataset/{REPO}"] == theirs[0]


@pytest.mark.parametrize("revision", ["main", "v1.0", "0" * 39, "0" * 41, "A" * 40, "0" * 39 + "\n", "refs/pr/1"])
def test_only_commits_are_pulled(hub: HubServer, revision: str) -> None:
    with pytest.raises(BadOption, match="40 hexadecimal digits"):
        pull_dataset("toy", REPO, revision)
    assert hub.seen == []


def test_what_is_not_there_is_named(hub: HubServer, visit: Callable[[str], None]) -> None:
    with pytest.raises(HubError, match="answers 404 for org/toy: there is no such repository"):
        pull_dataset("toy", REPO, "0" * 40)
    push_dataset("toy", REPO)
    with pytest.raises(HubError, match="no such commit"):
        pull_dataset("toy", REPO, "0" * 40)
    with pytest.raises(BadOption, match="has the splits test, val-1, not 'train'"):
        pull_dataset("toy", REPO, "0" * 40, ["train"])


def shard(split: str, number: int, salt: int = 0, label: int | None = None, drop: int = 0) -> bytes:
    """A well-formed shard as a liar would make it."""
    part = entries(split)[number * shards.SHARD :][: shards.SHARD]
    part = [row for row in part if row.id not in ("test-007", "test-400")]
    rows = [shards.Row(row.id, row.label if label is None else label, clip(row.id, salt)) for row in part[drop:]]
    path = Path("lie.parquet")
    shards.write(path, read_card("toy"), rows, {"identity": "0" * 64})
    return path.read_bytes()


def lie(old: str, new: str, count: int = 1) -> Callable[[bytes], bytes]:
    return lambda data: re.sub(old, new, data.decode(), count=count).encode()


LIES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "a bit": ("test/00001.parquet", lambda data: data[:9000] + bytes([data[9000] ^ 1]) + data[9001:], "test/00001.parquet"),
    "half a shard": ("test/00001.parquet", lambda data: data[: len(data) // 2], r"test/00001\.parquet cannot be read"),
    "no Parquet": ("test/00001.parquet", lambda data: b"<script>", r"test/00001\.parquet cannot be read"),
    "other clips": ("test/00001.parquet", lambda data: shard("test", 1, salt=1), "is not the pinned one"),
    "other labels": ("test/00001.parquet", lambda data: shard("test", 1, label=0), "is not the pinned one"),
    "another shard": ("test/00001.parquet", lambda data: shard("test", 0), "is not the pinned one"),
    "fewer clips": ("test/00001.parquet", lambda data: shard("test", 1, drop=1), "pinned one|cannot be read"),
    "no shard": ("test/00001.parquet", lambda data: None, r"lacks test/00001\.parquet"),
    "no lock": ("test/lock.csv", lambda data: None, r"lacks test/lock\.csv"),
    "a label": ("test/lock.csv", lie(",0,", ",1,"), r"test/lock\.csv has 510 clips, of which 1 are not those"),
    "an id": ("test/lock.csv", lie("test-00", "test-90"), "of which 510 are not those|of which"),
    "one row less": ("test/lock.csv", lie(r"\n[^\n]*\n$", "\n"), "509 clips, of which 0"),
    "a row twice": ("test/lock.csv", lie("(\n.*\n)", r"\1\1"), "twice|malformed"),
    "a hash": ("test/lock.csv", lie("[0-9a-f]{64}", "0" * 64), "is not the pinned one"),
    "no csv": ("test/lock.csv", lambda data: b"\xff\x00", "malformed"),
    "a secret gap": ("test/lock.csv", lie("[0-9a-f]{64}", ""), r"test/gaps\.csv does not list"),
    "a reason": ("test/gaps.csv", lie(",missing,", ",\x1b[2J,"), r"unknown reason '\\x1b"),
    "no gaps": ("test/gaps.csv", lambda data: b"", r"gaps\.csv does not list"),
}  # fmt: skip


@pytest.mark.parametrize("what", thinned(sorted(LIES), 3))
def test_a_repository_that_lies_is_refused_and_leaves_nothing(
    hub: HubServer, visit: Callable[[str], None], what: str
) -> None:
    path, change, why = LIES[what]
    push_dataset("toy", REPO)
    commit = hub.commit("dataset", REPO, {path: change(hub.read("dataset", REPO, path))})
    visit("other")
    hub.seen = []
    with pytest.raises(DataError, match=f"{REPO} at {commit} is refused, and nothing of it was kept: .*({why})"):
        pull_dataset("toy", REPO, commit)
    assert nothing_was_kept()
    if path.endswith(".csv") and what != "a hash":
        assert hub.fetched() == []  # the shards were not even asked for


@pytest.mark.parametrize("path", ["test/evil.py", "test/00003.parquet", "test/sub/00000.parquet", "test/.preparing"])
def test_an_unexpected_file_in_a_split_is_refused(hub: HubServer, visit: Callable[[str], None], path: str) -> None:
    push_dataset("toy", REPO)
    commit = hub.commit("dataset", REPO, {path: b"x"})
    visit("other")
    with pytest.raises(DataError, match=f"refused.*unexpected file '{path}'"):
        pull_dataset("toy", REPO, commit)
    assert nothing_was_kept()


def test_files_outside_the_splits_are_never_fetched(hub: HubServer, visit: Callable[[str], None]) -> None:
    push_dataset("toy", REPO)
    commit = hub.commit("dataset", REPO, {"toy.py": b"import os", "other/00000.parquet": b"x", "../../up.csv": b"x"})
    visit("other")
    pull_dataset("toy", REPO, commit)
    assert everything(files.cache()) == {f"data/toy/{path}" for path in TREE if "/" in path}
    assert not any("toy.py" in one.path or "up.csv" in one.path for one in hub.seen)


@pytest.mark.slow
def test_a_tampered_shard_is_refused_by_the_worker_processes_too(
    hub: HubServer, visit: Callable[[str], None], workers: None
) -> None:
    push_dataset("toy", REPO)
    commit = hub.commit("dataset", REPO, {"val-1/00000.parquet": b"PAR1" + bytes(64) + b"PAR1"})
    visit("other")
    with pytest.raises(DataError, match=r"refused.*val-1/00000\.parquet cannot be read"):
        pull_dataset("toy", REPO, commit)
    assert nothing_was_kept()


def test_a_file_that_is_too_large_is_refused_before_it_is_fetched(hub: HubServer, visit: Callable[[str], None]) -> None:
    push_dataset("toy", REPO)
    commit = hub.commit("dataset", REPO, {"test/00001.parquet": b"\0" * (8 << 20)})
    visit("other")
    with pytest.raises(DataError, match=r"test/00001\.parquet has 8388608 bytes, which is more than"):
        pull_dataset("toy", REPO, commit)
    assert not any("resolve" in one.path for one in hub.seen[-3:])


def test_what_a_stranger_adds_to_a_shard_is_not_copied(hub: HubServer, visit: Callable[[str], None]) -> None:
    push_dataset("toy", REPO)
    path = folder("toy") / "val-1" / "00000.parquet"
    ours = path.read_bytes()
    table = pq.read_table(path).append_column("extra", pa.array(["SMUGGLED"] * 3))
    pq.write_table(
        table.replace_schema_metadata({"avbench": '{"identity": "SMUGGLED"}'}), "lie.parquet", row_group_size=10
    )
    commit = hub.commit("dataset", REPO, {"val-1/00000.parquet": Path("lie.parquet").read_bytes()})
    visit("other")
    pull_dataset("toy", REPO, commit, ["val-1"])
    copied = (folder("toy") / "val-1" / "00000.parquet").read_bytes()
    assert b"SMUGGLED" not in copied
    assert copied[:500] == ours[:500]


def test_the_ids_and_labels_of_a_committed_lock_cannot_be_changed(hub: HubServer, visit: Callable[[str], None]) -> None:
    """synthav's bits are pinned in avbench's own repository: a lock that agrees with its shards is not enough."""
    push_dataset("synthav", "org/synthav", ["val"])
    lock = hub.read("dataset", "org/synthav", "val/lock.csv").decode()
    id_, label, sha256 = lock.splitlines()[1].split(",")
    good = hub.commit("dataset", "org/synthav", {})
    for line in (
        f"{id_},{(int(label) + 1) % 8},{sha256}",
        f"{id_}x,{label},{sha256}",
        f"{id_},{label},{'0' * 64}",
        f"{id_},{label},",
    ):
        gaps = f"id,reason,detail\n{id_},missing,\n" if line.endswith(",") else "id,reason,detail\n"
        changed = {
            "val/lock.csv": lock.replace(f"{id_},{label},{sha256}", line).encode(),
            "val/gaps.csv": gaps.encode(),
        }
        commit = hub.commit("dataset", "org/synthav", changed)
        visit("other")
        hub.seen = []
        with pytest.raises(DataError, match=r"of which .* not those of the fixed split"):
            pull_dataset("synthav", "org/synthav", commit, ["val"])
        assert hub.fetched() == []
        assert nothing_was_kept()
    pull_dataset("synthav", "org/synthav", good, ["val"])
    assert len(open_split("synthav", "val").present) == 400


def test_a_stopped_download_continues(
    hub: HubServer, visit: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = push_dataset("toy", REPO)
    visit("other")
    hub.seen, hub.broken = [], {"test/00001.parquet": 500}
    with pytest.raises(HubError, match=r"500.*continues where it stopped"):
        pull_dataset("toy", REPO, commit)
    assert not (files.cache() / "data").exists()
    had = set(hub.fetched()) - {"test/00001.parquet"}
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.seen, hub.broken = [], {"test/00001.parquet": "cut"}
    pull_dataset("toy", REPO, commit)
    shards_ = {path for path in TREE if path.endswith(".parquet")}
    assert set(hub.fetched()) == shards_ - had
    size = hub.files("dataset", REPO)["test/00001.parquet"]["size"]
    assert [one.range for one in hub.seen if one.range] == [f"bytes={size // 2 // 1000 * 1000}-"]  # inside a file, too
    assert everything(files.cache()) == {f"data/toy/{path}" for path in TREE if "/" in path}


def test_a_pull_that_dies_while_it_puts_a_split_in_place_leaves_no_split(
    hub: HubServer, visit: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = push_dataset("toy", REPO)
    visit("other")
    pull_dataset("toy", REPO, commit)
    real, left = os.replace, 2

    def dies(source: Path, target: Path) -> None:
        nonlocal left
        if Path(target).parent == folder("toy") / "test":
            left -= 1
            if not left:
                raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            pull_dataset("toy", REPO, commit)
    with pytest.raises(DatasetNotPrepared):
        open_split("toy", "test")
    hub.seen = []
    pull_dataset("toy", REPO, commit)
    assert hub.fetched() == []
    assert len(open_split("toy", "test").present) == 508


def test_two_pulls_at_once_both_end_well(hub: HubServer, visit: Callable[[str], None]) -> None:
    commit = push_dataset("toy", REPO)
    visit("other")
    with ThreadPool(2) as pool:
        pool.map(lambda _: pull_dataset("toy", REPO, commit, ["val-1"]), range(2))
    assert len(open_split("toy", "val-1").present) == 3


def test_a_hub_that_is_not_there_is_named(hub: HubServer) -> None:
    hub.close()
    for call in (lambda: push_dataset("toy", REPO), lambda: pull_dataset("toy", REPO, "0" * 40)):
        with pytest.raises(HubError, match=r"failed \(ConnectError.*check the network"):
            call()


def test_a_hub_that_answers_with_another_commit_is_refused(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = push_dataset("toy", REPO)
    other = hub.commit("dataset", REPO, {"NOTES.md": b"x"})
    monkeypatch.setattr(hub, "resolve", lambda *_: other)
    with pytest.raises(HubError, match=f"has no commit {commit}: the Hub answers with {other}"):
        pull_dataset("toy", REPO, commit)


def test_a_full_disk_has_its_own_name(
    hub: HubServer, visit: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    commit = push_dataset("toy", REPO)
    source = folder("toy") / "val-1" / "00000.parquet"
    visit("other")
    with monkeypatch.context() as patched:
        patched.setattr(file_download, "http_get", full)
        with pytest.raises(DiskFull, match="free some"):
            pull_dataset("toy", REPO, commit)
    monkeypatch.setattr(pq, "write_table", full)
    lock = [row._replace(sha256=clip(row.id).sha256) for row in entries("val-1")]
    assert isinstance(copy_shard(Copy(source, Path("x.parquet"), read_card("toy"), lock)), DiskFull)


def avbench(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["data", *arguments], catch_exceptions=False)
    return f"{result.exit_code} {result.stdout} {result.stderr}"


def test_the_commands_push_and_pull(hub: HubServer, visit: Callable[[str], None]) -> None:
    said = avbench("push", "toy", "--repo", REPO, "--split", "val-1")
    commit = hub.heads[f"dataset/{REPO}"]
    command = f"avbench data pull toy --repo {REPO} --revision {commit}"
    assert command in said
    visit("other")
    assert "toy val-1: 3 of 3 samples" in avbench(*command.split()[2:], "--split", "val-1")
    visit("third")
    said = avbench("pull", "toy", "--split", "val-1")
    assert said.startswith("2 ")
    assert "BadOption: say where toy is: --repo ORG/NAME --revision HEX" in said
    write_card(hub={"repo": REPO, "revision": commit})
    assert "toy val-1: 3 of 3 samples" in avbench("pull", "toy", "--split", "val-1")
    assert len(open_split("toy", "val-1").present) == 3


def test_the_server_keeps_models_too(hub: HubServer, tmp_path: Path) -> None:
    api = HfApi(hub.url, token=hub.token)
    api.create_repo("org/model")
    commits = [
        api.create_commit("org/model", [CommitOperationAdd("m.safetensors", data)], commit_message="m").oid
        for data in (b"one", b"two")
    ]
    for commit, data in zip(commits, (b"one", b"two"), strict=True):
        path = api.hf_hub_download("org/model", "m.safetensors", revision=commit, cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == data
