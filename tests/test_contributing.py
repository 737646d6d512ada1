"""What CONTRIBUTING.md shows works as it stands, dropped into a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avbench.defenses.train import Recipe

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PLACES = {"ATTACKS": "attacks", "METRICS": "metrics", "ARCHITECTURES": "models"}


@pytest.mark.slow
def test_its_files_pass_the_contract_tests_of_their_kind(tmp_path: Path) -> None:
    for name in ("avbench", "datasets", "tests", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        [variable] = set(re.findall(r"@([A-Z]+)\.register", block))
        (tmp_path / "avbench" / PLACES[variable] / "contributed.py").write_text(block)
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_attacks.py",
        "tests/test_models.py",
        "tests/test_metrics.py",
    ]
    chosen = ["-k", "ifgsm or linear or error", "avbench/metrics/contributed.py"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *words, *chosen], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed|$", done.stdout)[1] or done.stdout.count(".")) > 40  # type: ignore[index]


def test_its_recipe_states_the_defaults() -> None:
    [recipe] = [block for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) if "epochs" in block]
    written = yaml.safe_load(recipe)
    assert Recipe.model_validate(written) == Recipe(
        dataset="synthav", architecture="avnet", arguments=written["arguments"]
    )
    assert set(written) == set(Recipe.model_fields)
    assert Recipe.model_validate(written | {"learning_rate": 0.5}).learning_rate.visual == 0.5
