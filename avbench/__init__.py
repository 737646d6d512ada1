"""avbench: the adversarial robustness of audio-visual models, measured so that the number can be trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from avbench import attacks

__version__ = "0.1.0"
__all__ = ["RunOptions", "attacks", "compare", "evaluate_model", "score"]

if TYPE_CHECKING:
    from avbench.api import compare, evaluate_model, score
    from avbench.options import RunOptions
    from avbench.tensors import TensorAttack


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import avbench` and `avbench --help` do not load torch.
    if name in __all__:
        return getattr(importlib.import_module("avbench.options" if name == "RunOptions" else "avbench.api"), name)
    raise AttributeError(f"module 'avbench' has no attribute {name!r}")


def _get(text: str) -> TensorAttack:
    """Read `tma` or `pgd:steps=20` as an attack to be called: attack(model, audio, video, labels, threat=...).

    Raises:
        UnknownName, BadOption: as for `avbench.attacks.parse_attack`.
    """
    from avbench.tensors import TensorAttack

    return TensorAttack(attacks.parse_attack(text))


# Attacks must not import what polices them, which lies above them; this file lies above all, and always runs first.
attacks.get = _get
