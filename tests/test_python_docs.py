"""Every block of Python that a reader is shown runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    page: re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for page in ("README.md", "docs/python.md", "docs/submitting.md")
}
BLOCKS = [
    pytest.param(block, id=f"{page} {i}", marks=pytest.mark.slow if i or page != "README.md" else ())
    for page, blocks in PAGES.items()
    for i, block in enumerate(blocks)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_shown_runs_alone_and_prints(block: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", block],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_page_shows_both_calls_and_the_readme_links_to_it() -> None:
    shown = "".join(PAGES["docs/python.md"])
    assert "evaluate_model(" in shown
    assert "attacks.get(" in shown
    assert PAGES["README.md"]
    assert "(docs/python.md)" in (ROOT / "README.md").read_text()
