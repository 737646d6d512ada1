"""Look at a site in a browser while runs come in: this machine only, bounded, read-only."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from avbench.errors import AvbenchError, BadOption

CONNECTIONS = 32  # at once
SECONDS = 10  # that a silent connection may last


class _Handler(SimpleHTTPRequestHandler):
    timeout = SECONDS

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    _free = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def open_server(out: Path, port: int) -> ThreadingHTTPServer:
    """Bind 127.0.0.1; port 0 takes a free one.

    Raises:
        BadOption: if there is no site in `out`, or the port cannot be had.
    """
    if not (out / "index.html").is_file():
        raise BadOption(f"{out} holds no site; run `avbench leaderboard build` first")
    try:
        return _Server(("127.0.0.1", port), partial(_Handler, directory=str(out)))
    except (OSError, OverflowError) as error:
        raise BadOption(f"port {port} cannot be had ({error}); choose another with --port") from error


def serve(out: Path, port: int, results: Sequence[Path], rebuild: Callable[[], object]) -> None:
    """Serve a site on 127.0.0.1 until Ctrl-C, and build it when it is older than a run, now and later.

    A run that cannot be used is said on standard error, and the site stays as it was.

    Args:
        out: the site.
        port: 0 takes a free one.
        results: folders of runs.
        rebuild: builds the site from them.

    Raises:
        BadOption: if the port cannot be had.
        DataError: and its kin, if there is no site yet and none can be built.
    """
    seen = _state(results)
    index = out / "index.html"
    if not index.is_file() or any(changed > index.stat().st_mtime_ns for _, changed, _ in seen):
        rebuild()
    with open_server(out, port) as server:
        threading.Thread(target=_keep_up, args=(results, seen, rebuild), daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


State = frozenset[tuple[str, int, int]]


def _state(results: Sequence[Path]) -> State:
    """Path, time of change and size of every file of a run."""
    paths = [path for folder in results for kind in ("json", "parquet") for path in folder.rglob(f"*.{kind}")]
    found = []
    for path in paths:
        with suppress(OSError):  # it went away
            about = path.stat()
            found.append((str(path), about.st_mtime_ns, about.st_size))
    return frozenset(found)


def _keep_up(results: Sequence[Path], seen: State, rebuild: Callable[[], object]) -> None:
    before = seen
    while True:
        time.sleep(1)
        now = _state(results)
        if now != seen and now == before:  # and nothing is being written
            seen = now
            try:
                rebuild()
                print("built anew; load the page again", flush=True)
            except (AvbenchError, OSError) as error:
                print(f"{type(error).__name__}: {error}; the site stays as it was", file=sys.stderr, flush=True)
        before = now
