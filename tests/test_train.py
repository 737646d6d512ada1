"""Training: a recipe decides the weights, a stopped run continues to the same ones, bad recipes are named errors."""

from __future__ import annotations

import csv
import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from avbench.attacks.fgsm import FGSM
from avbench.checkpoint import HEADER, read_checkpoint
from avbench.datasets import Sample
from avbench.datasets.cards import read_card
from avbench.datasets.splits import open_split, to_batch
from avbench.defenses import Moment
from avbench.defenses import train as training
from avbench.defenses.none import NoDefense
from avbench.defenses.optimizer import parts
from avbench.defenses.recipe import Augmentation, Recipe, read_recipe
from avbench.defenses.train import Trainer, train
from avbench.errors import RecipeError, RunConflict
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.threats import find_threats
from avbench.threats.region import Region
from avbench.types import Batch

RECIPE = Recipe(
    dataset="synthav", architecture="avnet", arguments={"width": 4}, epochs=3, batch_size=16, optimizer="adamw",
    augmentation=Augmentation(shift_audio=100, shift_video=2, flip_video=True, invert_audio=True),
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
SUBMISSIONS = sorted((ROOT / "submissions").glob("*--*"))


@pytest.fixture(autouse=True)
def _small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "load", lambda split: _first(split.name))


@functools.cache
def _first(name: str) -> list[Sample]:
    split = open_split("synthav", name)
    return [split.stored(i) for i in range(64)]


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path)


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two = (weights(train(RECIPE, tmp_path / name, quiet=True)) for name in ("a", "b"))
    other = weights(train(RECIPE.model_copy(update={"seed": 1}), tmp_path / "c", quiet=True))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("epoch", "schedule"),
    [
        (2, "cosine"),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in ((1, "step"), (1, "cosine"), (2, "step"))),
    ],
)
def test_a_stopped_training_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, schedule: str
) -> None:
    recipe = RECIPE.model_copy(update={"schedule": schedule, "step_epochs": 1})
    calm = weights(train(recipe, tmp_path / "calm", quiet=True))
    losses = NoDefense.loss
    steps = iter(range(1000))

    def stop(self: NoDefense, *given: object) -> Tensor:
        if next(steps) == 4 * epoch + 2:  # in the middle of an epoch
            raise KeyboardInterrupt
        return losses(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(NoDefense, "loss", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", quiet=True)
    monkeypatch.setattr(NoDefense, "loss", losses)
    resumed = weights(train(recipe, tmp_path / "stopped", quiet=True))
    assert all(torch.equal(calm[name], resumed[name]) for name in calm)
    assert not (tmp_path / "stopped" / "state.pt").exists()


def test_training_learns_and_its_weights_say_what_they_are(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 8, "schedule": "cosine", "augmentation": Augmentation()})
    path = train(recipe, tmp_path, quiet=True)
    log = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert len(log) == 8
    assert float(log[-1]["loss"]) < 0.8 * float(log[0]["loss"])
    checkpoint = read_checkpoint(path)
    checkpoint.candidate(read_card("synthav"))
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert Recipe.model_validate(header["recipe"]) == recipe
    assert header["metrics"]["val_accuracy"] == float(log[-1]["val_accuracy"])
    figure = (tmp_path / "log.svg").read_text()
    assert all(f">{name}</text>" in figure for name in ("train accuracy", "val accuracy", "val fgsm accuracy"))
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")


def test_finished_weights_are_not_overwritten_unless_fresh(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    train(recipe, tmp_path, quiet=True)
    with pytest.raises(RunConflict, match="--fresh"):
        train(recipe, tmp_path, quiet=True)
    train(recipe, tmp_path, fresh=True, quiet=True)


def test_another_recipe_does_not_continue_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.Trainer, "_finish", lambda self: self.weights)
    train(RECIPE.model_copy(update={"epochs": 1}), tmp_path, quiet=True)
    with pytest.raises(RunConflict, match="another recipe"):
        train(RECIPE.model_copy(update={"epochs": 4}), tmp_path, quiet=True)


def test_a_nan_loss_stops_says_the_step_and_keeps_the_last_good_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, steps = NoDefense.loss, iter(range(1000))

    def diverge(self: NoDefense, *given: object) -> Tensor:
        return losses(self, *given) * (math.nan if next(steps) == 6 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(NoDefense, "loss", diverge)
    with pytest.raises(RecipeError, match="nan at epoch 1 step 2"):
        train(RECIPE, tmp_path, quiet=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert len(state["log"]) == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.slow
def test_the_logged_accuracies_are_those_of_the_weights(tmp_path: Path) -> None:
    path = train(RECIPE.model_copy(update={"ema": 0.5}), tmp_path, quiet=True)
    log = list(csv.DictReader((tmp_path / "log.csv").open()))[-1]
    card = read_card("synthav")
    candidate = read_checkpoint(path).candidate(card)
    batch = to_batch(_first("val"), card)
    victim = Victim(candidate.module, 8, torch.device("cpu"))
    oracle = Oracle(victim, batch, ("audio", "video"), {})
    [threat] = find_threats("XAV:linf:0.006:linf:0.006")
    clips = FGSM().run(oracle, batch, Region(threat, batch.inputs), Rng(0, "", batch.ids))
    for name, inputs in {"val_accuracy": batch.inputs, "val_fgsm_accuracy": clips}.items():
        right = (candidate.module(*inputs).argmax(dim=1) == batch.labels).float().mean().item()
        assert float(log[name]) == pytest.approx(100 * right)
    assert log["val_accuracy"] != log["val_fgsm_accuracy"]


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path: Path) -> None:
    gradients = []
    for parts_of in (1, 4):
        recipe = RECIPE.model_copy(update={"accumulate": parts_of, "batch_size": 15})
        trainer = Trainer(recipe, tmp_path, torch.device("cpu"), False, True)
        trainer.model.eval()  # in training mode batch norm would see the parts
        batch = to_batch(_first("train")[:15], trainer.card)
        loss = trainer._step(batch, trainer._moment(0, "", batch.ids))
        gradients.append((loss, [p.grad for p in trainer.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_batch_is_split_into_as_many_parts_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, losses = [], NoDefense.loss

    def count(self: NoDefense, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        assert batch.ids == moment.rng.ids
        sizes.append(len(batch.ids))
        return losses(self, model, batch, moment)

    monkeypatch.setattr(NoDefense, "loss", count)
    train(RECIPE.model_copy(update={"accumulate": 3, "batch_size": 15, "epochs": 1}), tmp_path, quiet=True)
    assert sizes == [5] * 12 + [2, 2]


def test_averaged_weights_are_what_is_submitted(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    class Watched(Trainer):
        def _average(self) -> None:
            super()._average()
            seen.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})

    recipe = RECIPE.model_copy(update={"ema": 0.9, "epochs": 1})
    trainer = Watched(recipe, tmp_path, torch.device("cpu"), False, True)
    mean = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    found = weights(trainer.run())
    for state in seen:
        mean = {n: 0.9 * mean[n] + 0.1 * t if t.is_floating_point() else t for n, t in state.items()}
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-6)
    assert not torch.equal(found["classifier.weight"], seen[-1]["classifier.weight"])


@pytest.mark.slow
def test_mixed_precision_trains_nearly_the_same_float32_weights(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1, "optimizer": "sgd"})
    full, mixed = (
        weights(train(recipe.model_copy(update={"precision": precision}), tmp_path / precision, quiet=True))
        for precision in ("float32", "bfloat16")
    )
    name = "classifier.weight"
    assert mixed[name].dtype == torch.float32
    assert not torch.equal(full[name], mixed[name])
    torch.testing.assert_close(full[name], mixed[name], rtol=0, atol=1e-3)


KILLED = """
import os, pathlib, sys
from avbench.datasets.splits import open_split
from avbench.defenses import train as training
from avbench.defenses.none import NoDefense
training.load = lambda split: [open_split("synthav", split.name).stored(i) for i in range(64)]
losses, steps, killed = NoDefense.loss, iter(range(1000)), int(sys.argv[3])
def loss(self, *given):
    if next(steps) == killed:
        os.kill(os.getpid(), 9)
    return losses(self, *given)
NoDefense.loss = loss
recipe = training.Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())
training.train(recipe, pathlib.Path(sys.argv[2]), quiet=True)
"""


@pytest.mark.slow
def test_a_training_killed_by_the_system_continues_to_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "recipe").write_text(RECIPE.model_copy(update={"ema": 0.5, "accumulate": 2}).model_dump_json())

    def call(folder: str, kill: int) -> int:
        words = [sys.executable, "-c", KILLED, str(tmp_path / "recipe"), str(tmp_path / folder), str(kill)]
        return subprocess.run(words, check=False, capture_output=True).returncode

    assert call("calm", -1) == 0
    assert call("killed", 11) == -9  # in the middle of the second epoch
    assert call("killed", 3) == -9  # and again, in the middle of the same
    assert len(torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["log"]) == 1
    assert call("killed", -1) == 0
    names = ("weights.safetensors", "log.csv", "log.svg")
    assert all((tmp_path / "calm" / n).read_bytes() == (tmp_path / "killed" / n).read_bytes() for n in names)


def test_each_part_has_its_own_learning_rate() -> None:
    recipe = Recipe(dataset="synthav", architecture="avnet", learning_rate={"audio": 1, "visual": 2, "fusion": 3})
    with torch.random.fork_rng():
        model = training.build("avnet", 8, read_card("synthav").spec, {"width": 4})
    found = {id(p): group["lr"] for group in parts(recipe, model) for p in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == {"audio": 1, "visual": 2}.get(name.partition(".")[0], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epoch": 3}, "epoch"), ({"epochs": 0}, "epochs"), ({"batch_size": "x"}, "batch_size"), ({"optimizer": "magic"}, "optimizer"),
     ({"learning_rate": {"audio": -1, "visual": 1, "fusion": 1}}, "learning_rate.audio"), ({"ema": 1.0}, "ema"),
     ({"precision": "float16"}, "precision"), ({"batch_size": 8, "accumulate": 5}, "accumulate 5")],
)  # fmt: skip
def test_a_bad_recipe_names_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"dataset": "synthav", "architecture": "avnet", **change}))
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00", "dataset: x"])
def test_what_is_no_recipe_is_a_named_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError):
        read_recipe(tmp_path / "r.yaml")


def test_a_batch_larger_than_the_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="larger than the 64"):
        train(RECIPE.model_copy(update={"batch_size": 65}), tmp_path, quiet=True)


@pytest.mark.parametrize("folder", SUBMISSIONS, ids=lambda p: p.name)
def test_committed_weights_carry_their_committed_recipe(folder: Path) -> None:
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert Recipe.model_validate(header["recipe"]) == read_recipe(ROOT / "recipes" / f"{folder.name}.yaml")
