"""How a run executes: one frozen dataclass, from which the command-line flags are generated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avbench.errors import BadOption

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # in which attacks may look at a model


def _option(default: Any, help: str, metavar: str) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class RunOptions:
    """Say how a run executes; nothing here changes what is measured except `limit`, `seed` and `precision`.

    Raises:
        BadOption: if a value cannot be used.
    """

    limit: int | None = _option(None, "Evaluate only the first N samples; a later run without it continues.", "N")
    batch_size: int | None = _option(None, "Samples per micro-batch; 'auto' probes memory before the run.", "N|auto")
    device: str = _option("auto", "cpu, cuda, cuda:N or auto.", "DEVICE")
    seed: int = _option(0, "Seed of every attack's per-sample randomness.", "N")
    precision: str = _option(
        "fp32", "In which attacks look at the model: fp32, tf32, bf16 or fp16; clips are judged in fp32.", "NAME"
    )
    output_dir: Path = _option(Path("runs"), "Folder that receives the run's own folder.", "DIR")
    save_adversarial: bool = _option(False, "Keep every adversarial clip, so that anybody can verify the run.", "")
    fresh: bool = _option(False, "Discard earlier parts of this run and start again.", "")

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadOption(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.precision not in PRECISIONS:
            raise BadOption(f"--precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not {self.precision!r}")
        if not (0 <= self.seed < 2**63 and math.isfinite(self.seed)):
            raise BadOption(f"--seed must lie in [0, 2^63), not {self.seed}")
