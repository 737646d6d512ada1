"""What an attack may see of a model, and how often it looked: gradients or only scores, every pass counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avbench.errors import BadModel, BadOption, NonFiniteOutput
from avbench.types import MODALITIES, AVInput, Batch, Modality, TwoStageModel, modalities_of

Objective = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) -> (batch,), to be maximized


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss per sample, (batch,), in nats: cross-entropy, or binary cross-entropy summed over classes if multi-label."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1)


def ascent_objective(logits: Tensor, labels: Tensor) -> Tensor:
    """Give attacks what to climb, (batch,): for one label the log-odds of error, log sum_{j != y} exp z_j - z_y.

    Cross-entropy is softplus of it, so both have the same gradient up to a positive factor per sample, which no
    attack with normalized steps can see. But that factor underflows in float32 when a model is very sure, and a
    last layer times 1000 would hide every gradient. Multi-label: binary cross-entropy, in float64.
    """
    if labels.dim() == 1:
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return others.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    return classification_loss(logits.double(), labels.double())


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each answer is from wrong, (batch,), in logits: right class minus best other; multi-label: worst class.

    A sample counts as right when its margin is positive, so a tie is an error.
    """
    if labels.dim() == 1:
        right = logits.gather(1, labels[:, None])
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return right[:, 0] - others
    return (logits * (2 * labels - 1)).amin(dim=1)


class Victim:
    """Hold the model frozen, in eval mode, and count samples passed through each of its parts.

    `passes` counts samples by part and direction: ("audio" | "video" | "fuse" | "whole", "forward" | "backward").

    Raises:
        BadModel: if the model is not an nn.Module.
    """

    def __init__(self, model: nn.Module, classes: int, device: torch.device) -> None:
        if not isinstance(model, nn.Module):
            raise BadModel(f"a model is a torch.nn.Module, not {type(model).__name__}")
        self.model = model.eval().requires_grad_(False).to(device)
        self.classes = classes
        self.device = device
        self.two_stage = isinstance(model, TwoStageModel)
        self.passes: Counter[tuple[str, str]] = Counter()

    def embed(self, clips: AVInput, modality: Modality) -> Tensor:
        """Embedding of one modality; only for two-stage models."""
        self._count(modality, "forward", clips)
        return self._call(f"encode_{modality}", getattr(clips, modality))

    def logits(self, clips: AVInput, embeddings: Mapping[Modality, Tensor], ids: tuple[str, ...]) -> Tensor:
        """Logits (batch, classes), from the given embeddings where there are any.

        Raises:
            BadModel: if the shape is not (batch, classes).
            NonFiniteOutput: naming the first sample answered with NaN or infinity.
        """
        if self.two_stage:
            parts = {m: embeddings[m] if m in embeddings else self.embed(clips, m) for m in MODALITIES}
            self._count("fuse", "forward", clips)
            logits = self._call("fuse", parts["audio"], parts["video"])
        else:
            self._count("whole", "forward", clips)
            logits = self._call("forward", clips.audio, clips.video)
        if not isinstance(logits, Tensor) or logits.shape != (len(ids), self.classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadModel(f"the model must answer {(len(ids), self.classes)} logits, it answered {got}")
        if not (finite := logits.isfinite().all(dim=1)).all():
            raise NonFiniteOutput(f"the model answers NaN or infinity on sample {ids[int(finite.int().argmin())]}")
        return logits.float()

    def _call(self, part: str, *inputs: Tensor) -> Tensor:
        """Run a part of the model on copies, which it may change in place without harm to anything else."""
        run = self.model if part == "forward" else getattr(self.model, part)
        try:
            return run(*(tensor.clone() for tensor in inputs))  # type: ignore[no-any-return]
        except torch.OutOfMemoryError as error:
            raise BadOption("out of memory; repeat the command with a smaller --batch-size") from error
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadModel(f"the model's {part} failed on a batch of {len(inputs[0])}: {error}") from error

    def count_backward(self, clips: AVInput, attacked: tuple[Modality, ...]) -> None:
        """Count one backward pass to the attacked inputs."""
        for part in (*attacked, "fuse") if self.two_stage else ("whole",):
            self._count(part, "backward", clips)

    def _count(self, part: str, direction: str, clips: AVInput) -> None:
        self.passes[part, direction] += len(clips.audio)


class Gradient(NamedTuple):
    """Loss per sample and its gradient with respect to each attacked input."""

    loss: Tensor  # (batch,)
    inputs: dict[Modality, Tensor]


class Oracle:
    """Show a model to an attack on one batch; the embedding of a modality that is not attacked is never recomputed."""

    def __init__(
        self,
        victim: Victim,
        batch: Batch,
        attacked: tuple[Modality, ...],
        embeddings: Mapping[Modality, Tensor],
        needs: Literal["gradients", "scores", "nothing"] = "gradients",
    ) -> None:
        self._victim = victim
        self._batch = batch
        self._attacked = attacked
        self._fixed = {m: f for m, f in embeddings.items() if m not in attacked}
        self._needs = needs

    def logits(self, clips: AVInput) -> Tensor:
        """Logits (batch, classes), without gradient.

        Raises:
            BadModel: if the attack declared that it needs nothing.
        """
        if self._needs == "nothing":
            raise BadModel("this attack declares that it needs nothing of the model")
        with torch.no_grad():
            return self._victim.logits(clips, self._fixed, self._batch.ids)

    def gradient(self, clips: AVInput, objective: Objective = ascent_objective) -> Gradient:
        """Loss and its gradient with respect to the attacked inputs; zero for a modality the model does not read.

        Raises:
            BadModel: if the attack declared that it needs only scores, or no gradient reaches a modality that the
                model reads.
        """
        if self._needs != "gradients":
            raise BadModel(f"this attack declares that it needs only {self._needs}")
        leaves = {m: getattr(clips, m).detach().requires_grad_() for m in self._attacked}
        with torch.enable_grad():
            logits = self._victim.logits(clips._replace(**leaves), self._fixed, self._batch.ids)
            loss = objective(logits, self._batch.labels)
        found: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if loss.requires_grad:
            found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        self._victim.count_backward(clips, self._attacked)
        return Gradient(loss.detach(), self._checked(dict(zip(leaves, found, strict=True)), leaves))

    def _checked(
        self, found: Mapping[Modality, Tensor | None], leaves: Mapping[Modality, Tensor]
    ) -> dict[Modality, Tensor]:
        result: dict[Modality, Tensor] = {}
        for modality, gradient in found.items():
            if gradient is None:
                if modality in modalities_of(self._victim.model):
                    raise BadModel(
                        f"no gradient reaches the {modality}; a model that does not read it says so by "
                        "`modalities`, one with a non-differentiable stage needs an attack that uses scores only"
                    )
                gradient = torch.zeros_like(leaves[modality])
            elif not (finite := gradient.flatten(1).isfinite().all(dim=1)).all():
                sample = self._batch.ids[int(finite.int().argmin())]
                raise NonFiniteOutput(f"the gradient to the {modality} of sample {sample} is NaN or infinite")
            result[modality] = gradient
        return result

    def margin(self, clips: AVInput) -> Tensor:
        """Margin per sample, (batch,): see `margin`."""
        return margin(self.logits(clips), self._batch.labels)


class WorstClips:
    """Keep, sample by sample, the clip with the smallest margin of all that were offered; the first one wins a tie."""

    clips: AVInput

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._margin: Tensor | None = None

    def offer(self, clips: AVInput) -> None:
        """Look at clips once and keep those that are worse for the model."""
        found = self._oracle.margin(clips)
        if self._margin is None:
            self.clips, self._margin = clips, found
            return
        better = found < self._margin
        self._margin = found.where(better, self._margin)
        self.clips = AVInput(
            *(
                new.where(better.view(-1, *[1] * (new.dim() - 1)), old)
                for new, old in zip(clips, self.clips, strict=True)
            )
        )
