"""In what numbers attacks look at a model. Whoever judges asks in float32, whatever attacks did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from avbench.errors import BadOption

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


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Let matrices be multiplied in reduced precision within the block."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


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
