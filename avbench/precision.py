"""In what numbers attacks look at a model. Whoever judges asks in float32, whatever attacks did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from avbench.errors import BadOption

_LAYERS = {
    torch.conv1d, torch.conv2d, torch.conv3d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__,
}  # fmt: skip
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The loss is multiplied by it before the backward pass, and gradients are divided by it: half of float16's exponents
# are for numbers that gradients never reach, and small gradients would be rounded to zero.
_SCALES = {"fp16": 1024.0}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what the device cannot compute.

    Raises:
        BadOption: if it is TF32 without CUDA.
    """
    if precision == "tf32" and device.type != "cuda":
        raise BadOption("--precision tf32 needs CUDA; on the CPU use fp32 or bf16")


@contextmanager
def reduced(precision: str, device: torch.device) -> Iterator[None]:
    """Let matrices be multiplied in reduced precision within the block, but the first layer compute in float32."""
    dtype = _DTYPES.get(precision)
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, dtype), _FirstInFull(device.type, dtype):
        yield


class _FirstInFull(TorchFunctionMode):
    """Let a layer all of whose operands are float32, as the first one's are, round its result only.

    A clip that is rounded itself has two or three bits left of what an attack may change.
    """

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._device, self._dtype = device, dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = (*args, *(kwargs or {}).values())
        if func not in _LAYERS or any(isinstance(x, Tensor) and x.dtype != torch.float32 for x in operands):
            return func(*args, **(kwargs or {}))
        with torch.autocast(self._device, enabled=False):
            return func(*args, **(kwargs or {})).to(self._dtype)


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Let CUDA multiply float32 in TF32 within the block, and restore the flags after it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    if wanted:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        if wanted:
            matmul.allow_tf32, cudnn.allow_tf32 = before


def scale_of(precision: str) -> float:
    """Return what the loss is multiplied by."""
    return _SCALES.get(precision, 1.0)
