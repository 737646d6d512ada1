"""What clips are crafted on besides the attacked model: surrogates, and a split that a perturbation is fitted to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avbench import files
from avbench.attacks import Attack
from avbench.attacks.transfer import BASELINE, MeanOfLogits, Transfer
from avbench.attacks.universal import Fitted, Universal
from avbench.cells import WAYS, Cell, Craft, embed, most
from avbench.checkpoint import Candidate, state_sha256
from avbench.datasets import Sample
from avbench.datasets.splits import Split, load, open_split, to_batch
from avbench.errors import BadOption, UntrustedCode
from avbench.judge import drawn_at_random
from avbench.oracle import Oracle, Victim
from avbench.precision import check_precision
from avbench.rng import seeded
from avbench.sandbox import open_model
from avbench.sandbox.remote import RemoteModel
from avbench.store import CellStore
from avbench.submission import ID
from avbench.threats import ThreatModel
from avbench.types import Batch, Modality

FILE = "fit.safetensors"  # in a cell's folder
FIT_SPLITS = ("val", "train")  # the first of these that the dataset has and that is not evaluated


class Fit(NamedTuple):
    """A perturbation after some epochs, and what they cost."""

    perturbation: Mapping[Modality, Tensor]
    epochs: int = 0
    forward: int = 0  # samples passed through the attacked part of the model
    backward: int = 0
    seconds: float = 0.0


class Surrogates(NamedTuple):
    """Models that stand in for the attacked one, and what attacks look at: the only one, or the mean of several."""

    members: list[Candidate]
    model: Victim


class Crafting:
    """Hold the surrogates and the fitted perturbations that the cells of one run need.

    Raises:
        BadOption: if a surrogate cannot serve, or the dataset has no split to fit on.
        SubmissionError, CheckpointError, DatasetNotPrepared: and their kin, if something cannot be read.
    """

    def __init__(self, candidate: Candidate, split: Split, victim: Victim, cells: Sequence[Cell], seed: int) -> None:
        self._split, self._victim, self._seed = split, victim, seed
        self._surrogates: dict[str, Surrogates] = {}  # by what an attack calls them
        self._fits: dict[Cell, Fit] = {}
        for cell in cells:
            if isinstance(cell.attack, Transfer) and cell.attack.surrogates not in self._surrogates:
                found = [find_surrogate(one, candidate, split) for one in cell.attack.names]
                module = found[0].module if len(found) == 1 else MeanOfLogits([one.module for one in found])
                model = Victim(module, victim.classes, victim.device)
                self._surrogates[cell.attack.surrogates] = Surrogates(found, model)
        self.fit_split = find_fit_split(split) if any(map(fitted, cells)) else None

    @cached_property
    def _clips(self) -> Sequence[Sample]:
        """Clips of the fitting split."""
        assert self.fit_split is not None
        return load(self.fit_split)

    @property
    def models(self) -> list[Victim]:
        """What attacks look at in place of the attacked model."""
        return [surrogates.model for surrogates in self._surrogates.values()]

    def look_in(self, precision: str) -> None:
        """Let attacks look at all models in a precision.

        Raises:
            BadOption: if the device cannot compute in it, or a model is in a worker process, which computes in float32.
        """
        check_precision(precision, self._victim.device)
        models = (self._victim, *self.models)
        inner = [module for model in models for module in model.model.modules()]
        if precision != "fp32" and any(isinstance(module, RemoteModel) for module in inner):
            raise BadOption(
                "a model in a worker process computes in float32; leave --precision out, or add --no-sandbox"
            )
        for model in models:
            model.precision = precision

    @property
    def quick(self) -> bool:
        """Whether gradients are those of an equal network of any model that attacks look at."""
        return any(model.quick is not model.model for model in (self._victim, *self.models))

    def prepare(self, batch: Batch) -> list[list[float]]:
        """Find out which surrogates answer at random; return their answers, which are part of the numerics."""
        answers = []
        for model in self.models:
            model.random = bool(drawn_at_random(model, batch).any())
            with torch.no_grad(), seeded(model.device, "answer"):
                answers += model.logits(batch.inputs, {}, batch.ids).cpu().tolist()
        return answers

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Say what a cell's rows depend on besides the attacked model, the split and the cell."""
        extra: dict[str, Any] = {}
        if isinstance(cell.attack, Transfer):
            surrogates = self._surrogates[cell.attack.surrogates]
            extra["surrogates"] = [one.identity for one in surrogates.members]
            extra |= {"draws": surrogates.model.draws} if surrogates.model.random else {}
        if self.fit_split and fitted(cell):
            extra["fit"] = {"split": self.fit_split.name, "lock": self.fit_split.lock.sha256}
        return extra

    def record(self, cell: Cell, store: CellStore) -> dict[str, Any]:
        """Tell run.json the same, with the names of surrogates and what fitting cost."""
        extra = self.identity(cell)
        if isinstance(cell.attack, Transfer):
            members = self._surrogates[cell.attack.surrogates].members
            extra["surrogates"] = [{"id": one.id, **one.identity} for one in members]
        if "fit" in extra and (fit := _read(store, self._victim.device)):
            told = fit._asdict() | {"seconds": round(fit.seconds, 3)}
            extra["fit"] |= {name: value for name, value in told.items() if name != "perturbation"}
        return extra

    def aim(self, cell: Cell) -> Craft:
        """Point a cell's attack at the model that it may look at; one that has to be fitted is not yet."""
        assert isinstance(cell.attack, Attack)
        if isinstance(cell.attack, Transfer):
            surrogates = self._surrogates[cell.attack.surrogates]
            return Craft(cell.attack, surrogates.model, len(surrogates.members))
        return Craft(cell.attack, self._victim)

    def craft(self, cell: Cell, store: CellStore, micro_batch: int) -> Craft:
        """Make a cell's attack ready to run, fitted if it has to be: once, unless the store has it."""
        aimed, universal = self.aim(cell), fitted(cell)
        if universal is None:
            return aimed
        if cell not in self._fits:
            self._fits[cell] = self._fit(cell, universal, store, micro_batch)
        return aimed._replace(attack=Fitted(self._fits[cell].perturbation))

    def _fit(self, cell: Cell, universal: Universal, store: CellStore, micro_batch: int) -> Fit:
        """Take what is stored and add the epochs that are missing; each is published whole or not at all."""
        assert cell.threat is not None
        _, model, members = self.aim(cell)
        shapes = {m: self._split.card.spec.shape(m) for m in cell.attacked}
        zeros = {m: torch.zeros(1, *shape, device=model.device) for m, shape in shapes.items()}
        fit = _read(store, model.device) or Fit(zeros)
        while fit.epochs < universal.epochs:
            start, before = time.perf_counter(), model.passes.copy()
            with seeded(model.device, self._seed, "fit", fit.epochs):
                perturbation = model.rescue(
                    partial(self._epoch, universal, fit.perturbation, cell.threat, model, micro_batch)
                )
            passes = (members * most(model.passes - before, way) for way in WAYS)
            forward, backward = (old + new for old, new in zip((fit.forward, fit.backward), passes, strict=True))
            seconds = fit.seconds + time.perf_counter() - start
            fit = Fit(perturbation, fit.epochs + 1, forward, backward, seconds)
            _write(store, fit)
        return fit

    def _epoch(
        self, universal: Universal, before: Mapping[Modality, Tensor], threat: ThreatModel, model: Victim, size: int
    ) -> Mapping[Modality, Tensor]:
        with model.hurried():
            return universal.epoch(before, threat, self._looks(model, tuple(threat.budgets), size))

    def _looks(self, model: Victim, attacked: tuple[Modality, ...], micro_batch: int) -> Iterator[tuple[Oracle, Batch]]:
        still: list[Modality] = [m for m in ("audio", "video") if m not in attacked]
        for start in range(0, len(self._clips), micro_batch):
            batch = to_batch(self._clips[start : start + micro_batch], self._split.card).to(model.device)
            yield Oracle(model, batch, attacked, embed(model, batch, still)), batch


def find_surrogate(name: str, candidate: Candidate, split: Split) -> Candidate:
    """Load one surrogate: a submission by its id, or `baseline` for the one that the dataset's card names.

    Raises:
        BadOption: if there is none, it is for other data, or it is the attacked model itself.
        SubmissionError, CheckpointError: and their kin, if it cannot be loaded.
    """
    card = split.card
    if name == BASELINE and not card.baseline:
        raise BadOption(f"{card.name} has no baseline; name the surrogates: transfer:attack=mim,surrogates=ORG--MODEL")
    chosen = card.baseline if name == BASELINE and card.baseline else name
    if not ID.fullmatch(chosen):
        raise BadOption(f"a surrogate is a submission, such as avbench--synthav-sum, or {BASELINE}, not {name!r}")
    try:
        found, other = open_model(chosen)
    except UntrustedCode as error:
        raise BadOption(f"the surrogate {chosen} is code, which is not run; take one of the zoo, or a graph") from error
    if (other.name, other.spec, other.classes, other.task) != (card.name, card.spec, card.classes, card.task):
        raise BadOption(
            f"the surrogate {chosen} is for {other.name}, whose clips or classes are not those of {card.name}"
        )
    if same(found, candidate):
        raise BadOption(
            f"{candidate.id} is among its own surrogates ({name}), which would be no transfer; attack it white-box"
        )
    return found


def same(one: Candidate, other: Candidate) -> bool:
    """Tell whether two candidates are one model; what is in a worker process shows no weights but their hash."""
    shown = all(found.module.state_dict() for found in (one, other))
    return (
        one.id == other.id
        or one.identity == other.identity
        or (shown and state_sha256(one.module) == state_sha256(other.module))
    )


def find_fit_split(split: Split) -> Split:
    """Open the split of a dataset that a universal perturbation is fitted on.

    Raises:
        BadOption: if there is none besides the evaluated one.
        DatasetNotPrepared: if its shards are missing.
    """
    evaluated, _ = split.card.find(split.name)
    for name in FIT_SPLITS:
        if name in split.card.splits and name != evaluated:
            return open_split(split.card.name, name)
    raise BadOption(f"{split.card.name} has no split besides {split.name} to fit a universal perturbation on")


def fitted(cell: Cell) -> Universal | None:
    """Return the part of a cell's attack that has to be fitted, if any."""
    attack = cell.attack.inner if isinstance(cell.attack, Transfer) else cell.attack
    return attack if isinstance(attack, Universal) else None


def _write(store: CellStore, fit: Fit) -> None:
    """Publish a perturbation with what made it."""
    tensors: dict[str, Tensor] = {m: d.cpu().contiguous() for m, d in fit.perturbation.items()}
    told = {name: repr(value) for name, value in fit._asdict().items() if name != "perturbation"}
    content = save(tensors, {"cell": store.cell, "numerics": store.numerics, "sha256": _digest(tensors), **told})
    files.publish_bytes(store.folder / FILE, content)


def _read(store: CellStore, device: torch.device) -> Fit | None:
    """Read a perturbation back; None if there is none, or it is torn or of something else."""
    try:
        with safe_open(store.folder / FILE, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {m: file.get_tensor(m) for m in file.keys()}  # noqa: SIM118
        expected = (store.cell, store.numerics, _digest(tensors))
        if (told["cell"], told["numerics"], told["sha256"]) != expected:
            return None
        epochs, forward, backward = (int(told[name]) for name in ("epochs", "forward", "backward"))
        perturbation = {m: tensor.to(device) for m, tensor in tensors.items()}
        return Fit(perturbation, epochs, forward, backward, float(told["seconds"]))
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(tensors[m].numpy().tobytes() for m in sorted(tensors))).hexdigest()
