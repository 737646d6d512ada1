"""Look at a built site in a browser: this machine only, bounded, read-only."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from avbench.errors import BadOption

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


def serve(out: Path, port: int) -> None:
    """Serve a built site on 127.0.0.1 until Ctrl-C.

    Raises:
        BadOption: if there is no site in `out`, or the port cannot be had.
    """
    with open_server(out, port) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
