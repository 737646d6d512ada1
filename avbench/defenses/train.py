"""The training loop: a recipe in, weights with their recipe in the header out; a stopped run continues."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from avbench import files
from avbench.checkpoint import HEADER
from avbench.datasets import Sample
from avbench.datasets.cards import read_card
from avbench.datasets.splits import load, open_split, read_ahead, to_batch
from avbench.defenses import DEFENSES, Defense
from avbench.device import find_device
from avbench.errors import BadOption, RecipeError, RunConflict
from avbench.models import build
from avbench.oracle import margin
from avbench.types import Batch

Positive = Annotated[float, Field(gt=0)]


class LearningRate(BaseModel):
    """Learning rates of the parts; a parameter belongs to the part that its name begins with."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    audio: Positive
    visual: Positive
    fusion: Positive  # everything else


class Augmentation(BaseModel):
    """Random changes of each training clip that keep its label."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shift_audio: Annotated[int, Field(ge=0)] = 0  # samples, either way, around the clip's ends
    shift_video: Annotated[int, Field(ge=0)] = 0  # pixels, each way and axis
    invert_audio: bool = False  # change the sign of the waveform
    flip_video: bool = False  # mirror left-right and upside down

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Change one stored sample."""
        audio, video = sample.audio, sample.video
        if self.shift_audio:
            audio = np.roll(audio, random.integers(-self.shift_audio, self.shift_audio + 1))
        if self.invert_audio and random.random() < 0.5:
            audio = np.maximum(audio, -32767) * np.int16(-1)
        if self.shift_video:
            shift = random.integers(-self.shift_video, self.shift_video + 1, 2)
            video = np.roll(video, tuple(shift), axis=(2, 3))
        if self.flip_video:
            for axis in (2, 3):
                video = np.flip(video, axis) if random.random() < 0.5 else video
        return sample._replace(audio=audio, video=video)


def _same_everywhere(rate: Any) -> Any:
    """Let a recipe give one number for all parts."""
    return dict.fromkeys(("audio", "visual", "fusion"), rate) if isinstance(rate, int | float) else rate


class Recipe(BaseModel):
    """All that decides a trained model, with the training defaults of [T21] where they are not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str
    architecture: str
    arguments: dict[str, str | bool | int | float] = Field(default_factory=dict)
    defense: str = "none"
    defense_arguments: dict[str, str | bool | int | float] = Field(default_factory=dict)
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 48
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[LearningRate, BeforeValidator(_same_everywhere)] = LearningRate(
        audio=1e-3, visual=1e-4, fusion=1e-3
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine"] = "step"  # cosine begins with a linear warm-up over a tenth of the steps
    step_epochs: Annotated[int, Field(ge=1)] = 30  # the learning rate falls tenfold every so many epochs
    augmentation: Augmentation = Augmentation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: naming the key that is wrong.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:5])
        raise RecipeError(f"{path}: {wrong}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error


def train(recipe: Recipe, folder: Path, device: str = "auto", fresh: bool = False, quiet: bool = False) -> Path:
    """Train a recipe and return the path of its weights; the same call again continues after the last full epoch.

    Raises:
        RunConflict: if `folder` holds finished weights or another recipe, and not `fresh`.
        RecipeError: if the recipe cannot be built, or training diverges (the last good epoch is kept).
    """
    return Trainer(recipe, folder, find_device(device), fresh, quiet).run()


class Trainer:
    """One recipe, one folder: weights.safetensors, log.csv, and state.pt while it is not finished."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device, fresh: bool, quiet: bool) -> None:
        self.recipe, self.folder, self.device, self.quiet = recipe, folder, device, quiet
        self.weights, self.state = folder / "weights.safetensors", folder / "state.pt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadOption(f"cannot write to {folder} ({error.strerror}); choose another --output-dir") from error
        if fresh:
            for path in (self.weights, self.state):
                path.unlink(missing_ok=True)
        if self.weights.exists():
            raise RunConflict(f"{self.weights} exists; choose another --output-dir, or --fresh to train again")
        card = self.card = read_card(recipe.dataset)
        self.defense = _defense(recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = self.defense.wrap(build(recipe.architecture, len(card.classes), card.spec, recipe.arguments))
        self.model.to(device)
        self.optimizer = _optimizer(recipe, self.model)
        self.log: list[dict[str, float]] = []

    def run(self) -> Path:
        """Train the epochs that are missing, then write the weights."""
        self._resume()
        data = load(open_split(self.recipe.dataset, "train"))
        held_out = load(open_split(self.recipe.dataset, "val")) if "val" in self.card.splits else []
        if len(data) < self.recipe.batch_size:
            raise RecipeError(f"batch_size {self.recipe.batch_size} is larger than the {len(data)} training samples")
        epochs = range(len(self.log), self.recipe.epochs)
        with torch.random.fork_rng():
            for epoch in track(epochs, "train", disable=self.quiet, transient=True):
                loss, right = self._epoch(epoch, data)
                self.log.append({"epoch": epoch, "loss": loss, "train_accuracy": right})
                if held_out:
                    self.log[-1]["val_accuracy"] = self._accuracy(held_out)
                self._save()
        return self._finish()

    def _epoch(self, epoch: int, data: Sequence[Sample]) -> tuple[float, float]:
        """Train one epoch; return mean loss in nats and accuracy in percent."""
        self.model.train()
        torch.manual_seed(self.recipe.seed * 100_003 + epoch)  # dropout and the like; restored by a resume
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.recipe.seed * 100_003 + epoch))
        total, steps = 0.0, 0
        random = np.random.default_rng([self.recipe.seed, epoch])
        chunks = [chunk for chunk in torch.split(order, self.recipe.batch_size) if len(chunk) > 1]  # for batch norm

        def read(chunk: Tensor) -> Batch:
            return to_batch([self.recipe.augmentation(data[i], random) for i in chunk.tolist()], self.card)

        for batch in read_ahead(read, chunks):
            batch = batch.to(self.device)
            self._set_rate(epoch + steps * self.recipe.batch_size / len(data))
            loss = self.defense.loss(self.model, batch)
            if not math.isfinite(value := loss.item()):
                raise RecipeError(
                    f"the loss is {value} at epoch {epoch} step {steps}; the last good epoch is in {self.state}; "
                    "lower the learning rate"
                )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total, steps = total + value, steps + 1
        return total / steps, self._accuracy(data[:1000])

    def _set_rate(self, epoch: float) -> None:
        """Set the learning rates for a moment of training, in epochs."""
        if self.recipe.schedule == "step":
            factor = 0.1 ** (int(epoch) // self.recipe.step_epochs)
        else:
            done = epoch / self.recipe.epochs
            factor = min(10 * done, 0.5 * (1 + math.cos(math.pi * done))) + 1e-3
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    @torch.no_grad()
    def _accuracy(self, data: Sequence[Sample]) -> float:
        """Clean accuracy in percent."""
        self.model.eval()
        right = 0
        for start in range(0, len(data), 64):
            batch = to_batch(data[start : start + 64], self.card).to(self.device)
            right += int((margin(self.model(*batch.inputs), batch.labels) > 0).sum())
        return 100 * right / len(data)

    def _resume(self) -> None:
        if not self.state.exists():
            return
        try:
            state = torch.load(self.state, map_location=self.device, weights_only=True)
            recipe = state["recipe"]
        except Exception as error:  # a damaged file makes torch.load raise nearly anything
            raise RunConflict(f"{self.state} cannot be continued ({error}); use --fresh") from error
        if recipe != self.recipe.model_dump_json():
            raise RunConflict(f"{self.folder} holds another recipe's training; choose another --output-dir or --fresh")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log = state["log"]

    def _save(self) -> None:
        state = {
            "recipe": self.recipe.model_dump_json(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log": self.log,
        }
        files.publish(self.state, lambda temporary: torch.save(state, temporary))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.log[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.log)
        files.publish_text(self.folder / "log.csv", text.getvalue())

    def _finish(self) -> Path:
        header = {
            "architecture": self.recipe.architecture,
            "arguments": self.recipe.arguments,
            "dataset": self.recipe.dataset,
            "recipe": self.recipe.model_dump(),
            "metrics": self.log[-1],
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        metadata = {HEADER: json.dumps(header, sort_keys=True)}
        files.publish(self.weights, lambda temporary: save_file(tensors, temporary, metadata))
        self.state.unlink(missing_ok=True)
        return self.weights


def _defense(recipe: Recipe) -> Defense:
    try:
        return DEFENSES.get(recipe.defense)(**recipe.defense_arguments)
    except TypeError as error:
        raise RecipeError(
            f"defense {recipe.defense} cannot be made from {recipe.defense_arguments}: {error}"
        ) from error


def _parts(recipe: Recipe, model: nn.Module) -> Iterator[dict[str, Any]]:
    rates = recipe.learning_rate.model_dump()
    parts: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        parts[next((part for part in ("audio", "visual") if name.startswith(f"{part}.")), "fusion")].append(parameter)
    for part, parameters in parts.items():
        if parameters:
            yield {"params": parameters, "lr": rates[part], "initial_lr": rates[part]}


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(list(_parts(recipe, model)), weight_decay=recipe.weight_decay)
    parts = list(_parts(recipe, model))
    return torch.optim.SGD(parts, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
