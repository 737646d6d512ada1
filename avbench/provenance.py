"""Where a result comes from: code, versions, hardware, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_CODE = ("avbench", "datasets", "submissions", "pyproject.toml")  # what a result depends on
_LIBRARIES = ("torch", "torchvision", "torchaudio", "numpy", "pandas", "pyarrow")


def numerics(device: torch.device, micro_batch: int, precision: str, quick: bool) -> dict[str, Any]:
    """Record what decides the last bits of a result; parts of different numerics are never mixed.

    `dtype` and `tf32` are the judge's; `precision` is that in which clips were crafted, left out where it is the same.

    Args:
        device: where it is computed.
        micro_batch: samples at a time.
        precision: in which attacks look at models.
        quick: whether they look at an equal network, see `avbench.models.quick`.
    """
    cuda = device.type == "cuda"
    return {
        "micro_batch": micro_batch,
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "threads": 0 if cuda else torch.get_num_threads(),
        "dtype": "float32",
        "tf32": bool(cuda and torch.backends.cuda.matmul.allow_tf32),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        **({} if precision == "fp32" else {"precision": precision}),
        **({"gradients": "quick"} if quick else {}),
    }


def precision_of(numerics: Mapping[str, Any]) -> str:
    """In what the clips of a run were crafted, by what its record says of numerics."""
    return str(numerics.get("precision", "fp32"))


def provenance(device: torch.device) -> dict[str, Any]:
    """Code, versions, hardware and command of this process; for the record, never part of an identity."""
    commit = _git("rev-parse", "HEAD")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "avbench": version("avbench"),
        "git_commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--", *_CODE)) if commit else None,
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "avbench"), *sys.argv[1:]]),
    }


@cache
def _git(*words: str) -> str | None:
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
