"""Run our attacks and those of torchattacks, foolbox and ART on one modality of a committed model, and compare.

    pip install --target build/peers --no-deps torchattacks foolbox adversarial-robustness-toolbox eagerpy gitpython \\
        gitdb smmap tqdm six scikit-learn threadpoolctl requests urllib3 charset-normalizer idna certifi
    PYTHONPATH=.:build/peers python benchmarks/attacks_peers.py --samples 500

The peers know images in [0, 1], (batch, channels, height, width): frames become channels, a waveform one row of pixels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from avbench.attacks import parse_attack
from avbench.datasets.splits import open_split
from avbench.objectives import margin
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.submission import find_candidate
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.types import MODALITIES, Batch, Modality

QUERIES = 1000  # of square, our default
STEP, STEPS = 1 / 8, {"pgd": 10, "mim": 10, "nim": 10}  # as our defaults; APGD makes 100


class OneModality(nn.Module):
    """A model of one modality: the other is the clean one of the sample that an image was made from.

    Some peers attack a part of a batch, so a sample is found by its nearest clean image, at some pixels.
    """

    def __init__(self, victim: Victim, batch: Batch, modality: Modality) -> None:
        super().__init__()
        [self.other] = set(MODALITIES) - {modality}
        self.modality, self.model, self.shape = modality, victim.model, getattr(batch.inputs, modality).shape[1:]
        with torch.no_grad():
            self.fixed = victim.embed(batch.inputs, self.other)
        self.clean = self.image(getattr(batch.inputs, modality))
        self.probe = torch.linspace(0, self.clean[0].numel() - 1, 512).long()
        self.eval()  # torchattacks restores the mode it finds, in all parts

    def image(self, clip: Tensor) -> Tensor:
        return clip.flatten(1, 2) if self.modality == "video" else (clip[:, None, None] + 1) / 2

    def clip(self, image: Tensor) -> Tensor:
        return image.view(-1, *self.shape) if self.modality == "video" else image[:, 0, 0] * 2 - 1

    def unit(self, radius: float) -> float:
        """The radius in units of an image."""
        return radius if self.modality == "video" else radius / 2

    def forward(self, image: Tensor) -> Tensor:
        seen, known = (x.detach().flatten(1)[:, self.probe] for x in (image, self.clean))
        index = torch.cdist(seen, known, p=torch.inf).argmin(dim=1)
        own = getattr(self.model, f"encode_{self.modality}")(self.clip(image))
        both = {self.modality: own, self.other: self.fixed[index]}
        return self.model.fuse(both["audio"], both["video"])


class Problem(NamedTuple):
    model: OneModality
    labels: Tensor
    radius: float  # in units of an image
    classes: int


def ours(name: str, victim: Victim, batch: Batch, problem: Problem, radius: float) -> Tensor:
    model = problem.model
    threat = parse_threat(f"{'XA' if model.modality == 'audio' else 'XV'}:linf:{radius}")
    oracle = Oracle(victim, batch, (model.modality,), {model.other: model.fixed}, "gradients")
    clips = parse_attack(name).run(oracle, batch, Region(threat, batch.inputs), Rng(0, name, batch.ids))
    return model.image(getattr(clips, model.modality))


def by_torchattacks(name: str, problem: Problem) -> Tensor:
    import torchattacks as peer

    eps, steps = problem.radius, STEPS.get(name, 100)
    options = {"eps": eps, "alpha": eps * STEP, "steps": steps}
    attack = {
        "pgd": lambda: peer.PGD(problem.model, **options, random_start=False),
        "mim": lambda: peer.MIFGSM(problem.model, **options),
        "nim": lambda: peer.NIFGSM(problem.model, **options),
        "apgd-ce": lambda: peer.APGD(problem.model, eps=eps, steps=steps, loss="ce"),
        "apgd-dlr": lambda: peer.APGD(problem.model, eps=eps, steps=steps, loss="dlr"),
        "apgd-t": lambda: peer.APGDT(problem.model, eps=eps, steps=steps, n_classes=problem.classes),
        "square": lambda: peer.Square(problem.model, eps=eps, n_queries=QUERIES),
    }[name]()
    return attack(problem.model.clean, problem.labels)


def by_foolbox(name: str, problem: Problem) -> Tensor:
    import foolbox as peer

    attack = {
        "pgd": peer.attacks.LinfPGD,
        "mim": peer.attacks.LinfMomentumIterativeFastGradientMethod,
    }[name](rel_stepsize=STEP, steps=STEPS[name], random_start=False)
    model = peer.PyTorchModel(problem.model, bounds=(0, 1))
    return attack(model, problem.model.clean, problem.labels, epsilons=problem.radius)[1]


def by_art(name: str, problem: Problem) -> Tensor:
    import numpy as np
    from art.attacks import evasion as peer
    from art.estimators.classification import PyTorchClassifier

    clean, eps, size = problem.model.clean, problem.radius, len(problem.labels)
    classifier = PyTorchClassifier(
        problem.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(clean.shape[1:]),
        nb_classes=problem.classes,
        clip_values=(0, 1),
        device_type="cpu",
    )
    options = {"norm": np.inf, "eps": eps, "batch_size": size, "verbose": False}
    square = {key: options[key] for key in ("norm", "eps", "batch_size", "verbose")}
    apgd = {"eps_step": 2 * eps, "max_iter": 100, "nb_random_init": 1}
    attack = {
        "pgd": lambda: peer.ProjectedGradientDescentPyTorch(classifier, eps_step=eps * STEP, max_iter=10, **options),
        "mim": lambda: peer.MomentumIterativeMethod(classifier, eps_step=eps * STEP, max_iter=10, **options),
        "apgd-ce": lambda: peer.AutoProjectedGradientDescent(classifier, loss_type="cross_entropy", **apgd, **options),
        "apgd-dlr": lambda: peer.AutoProjectedGradientDescent(
            classifier, loss_type="difference_logits_ratio", **apgd, **options
        ),
        "square": lambda: peer.SquareAttack(classifier, max_iter=QUERIES, p_init=0.8, **square),
    }[name]()
    return torch.from_numpy(attack.generate(clean.numpy(), problem.labels.numpy()))


Peer = Callable[[str, Problem], Tensor]
PEERS: dict[str, tuple[Peer, ...]] = {
    "pgd:steps=100": (),  # which APGD should not be weaker than
    "pgd": (by_torchattacks, by_foolbox, by_art),
    "mim": (by_torchattacks, by_foolbox, by_art),
    "nim": (by_torchattacks,),
    "apgd-ce": (by_torchattacks, by_art),
    "apgd-dlr": (by_torchattacks, by_art),
    "apgd-t": (by_torchattacks,),
    "square": (by_torchattacks, by_art),  # on pictures only: theirs needs two dimensions
}


def compare(args: argparse.Namespace, modality: Modality, radius: float, name: str) -> None:
    """Print one row: who leaves how many samples right, and on how many each peer and ours disagree."""
    candidate, card = find_candidate(args.model)
    victim, split = Victim(candidate.module, len(card.classes), torch.device("cpu")), open_split(card.name, "test")
    right: dict[str, list[Tensor]] = {}
    for start in range(0, args.samples, args.batch):
        batch = split.batch(range(start, min(start + args.batch, args.samples)))
        problem = Problem(model := OneModality(victim, batch, modality), batch.labels, 0.0, len(card.classes))
        problem = problem._replace(radius=model.unit(radius))
        for peer in (None, *PEERS[name]):
            began = time.perf_counter()
            image = peer(name, problem) if peer else ours(name, victim, batch, problem, radius)
            off = (image - model.clean).abs().max().item() / problem.radius - 1
            assert off < 1e-3, f"{peer} leaves the ball by {off}"
            assert 0 <= image.min() <= image.max() <= 1
            with torch.no_grad():
                found = margin(model(image), batch.labels) > 0
            who = peer.__name__.removeprefix("by_") if peer else "ours"
            right.setdefault(who, []).append(found)
            print(
                name, modality, radius, start, who, f"{time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True
            )
    whole = {who: torch.cat(found) for who, found in right.items()}
    mine = whole.pop("ours")
    cells = {who: cell(int(r.sum()), int((r & ~mine).sum()), int((mine & ~r).sum())) for who, r in whole.items()}
    columns = (cells.get(who, "") for who in ("torchattacks", "foolbox", "art"))
    print("|", " | ".join([modality, str(radius), name, str(int(mine.sum())), *columns]), "|", flush=True)


def cell(right: int, more: int, less: int) -> str:
    """Samples left right, those that only ours or only the peer breaks, and how likely that is by chance (McNemar)."""
    p = f", p = {binomtest(more, more + less).pvalue:.2g}" if more + less else ""
    return f"{right} (+{more} -{less}{p})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="avbench--synthav-concat")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--radii", type=float, nargs="+", default=[0.006])
    parser.add_argument("--modalities", nargs="+", default=list(MODALITIES), choices=MODALITIES)
    parser.add_argument("--attacks", nargs="+", default=list(PEERS))
    args = parser.parse_args()
    print(f"Samples still right of {args.samples} (+: broken by ours alone, -: by the peer alone)\n")
    print("| modality | radius | attack | avbench | torchattacks | foolbox | ART |\n|---|---|---|---|---|---|---|")
    for name in args.attacks:
        for modality in args.modalities:
            for radius in args.radii:
                compare(args, modality, radius, name)


if __name__ == "__main__":
    main()
