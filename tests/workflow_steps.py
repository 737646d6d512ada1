"""For the tests of the workflows: what stands in them, and how GitHub runs a step."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".github" / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yml"))
PARSED: dict[str, Any] = {name: yaml.load((FOLDER / f"{name}.yml").read_text(), yaml.BaseLoader) for name in NAMES}
# What `propose` brings of a result.
TAKEN = {"run.json", "rows.parquet", "health.json", "SHA256SUMS", "adversarial/SHA256SUMS"}


def git(repository: Path, *words: str) -> str:
    setting = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(["git", *setting, *words], cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run_script(script: str, where: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run one script as GitHub does; give its exit code and all that it says."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(where)} | environment
    done = subprocess.run(["bash", "-e", "-c", script], cwd=where, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def run_step(workflow: str, job: str, name: str, where: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run the script of one step."""
    [script] = [step["run"] for step in PARSED[workflow]["jobs"][job]["steps"] if step.get("name") == name]
    return run_script(script, where, environment)
