"""A model of tests/hostile in a worker, on the small clips of conftest; and whether a sandbox can be had here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_split

from avbench.oracle import Oracle, Victim
from avbench.sandbox.code import load_code
from avbench.sandbox.process import Limits, Worker
from avbench.sandbox.remote import RemoteModel

HOSTILE = Path(__file__).resolve().parent / "hostile"
CPU = torch.device("cpu")
SPLIT = make_split(12, 3)
BATCH = SPLIT.batch(range(12))


def _missing() -> str:
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    tried = subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True)
    if tried.returncode:
        return f"bubblewrap cannot build a sandbox here: {tried.stderr.decode()[:200]}"
    return "" if importlib.util.find_spec("pyseccomp") else "pyseccomp is not installed"


MISSING = _missing()
needs_sandbox = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def remote(name: str, limits: Limits | None = None, **arguments: Any) -> RemoteModel:
    """The model `file:Factory` of tests/hostile behind walls."""
    file, _, factory = name.partition(":")
    load = {
        "file": str(HOSTILE / f"{file}.py"),
        "factory": factory,
        "classes": 3,
        "spec": vars(SPLIT.card.spec),
        "arguments": arguments,
    }
    return RemoteModel(Worker(load, [HOSTILE], limits or Limits(call=20)))


def local(name: str, **arguments: Any) -> torch.nn.Module:
    """The same in this process; only for what does no harm."""
    file, _, factory = name.partition(":")
    return load_code(HOSTILE / f"{file}.py", factory, 3, SPLIT.card.spec, arguments)


def answers(model: torch.nn.Module) -> torch.Tensor:
    """Logits on the batch, as an attack that sees only scores would get them."""
    return Oracle(Victim(model, 3, CPU), BATCH, ("audio",), {}, "scores").logits(BATCH.inputs)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """Gradient of the audio on the batch."""
    return Oracle(Victim(model, 3, CPU), BATCH, ("audio",), {}).gradient(BATCH.inputs).inputs["audio"]
