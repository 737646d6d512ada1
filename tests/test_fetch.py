"""Fetching: what arrives is the pinned file or a named error, whatever the server does."""

from __future__ import annotations

import errno
import hashlib
import io
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool
from pathlib import Path
from urllib.request import Request

import pytest

from avbench.datasets import fetch as module
from avbench.datasets.cards import Source
from avbench.datasets.fetch import fetch, fetch_checked, folder
from avbench.errors import DataError, DiskFull

DATA = bytes(range(256)) * 4000  # 1.02 MB: several chunks


class Server:
    """Serve DATA badly: `plan` says what each request gets, the last entry for ever."""

    def __init__(self) -> None:
        self.plan: list[object] = ["whole"]
        self.data = DATA
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.bin"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        self.ranges.append(to.headers["Range"])
        step = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        if isinstance(step, int):
            to.send_error(step)
        elif isinstance(step, tuple):  # ("redirect", where)
            to.send_response(302)
            to.send_header("Location", step[1])
            to.end_headers()
        else:
            self.send(to, str(step))

    def send(self, to: BaseHTTPRequestHandler, step: str) -> None:
        asked = to.headers["Range"]
        start = (
            int(asked.removeprefix("bytes=").rstrip("-")) if asked and step not in ("no ranges", "wrong place") else 0
        )
        if start >= len(self.data):
            to.send_error(416)
            return
        partial = start > 0 or step == "wrong place"
        to.send_response(206 if partial else 200)
        if partial:
            to.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if step != "unannounced cut":
            to.send_header("Content-Length", str(len(self.data) - start))
        to.end_headers()
        to.wfile.write(self.data[start : len(self.data) // 2 if "cut" in step else None])
        to.close_connection = True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "WAITS", (0.0, 0.01, 0.02))
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def source(server: Server, data: bytes = DATA) -> Source:
    return Source(file="sub/data.bin", url=server.url, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def leftovers() -> set[str]:
    return {path.name for path in folder("toy").rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_file_is_fetched_once_and_nothing_else_is_left(server: Server) -> None:
    path = fetch("toy", source(server))
    assert path == folder("toy") / "sub" / "data.bin"
    assert path.read_bytes() == DATA
    assert fetch("toy", source(server)) == path
    assert server.ranges == [None]
    assert leftovers() == {"data.bin"}


@pytest.mark.parametrize("cut", ["cut", "unannounced cut"])
def test_a_transfer_that_breaks_off_resumes_where_it_stopped(server: Server, cut: str) -> None:
    server.plan = [cut, "whole"]
    assert fetch("toy", source(server)).read_bytes() == DATA
    assert server.ranges == [None, f"bytes={len(DATA) // 2}-"]


def test_a_later_command_resumes_an_interrupted_one(server: Server) -> None:
    server.plan = ["cut", 503]
    with pytest.raises(DataError, match=r"sub/data\.bin of toy .* 503 .*4 attempts.*continues where it stopped"):
        fetch("toy", source(server))
    assert leftovers() == {".data.bin.part"}
    server.plan, server.ranges = ["whole"], []
    assert fetch("toy", source(server)).read_bytes() == DATA
    assert server.ranges == [f"bytes={len(DATA) // 2}-"]


@pytest.mark.parametrize(("behavior", "requests"), [("no ranges", 2), ("wrong place", 3)])
def test_a_server_that_does_not_resume_gives_the_file_from_the_start(
    server: Server, behavior: str, requests: int
) -> None:
    server.plan = ["cut", behavior, "whole"]
    assert fetch("toy", source(server)).read_bytes() == DATA
    assert server.ranges == [None, f"bytes={len(DATA) // 2}-", None][:requests]


@pytest.mark.parametrize("exact", [True, False])
def test_a_whole_part_is_not_fetched_again(server: Server, exact: bool) -> None:
    part = folder("toy") / ".data.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA)
    path = fetch_checked("toy", "data.bin", server.url, lambda _: None, len(DATA) + (not exact), exact)
    assert path.read_bytes() == DATA
    assert server.ranges == ([] if exact else [f"bytes={len(DATA)}-"])  # the server answers 416 to the latter


def test_a_server_error_that_passes_is_retried(server: Server) -> None:
    server.plan = [500, 503, "whole"]
    assert fetch("toy", source(server)).read_bytes() == DATA
    assert len(server.ranges) == 3


def test_a_lasting_server_error_is_named_at_once(server: Server) -> None:
    server.plan = [404]
    with pytest.raises(DataError, match=r"sub/data\.bin of toy .*answers 404.*place the file at"):
        fetch("toy", source(server))
    assert len(server.ranges) == 1


def test_a_server_that_is_not_there_is_named(server: Server) -> None:
    server.http.server_close()
    with pytest.raises(DataError, match=r"cannot fetch sub/data\.bin .*connection failed"):
        fetch("toy", source(server))


def test_a_file_with_the_wrong_hash_is_refused_by_name_and_not_kept(server: Server) -> None:
    server.data = DATA[:-1] + b"!"
    with pytest.raises(DataError, match=r"sub/data\.bin is not the pinned file: it has sha256 \w+, expected sha256"):
        fetch("toy", source(server))
    assert len(server.ranges) == 1
    assert leftovers() == set()


@pytest.mark.parametrize(("data", "why"), [(DATA[:-9], "it has 1023991 bytes"), (DATA + b"!", "larger than")])
def test_a_file_of_the_wrong_size_is_refused(server: Server, data: bytes, why: str) -> None:
    server.data = data
    with pytest.raises(DataError, match=why):
        fetch("toy", source(server))
    assert "data.bin" not in leftovers()
    assert all(path.stat().st_size <= len(DATA) for path in folder("toy").rglob("*"))


def test_a_part_of_another_version_is_dropped_and_fetched_anew(server: Server) -> None:
    part = folder("toy") / "sub" / ".data.bin.part"
    part.parent.mkdir(parents=True)
    for old in (b"?" * 1000, b"?" * len(DATA), b"?" * (len(DATA) + 1)):
        part.write_bytes(old)
        path = fetch("toy", source(server))
        assert path.read_bytes() == DATA
        path.unlink()


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: Server) -> None:
    fetch("toy", source(server)).write_bytes(DATA[:-1] + b"!")
    assert fetch("toy", source(server)).read_bytes() == DATA


def test_an_archive_is_judged_by_its_contents(server: Server) -> None:
    def check(path: Path) -> None:
        if not path.read_bytes().endswith(b"\xff"):
            raise DataError("wrong contents")

    server.plan = ["cut", "whole"]
    assert fetch_checked("toy", "a.zip", server.url, check, limit=2 * len(DATA)).read_bytes() == DATA
    server.data = DATA + b"!"
    with pytest.raises(DataError, match=r"cannot fetch b\.zip of toy .*wrong contents"):
        fetch_checked("toy", "b.zip", server.url, check, limit=2 * len(DATA))


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "http://127.0.0.1.a.org", "http://127.0.0.1@a.org", "file:///etc/hosts", "ftp://a.org", "x"],
)
def test_only_https_is_fetched_also_after_a_redirect(server: Server, url: str) -> None:
    with pytest.raises(DataError, match="only https"):
        fetch("toy", source(server).model_copy(update={"url": url}))
    if "://" in url:
        server.plan = [("redirect", url)]
        with pytest.raises(DataError, match=r"only https|not allowed"):
            fetch("toy", source(server))


def test_the_net_cannot_redirect_to_this_machine(server: Server) -> None:
    request = Request("https://example.org/x")
    with pytest.raises(DataError, match="only https"):
        module._SafeRedirects().redirect_request(request, io.BytesIO(), 302, "", Message(), server.url)


def test_a_redirect_on_this_machine_is_followed_and_a_broken_one_named(server: Server) -> None:
    server.plan = [("redirect", server.url), "whole"]
    assert fetch("toy", source(server)).read_bytes() == DATA
    server.plan = [("redirect", "http://[oops")]
    with pytest.raises(DataError, match="nonsense"):
        fetch("toy", source(server).model_copy(update={"file": "other.bin"}))


@pytest.mark.parametrize("file", ["../x", "/x", "a/../../x"])
def test_no_file_lands_outside_the_cache(server: Server, file: str) -> None:
    with pytest.raises(DataError, match="outside the cache"):
        fetch("toy", source(server).model_copy(update={"file": file}))


def test_two_at_once_fetch_a_file_once(server: Server) -> None:
    with ThreadPool(4) as pool:
        paths = pool.map(lambda _: fetch("toy", source(server)), range(4))
    assert {path.read_bytes() for path in paths} == {DATA}
    assert len(server.ranges) == 1


def test_a_full_disk_has_its_own_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(DiskFull, match="free some"):
        fetch("toy", source(server))
