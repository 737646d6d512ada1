"""A built wheel, installed outside the checkout, is a working avbench with cards, locks, templates and baselines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_wheel_evaluates_and_builds_a_board_far_from_the_checkout(tmp_path: Path) -> None:
    def call(*words: object, **more: object) -> str:
        done = subprocess.run(
            [str(w) for w in words], cwd=tmp_path, capture_output=True, text=True, check=False, **more
        )  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout  # type: ignore[no-any-return]

    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "AVBENCH_CACHE": str(tmp_path / "cache")}
    avbench = [sys.executable, "-m", "avbench"]
    where = call(sys.executable, "-c", "import avbench; print(avbench.__file__)", env=environment)
    assert Path(where.strip()).is_relative_to(tmp_path / "site")
    assert "avbench--synthav-concat" in call(*avbench, "list", "models", env=environment)
    call(*avbench, "evaluate", "avbench--synthav-concat", "--suite", "quick", "--limit", "8", env=environment)
    assert "index.html" in call(*avbench, "leaderboard", "build", "--results", "runs", env=environment)
    assert (tmp_path / "build" / "site" / "models" / "avbench--synthav-concat.html").is_file()
