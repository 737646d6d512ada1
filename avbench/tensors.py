"""Attacks on clips of one's own, without a dataset: `avbench.attacks.get("tma")(model, audio, video, labels)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avbench.attacks import Attack
from avbench.attacks.mask import Mask
from avbench.attacks.transfer import Transfer
from avbench.attacks.universal import Universal
from avbench.cells import Cell, check_radii, check_stages, embed, make_clips
from avbench.device import deterministic
from avbench.errors import BadModel, BadOption, DataError
from avbench.judge import drawn_at_random
from avbench.oracle import Victim
from avbench.rng import seeded
from avbench.threats import ThreatModel, parse_threat
from avbench.types import BOX, MODALITIES, AVInput, Batch, Modality

SHAPES: dict[Modality, str] = {"audio": "(batch, samples)", "video": "(batch, frames, 3, height, width)"}


@dataclass(frozen=True)
class TensorAttack:
    """Let an attack be called on a model and tensors."""

    attack: Attack

    def __call__(
        self,
        model: nn.Module,
        audio: Tensor,
        video: Tensor,
        labels: Tensor,
        threat: str | ThreatModel = "XAV:linf:0.006:linf:0.006",
        seed: int = 0,
    ) -> AVInput:
        """Return adversarial clips, checked to lie inside the threat set around the clean ones.

        They are the clips of an evaluation with this seed whose samples have the ids "0", "1", ... in this order and
        fill one micro-batch. The module gets back its mode and its gradient flags.

        Args:
            model: called as `model(audio, video)`, answers logits (batch, classes); everything is on one device.
            audio: (batch, samples), float32 in [-1, 1].
            video: (batch, frames, 3, height, width), float32 in [0, 1].
            labels: (batch,) int64; if multi-label (batch, classes) float32 in {0, 1}.
            threat: a threat model, or its text.
            seed: of the per-sample randomness.

        Raises:
            BadOption: if the attack cannot be called so, or an argument has another form than these.
            DataError: naming the first sample with a value outside its range, or a label that is no class.
            BadBudget, BadModel, NonFiniteOutput, BudgetViolation: as in an evaluation.
        """
        self._check_callable()
        cell = Cell(parse_threat(str(threat)), self.attack)
        if not isinstance(model, nn.Module):
            raise BadModel(f"a model is an instance of torch.nn.Module, not {model!r}; wrap what answers in one")
        batch = _to_batch(model, audio, video, labels)
        assert cell.threat is not None
        check_radii(cell.threat, {m: getattr(batch.inputs, m).shape[1:] for m in MODALITIES})
        device = audio.device
        with given_back(model), torch.inference_mode(False), deterministic(device), seeded(device, "run"):
            victim = _hold(model, batch)
            fixed = embed(victim, batch, [m for m in MODALITIES if m not in cell.attacked])
            return make_clips(victim, batch, cell, fixed, seed)

    def _check_callable(self) -> None:
        """Refuse what needs more than a model and clips, or no model at all."""
        if isinstance(self.attack, Transfer):
            raise BadOption(
                f"{self.attack} looks at surrogates: call avbench.attacks.get({str(self.attack.inner)!r}) on "
                "the surrogate itself, and give its clips to the attacked model"
            )
        if isinstance(self.attack, Universal | Mask):
            why = "has no budget" if isinstance(self.attack, Mask) else "has to be fitted on a split first"
            raise BadOption(f"{self.attack} {why}; run it by `avbench evaluate MODEL --attack {self.attack}`")


def _to_batch(model: nn.Module, audio: Tensor, video: Tensor, labels: Tensor) -> Batch:
    """Name the samples, after checking the form and the values of the tensors."""
    for name, tensor in {"audio": audio, "video": video, "labels": labels}.items():
        if not isinstance(tensor, Tensor):
            raise BadOption(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")
    devices = {str(t.device) for t in (audio, video, labels, *model.parameters(), *model.buffers())}
    if len(devices) > 1:
        raise BadOption(
            f"the model, audio, video and labels must be on one device, not on {', '.join(sorted(devices))}"
        )
    clips = AVInput(audio.detach(), video.detach())
    for modality, shape in SHAPES.items():
        clip: Tensor = getattr(clips, modality)
        as_shaped = clip.dim() == shape.count(",") + 1 and (modality == "audio" or clip.shape[2] == 3)
        if not (as_shaped and clip.numel() and clip.dtype == torch.float32):
            raise BadOption(f"{modality} must be float32 {shape}, not empty; it is {_form(clip)}")
        low, high = BOX[modality]
        _check_values(((clip >= low) & (clip <= high)).flatten(1), f"{modality} is NaN or outside [{low:g}, {high:g}]")
    if (labels.dim(), labels.dtype) not in ((1, torch.int64), (2, torch.float32)):
        raise BadOption(f"labels must be int64 (batch,), or float32 (batch, classes); they are {_form(labels)}")
    if not len(audio) == len(video) == len(labels):
        raise BadOption(f"there are {len(audio)} clips of audio, {len(video)} of video and {len(labels)} labels")
    return Batch(tuple(map(str, range(len(audio)))), clips, labels.detach())


def _check_values(legal: Tensor, what: str) -> None:
    """Name the first sample of which not all values are legal, (batch, ...) bool."""
    if not (whole := legal.all(dim=1)).all():
        raise DataError(f"sample {int(whole.int().argmin())}: {what}")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _hold(model: nn.Module, batch: Batch) -> Victim:
    """Hold a model as a run does, after looking at its answers to the clean clips."""
    victim = Victim(model, 0, batch.labels.device)
    with torch.no_grad(), seeded(victim.device, "stages"):
        whole = victim.whole(batch.inputs)
    if not isinstance(whole, Tensor) or whole.dim() != 2:
        got = _form(whole) if isinstance(whole, Tensor) else type(whole).__name__
        raise BadModel(f"the model must answer logits (batch, classes), it answered {got}")
    victim.classes = whole.shape[1]
    check_stages(victim, batch)
    labels, classes = batch.labels, victim.classes
    if labels.dim() == 1:
        _check_values(((labels >= 0) & (labels < classes))[:, None], f"its label is none of the {classes} classes")
    elif labels.shape[1] != classes:
        raise BadOption(f"multi-label labels are (batch, classes): {classes} of the model, not {labels.shape[1]}")
    else:
        _check_values((labels == 0) | (labels == 1), "its labels are not all 0 or 1")
    victim.random = bool(drawn_at_random(victim, batch).any())
    return victim


@contextmanager
def given_back(model: nn.Module) -> Iterator[None]:
    """Restore a module's mode and gradient flags, so that its owner can go on training."""
    training = {part: part.training for part in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode
        for parameter, flag in gradients.items():
            parameter.requires_grad_(flag)
