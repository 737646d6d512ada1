"""APGD is its paper's algorithm 1 with its losses and reaches closed forms; NIM looks ahead; neither is a weak MIM or PGD."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import FRAMES, SAMPLES, SIDE, Linear, Wavy, make_split, thinned
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from avbench.attacks import apgd, parse_attack
from avbench.attacks.apgd import APGDT, checkpoints, dlr, targeted_dlr
from avbench.datasets.splits import open_split
from avbench.errors import BadOption
from avbench.objectives import Objective, ascent_objective, margin
from avbench.oracle import Gradient, Oracle, Victim
from avbench.rng import Rng
from avbench.submission import find_candidate
from avbench.threats import ThreatModel, parse_threat
from avbench.threats.region import Region
from avbench.types import MODALITIES, AVInput, Batch

APGDS = ("apgd-ce", "apgd-dlr", "apgd-t")
BATCH = make_split(24, 3).batch(range(12))


class Planes(nn.Module):
    """Five classes, linear: each rival has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(SAMPLES + FRAMES * 3 * SIDE * SIDE, 5, generator=random) / 4)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        return torch.cat([audio, video.flatten(1) - 0.5], dim=1) @ self.weight


def attacked(name: str, threat: str, batch: Batch, model: nn.Module, classes: int) -> AVInput:
    attack, legal = parse_attack(name), parse_threat(threat)
    victim = Victim(model, classes, torch.device("cpu"))
    kept = {m: victim.embed(batch.inputs, m) for m in MODALITIES if victim.two_stage and m not in legal.budgets}
    oracle = Oracle(victim, batch, tuple(legal.budgets), kept, attack.needs)
    return attack.run(oracle, batch, Region(legal, batch.inputs), Rng(0, "toy", batch.ids))


def one_of(batch: Batch, index: int) -> Batch:
    chosen = slice(index, index + 1)
    return Batch(batch.ids[chosen], batch.inputs.pick(chosen), batch.labels[chosen])


def assert_same(one: AVInput, other: AVInput) -> None:
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ["XA", "XV", "XAV"])
@pytest.mark.parametrize("name", APGDS)
def test_it_reaches_the_closed_form_on_a_linear_model(name: str, kind: str, norm: str) -> None:
    model, batch, order = Linear(), make_split(12).batch(range(12)), 1 if norm == "linf" else 2
    weights = {"A": model.audio, "V": model.video}
    drop = sum(0.02 * weights[letter].norm(p=order) for letter in kind[1:])
    budget = f"{norm}:0.02"
    clips = attacked(name, f"{kind}:{budget}" + f":{budget}" * (kind == "XAV"), batch, model, 2)
    found = margin(model(*batch.inputs), batch.labels) - margin(model(*clips), batch.labels)
    torch.testing.assert_close(found, torch.full_like(found, drop.item()), rtol=1e-4, atol=2e-6)


def test_the_targeted_ratio_breaks_exactly_what_can_be_broken_among_five_linear_classes() -> None:
    model, batch, radius = Planes(), make_split(60, 5).batch(range(60)), 0.02
    batch = Batch(batch.ids, batch.inputs, model(*batch.inputs).argmax(dim=1))
    logits, weight = model(*batch.inputs), model.weight.T
    gaps = logits.gather(1, batch.labels[:, None]) - logits
    least = gaps - radius * (weight[batch.labels][:, None] - weight).abs().sum(dim=2)
    least = least.scatter(1, batch.labels[:, None], math.inf).amin(dim=1)
    found = margin(model(*attacked("apgd-t", f"XAV:linf:{radius}:linf:{radius}", batch, model, 5)), batch.labels)
    assert (found >= least - 1e-4).all()
    assert torch.equal(found > 0, least > 0)
    assert 0.2 < (least > 0).float().mean() < 0.8, "some must be broken and some not, or this test is idle"


def test_the_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == {22, 41, 57, 70, 80, 87, 93, 99}
    for steps in range(1, 300):
        p = [0.0, 0.22]
        while p[-1] < 1:
            p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
        expected = {math.ceil(round(x * steps, 6)) for x in p[1:]}
        assert checkpoints(steps) == {check for check in expected if check < steps}


def schedule(f: list[float]) -> list[tuple[float, int]]:
    """Conditions 1 and 2 of Croce & Hein 2020, written out: step k goes with which size, in radii, from which point.

    f[k] is the objective at the point where step k led; f[0] at the start.
    """
    steps, eta, at, rose, plan = len(f) - 1, 2.0, 0, [], []
    w, p = [0], [0.0, 0.22]
    while math.ceil(round(p[-1] * steps, 6)) < steps:
        w.append(math.ceil(round(p[-1] * steps, 6)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    f_max, eta_before = {0: f[0]}, {0: eta}  # at the checkpoints, before a halving there
    for k in range(1, steps + 1):
        plan.append((eta, at))
        rose.append(f[k] > f[at])
        at = k
        if k in w:
            last = max(check for check in w if check < k)
            f_max[k], eta_before[k] = max(f[: k + 1]), eta
            condition_1 = sum(rose[last:k]) < 0.75 * (k - last)
            condition_2 = eta_before[last] == eta_before[k] and f_max[last] == f_max[k]
            if condition_1 or condition_2:
                eta, at = eta / 2, f.index(f_max[k])
    return plan


@pytest.mark.parametrize("steps", [1, 5, 30, 100, 250])
def test_the_schedule_is_that_of_the_paper_whatever_the_values(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On invented objectives that mostly rise and sometimes fall deep, so that condition 2 also holds alone."""
    values = torch.where(
        torch.rand(steps + 1, 200, generator=(random := torch.Generator().manual_seed(0))) < 0.87, 1, -8
    )
    values = values.cumsum(dim=0) + torch.rand(200, generator=random) * torch.arange(steps + 1)[:, None] / 10
    start = AVInput(torch.zeros(200, 1), torch.zeros(200, 1, 1, 1, 1))
    points = [start._replace(audio=torch.full((200, 1), float(k))) for k in range(steps + 1)]  # a point is its number
    made: list[tuple[Tensor, Tensor]] = []

    def moved(region: Region, here: apgd.Point, before: AVInput, size: Tensor, weight: float) -> AVInput:
        made.append((size, here.clips.audio[:, 0]))
        return points[len(made)]

    monkeypatch.setattr(apgd, "_moved", moved)
    threat = Region(parse_threat("XA:linf:0.1"), start)
    apgd.climb(lambda clips: Gradient(values[len(made)], {"audio": clips.audio}), threat, start, steps)
    sizes, sources = (torch.stack(column, dim=1).tolist() for column in zip(*made, strict=True))
    for sample in range(200):
        expected = schedule(values[:, sample].tolist())
        assert list(zip(sizes[sample], sources[sample], strict=True)) == expected
    if steps == 100:
        assert len({tuple(one) for one in sizes}) > 20, "samples must differ in when they halve, or this test is idle"


def replay(f: Callable[[AVInput], Tensor], region: Region, visited: list[AVInput]) -> tuple[list[AVInput], list[float]]:
    """Algorithm 1 for one sample: where each step ought to lead from the points visited, and the sizes of the steps.

    It goes on from the visited point, for on a non-convex model a last bit grows tenfold a step.
    """

    def project(name: str, x: Tensor) -> Tensor:
        ball = region.balls[name]
        delta, eps = x - ball.clean, ball.budget.radius
        if ball.budget.norm == "linf":
            return ball.clean + delta.clamp(-eps, eps)
        return ball.clean + delta * min(1.0, eps / (delta.norm().item() + 1e-30))

    leaves = [{m: getattr(x, m).clone().requires_grad_() for m in region.attacked} for x in visited]
    values = [f(x._replace(**leaf)) for x, leaf in zip(visited, leaves, strict=True)]
    gradients = [
        dict(zip(leaf, torch.autograd.grad(v, list(leaf.values())), strict=True))
        for v, leaf in zip(values, leaves, strict=True)
    ]
    plan, expected = schedule([value.item() for value in values]), [visited[0]]
    for k, (eta, at) in enumerate(plan):
        alpha, moved = (0.75 if k else 1.0), {}
        for m, ball in region.balls.items():
            x, g, eps = getattr(visited[at], m), gradients[at][m], ball.budget.radius
            before = getattr(visited[plan[k - 1][1]], m) if k else x
            direction = g.sign() if ball.budget.norm == "linf" else g / (g.norm() + 1e-30)
            z = project(m, x + eta * eps * direction)
            moved[m] = project(m, x + alpha * (z - x) + (1 - alpha) * (x - before))
        expected.append(visited[0]._replace(**moved))
    return expected, [eta for eta, _ in plan]


class Watched(Oracle):
    """Remember where an attack looked."""

    def gradient(self, clips: AVInput, objective: Objective = ascent_objective) -> Gradient:
        self.seen = [*getattr(self, "seen", []), clips]
        return super().gradient(clips, objective)


def watched(name: str, threat: ThreatModel, batch: Batch, model: nn.Module) -> tuple[list[AVInput], AVInput]:
    oracle = Watched(Victim(model, 5, torch.device("cpu")), batch, tuple(threat.budgets), {})
    clips = parse_attack(name).run(oracle, batch, Region(threat, batch.inputs), Rng(0, "toy", batch.ids))
    return oracle.seen, clips


@pytest.mark.parametrize(
    "threat", thinned(["XAV:linf:0.02:linf:0.05", "XA:linf:0.05", "XV:l2:0.5", "XAV:l2:0.5:linf:0.05"], 3)
)
@pytest.mark.parametrize(("name", "loss"), [("apgd-ce", ascent_objective), ("apgd-dlr", dlr)])
def test_it_is_algorithm_1(name: str, loss: Objective, threat: str) -> None:
    model, smallest = Wavy(classes=5), set()
    for index in range(6):
        batch = one_of(BATCH, index)
        region = Region(parse_threat(threat), batch.inputs)
        visited, clips = watched(name, region.threat, batch, model)
        assert len(visited) == 101
        assert_same(visited[0], region.sample(Rng(0, "toy", batch.ids), "objective 0/restart 0"))
        expected, etas = replay(lambda x: loss(model(*x), batch.labels)[0], region, visited)  # noqa: B023
        for one, other in zip(visited, expected, strict=True):
            assert_same(one, other)
        margins = [margin(model(*point), batch.labels).item() for point in visited]
        assert_same(clips, visited[margins.index(min(margins))])
        smallest.add(min(etas))
    assert min(smallest) < 0.1, "steps must be halved several times, or this test is idle"


def test_the_ratios_are_those_of_the_paper_and_no_scale_or_shift_changes_them() -> None:
    logits = torch.tensor([3.0, 1.0, 2.0, 0.0]).repeat(4, 1)
    labels, target = torch.arange(4), torch.tensor([2, 0, 3, 2])
    ratio = torch.tensor([-1 / 2, 2 / 2, 1 / 2, 3 / 2])  # (max_{i != y} z_i - z_y) / (3 - 1)
    targeted = torch.tensor([-1 / 2.5, 2 / 2.5, -2 / 2.5, 2 / 2.5])  # (z_t - z_y) / (3 - (1 + 0) / 2)
    for scale, shift in ((1, 0), (1e4, 0), (1e-4, 0), (1, 7)):
        torch.testing.assert_close(dlr(scale * logits + shift, labels), ratio)
        torch.testing.assert_close(targeted_dlr(target, scale * logits + shift, labels), targeted)


def test_with_too_few_classes_a_ratio_is_the_difference_and_with_ties_it_is_finite() -> None:
    two, three = torch.tensor([[3.0, 1.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    label, target = torch.tensor([0]), torch.tensor([1])
    assert dlr(two, label).item() == -2
    assert targeted_dlr(target, two, label).item() == -2
    assert targeted_dlr(target, three, label).item() == -2
    for value in (0.0, 1e4):
        tied = torch.full((1, 5), value).requires_grad_()
        for loss in (dlr(tied, label), targeted_dlr(target, tied, label)):
            [gradient] = torch.autograd.grad(loss.sum(), tied)
            assert loss.isfinite().all()
            assert gradient.isfinite().all()


@pytest.mark.parametrize(("targets", "classes"), [(9, 12), (9, 5), (2, 12)])
def test_the_targets_are_the_likeliest_wrong_classes_of_the_clean_clip(targets: int, classes: int) -> None:
    model = Wavy(classes=classes)
    oracle = Oracle(Victim(model, classes, torch.device("cpu")), BATCH, ("audio",), {})
    found = [objective.args[0] for objective in APGDT(targets=targets).objectives(oracle, BATCH)]  # type: ignore[attr-defined]
    for logits, label, chosen in zip(model(*BATCH.inputs), BATCH.labels, torch.stack(found, dim=1), strict=True):
        ranked = sorted((c for c in range(classes) if c != label), key=lambda c: -logits[c].item())
        assert chosen.tolist() == ranked[:targets]


@pytest.mark.parametrize(
    ("few", "many"),
    [("apgd-t:steps=20,targets=1", "apgd-t:steps=20"), ("apgd-ce:steps=20", "apgd-ce:steps=20,restarts=3")],
)
def test_more_targets_or_restarts_never_leave_a_larger_margin(few: str, many: str) -> None:
    model, threat = Wavy(classes=5), "XAV:linf:0.01:linf:0.01"
    less, more = (margin(model(*attacked(name, threat, BATCH, model, 5)), BATCH.labels) for name in (few, many))
    assert (more <= less).all()
    assert (more < less - 0.1).any(), "they must begin or aim elsewhere, or this test is idle"


@pytest.mark.parametrize("threat", ["XA:linf:0.01", "XV:l2:0.04", "XAV:linf:0.005:linf:0.005"])
def test_on_a_non_convex_model_it_breaks_what_pgd_breaks(threat: str) -> None:
    model = Wavy(classes=5)
    batch = make_split(100, 5).batch(range(100))
    batch = Batch(batch.ids, batch.inputs, model(*batch.inputs).argmax(dim=1))
    alive = {
        name: int((margin(model(*attacked(name, threat, batch, model, 5)), batch.labels) > 0).sum())
        for name in ("pgd:steps=100", "apgd-ce", "apgd-dlr", "apgd-t")
    }
    assert 10 < alive["pgd:steps=100"] < 90, "some must be broken and some not, or this test is idle"
    assert alive["apgd-ce"] <= alive["pgd:steps=100"] + 1
    assert alive["apgd-t"] <= alive["pgd:steps=100"] + 1
    assert alive["apgd-t"] <= alive["apgd-dlr"] + 1


@pytest.mark.slow
def test_on_a_committed_model_it_breaks_what_pgd_breaks() -> None:
    candidate, card = find_candidate("avbench--synthav-concat")
    batch, classes = open_split(card.name, "test").batch(range(64)), len(card.classes)
    alive = {
        name: int(
            (
                margin(
                    candidate.module(*attacked(name, "XA:linf:0.003", batch, candidate.module, classes)), batch.labels
                )
                > 0
            ).sum()
        )
        for name in ("pgd:steps=100", "apgd-ce")
    }
    assert 10 < alive["pgd:steps=100"] < 54
    assert alive["apgd-ce"] <= alive["pgd:steps=100"] + 1


def test_on_several_labels_cross_entropy_is_climbed_and_a_ratio_is_refused() -> None:
    model, labels = Wavy(classes=5), (torch.rand(12, 5, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    batch, threat = Batch(BATCH.ids, BATCH.inputs, labels), "XAV:linf:0.02:linf:0.02"
    clean, pgd, found = (
        ascent_objective(model(*clips), labels)
        for clips in (batch.inputs, *(attacked(name, threat, batch, model, 5) for name in ("pgd:steps=100", "apgd-ce")))
    )
    assert (found > clean).all()
    assert found.mean() > pgd.mean()
    for name in ("apgd-dlr", "apgd-t"):
        with pytest.raises(BadOption, match="use apgd-ce"):
            attacked(name, threat, batch, model, 5)


def test_of_a_model_that_answers_at_random_the_mean_counts_and_not_the_luckiest_draw() -> None:
    class Twice(Oracle):
        def gradient(self, clips: AVInput, objective: Objective = ascent_objective) -> Gradient:
            draws = [torch.tensor([[2.0, 0.0]]), torch.tensor([[-3.0, 0.0]])]
            return Gradient(sum(objective(draw, torch.tensor([0])) for draw in draws), {})  # type: ignore[arg-type]

    batch, worst = one_of(BATCH, 0), apgd.Worst()
    oracle = Twice(Victim(Wavy(), 3, torch.device("cpu")), batch, (), {})
    apgd._look(oracle, dlr, worst, batch.inputs)
    better = batch.inputs._replace(audio=batch.inputs.audio + 1)
    worst.offer(better, torch.tensor([0.6]))  # the mean above is 0.5, the luckiest draw 3
    assert worst.clips.audio is not batch.inputs.audio
    assert_same(worst.clips, better)


@pytest.mark.parametrize(
    "text", ["apgd-ce:steps=0", "apgd-dlr:restarts=0", "apgd-t:targets=0", "apgd-t:steps=0", "nim:steps=0"]
)
def test_a_bad_parameter_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        parse_attack(text)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_nim_is_its_equations(momentum: float, norm: str) -> None:
    """Lin et al. 2020, eq. 6 to 8 with the look-ahead of the docstring, for one sample and the audio alone."""
    model, eps, batch = Wavy(), 0.3 if norm == "l2" else 0.05, one_of(BATCH, 0)
    clean = batch.inputs.audio

    def project(audio: Tensor) -> Tensor:
        delta = audio - clean
        return clean + (delta.clamp(-eps, eps) if norm == "linf" else delta * (eps / delta.norm()).clamp_max(1))

    def direction(v: Tensor) -> Tensor:
        return v.sign() if norm == "linf" else v / v.norm().clamp_min(1e-30)

    audio, velocity = clean.clone(), torch.zeros_like(clean)
    for _ in range(10):
        length = velocity.abs().sum()
        ahead = project(audio + momentum * eps / 8 * length * direction(velocity)).requires_grad_()
        [gradient] = torch.autograd.grad(cross_entropy(model(ahead, batch.inputs.video), batch.labels), ahead)
        velocity = momentum * velocity + gradient / gradient.abs().sum()
        audio = project(audio + eps / 8 * direction(velocity)).detach()
    found, mim = (
        attacked(f"{name}:momentum={momentum}", f"XA:{norm}:{eps}", batch, model, 3).audio for name in ("nim", "mim")
    )
    torch.testing.assert_close(found, audio, rtol=0, atol=1e-5)
    assert ((found - mim).abs().max() > 1e-3) == (momentum > 0), "it must differ from MIM by its look-ahead"


def test_nim_looks_only_at_legal_points() -> None:
    threat = parse_threat("XAV:l2:0.5:linf-normalized:0.1")
    visited, _ = watched("nim", threat, BATCH, Wavy(classes=5))
    for clips in visited:
        Region(threat, BATCH.inputs).check(clips, BATCH.ids, "the look-ahead")
