"""Checkpoints of the CVPR 2021 code become avnet weights with the same answers, or a named error and no file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from click.testing import CliRunner, Result
from safetensors import safe_open
from torch import Tensor, nn

from avbench.checkpoint import HEADER, read_checkpoint
from avbench.cli import main
from avbench.datasets.cards import read_card
from avbench.datasets.splits import open_split
from avbench.store import read_rows

NAMES = ("sound", "frame", "classifier")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Paper(nn.Module):
    """The network of the paper, figure 6, restated in plain torch, with its three parts as the released code saves them."""

    def __init__(self, classes: int, fusion: str = "concat") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [1, 64, 64, 128, 128, 256, 256, 512, 512]
        for number in range(8):
            conv = nn.Conv1d(sizes[number], sizes[number + 1], kernel_size=3, stride=2, padding=1)
            layers += [conv, nn.BatchNorm1d(sizes[number + 1]), nn.ReLU()]
            if number % 2:
                layers.append(nn.MaxPool1d(2, 2))
        self.sound = nn.ModuleDict({"features": nn.Sequential(*layers)})
        self.frame = nn.ModuleDict({"features": nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])})
        self.classifier = nn.ModuleDict({"fc1": nn.Linear(1024 if fusion == "concat" else 512, classes)})
        self.fusion = fusion

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        sound = self.sound["features"](audio[:, None, :]).max(dim=2).values
        frames = [self.frame["features"]((frame - MEAN) / STD)[:, :, 0, 0] for frame in video.unbind(dim=1)]
        frame = torch.stack(frames).mean(dim=0)
        joint = torch.cat([frame, sound], dim=1) if self.fusion == "concat" else frame + sound
        return self.classifier["fc1"](joint)

    def save(self, folder: Path) -> list[Path]:
        for name in NAMES:
            torch.save(getattr(self, name).state_dict(), folder / f"{name}_best.pth")
        return [folder / f"{name}_best.pth" for name in NAMES]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def paper(classes: int, fusion: str = "concat") -> Paper:
    """A network whose every weight and statistic is its own, so that none can stand for another unseen."""
    model = Paper(classes, fusion)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.2, 0.6)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model.eval()


def convert(*words: object) -> Result:
    return CliRunner().invoke(main, ["convert", "cvpr21", *map(str, words)])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_converted_weights_give_the_logits_of_the_paper(tmp_path: Path, fusion: str) -> None:
    model, out = paper(11, fusion), tmp_path / "weights.safetensors"
    words = ["--fusion", fusion] if fusion != "concat" else []
    before = torch.get_rng_state()
    result = convert(*model.save(tmp_path), "--out", out, *words)
    assert result.exit_code == 0, result.output
    assert torch.equal(before, torch.get_rng_state())
    assert "11 classes" in result.output
    card = read_card("mit-music")
    audio, video = torch.rand(2, card.samples) * 2 - 1, torch.rand(2, card.frames, 3, card.height, card.width)
    found = read_checkpoint(out).candidate(card).module.eval()
    with torch.no_grad():
        expected = model(audio, video)
        torch.testing.assert_close(found(audio, video), expected, rtol=1e-4, atol=1e-5)
    assert (expected.amax(dim=1) - expected.amin(dim=1)).min() > 0.1, "the logits tell something"
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()[HEADER]) == {
            "architecture": "avnet",
            "arguments": {"fusion": fusion, "width": 64},
        }


def test_what_is_converted_can_be_evaluated(tmp_path: Path) -> None:
    card, out = read_card("synthav"), tmp_path / "weights.safetensors"
    model = paper(len(card.classes))
    assert convert(*model.save(tmp_path), "--out", out).exit_code == 0
    words = ["evaluate", out, "--dataset", "synthav", "--limit", 4, "--batch-size", 4, "--threat", "standard/XA"]
    result = CliRunner().invoke(main, [*map(str, words), "--attack", "fgsm", "--output-dir", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    [path] = (tmp_path / "runs").rglob("rows.parquet")
    rows: pd.DataFrame = read_rows(path)
    split = open_split("synthav", "test")
    ids = [row.id for row in split.lock.rows]
    clean = rows[rows["attack"] == "none"]
    assert len(clean) == 4
    batch = split.batch([ids.index(sample) for sample in clean["sample"]])
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(*batch.inputs), batch.labels, reduction="none")
    assert clean["loss"].to_list() == pytest.approx(losses.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    with torch.random.fork_rng():
        model = Paper(11)
    return {name: getattr(model, name).state_dict() for name in NAMES}


def refused(folder: Path, files: dict[str, object], name: str, *parts: str) -> None:
    """Convert after saving `files`, by name; the error is named, is one line, and leaves no file."""
    for role, content in files.items():
        torch.save(content, folder / f"{role}.pth")
    out = folder / "weights.safetensors"
    result = convert(*(folder / f"{role}.pth" for role in NAMES), "--out", out)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"{name}: "), result.stderr
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr
    assert not out.exists()


KEYS = [
    ("sound", "features.0.weight"),
    ("frame", "features.7.1.bn2.running_var"),
    ("classifier", "fc1.weight"),
    ("classifier", "fc1.bias"),
]


@pytest.mark.parametrize(("role", "key"), KEYS)
def test_a_missing_weight_is_named(tmp_path: Path, states: dict[str, dict[str, Tensor]], role: str, key: str) -> None:
    changed = {k: v for k, v in states[role].items() if k != key}
    refused(tmp_path, states | {role: changed}, "ArchitectureMismatch", f"{role}.pth as {role.upper()}", key, "missing")


@pytest.mark.parametrize("role", NAMES)
def test_an_extra_weight_is_named(tmp_path: Path, states: dict[str, dict[str, Tensor]], role: str) -> None:
    changed = states[role] | {"fc2.weight": torch.zeros(2)}
    refused(tmp_path, states | {role: changed}, "ArchitectureMismatch", f"{role}.pth", "unexpected (1): fc2.weight")


@pytest.mark.parametrize(("role", "key"), KEYS)
def test_a_weight_of_another_shape_is_named(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], role: str, key: str
) -> None:
    changed = states[role] | {key: torch.zeros(3, 2)}
    refused(
        tmp_path, states | {role: changed}, "ArchitectureMismatch", f"{role}.pth", "wrong shape", f"{key} is (3, 2)"
    )


@pytest.mark.parametrize("swap", [("sound", "frame"), ("frame", "classifier"), ("sound", "classifier")])
def test_swapped_files_are_told_their_order(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], swap: tuple[str, str]
) -> None:
    one, other = swap
    changed = states | {one: states[other], other: states[one]}
    refused(tmp_path, changed, "ArchitectureMismatch", "SOUND FRAME CLASSIFIER")


@pytest.mark.parametrize("role", NAMES)
@pytest.mark.parametrize("content", [{"features.0.weight": 3}, [1, 2], {}, 7], ids=str)
def test_what_is_no_state_dict_is_named(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], role: str, content: object
) -> None:
    refused(tmp_path, states | {role: content}, "CheckpointError", f"{role}.pth", "no state dict")


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path, states: dict[str, dict[str, Tensor]]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))  # type: ignore[return-value]

    refused(tmp_path, states | {"frame": {"features.0.weight": Evil()}}, "UnsafeCheckpoint", "frame.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, states: dict[str, dict[str, Tensor]], bad: float) -> None:
    changed = states["classifier"] | {"fc1.bias": torch.full((11,), bad)}
    refused(tmp_path, states | {"classifier": changed}, "NonFiniteWeights", "classifier.pth", "fc1.bias")


@pytest.mark.parametrize("size", [0, 10**12])
def test_an_absurd_number_of_classes_is_refused_without_making_room_for_it(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], size: int
) -> None:
    changed = {"fc1.weight": torch.zeros(1, 1024).expand(size, -1), "fc1.bias": torch.zeros(1).expand(size)}
    error = ("CheckpointError", "stored for it") if size else ("ArchitectureMismatch", f"fc1.bias is ({size},)")
    refused(tmp_path, states | {"classifier": changed}, *error)


def test_concat_weights_are_no_sum_weights(tmp_path: Path) -> None:
    files = paper(11).save(tmp_path)
    result = convert(*files, "--out", tmp_path / "w.safetensors", "--fusion", "sum")
    assert result.exit_code == 2
    assert "fc1.weight is (11, 1024), must be (11, 512)" in result.stderr


@pytest.mark.parametrize("place", ["weights.pth", "file/weights.safetensors", "folder.safetensors"])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], place: str
) -> None:
    for role in NAMES:
        torch.save(states[role], tmp_path / f"{role}.pth")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    result = convert(*(tmp_path / f"{role}.pth" for role in NAMES), "--out", tmp_path / place)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("BadOption: ")
    assert "--out" in result.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path, states: dict[str, dict[str, Tensor]]) -> None:
    refused(tmp_path, {role: states[role] for role in ("sound", "frame")}, "CheckpointError", "classifier.pth")
