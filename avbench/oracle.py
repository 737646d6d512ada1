"""What an attack may see of a model, and how often it looked: gradients or only scores, every pass counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from avbench.errors import BadModel, BadOption, NoGradient, NonFiniteOutput
from avbench.models.quick import quicken
from avbench.objectives import Objective, ascent_objective, badness
from avbench.precision import reduced, scale_of, tf32
from avbench.types import MODALITIES, AVInput, Batch, Modality, TwoStageModel, modalities_of

T = TypeVar("T")
DRAWS = 20  # over which a gradient is averaged if the model answers at random (Athalye et al. 2018, section 4.1.2)


class Victim:
    """Hold the model frozen, in eval mode, and count samples passed through each of its parts.

    `passes` counts samples by part and direction: ("audio" | "video" | "fuse" | "whole", "forward" | "backward").
    `random` tells whether the answers are drawn at random; whoever attacks sets it by `avbench.judge.drawn_at_random`.
    `precision` is what the model computes in while an attack looks at it, inside `looked_at`; else it is float32.

    Raises:
        BadModel: if the model is not an nn.Module.
    """

    random = False
    precision = "fp32"
    _looked_at = False

    def __init__(self, model: nn.Module, classes: int, device: torch.device, draws: int = DRAWS) -> None:
        if not isinstance(model, nn.Module):
            raise BadModel(f"a model is a torch.nn.Module, not {type(model).__name__}")
        self.model = model.eval().requires_grad_(False).to(device)
        if device.type == "cuda":  # whose convolutions are fastest so; only strides change
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes = classes
        self.device = device
        self.late = device.type == "cuda"  # whether `hurried` notes in place of asking
        self._noted: dict[tuple[str, tuple[str, ...]], Tensor] | None = None
        self.draws = draws
        self.two_stage = isinstance(model, TwoStageModel)
        self.passes: Counter[tuple[str, str]] = Counter()

    @cached_property
    def quick(self) -> nn.Module:
        """The network that is looked at where gradients are wanted."""
        return quicken(self.model) if self.device.type == "cpu" else self.model

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Compute within the block as attacks see it."""
        before, self._looked_at = self._looked_at, True
        try:
            with tf32(self.precision == "tf32"):
                yield
        finally:
            self._looked_at = before

    def rescue(self, craft: Callable[[], T]) -> T:
        """Repeat in float32 what makes numbers in reduced precision that are not finite, and may be in float32."""
        try:
            return craft()
        except NonFiniteOutput:
            if self.precision == "fp32":
                raise
        before, self.precision = self.precision, "fp32"
        try:
            return craft()
        finally:
            self.precision = before

    def embed(self, clips: AVInput, modality: Modality) -> Tensor:
        """Embedding of one modality; only for two-stage models."""
        self._count(modality, "forward", clips)
        return self._call(f"encode_{modality}", getattr(clips, modality))

    def whole(self, clips: AVInput) -> Tensor:
        """Answer what the model's `forward` does, unchecked and uncounted, to be compared with its stages."""
        return self._call("forward", *clips)

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
        self.expect_finite(logits, ids, "the model answers NaN or infinity on sample {}")
        return logits.float()

    def expect_finite(self, found: Tensor, ids: tuple[str, ...], message: str) -> None:
        """Raise NonFiniteOutput, its message filled with the first sample that is not finite, perhaps only later."""
        finite = found.flatten(1).isfinite().all(dim=1)
        if self._noted is None:
            _refuse(finite, ids, message)
        else:
            before = self._noted.get((message, ids))
            self._noted[message, ids] = finite if before is None else before & finite

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Ask once, when the block ends, whether all that the model showed was finite.

        To ask at every look would let a GPU wait for the host, and the host for the GPU, at every step of an attack.
        """
        self._noted = {} if self.late else None
        try:
            yield
        finally:
            noted, self._noted = self._noted or {}, None
            for (message, ids), finite in noted.items():
                _refuse(finite, ids, message)

    def _call(self, part: str, *inputs: Tensor) -> Tensor:
        """Run a part of the model on copies, which it may change in place without harm to anything else.

        Where gradients are wanted and the model has a `differentiable_<part>`, the value is the part's and the
        gradient that of the stand-in: backward pass differentiable approximation (Athalye et al. 2018, section 4.1.1).
        """
        model = self.quick if torch.is_grad_enabled() else self.model
        run = model if part == "forward" else getattr(model, part)
        stand_in = getattr(model, f"differentiable_{part}", None) if torch.is_grad_enabled() else None
        precision = self.precision if self._looked_at else "fp32"
        try:
            with reduced(precision, self.device):
                with torch.set_grad_enabled(torch.is_grad_enabled() and stand_in is None):
                    value: Tensor = run(*(tensor.clone() for tensor in inputs))
                if stand_in is not None:
                    smooth = stand_in(*(tensor.clone() for tensor in inputs))
                    value = value + (smooth - smooth.detach())
            return value if precision == "fp32" else value.float()
        except torch.OutOfMemoryError as error:
            raise BadOption("out of memory; repeat the command with a smaller --batch-size") from error
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            where = "" if precision == "fp32" else f" in {precision}"
            raise BadModel(f"the model's {part} failed on a batch of {len(inputs[0])}{where}: {error}") from error

    def count_backward(self, made: Counter[tuple[str, str]], attacked: tuple[Modality, ...]) -> None:
        """Count the backward passes to the attacked inputs that answer the forward passes made."""
        for part in (*attacked, "fuse", "whole"):
            if count := made[part, "forward"]:
                self.passes[part, "backward"] += count

    def _count(self, part: str, direction: str, clips: AVInput) -> None:
        self.passes[part, direction] += len(clips.audio)


def _refuse(finite: Tensor, ids: tuple[str, ...], message: str) -> None:
    if not finite.all():
        raise NonFiniteOutput(message.format(ids[int(finite.int().argmin())]))


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
        with torch.no_grad(), self._victim.looked_at():
            return self._victim.logits(clips, self._fixed, self._batch.ids)

    @property
    def two_stage(self) -> bool:
        """Whether `embed` answers embeddings."""
        return self._victim.two_stage

    def look(self, clips: AVInput, silenced: Modality | None = None) -> Tensor:
        """Logits (batch, classes), with a gradient inside `gradient_of`; perhaps with a modality silenced (zeros)."""
        fixed = self._fixed
        if silenced:
            clips = clips._replace(**{silenced: torch.zeros_like(getattr(clips, silenced))})
            fixed = {m: f for m, f in fixed.items() if m != silenced}
        with self._victim.looked_at():
            return self._victim.logits(clips, fixed, self._batch.ids)

    def embed(self, clips: AVInput, modality: Modality) -> Tensor:
        """Embedding of one modality, with a gradient inside `gradient_of`; only if `two_stage`.

        Of a modality that is not attacked it is the clean clips' embedding, computed before.
        """
        if modality in self._fixed:
            return self._fixed[modality]
        with self._victim.looked_at():
            return self._victim.embed(clips, modality)

    def gradient(self, clips: AVInput, objective: Objective = ascent_objective) -> Gradient:
        """Gradient of an objective of the logits; see `gradient_of`."""
        return self.gradient_of(clips, lambda shown: objective(self.look(shown), self._batch.labels))

    def gradient_of(self, clips: AVInput, objective: Callable[[AVInput], Tensor]) -> Gradient:
        """Objective (batch,) and its gradient with respect to the attacked inputs; zero where the model reads none.

        If the model answers at random, both are means over draws: expectation over transformation.

        Args:
            clips: where to look.
            objective: made of any number of calls of `look` and `embed` on the clips that it is given, or on clips made
                of them; each is counted as one forward and one backward pass.

        Raises:
            BadModel: if the attack declared that it needs only scores.
            NoGradient: if none reaches a modality that the model reads.
        """
        if self._needs != "gradients":
            raise BadModel(f"this attack declares that it needs only {self._needs}")
        draws = self._victim.draws if self._victim.random else 1
        total = self._draw(clips, objective)
        for _ in range(draws - 1):
            one = self._draw(clips, objective)
            total = Gradient(total.loss + one.loss, {m: g + one.inputs[m] for m, g in total.inputs.items()})
        return Gradient(total.loss / draws, {m: g / draws for m, g in total.inputs.items()})

    def _draw(self, clips: AVInput, objective: Callable[[AVInput], Tensor]) -> Gradient:
        leaves = {m: getattr(clips, m).detach().requires_grad_() for m in self._attacked}
        before, scale = self._victim.passes.copy(), scale_of(self._victim.precision)
        found: tuple[Tensor | None, ...] = (None,) * len(leaves)
        with self._victim.looked_at(), torch.enable_grad():
            loss = objective(clips._replace(**leaves))
            self._victim.count_backward(self._victim.passes - before, self._attacked)
            if loss.requires_grad:
                found = torch.autograd.grad(scale * loss.sum(), list(leaves.values()), allow_unused=True)
        if scale != 1:
            found = tuple(one if one is None else one / scale for one in found)
        return Gradient(loss.detach(), self._checked(dict(zip(leaves, found, strict=True)), leaves))

    def _checked(
        self, found: Mapping[Modality, Tensor | None], leaves: Mapping[Modality, Tensor]
    ) -> dict[Modality, Tensor]:
        result: dict[Modality, Tensor] = {}
        for modality, gradient in found.items():
            if gradient is None:
                if modality in modalities_of(self._victim.model):
                    raise NoGradient(
                        f"no gradient reaches the {modality}; a model that does not read it says so by `modalities`, "
                        "one with a non-differentiable stage offers a stand-in for it or is attacked by scores only"
                    )
                gradient = torch.zeros_like(leaves[modality])
            else:
                message = f"the gradient to the {modality} of sample {{}} is NaN or infinite"
                self._victim.expect_finite(gradient, self._batch.ids, message)
            result[modality] = gradient
        return result

    def badness(self, clips: AVInput) -> Tensor:
        """How bad clips are for the model, (batch,): see `badness`."""
        return badness(self.logits(clips), self._batch.labels)
