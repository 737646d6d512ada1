"""Checkpoints of others' released code, as weights of an architecture here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import nn

from avbench import files
from avbench.checkpoint import HEADER, load_state, read_checkpoint
from avbench.errors import BadOption
from avbench.models.avnet import AVNet
from avbench.types import InputSpec

MOST_CLASSES = 10_000  # what a file may make us build
CVPR21_CLIP = InputSpec(sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224)


def convert_cvpr21(
    sound: Path, frame: Path, classifier: Path, out: Path, fusion: Literal["concat", "sum"] = "concat"
) -> int:
    """Join the three state dicts that the released code of [T21] saves into weights of avnet; return their classes.

    Only `concat` was released. Its classifier takes the frame's embedding first, ours the sound's, so the halves of its
    matrix change places. The network for `sum` has the same keys.

    Raises:
        BadOption: if `out` is no .safetensors file or cannot be written.
        CheckpointError: and its kin, naming the file and the weights that are missing, unexpected or misshapen.
    """
    if out.suffix != ".safetensors":
        raise BadOption(f"--out names a .safetensors file, not {out}")
    read = {
        role: read_checkpoint(path) for role, path in (("SOUND", sound), ("FRAME", frame), ("CLASSIFIER", classifier))
    }
    bias = read["CLASSIFIER"].state.get("fc1.bias")
    classes = 1 if bias is None else min(max(1, bias.numel()), MOST_CLASSES)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
        model = AVNet(classes, CVPR21_CLIP, fusion)
    released = {  # its networks, made of our layers
        "SOUND": model.audio,
        "FRAME": nn.ModuleDict({"features": nn.Sequential(*model.visual.children())}),
        "CLASSIFIER": nn.ModuleDict({"fc1": model.classifier}),
    }
    for role, network in released.items():
        load_state(network, read[role].state, f"{read[role].path} as {role} (their order is {' '.join(released)})")
    if fusion == "concat":
        weight = model.classifier.weight
        weight.data = weight.data.roll(weight.shape[1] // 2, dims=1)
    header = {"architecture": "avnet", "arguments": {"fusion": fusion, "width": 64}}
    metadata = {HEADER: json.dumps(header, sort_keys=True)}
    try:
        files.publish(out, lambda temporary: save_file(model.state_dict(), temporary, metadata))
    except OSError as error:
        raise BadOption(f"cannot write to {out} ({error.strerror}); choose another --out") from error
    return classes
