"""Square: the paper's algorithm, written out; its schedule; a linear model's closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import FRAMES, Linear, Wavy, make_split
from torch import Tensor, nn

from avbench.attacks import parse_attack
from avbench.attacks.square import Square
from avbench.errors import BadOption
from avbench.objectives import classification_loss, margin
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.types import AVInput, Batch

BATCH = make_split(24, 3).batch(range(12))


class Spy(Oracle):
    """Remember what was looked at and how it was answered."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.looks: list[tuple[AVInput, Tensor]] = []

    def badness(self, clips: AVInput) -> Tensor:
        found = super().badness(clips)
        self.looks.append((clips, -found))
        return found


def search(
    attack: Square, threat: str, batch: Batch = BATCH, model: nn.Module | None = None
) -> tuple[AVInput, list[tuple[AVInput, Tensor]]]:
    parsed = parse_threat(threat)
    classes = 2 if isinstance(model, Linear) else 3
    spy = Spy(Victim(model or Wavy(), classes, torch.device("cpu")), batch, tuple(parsed.budgets), {}, "scores")
    region = Region(parsed, batch.inputs)
    return attack.run(spy, batch, region, Rng(0, "square", batch.ids)), spy.looks


def test_the_share_halves_as_in_the_released_code_and_scales_with_the_queries() -> None:
    full, short = Square(queries=10_000), Square(queries=1000)
    halvings = {11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 8001: 512}
    before = 1
    for query, divisor in halvings.items():
        assert full.share(query) == 0.8 / divisor
        assert full.share(query - 1) == 0.8 / before
        before = divisor
    assert full.share(0) == 0.8
    assert [short.share(q) for q in range(1000)] == [full.share(10 * q) for q in range(1000)]


def test_it_is_the_papers_algorithm_on_one_frame() -> None:
    """Algorithms 1 and 2 of the paper, written out for one sample, with the numbers that the attack draws."""
    eps, queries, height, width = 0.05, 80, 6, 6
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3 * height * width, 3, generator=generator)

    class Images(nn.Module):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return torch.sin(video.flatten(1) @ weight) + 0 * audio[:, :1]

    clean = torch.rand(1, 1, 3, height, width, generator=generator)
    batch = Batch(("a",), AVInput(torch.zeros(1, 8), clean), torch.tensor([1]))
    attack, rng = Square(queries=queries), Rng(0, "square", ("a",))
    found, _ = search(attack, f"XV:linf:{eps}", batch, Images())

    def loss(frame: Tensor) -> float:
        return float(margin(Images()(batch.inputs.audio, frame[None, None]), batch.labels))

    frame = clean[0, 0]
    stripes = rng.signs(torch.empty(1, 1, 3, 1, width), "stripes/video")[0, 0]
    best = (frame + eps * stripes).clamp(0, 1)
    least = loss(best)
    accepted = 0
    for query, draws in enumerate(rng.uniform(torch.empty(1, queries, 6), "boxes/video")[0].tolist()):
        side = min(height, max(1, round(math.sqrt(attack.share(query) * height * width))))
        row, column = (int(u * (height - side + 1)) for u in draws[1:3])
        signs = torch.tensor([-1.0 if u < 0.5 else 1.0 for u in draws[3:]])[:, None, None]
        for one in (signs, -signs):
            offered = best.clone()
            window = (slice(None), slice(row, row + side), slice(column, column + side))
            offered[window] = (frame[window] + eps * one).clamp(0, 1)
            if not torch.allclose(offered, best, atol=1e-7):
                break
        if (new := loss(offered)) < least:
            best, least, accepted = offered, new, accepted + 1
    assert accepted > 5, "some boxes must be kept, or this test is idle"
    torch.testing.assert_close(found.video[0, 0], best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", ["XA:linf:0.05", "XV:linf:0.05", "XAV:linf:0.05:linf:0.05", "XA:l2:0.5"])
def test_it_returns_the_worst_clip_that_it_looked_at(threat: str) -> None:
    clips, looks = search(Square(queries=40), threat)
    answers = torch.stack([found for _, found in looks])
    assert len(looks) == 41
    torch.testing.assert_close(margin(Wavy()(*clips), BATCH.labels), answers.amin(dim=0), rtol=0, atol=1e-5)
    assert (answers.amin(dim=0) < answers[0]).any()


def test_it_starts_from_stripes_and_each_query_changes_one_box_of_every_sample() -> None:
    eps, attack = 0.05, Square(queries=60)
    _, looks = search(attack, f"XAV:linf:{eps}:linf:{eps}")
    best, least = looks[0]
    change = best.video - BATCH.inputs.video
    assert torch.allclose(change.abs(), torch.tensor(eps), atol=1e-6)
    assert torch.allclose(change, change[:, :1, :, :1].expand_as(change), atol=1e-6), "vertical, the same in all frames"
    assert len({tuple(row) for row in change[:, 0, :, 0].sign().flatten(1).tolist()}) > 6, "each sample its own"
    for query, (clips, found) in enumerate(looks[1:]):
        for now, was in zip(clips, best, strict=True):
            assert (now != was).flatten(1).any(dim=1).all(), "no query is wasted"
        moved = (clips.video != best.video).any(dim=2)  # in some color, (batch, frames, height, width)
        share = attack.share(query)
        deep = max(1, round(FRAMES * share ** (1 / 3)))
        side = max(1, round(math.sqrt(min(1, share * FRAMES / deep) * 9)))
        for one in moved:
            frames, rows, columns = (one.any(dim=d).any(dim=d2) for d, d2 in ((2, 1), (2, 0), (1, 0)))
            assert frames.sum() <= deep
            assert max(rows.sum(), columns.sum()) <= side
        better = found < least
        least = found.where(better, least)
        new = zip(clips, best, strict=True)
        best = AVInput(*(n.where(better.view(-1, *[1] * (n.dim() - 1)), b) for n, b in new))


@pytest.mark.parametrize(
    ("threat", "reached"),
    [("XA:linf:0.03", 0.999), ("XV:linf:0.03", 0.999), ("XAV:linf:0.03:linf:0.03", 0.97), ("XA:l2:0.1", 0.9)],
)
def test_enough_queries_come_near_the_closed_form_on_a_linear_model(threat: str, reached: float) -> None:
    model, batch, parsed = Linear(), make_split(12).batch(range(12)), parse_threat(threat)
    drop = sum(
        budget.radius * float(getattr(model, m).detach().double().norm(p=1 if budget.norm == "linf" else 2))
        for m, budget in parsed.budgets.items()
    )
    before = margin(model(*batch.inputs), batch.labels)
    clips, _ = search(Square(queries=2000), threat, batch, model)
    after = margin(model(*clips), batch.labels)
    assert (before - after >= reached * drop).all(), ((before - after) / drop).min()
    assert (before - after <= drop + 1e-5).all()
    few, _ = search(Square(queries=20), threat, batch, model)
    assert (margin(model(*few), batch.labels) > after).all(), "few queries must not suffice, or this test is idle"


def test_it_breaks_several_labels_by_the_worst_class() -> None:
    labels = torch.nn.functional.one_hot(BATCH.labels, 3).float()
    batch = Batch(BATCH.ids, BATCH.inputs, labels)
    clips, _ = search(Square(queries=60), "XAV:linf:0.05:linf:0.05", batch)
    assert (margin(Wavy()(*clips), labels) <= margin(Wavy()(*BATCH.inputs), labels)).all()


@pytest.mark.parametrize("text", ["square:queries=0", "square:p=0", "square:p=1.5", "square:p=nan"])
def test_a_bad_parameter_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        parse_attack(text)


@pytest.mark.parametrize("text", ["noise:draws=8", "square:queries=30", "pgd:steps=2,restarts=3,random_start=True"])
def test_of_several_labels_the_clip_with_the_largest_loss_is_kept(text: str) -> None:
    """Not that with the smallest margin: in both modalities the worst of three classes says little of the others."""
    labels = torch.tensor([[1.0, 0.0, 1.0]]).expand(len(BATCH.ids), 3)
    batch, threat = Batch(BATCH.ids, BATCH.inputs, labels), parse_threat("XAV:linf:0.05:linf:0.05")
    spy = Spy(Victim(Wavy(), 3, torch.device("cpu")), batch, tuple(threat.budgets), {}, "gradients")
    attack = parse_attack(text)
    clips = attack.run(spy, batch, Region(threat, batch.inputs), Rng(0, "any", batch.ids))
    losses, margins = [], []
    with torch.no_grad():
        for seen in (clips, *(seen for seen, _ in spy.looks)):
            logits = spy.logits(seen)
            losses.append(classification_loss(logits, labels))
            margins.append(margin(logits, labels))
    assert torch.equal(losses[0], torch.stack(losses).amax(dim=0))
    assert not torch.equal(margins[0], torch.stack(margins).amin(dim=0)), "else either rule would do"
