"""Untrusted weights in, a checked nn.Module out; nothing is unpickled beyond torch.load(weights_only=True)."""

from __future__ import annotations

import hashlib
import json
import pickle
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from avbench import files
from avbench.datasets.cards import Card
from avbench.errors import ArchitectureMismatch, CheckpointError, NonFiniteWeights, UnsafeCheckpoint
from avbench.models import ARCHITECTURES, build

LARGEST_FILE = 8 * 2**30  # bytes
HEADER = "avbench"  # key of our JSON in a safetensors header
_PICKLED = (".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate, with what makes it itself."""

    id: str  # [a-z0-9._-], names its folder of results
    module: nn.Module
    architecture: str
    arguments: Mapping[str, Any]
    weights_sha256: str
    about: Mapping[str, Any] = field(default_factory=dict)  # title, description and the like; for readers

    @property
    def identity(self) -> dict[str, Any]:
        """What a fingerprint needs: same identity, same answers."""
        return {
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "weights_sha256": self.weights_sha256,
        }


@dataclass(frozen=True)
class Checkpoint:
    """Weights read from a file, not yet put into an architecture."""

    path: Path
    state: dict[str, Tensor]
    sha256: str  # of the file
    header: Mapping[str, Any]  # architecture, arguments, dataset, where the file says

    def candidate(
        self, card: Card, architecture: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> Candidate:
        """Build the architecture for a dataset and load the weights into it.

        Raises:
            CheckpointError: if neither the file nor the caller names the architecture.
            ArchitectureMismatch: listing missing, unexpected and misshapen weights.
            NonFiniteWeights: naming the first NaN or infinite weight.
        """
        architecture = architecture or self.header.get("architecture")
        arguments = dict(self.header.get("arguments", {})) | dict(arguments or {})
        arguments.pop("pretrained", None)  # how training began; the weights come from the file
        if not architecture:
            raise CheckpointError(
                f"{self.path} does not say what architecture it is; add --architecture "
                f"({', '.join(ARCHITECTURES.names())}) and its --arg NAME=VALUE"
            )
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
            module = build(architecture, len(card.classes), card.spec, arguments)
        load_state(module, self.state, f"{self.path} as {architecture} for {card.name}")
        name = "".join(c if c.isascii() and c.isalnum() else "-" for c in self.path.stem.lower()).strip("-")
        return Candidate(
            f"{name[:60].strip('-') or 'model'}-{self.sha256[:8]}", module, architecture, arguments, self.sha256
        )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors, or a .ckpt, .pt, .pth state dict (plain, or Lightning's `state_dict`, `hyper_parameters`).

    Raises:
        CheckpointError: if the file is missing, truncated, corrupt, too large or of another format.
        UnsafeCheckpoint: if it holds a pickle that would run code; it is not run.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"no model at {path}; give a submission folder or a weights file") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    if not 0 < status.st_size <= LARGEST_FILE:
        raise CheckpointError(f"{path} has {status.st_size} bytes; a checkpoint has 1 to {LARGEST_FILE}")
    if path.suffix == ".safetensors":
        state, header = _read_safetensors(path)
    elif path.suffix in _PICKLED:
        state, header = _read_pickled(path)
    else:
        raise CheckpointError(f"{path} is not one of .safetensors, {', '.join(_PICKLED)}; other formats are refused")
    return Checkpoint(path, state, files.sha256_file(path), header)


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights after comparing every name and shape.

    Raises:
        ArchitectureMismatch: listing missing, unexpected and misshapen weights.
        NonFiniteWeights: naming the first NaN or infinite weight.
    """
    wanted = module.state_dict()
    state = _without_prefix(state, set(wanted))
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, must be {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(state))
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or misshapen:
        lists = (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        parts = [f"{name} ({len(keys)}): {_shorten(keys)}" for name, keys in lists if keys]
        raise ArchitectureMismatch(f"{what} does not fit; " + "; ".join(parts))
    module.load_state_dict(
        {name: _as_weight(tensor, wanted[name], f"{what}: {name}") for name, tensor in state.items()}
    )


def _as_weight(tensor: Tensor, wanted: Tensor, what: str) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(f"{what} is a sparse, meta or quantized tensor; save plain weights")
    same = tensor.is_floating_point() == wanted.is_floating_point() and not tensor.is_complex()
    if not same:
        raise ArchitectureMismatch(f"{what} is {tensor.dtype}, must be like {wanted.dtype}")
    cast = tensor.to(wanted.dtype)
    if not cast.isfinite().all():
        raise NonFiniteWeights(f"{what}: weight holds NaN or infinity in {wanted.dtype}")
    return cast


def state_sha256(module: nn.Module) -> str:
    """Hex sha256 of a module's parameters and buffers with names, shapes and dtypes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata.get(HEADER, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error})") from error
    return state, _as_header(header)


def _read_pickled(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    _check_zip(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0][:200]
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UnsafeCheckpoint(
                f"{path} asks for more than weights on loading, so it was not loaded ({reason}); "
                "save the state_dict alone, best as .safetensors"
            ) from error
        raise CheckpointError(f"{path} is truncated or not a PyTorch checkpoint ({reason})") from error
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        raise CheckpointError(f"{path} is truncated or not a PyTorch checkpoint ({error})") from error
    header: Mapping[str, Any] = {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        header = _as_header(content.get("hyper_parameters", {}))
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no state dict (a mapping of names to tensors)")
    return {str(name): tensor for name, tensor in content.items()}, header


def _check_zip(path: Path) -> None:
    # torch.save stores members uncompressed; a compressed or repeated member is a bomb or a disguise.
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path} is a damaged zip archive ({error})") from error
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise UnsafeCheckpoint(f"{path} holds compressed or repeated members, which torch.save never writes")


def _as_header(data: Any) -> Mapping[str, Any]:
    """Accept only what names a model; a checkpoint may carry anything else, which is ignored."""
    if not isinstance(data, Mapping):
        return {}
    found: dict[str, Any] = {key: data[key] for key in ("architecture", "dataset") if isinstance(data.get(key), str)}
    if isinstance(arguments := data.get("arguments"), Mapping):
        plain = (str, bool, int, float)
        found["arguments"] = {k: v for k, v in arguments.items() if isinstance(k, str) and isinstance(v, plain)}
    return found


def _without_prefix(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Take what lies under a wrapper's prefix (`model.`, `model.module.`) if all that is wanted lies there.

    What lies beside it, such as the weights of a loss or a metric, does not belong to the model.
    """
    some = min(wanted)
    prefixes = [name.removesuffix(some) for name in state if name.endswith(f".{some}")]
    for prefix in prefixes:
        if all(prefix + name in state for name in wanted):
            return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return dict(state)


def _shorten(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
