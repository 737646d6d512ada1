"""The task of benchmarks/speed.py, and how users of other libraries would do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avbench.models import build
from avbench.objectives import margin
from avbench.types import MODALITIES, AVInput, Batch, InputSpec, Modality

CLASSES, STEP = 27, 1 / 8  # of the radius
KINDS: dict[str, tuple[Modality, ...]] = {"XA": ("audio",), "XV": ("video",), "XAV": MODALITIES}
Contestant = Callable[[], AVInput]


def problem(frames: int, size: int) -> tuple[nn.Module, Batch]:
    """A network that tells its clips apart, and clips that it gets right by a margin that an attack can close."""
    torch.manual_seed(0)
    spec = InputSpec(sample_rate=11025, samples=65535, frames=frames, fps=8, height=224, width=224)
    model = build("avnet", CLASSES, spec, {})
    audio = 0.3 * torch.randn(size, spec.samples).clamp(-3, 3) * torch.rand(size, 1)
    video = torch.rand(size, *spec.shape("video")) * torch.rand(size, 1, 3, 1, 1)
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(audio, video)
        labels = model.eval().requires_grad_(False)(audio, video).argmax(dim=1)
    return model, Batch(tuple(map(str, range(size))), AVInput(audio, video), labels)


class Task(NamedTuple):
    """What all contestants do."""

    model: nn.Module
    batch: Batch
    kind: str
    steps: int
    radius: float  # in units of an image in [0, 1]: of a waveform alone or packed, its own radius is twice as large

    @property
    def threat(self) -> str:
        radii = {"audio": 2 * self.radius, "video": self.radius}
        return ":".join([self.kind, *(f"linf:{radii[m]!r}" for m in KINDS[self.kind])])

    @classmethod
    def fit(cls, model: nn.Module, batch: Batch, kind: str, steps: int) -> Task:
        """Choose the radius at which, were the network linear, half of the samples would break."""
        leaves = {m: getattr(batch.inputs, m).detach().requires_grad_() for m in KINDS[kind]}
        margins = margin(model(*batch.inputs._replace(**leaves)), batch.labels)
        slopes = torch.autograd.grad(margins.sum(), list(leaves.values()))
        fall = sum(
            slope.flatten(1).abs().sum(dim=1) * (2 if m == "audio" else 1)
            for m, slope in zip(leaves, slopes, strict=True)
        )
        radius = (margins.detach() / fall).median().item() / min(1, steps * STEP)
        return cls(model, batch, kind, steps, float(f"{radius:.2g}"))


class Image(nn.Module):
    """The model as a peer's user wraps it: an image in [0, 1] is one modality, or both packed end to end."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.clean, self.attacked = task.model, task.batch.inputs, KINDS[task.kind]
        self.eval()  # torchattacks restores the mode it finds

    def image(self, clips: AVInput) -> Tensor:
        parts = {"audio": (clips.audio + 1) / 2, "video": clips.video}
        if self.attacked == ("video",):
            return clips.video.flatten(1, 2)
        return torch.cat([parts[m].flatten(1) for m in self.attacked], dim=1)[:, None, None]

    def clips(self, image: Tensor) -> AVInput:
        if self.attacked == ("video",):
            return AVInput(self.clean.audio, image.view_as(self.clean.video))
        flat, length = image.flatten(1), self.clean.audio.shape[1]
        video = flat[:, length:].view_as(self.clean.video) if len(self.attacked) == 2 else self.clean.video
        return AVInput(flat[:, :length] * 2 - 1, video)

    def forward(self, image: Tensor) -> Tensor:
        return self.model(*self.clips(image))  # type: ignore[no-any-return]


def peers(task: Task, name: str) -> dict[str, Contestant]:
    """How each peer makes clips."""
    import foolbox
    import numpy as np
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    wrapped, eps, steps, labels = Image(task), task.radius, task.steps, task.batch.labels
    clean, size = wrapped.image(task.batch.inputs), len(labels)

    def by_torchattacks() -> Tensor:
        options: dict[str, Any] = {"eps": eps, "alpha": eps * STEP, "steps": steps}
        attack = {
            "fgsm": lambda: torchattacks.FGSM(wrapped, eps=eps),
            "pgd": lambda: torchattacks.PGD(wrapped, **options, random_start=False),
            "mim": lambda: torchattacks.MIFGSM(wrapped, **options),
        }[name]()
        return attack(clean, labels)  # type: ignore[no-any-return]

    def by_foolbox() -> Tensor:
        attack = foolbox.attacks.LinfPGD(rel_stepsize=STEP, steps=steps, random_start=False)
        return attack(foolbox.PyTorchModel(wrapped, bounds=(0, 1)), clean, labels, epsilons=eps)[1]

    def by_art() -> Tensor:
        classifier = PyTorchClassifier(
            wrapped,
            nn.CrossEntropyLoss(),
            tuple(clean.shape[1:]),
            CLASSES,
            clip_values=(0, 1),
            device_type="gpu" if clean.is_cuda else "cpu",
        )
        attack = ProjectedGradientDescentPyTorch(
            classifier, norm=np.inf, eps=eps, eps_step=eps * STEP, max_iter=steps, batch_size=size, verbose=False
        )
        return torch.from_numpy(attack.generate(clean.cpu().numpy(), labels.cpu().numpy())).to(clean.device)

    found = {"torchattacks": by_torchattacks, "foolbox": by_foolbox, "ART": by_art}
    return {who: lambda make=make: wrapped.clips(make()) for who, make in found.items()}
