"""Training: a recipe decides the weights, a stopped run continues to the same ones, bad recipes are named errors."""

from __future__ import annotations

import csv
import functools
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from avbench.checkpoint import HEADER, read_checkpoint
from avbench.datasets import Sample
from avbench.datasets.cards import read_card
from avbench.datasets.splits import open_split
from avbench.defenses import train as training
from avbench.defenses.none import NoDefense
from avbench.defenses.train import Augmentation, Recipe, read_recipe, train
from avbench.errors import RecipeError, RunConflict

RECIPE = Recipe(
    dataset="synthav", architecture="avnet", arguments={"width": 4}, epochs=3, batch_size=16, optimizer="adamw",
    augmentation=Augmentation(shift_audio=100, shift_video=2, flip_video=True, invert_audio=True),
)  # fmt: skip
SUBMISSIONS = sorted((Path(__file__).resolve().parent.parent / "submissions").glob("*--*"))


@pytest.fixture(autouse=True)
def _small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "load", lambda split: _first(split.name))


@functools.cache
def _first(name: str) -> list[Sample]:
    split = open_split("synthav", name)
    return [split.stored(i) for i in range(64)]


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two = (weights(train(RECIPE, tmp_path / name, quiet=True)) for name in ("a", "b"))
    other = weights(train(RECIPE.model_copy(update={"seed": 1}), tmp_path / "c", quiet=True))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stopped_training_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, schedule: str
) -> None:
    recipe = RECIPE.model_copy(update={"schedule": schedule, "step_epochs": 1})
    calm = weights(train(recipe, tmp_path / "calm", quiet=True))
    losses = NoDefense.loss
    steps = iter(range(1000))

    def stop(self: NoDefense, model: object, batch: object) -> Tensor:
        if next(steps) == 4 * epoch + 2:  # in the middle of an epoch
            raise KeyboardInterrupt
        return losses(self, model, batch)  # type: ignore[arg-type]

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


def test_finished_weights_are_not_overwritten_unless_fresh(tmp_path: Path) -> None:
    train(RECIPE, tmp_path, quiet=True)
    with pytest.raises(RunConflict, match="--fresh"):
        train(RECIPE, tmp_path, quiet=True)
    train(RECIPE, tmp_path, fresh=True, quiet=True)


def test_another_recipe_does_not_continue_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.Trainer, "_finish", lambda self: self.weights)
    train(RECIPE, tmp_path, quiet=True)
    with pytest.raises(RunConflict, match="another recipe"):
        train(RECIPE.model_copy(update={"epochs": 4}), tmp_path, quiet=True)


def test_a_nan_loss_stops_says_the_step_and_keeps_the_last_good_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, steps = NoDefense.loss, iter(range(1000))

    def diverge(self: NoDefense, model: object, batch: object) -> Tensor:
        return losses(self, model, batch) * (math.nan if next(steps) == 6 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(NoDefense, "loss", diverge)
    with pytest.raises(RecipeError, match="nan at epoch 1 step 2"):
        train(RECIPE, tmp_path, quiet=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert len(state["log"]) == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_each_part_has_its_own_learning_rate() -> None:
    recipe = Recipe(dataset="synthav", architecture="avnet", learning_rate={"audio": 1, "visual": 2, "fusion": 3})
    with torch.random.fork_rng():
        model = training.build("avnet", 8, read_card("synthav").spec, {"width": 4})
    found = {id(p): group["lr"] for group in training._parts(recipe, model) for p in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == {"audio": 1, "visual": 2}.get(name.partition(".")[0], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epoch": 3}, "epoch"), ({"epochs": 0}, "epochs"), ({"batch_size": "x"}, "batch_size"), ({"optimizer": "magic"}, "optimizer"),
     ({"learning_rate": {"audio": -1, "visual": 1, "fusion": 1}}, "learning_rate.audio")],
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
    assert Recipe.model_validate(header["recipe"]) == read_recipe(folder / "recipe.yaml")
