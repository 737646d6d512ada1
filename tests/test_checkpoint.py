"""Checkpoints from strangers: what fits is loaded exactly, everything else is a named error, nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avbench.checkpoint import HEADER, read_checkpoint
from avbench.datasets.cards import read_card
from avbench.errors import ArchitectureMismatch, CheckpointError, NonFiniteWeights, UnsafeCheckpoint
from avbench.models import build
from avbench.sandbox import open_model

CARD = read_card("synthav")
ARGUMENTS = {"width": 4, "fusion": "film"}
HEAD = {"architecture": "avnet", "arguments": ARGUMENTS, "dataset": "synthav"}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("avnet", len(CARD.classes), CARD.spec, ARGUMENTS)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def layouts(state: dict[str, Tensor], folder: Path) -> dict[str, Path]:
    """The ways in which people save the same weights."""
    paths = {name: folder / f"{name}{suffix}" for name, suffix in
             {"safe": ".safetensors", "plain": ".pth", "legacy": ".pt", "lightning": ".ckpt", "wrapped": ".pt"}.items()}  # fmt: skip
    save_file(state, paths["safe"], {HEADER: json.dumps(HEAD)})
    torch.save(state, paths["plain"])
    torch.save(state, paths["legacy"], _use_new_zipfile_serialization=False)
    lightning = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper_parameters": HEAD, "epoch": 3}
    torch.save(lightning, paths["lightning"])
    torch.save({f"module.{k}": v for k, v in state.items()}, paths["wrapped"])
    return paths


def test_every_layout_gives_the_same_model(state: dict[str, Tensor], tmp_path: Path) -> None:
    for name, path in layouts(state, tmp_path).items():
        says = name in ("safe", "lightning")
        found = read_checkpoint(path).candidate(CARD, *(() if says else ("avnet", ARGUMENTS)))
        assert found.arguments == ARGUMENTS
        for key, tensor in found.module.state_dict().items():
            assert torch.equal(tensor, state[key]), (name, key)


def test_a_file_that_does_not_say_its_architecture_asks_for_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--architecture \(avnet, "):
        read_checkpoint(layouts(state, tmp_path)["plain"]).candidate(CARD)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: {"state_dict": {}, "callbacks": e}, lambda e: {"w": [e]}])
def test_a_pickle_with_code_inside_does_not_run(tmp_path: Path, wrap: Any, zipped: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    torch.save(wrap(Evil(canary)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpoint, match="more than weights"):
        read_checkpoint(path)
    assert not canary.exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["safe", "plain", "legacy", "lightning"])
def test_a_truncated_file_is_a_named_error_at_any_length(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    path = layouts(state, tmp_path)[name]
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(1000, len(content), len(content) // 20), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_a_corrupt_zip_member_or_garbage_is_a_named_error(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    for content in (b"garbage" * 100, b"PK\x03\x04" + b"\0" * 500, b"\x80\x02}q\x00."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_compressed_or_repeated_members_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    plain, bomb = layouts(state, tmp_path)["plain"], tmp_path / "bomb.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(UnsafeCheckpoint, match="compressed or repeated"):
        read_checkpoint(bomb)


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 1}, {"state_dict": {"a": "b"}}, torch.zeros(3)])
def test_what_is_not_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize("name", ["missing.pt", "model.onnx", "model.pt2", "folder.pt", "dangling.pt"])
def test_other_files_are_refused(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("model"):
        path.write_bytes(b"x")
    elif name.startswith("folder"):
        path.mkdir()
    elif name.startswith("dangling"):
        path.symlink_to(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_mismatch_lists_the_keys(state: dict[str, Tensor], tmp_path: Path) -> None:
    changed = {k: v for k, v in state.items() if k != "classifier.bias"}
    changed |= {"classifier.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}
    torch.save(changed, tmp_path / "m.pt")
    with pytest.raises(ArchitectureMismatch) as caught:
        read_checkpoint(tmp_path / "m.pt").candidate(CARD, "avnet", ARGUMENTS)
    for part in (
        "missing (1): classifier.bias",
        "unexpected (1): extra",
        "classifier.weight is (3, 3), must be (8, 32)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("arguments", [{"depth": 3}, {"fusion": "magic"}, {"width": "x"}, {"width": 0}])
def test_arguments_that_do_not_fit_are_a_named_error(
    state: dict[str, Tensor], tmp_path: Path, arguments: dict[str, Any]
) -> None:
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ArchitectureMismatch):
        read_checkpoint(tmp_path / "m.pt").candidate(CARD, "avnet", arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_weight_is_named(state: dict[str, Tensor], tmp_path: Path, bad: float) -> None:
    poisoned = state | {"classifier.bias": state["classifier.bias"].clone().index_fill(0, torch.tensor([2]), bad)}
    torch.save(poisoned, tmp_path / "m.pt")
    with pytest.raises(NonFiniteWeights, match=r"classifier\.bias"):
        read_checkpoint(tmp_path / "m.pt").candidate(CARD, "avnet", ARGUMENTS)


def odd_tensors(good: Tensor) -> dict[str, tuple[Tensor, type[Exception]]]:
    return {
        "half": (good.half(), type(None)),  # type: ignore[dict-item]
        "float64 beyond float32": (torch.full_like(good, 1e300, dtype=torch.float64), NonFiniteWeights),
        "complex": (good.to(torch.complex64), ArchitectureMismatch),
        "integer": (good.to(torch.int8), ArchitectureMismatch),
        "sparse": (good.to_sparse(), CheckpointError),
        "meta": (good.to("meta"), CheckpointError),
        "quantized": (torch.quantize_per_tensor(good, 0.1, 0, torch.qint8), CheckpointError),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(odd_tensors(torch.zeros(2))))
def test_odd_tensors_load_exactly_or_are_named_errors(state: dict[str, Tensor], tmp_path: Path, kind: str) -> None:
    tensor, error = odd_tensors(state["classifier.bias"])[kind]
    torch.save(state | {"classifier.bias": tensor}, tmp_path / "m.pt")
    if error is type(None):
        read_checkpoint(tmp_path / "m.pt").candidate(CARD, "avnet", ARGUMENTS)
        return
    with pytest.raises(error):
        read_checkpoint(tmp_path / "m.pt").candidate(CARD, "avnet", ARGUMENTS)


def test_what_lies_beside_the_model_in_a_lightning_checkpoint_is_left(state: dict[str, Tensor], tmp_path: Path) -> None:
    beside = {"criterion.weight": torch.ones(8), "val_acc.tp": torch.zeros(1)}
    odd = {"architecture": "avnet", "arguments": {**ARGUMENTS, 3: 4, "table": torch.ones(2)}}
    saved = {"state_dict": {f"model.module.{k}": v for k, v in state.items()} | beside, "hyper_parameters": odd}
    torch.save(saved, tmp_path / "real.ckpt")
    found = read_checkpoint(tmp_path / "real.ckpt").candidate(CARD)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.module.state_dict().items())


def test_a_link_that_the_user_names_is_followed_and_one_in_a_folder_is_not(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": state, "hyper_parameters": HEAD}, tmp_path / "real.ckpt")
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "real.ckpt")
    found, plain = (open_model(str(tmp_path / name))[0] for name in ("last.ckpt", "real.ckpt"))
    assert (found.id, found.identity) == (plain.id, plain.identity)
    with pytest.raises(CheckpointError, match="is a link"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_the_id_depends_on_the_content(state: dict[str, Tensor], tmp_path: Path) -> None:
    ids = set()
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        torch.save(state | {"classifier.bias": state["classifier.bias"] + i}, tmp_path / str(i) / "model.ckpt")
        ids.add(read_checkpoint(tmp_path / str(i) / "model.ckpt").candidate(CARD, "avnet", ARGUMENTS).id)
    assert len(ids) == 2
