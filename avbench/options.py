"""How a run executes: one frozen dataclass, from which the command-line flags are generated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from avbench.errors import BadOption, EngineUnavailable

ENGINES = {"local": None, "ray": "ray", "submitit": "slurm"}  # with the extra that each needs
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # in which attacks may look at a model


def _option(default: Any, help: str, metavar: str) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class RunOptions:
    """Say how a run executes; nothing here changes what is measured except `limit`, `seed` and `precision`.

    Raises:
        BadOption: if a value cannot be used.
        EngineUnavailable: if the engine is not installed.
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
    engine: str = _option("local", "Where it computes: local (this process), ray or submitit (SLURM).", "ENGINE")
    workers: int | None = _option(None, "Worker processes; ray: by default one for each core, or each GPU.", "N")
    ray_address: str | None = _option(None, "Ray cluster that is there; by default one is made here.", "HOST:PORT")

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadOption(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.precision not in PRECISIONS:
            raise BadOption(f"--precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not {self.precision!r}")
        if not (0 <= self.seed < 2**63 and math.isfinite(self.seed)):
            raise BadOption(f"--seed must lie in [0, 2^63), not {self.seed}")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise BadOption(f"--engine is one of {', '.join(ENGINES)}, not {self.engine!r}")
        if self.workers and self.engine == "local":
            raise BadOption("--workers needs --engine ray or --engine submitit")
        if self.ray_address is not None and self.engine != "ray":
            raise BadOption("--ray-address needs --engine ray")
        if self.ray_address is not None and not _ADDRESS.fullmatch(self.ray_address):
            raise BadOption(f"--ray-address is HOST:PORT, such as 10.0.0.1:6379, not {self.ray_address!r}")
        if self.engine != "local" and self.device.startswith("cuda:"):
            raise BadOption(f"--engine {self.engine} takes all GPUs there are; choose them by CUDA_VISIBLE_DEVICES")
        if self.engine == "submitit" and not self.workers:
            raise BadOption("--engine submitit needs --workers N, the jobs of an array")
        if extra := ENGINES[self.engine]:
            try:
                version(self.engine)  # unlike an import, not misled by a folder of that name
            except PackageNotFoundError:
                raise EngineUnavailable(
                    f"--engine {self.engine} is not installed: pip install 'avbench[{extra}]'"
                ) from None
