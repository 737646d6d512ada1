"""avbench: the adversarial robustness of audio-visual models, measured so that the number can be trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["RunOptions", "evaluate", "score"]

if TYPE_CHECKING:
    from avbench.api import evaluate, score
    from avbench.options import RunOptions


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import avbench` and `avbench --help` do not load torch.
    if name in __all__:
        return getattr(importlib.import_module("avbench.options" if name == "RunOptions" else "avbench.api"), name)
    raise AttributeError(f"module 'avbench' has no attribute {name!r}")
