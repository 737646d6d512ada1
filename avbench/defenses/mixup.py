"""Multimodal mix-up by density and convexity: Li et al., ICASSP 2022 ([L22], arXiv 2203.12122)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.special import betaincinv
from torch import Tensor, nn

from avbench.defenses import DEFENSES, Defense, Moment
from avbench.defenses.common import STUDIED, Clips, Wrapped, embedding_sizes, evaluated, one_label, stages
from avbench.geometry import QUANTILES, convexity, density
from avbench.objectives import classification_loss
from avbench.types import MODALITIES, AVInput, Batch, Modality, TwoStageModel

if TYPE_CHECKING:
    from avbench.datasets.cards import Card


POINTS = 200  # of which convexity is measured: kappa to about 0.03; analysis takes ten times as many


@DEFENSES.register("mixup")
@dataclass(frozen=True)
class Mixup(Defense):
    """Mix each clip with one from where its class lies densely, the more the less convex the clip's class is.

    What [L22] leaves open: a modality keeps the share max(s, 1 - s), s ~ Beta(a, a), of a clip of class c, with
    a = alpha * (1 - kappa), kappa the convexity of c's region among that modality's clips (among embeddings it is 1 for
    every fusion that is linear): a convex class is not mixed; one with fewer than two clips that the model gives to it
    is mixed as if kappa were 0. The partner is a random clip of the batch whose joint embedding is no farther from its
    class's centroid than R, the radius in the definition of density at tau = 0.6; any other clip if there is none.
    Labels are mixed by the mean share of both modalities.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError("alpha must be above 0")

    def wrap(self, model: nn.Module, card: Card) -> nn.Module:
        """Add what is known of each class, which is not submitted."""
        one_label(card, "mixup")
        return _WithGeometry(model, sum(embedding_sizes(model, card, "mixup").values()), len(card.classes))

    def study(self, model: nn.Module, train: Clips, val: Clips, moment: Moment) -> None:
        """Measure density and, at each tenth of the training, convexity on the first 1,000 training clips."""
        assert isinstance(model, _WithGeometry)
        looked = list(train.first(STUDIED))
        labels = torch.cat([batch.labels for batch in looked])
        inputs = AVInput(*(torch.cat(streams) for streams in zip(*(batch.inputs for batch in looked), strict=True)))
        embedded = [stages(model.base, batch.inputs) for batch in looked]
        found = AVInput(torch.cat([one.audio for one in embedded]), torch.cat([one.video for one in embedded]))
        due = model.tenths < int(10 * moment.progress) < 10
        for label in range(moment.classes):
            if not (own := labels == label).any():
                continue
            joint = _joint(found.pick(own))
            model.centroids[label] = joint.mean(dim=0)
            model.radii[label] = density(joint.double().cpu().numpy(), QUANTILES[0]).radius
            for row, modality in enumerate(MODALITIES if due else ()):
                mixed = found.pick(own)._replace(**{modality: getattr(inputs, modality)[own]})
                model.nonconvexity[row, label] = _nonconvexity(model.base, mixed, label, modality, moment)
        model.tenths.fill_(int(10 * moment.progress))

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """Mean of both labels' losses, weighted by their shares."""
        assert isinstance(model, _WithGeometry)
        drawn = moment.rng.uniform(torch.empty(len(batch.ids), 3), "mixup").to(batch.labels.device)
        partner = choose(model.dense(batch), drawn[:, 0])
        kept = shares(self.alpha * model.nonconvexity[:, batch.labels], drawn[:, 1:].T)
        mixed = AVInput(*(_mix(clip, clip[partner], k) for clip, k in zip(batch.inputs, kept, strict=True)))
        logits, own = model(*mixed), kept.mean(dim=0)
        losses = own * classification_loss(logits, batch.labels)
        return (losses + (1 - own) * classification_loss(logits, batch.labels[partner])).mean()


class _WithGeometry(Wrapped):
    nonconvexity: Tensor  # (modalities, classes), 1 - kappa
    tenths: Tensor  # of the training that were done when it was measured
    centroids: Tensor  # (classes, dimension of both embeddings)
    radii: Tensor  # (classes,)

    def __init__(self, base: nn.Module, dimension: int, classes: int) -> None:
        super().__init__(base)
        self.register_buffer("nonconvexity", torch.ones(len(MODALITIES), classes))
        self.register_buffer("tenths", torch.tensor(-1))
        self.register_buffer("centroids", torch.zeros(classes, dimension))
        self.register_buffer("radii", torch.full((classes,), torch.inf))

    def dense(self, batch: Batch) -> Tensor:
        """Tell which clips lie no farther from their class's centroid than its radius, (batch,)."""
        with evaluated(self.base), torch.no_grad():
            found = stages(self.base, batch.inputs)
            joint = _joint(AVInput(found.audio, found.video))
        far: Tensor = (joint - self.centroids[batch.labels]).norm(dim=1)
        return far <= self.radii[batch.labels]


def _joint(embedded: AVInput) -> Tensor:
    return torch.cat([embedded.audio.flatten(1), embedded.video.flatten(1)], dim=1)


def _nonconvexity(base: nn.Module, own: AVInput, label: int, moved: Modality, moment: Moment) -> float:
    """1 - kappa of a class in one modality, of which `own` has the clips; of the other one it has the embeddings."""
    assert isinstance(base, TwoStageModel)
    encode = base.encode_audio if moved == "audio" else base.encode_video

    def classify(some: AVInput) -> Tensor:
        return base.fuse(*some._replace(**{moved: encode(getattr(some, moved))})).argmax(dim=1)

    rng = dataclasses.replace(moment.rng, ids=(f"class {label}",))
    known = convexity(Batch((), own, torch.empty(0)), label, moved, classify, rng, POINTS)
    return 1 - known.value if known.points else 1.0


def choose(dense: Tensor, drawn: Tensor) -> Tensor:
    """Index of a partner for each clip, (batch,): one of the dense others, or one of all others if there is none.

    Args:
        dense: (batch,) which clips may be partners.
        drawn: (batch,) uniform in [0, 1).
    """
    others = ~torch.eye(len(dense), dtype=torch.bool, device=dense.device)
    allowed = others & dense
    allowed = allowed.where(allowed.any(dim=1, keepdim=True), others)
    place = (drawn * allowed.sum(dim=1)).long()
    return (allowed & (allowed.cumsum(dim=1) == place[:, None] + 1)).int().argmax(dim=1)


def shares(strength: Tensor, drawn: Tensor) -> Tensor:
    """Quantiles `drawn` of Beta(a, a), the larger of s and 1 - s; 1 where the strength a is 0. All shapes are alike."""
    known = strength.clamp_min(1e-3).double().cpu().numpy()
    s = torch.from_numpy(betaincinv(known, known, drawn.double().cpu().numpy())).to(drawn)
    return torch.maximum(s, 1 - s).where(strength > 0, 1.0)


def _mix(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    weight = share.view(-1, *[1] * (one.dim() - 1))
    return weight * one + (1 - weight) * other
