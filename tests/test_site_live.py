"""`avbench leaderboard serve`: the site is there at once and follows the runs; a run that cannot be used harms nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import hear_ctrl_c
from site_runs import write_run

PATIENCE = 60  # seconds, on a busy machine


class Live:
    """A command that serves the runs below a folder."""

    def __init__(self, folder: Path) -> None:
        self.results, self.out, self.said = folder / "results", folder / "site", folder / "said.txt"
        write_run(self.results, "weak", 0, 0.2)
        words = ["leaderboard", "serve", "--only", "--results", self.results, "--out", self.out, "--port", "0"]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "avbench", *map(str, words)],
                stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"}, preexec_fn=hear_ctrl_c,
            )  # fmt: skip
        self.url = self.wait(r"http://127\.0\.0\.1:\d+/")

    def wait(self, pattern: str) -> str:
        """Wait until the command has said something."""
        for _ in range(10 * PATIENCE):
            if found := re.search(pattern, self.said.read_text()):
                return found[0]
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.1)
        raise AssertionError(f"{pattern} was not said: {self.said.read_text()}")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return str(answer.read().decode())


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    yield live
    live.process.kill()
    live.process.wait()


def test_the_site_follows_the_runs_until_ctrl_c(live: Live) -> None:
    assert "Model weak" in live.get("models/avbench--weak.html")
    assert "lb/avmnist" not in live.get("index.html"), "committed results are left out"
    with pytest.raises(urllib.error.HTTPError):
        live.get("models/avbench--strong.html")
    write_run(live.results, "strong", 1, 0.8)
    live.wait("built anew")
    assert "Model strong" in live.get("models/avbench--strong.html")

    broken = write_run(live.results, "broken", 2, 0.5)
    (broken / "rows.parquet").write_bytes(b"PAR1")
    live.wait("the site stays as it was")
    assert "Model strong" in live.get("models/avbench--strong.html")
    with pytest.raises(urllib.error.HTTPError):
        live.get("models/avbench--broken.html")

    live.process.send_signal(signal.SIGINT)
    assert live.process.wait(PATIENCE) == 0
    assert "Traceback" not in live.said.read_text()
