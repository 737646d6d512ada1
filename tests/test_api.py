"""Evaluating from Python, as the README shows it, and how the judge measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FRAMES, SAMPLES, SIDE, thinned
from torch import Tensor, nn

import avbench
from avbench.datasets.cards import read_card
from avbench.errors import RunConflict
from avbench.judge import perceptibility
from avbench.objectives import classification_loss, margin
from avbench.options import RunOptions
from avbench.types import AVInput


class Mine(nn.Module):
    """A model of a user: logits only."""

    def __init__(self) -> None:
        super().__init__()
        spec = read_card("synthav").spec
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.audio = nn.Linear(spec.samples, 8)
            self.video = nn.Linear(3 * spec.height * spec.width, 8)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.audio(audio) + self.video(video.mean(1).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "statement", thinned(["import avbench", "from avbench.attacks import get", "import avbench.cli"], 2)
)
def test_one_import_offers_everything_and_loads_torch_only_on_use(statement: str) -> None:
    code = f"""{statement}
import sys
assert "torch" not in sys.modules
import avbench
assert avbench.attacks.get("pgd:steps=20").attack.steps == 20
assert all(callable(getattr(avbench, name)) for name in avbench.__all__ if name != "attacks")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_users_module_is_evaluated_and_scored_in_a_few_lines(tmp_path: Path) -> None:
    options = RunOptions(limit=16, output_dir=tmp_path)
    run = avbench.evaluate_model(Mine(), dataset="synthav", suite="cvpr21-attack", options=options, quiet=True)
    scores = avbench.score(run)
    robust = scores[scores["metric"] == "robust-accuracy"]
    assert len(robust) == 3
    assert (robust["n"] == 16).all()
    assert scores["metric"].nunique() > 5
    changed = Mine()
    with torch.no_grad():
        changed.audio.bias += 1
    assert avbench.evaluate_model(changed, dataset="synthav", suite="cvpr21-attack", options=options, quiet=True) != run


def test_a_setting_of_a_module_is_part_of_its_identity(tmp_path: Path) -> None:
    class Clipped(Mine):
        def __init__(self, limit: float) -> None:
            super().__init__()
            self.limit = limit

        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio.clamp(-self.limit, self.limit), video)

    options = RunOptions(limit=4, output_dir=tmp_path)
    avbench.evaluate_model(Clipped(9.0), suite="quick", options=options, quiet=True)
    with pytest.raises(RunConflict):
        avbench.evaluate_model(Clipped(8.0), suite="quick", options=options, quiet=True)


def test_a_module_is_given_back_as_it_was(tmp_path: Path) -> None:
    model = Mine()
    model.video.eval().weight.requires_grad_(False)
    avbench.evaluate_model(model, suite="quick", options=RunOptions(limit=4, output_dir=tmp_path), quiet=True)
    assert model.training
    assert not model.video.training
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]


def test_perceptibility_is_its_formulas() -> None:
    clean = AVInput(torch.full((2, SAMPLES), 0.5), torch.full((2, FRAMES, 3, SIDE, SIDE), 0.5))
    moved = AVInput(clean.audio.clone(), clean.video.clone())
    moved.audio[0] += 0.05
    moved.video[0] -= 0.1
    found = {name: column.tolist() for name, column in perceptibility(clean, moved).items()}
    expected = {
        "audio_linf": 0.05, "audio_l2": 0.05 * SAMPLES**0.5, "audio_snr_db": 20, "audio_db_x": -20,
        "video_linf": 0.1, "video_l2": 0.1 * (FRAMES * 3 * SIDE**2) ** 0.5, "video_psnr_db": 20,
    }  # fmt: skip
    assert {name: column[0] for name, column in found.items()} == pytest.approx(expected, rel=1e-5)
    unchanged = {"audio_snr_db": torch.inf, "audio_db_x": -torch.inf, "video_psnr_db": torch.inf}
    assert {name: column[1] for name, column in found.items()} == {**dict.fromkeys(expected, 0.0), **unchanged}


def test_the_margin_is_positive_exactly_when_the_answer_is_right_and_a_tie_is_wrong() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 1.0], [2.0, 2.0, 1.0]])
    assert margin(logits, torch.tensor([1, 1, 0])).tolist() == [1.0, -1.0, 0.0]
    many = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert margin(logits - 1.5, many).tolist() == [-1.5, -0.5, -0.5]
    assert classification_loss(logits, many).shape == (3,)
