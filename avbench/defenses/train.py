"""The training loop: a recipe in, weights with their recipe in the header out; a stopped run continues."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avbench import figures, files
from avbench.attacks.fgsm import FGSM
from avbench.checkpoint import HEADER
from avbench.datasets import Sample
from avbench.datasets.cards import read_card
from avbench.datasets.splits import load, open_split, read_ahead, to_batch
from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.common import CHUNK, STUDIED, Clips, craft, unwrap
from avbench.defenses.optimizer import make_optimizer
from avbench.defenses.recipe import Recipe as Recipe
from avbench.defenses.recipe import read_recipe as read_recipe
from avbench.device import deterministic, find_device
from avbench.errors import BadOption, NonFiniteOutput, RecipeError, RunConflict
from avbench.models import build
from avbench.objectives import margin
from avbench.progress import track
from avbench.rng import Rng
from avbench.threats import find_threats
from avbench.types import Batch

[EARLY] = find_threats("standard/XAV")  # of the accuracy under FGSM that is logged


def train(recipe: Recipe, folder: Path, device: str = "auto", fresh: bool = False, quiet: bool = False) -> Path:
    """Train a recipe and return the path of its weights; the same call again continues after the last full epoch.

    Raises:
        RunConflict: if `folder` holds finished weights or another recipe, and not `fresh`.
        RecipeError: if the recipe cannot be built, or training diverges (the last good epoch is kept).
    """
    return Trainer(recipe, folder, find_device(device), fresh, quiet).run()


class Trainer:
    """One recipe, one folder: weights.safetensors, log.csv with its figure, and state.pt while it is not finished."""

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
            model = build(recipe.architecture, len(card.classes), card.spec, recipe.arguments)
            self.model = self.defense.wrap(model, card).to(device)
        self.average = copy.deepcopy(self.model) if recipe.ema else None
        self.optimizer = make_optimizer(recipe, self.model)
        self.log: list[dict[str, float]] = []

    def run(self) -> Path:
        """Train the epochs that are missing, then write the weights."""
        self._resume()
        data = load(open_split(self.recipe.dataset, "train"))
        held_out = load(open_split(self.recipe.dataset, "val")) if "val" in self.card.splits else []
        if len(data) < self.recipe.batch_size:
            raise RecipeError(f"batch_size {self.recipe.batch_size} is larger than the {len(data)} training samples")
        train, val = (Clips(samples, self.card, self.device) for samples in (data, held_out))
        epochs = range(len(self.log), self.recipe.epochs)
        with torch.random.fork_rng(), deterministic(self.device):
            if not self.log:
                self._study(train, val)
            for epoch in track(epochs, "train", quiet=self.quiet):
                try:
                    self.log.append({"epoch": epoch, "loss": self._epoch(epoch, data)})
                    self._study(train, val)
                    self.log[-1] |= self._early_metrics(train, val)
                except NonFiniteOutput as error:
                    raise self._diverged(f"at epoch {epoch} {error}") from error
                self._save()
        return self._finish()

    def _diverged(self, what: str) -> RecipeError:
        return RecipeError(f"{what}; the last good epoch is in {self.state}; lower the learning rate")

    def _moment(self, epoch: float, purpose: str, ids: tuple[str, ...] = ()) -> Moment:
        return Moment(epoch / self.recipe.epochs, len(self.card.classes), Rng(self.recipe.seed, purpose, ids))

    @torch.no_grad()
    def _study(self, train: Clips, val: Clips) -> None:
        """Let the defense look at clean clips through the model as it is after the epochs in the log."""
        moment = self._moment(len(self.log), f"study {len(self.log)}")
        for model in filter(None, (self.model, self.average)):
            self.defense.study(model.eval(), train, val, moment)

    def _epoch(self, epoch: int, data: Sequence[Sample]) -> float:
        """Train one epoch; return the mean loss in nats."""
        self.model.train()
        torch.manual_seed(self.recipe.seed * 100_003 + epoch)  # dropout and the like; restored by a resume
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.recipe.seed * 100_003 + epoch))
        total, steps = 0.0, 0
        random = np.random.default_rng([self.recipe.seed, epoch])
        chunks = [chunk for chunk in torch.split(order, self.recipe.batch_size) if len(chunk) > 1]  # for batch norm

        def read(chunk: Tensor) -> Batch:
            return to_batch([self.recipe.augmentation(data[i], random) for i in chunk.tolist()], self.card)

        for batch in read_ahead(read, chunks):
            now = epoch + steps * self.recipe.batch_size / len(data)
            self._set_rate(now)
            value = self._step(batch, self._moment(now, f"epoch {epoch}", batch.ids))
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value} at epoch {epoch} step {steps}")
            self.optimizer.step()
            self._average()
            total, steps = total + value, steps + 1
        return total / steps

    def _step(self, batch: Batch, moment: Moment) -> float:
        """Gather a batch's gradient, part by part; return its mean loss in nats."""
        self.optimizer.zero_grad()
        total, count = 0.0, min(self.recipe.accumulate, len(batch.ids) // 2)  # two samples a part, for batch norm
        for part in torch.arange(len(batch.ids)).tensor_split(count):
            some = slice(int(part[0]), int(part[-1]) + 1)
            clips = Batch(batch.ids[some], batch.inputs.pick(some), batch.labels[some]).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
                found = self.defense.loss(self.model, clips, moment._replace(rng=replace(moment.rng, ids=clips.ids)))
            loss = found * (len(part) / len(batch.ids))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights, batch norm's statistics among them, toward the present ones."""
        if self.average is None:
            return
        states = (self.average.state_dict().values(), self.model.state_dict().values())
        for mean, present in zip(*states, strict=True):
            mean.lerp_(present, 1 - self.recipe.ema) if mean.is_floating_point() else mean.copy_(present)

    @property
    def submitted(self) -> nn.Module:
        """The model whose weights are written."""
        return unwrap(self.average or self.model)

    def _set_rate(self, epoch: float) -> None:
        """Set the learning rates for a moment of training, in epochs."""
        if self.recipe.schedule == "step":
            factor = 0.1 ** (int(epoch) // self.recipe.step_epochs)
        else:
            done = epoch / self.recipe.epochs
            factor = min(10 * done, 0.5 * (1 + math.cos(math.pi * done))) + 1e-3
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def _early_metrics(self, train: Clips, val: Clips) -> dict[str, float]:
        """Accuracies in percent: of clips of training, of val, and of 64 clips of val under FGSM at XAV 0.006."""
        found = {"train_accuracy": self._accuracy(train.first(STUDIED))}
        if val.samples:
            found["val_accuracy"] = self._accuracy(val.first(len(val.samples)))
            [few] = val.first(CHUNK)
            moment = self._moment(len(self.log), "early", few.ids)
            clips = craft(self.submitted, few, FGSM(), EARLY, moment)
            found["val_fgsm_accuracy"] = self._accuracy([replace(few, inputs=clips)])
        return found

    @torch.no_grad()
    def _accuracy(self, batches: Iterable[Batch]) -> float:
        model = self.submitted.eval()
        right = torch.cat([margin(model(*batch.inputs), batch.labels) > 0 for batch in batches])
        return 100 * int(right.sum()) / len(right)

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
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log = state["log"]

    def _save(self) -> None:
        state = {
            "recipe": self.recipe.model_dump_json(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
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
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.submitted.state_dict().items()}
        figures.training(self.folder / "log", self.log)
        metadata = {HEADER: json.dumps(header, sort_keys=True)}
        files.publish(self.weights, lambda temporary: save_file(tensors, temporary, metadata))
        self.state.unlink(missing_ok=True)
        return self.weights


def _defense(recipe: Recipe) -> Defense:
    try:
        return DEFENSES.get(recipe.defense)(**recipe.defense_arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"defense {recipe.defense} cannot be made from {recipe.defense_arguments}: {error}"
        ) from error
