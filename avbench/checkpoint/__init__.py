"""Untrusted weights in, a checked nn.Module out; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avbench.checkpoint.pickled import plain, read_pickled
from avbench.checkpoint.safetensor import read_safetensors
from avbench.checkpoint.source import Source
from avbench.checkpoint.strict_json import parse
from avbench.datasets.cards import Card
from avbench.errors import ArchitectureMismatch, CheckpointError, NonFiniteWeights
from avbench.models import ARCHITECTURES, build

HEADER = "avbench"  # key of our JSON in a safetensors header
_PICKLED = (".ckpt", ".pt", ".pth")
_VALUES = (str, bool, int, float)


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
        what = f"{self.path} as {architecture} for {card.name}"
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
            with torch.device("meta"):  # no memory before it is known that the file fills it
                _fitting(self.state, build(architecture, len(card.classes), card.spec, arguments), what)
            module = build(architecture, len(card.classes), card.spec, arguments)
        load_state(module, self.state, what)
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
    with Source(path) as source:
        if path.suffix not in (".safetensors", *_PICKLED):
            formats = ", ".join((".safetensors", *_PICKLED))
            raise CheckpointError(f"{path} is not one of {formats}; other formats are refused")
        if path.suffix == ".safetensors":
            state, metadata = read_safetensors(source)
            header = parse(metadata.get(HEADER, "{}").encode(), f"what {path} says of its model")
        else:
            state, header = read_pickled(source)
        return Checkpoint(path, state, source.sha256(), _as_header(header))


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights after comparing every name and shape.

    Raises:
        ArchitectureMismatch: listing missing, unexpected and misshapen weights.
        NonFiniteWeights: naming the first NaN or infinite weight.
    """
    wanted = module.state_dict()
    fitting = _fitting(state, module, what)
    module.load_state_dict(
        {name: _as_weight(tensor, wanted[name], f"{what}: {name}") for name, tensor in fitting.items()}
    )


def _fitting(state: Mapping[str, Tensor], module: nn.Module, what: str) -> dict[str, Tensor]:
    """Choose the weights of a module by its names, and compare every name and shape."""
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
    return dict(state)


def _as_weight(tensor: Tensor, wanted: Tensor, what: str) -> Tensor:
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


def _as_header(data: Any) -> Mapping[str, Any]:
    """Accept only what names a model; a checkpoint may carry anything else, which is ignored."""
    if not isinstance(data, Mapping):
        return {}
    found: dict[str, Any] = {key: data[key] for key in ("architecture", "dataset") if isinstance(data.get(key), str)}
    given = data.get("arguments")
    if isinstance(arguments := given if isinstance(given, Mapping) else plain(given), Mapping):
        found["arguments"] = {name: value for name, value in arguments.items() if isinstance(value, _VALUES)}
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
