"""Threat sets: what is legal, exactly."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avbench.errors import AvbenchError, BadBudget, BudgetViolation
from avbench.rng import Rng
from avbench.threats import BUDGETS, PRESETS, ThreatModel, find_threats, parse_threat
from avbench.threats.linf import IMAGENET_STD
from avbench.threats.region import Region
from avbench.types import BOX, AVInput

IDS = ("a", "b", "c")
CLEAN = AVInput(torch.rand(3, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1,
                torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1)))  # fmt: skip
radii = st.floats(0, 1, allow_subnormal=False)


def budgets(modality: str) -> list[str]:
    return [name for name in BUDGETS.names() if not (modality == "audio" and name == "linf-normalized")]


@given(
    radii,
    radii,
    st.sampled_from(budgets("audio")),
    st.sampled_from(budgets("video")),
    st.sampled_from(["", "@black-box"]),
)
def test_a_threat_model_is_read_back_from_its_text(a: float, v: float, audio: str, video: str, access: str) -> None:
    for text in (f"XA:{audio}:{a!r}{access}", f"XV:{video}:{v!r}{access}", f"XAV:{audio}:{a!r}:{video}:{v!r}{access}"):
        threat = parse_threat(text)
        assert parse_threat(str(threat)) == threat
        assert threat.label == text.partition(":")[0]


@given(st.text(max_size=40))
def test_any_text_is_a_threat_model_or_a_named_error(text: str) -> None:
    try:
        parse_threat(text)
    except AvbenchError as error:
        assert str(error)


@pytest.mark.parametrize("radius", ["-0.1", "nan", "inf", "2.5", "x", ""])
def test_a_radius_that_cannot_be_is_refused(radius: str) -> None:
    with pytest.raises(BadBudget):
        parse_threat(f"XV:linf:{radius}")


def test_a_threat_model_without_budget_is_refused() -> None:
    with pytest.raises(BadBudget, match="needs a budget"):
        ThreatModel()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["audio", "video"]), radii, st.integers(0, 2**31), st.floats(1e-6, 100), st.data())
def test_every_budget_projects_into_itself_exactly(
    modality: str, radius: float, seed: int, size: float, data: st.DataObject
) -> None:
    budget = BUDGETS.get(data.draw(st.sampled_from(budgets(modality))))(radius)
    clean = getattr(CLEAN, modality)
    ball = budget.ball(clean, BOX[modality])  # type: ignore[index]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    for clip in (clean + size * noise, ball.ascend(clean, noise, 1.0), ball.sample(Rng(seed, "t", IDS), "p")):
        projected = ball.project(clip)
        assert ball.excess(projected).max() == 0
        assert torch.equal(ball.project(projected), projected), "projecting twice is projecting once"
    assert torch.equal(ball.project(clean), clean)


@pytest.mark.parametrize("norm", BUDGETS.names())
def test_a_zero_radius_leaves_only_the_clean_clip(norm: str) -> None:
    ball = BUDGETS.get(norm)(0.0).ball(CLEAN.video, (0, 1))
    assert torch.equal(ball.project(CLEAN.video + 1), CLEAN.video)
    assert torch.equal(ball.sample(Rng(0, "t", IDS), "p"), CLEAN.video)


@pytest.mark.parametrize("norm", BUDGETS.names())
def test_a_step_of_the_whole_radius_reaches_the_boundary(norm: str) -> None:
    clean = CLEAN.video * 0.5 + 0.25  # away from the box
    ball = BUDGETS.get(norm)(0.05).ball(clean, (0, 1))
    gradient = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    assert ball.distance(ball.ascend(clean, gradient, 1.0)) == pytest.approx([0.05] * 3, rel=1e-5)


def test_the_normalized_radius_is_the_radius_times_the_channel_deviation() -> None:
    clean = torch.full((1, 1, 3, 2, 2), 0.5)
    ball = BUDGETS.get("linf-normalized")(0.012).ball(clean, (0, 1))
    moved = ball.ascend(clean, torch.ones_like(clean), 1.0) - clean
    assert moved[0, 0, :, 0, 0].tolist() == pytest.approx([0.012 * s for s in IMAGENET_STD], rel=1e-4)


@pytest.mark.parametrize("threat", [*find_threats("standard"), parse_threat("XAV:l2:0.5:linf:0.01")], ids=str)
def test_the_check_refuses_what_leaves_the_set_by_one_bit(threat: ThreatModel) -> None:
    region = Region(threat, CLEAN)
    legal = region.sample(Rng(0, "t", IDS), "p")
    region.check(legal, IDS, "legal")
    for modality in ("audio", "video"):
        clean = getattr(CLEAN, modality)
        if modality in threat.budgets:
            edge = region.project(legal._replace(**{modality: clean + 10}))
            clip = getattr(edge, modality).clone()
            ball = region.balls[modality]
            while ball.excess(clip)[1] == 0:  # from the edge outward, one representable number at a time
                clip[1] = clip[1].nextafter(torch.tensor(math.inf))
        else:
            clip = clean.clone()
            clip[1].view(-1)[0] = clip[1].view(-1)[0].nextafter(torch.tensor(0.0))
        with pytest.raises(BudgetViolation, match=r"cheat left .* sample b"):
            region.check(legal._replace(**{modality: clip}), IDS, "cheat")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("threat", [*find_threats("standard"), parse_threat("XAV:l2:5:l2:5")], ids=str)
def test_a_nan_or_infinity_is_never_legal(threat: ThreatModel, bad: float) -> None:
    for modality in ("audio", "video"):
        clip = getattr(CLEAN, modality).clone()
        clip[2].view(-1)[5] = bad
        with pytest.raises(BudgetViolation, match="sample c"):
            Region(threat, CLEAN).check(CLEAN._replace(**{modality: clip}), IDS, "cheat")


def test_another_shape_or_dtype_is_refused() -> None:
    region = Region(parse_threat("XA:linf:0.1"), CLEAN)
    for clips in (CLEAN._replace(video=CLEAN.video[:, :1]), CLEAN._replace(audio=CLEAN.audio.double())):
        with pytest.raises(BudgetViolation, match="returned"):
            region.check(clips, IDS, "cheat")


@pytest.mark.parametrize(("modality", "edge"), [("audio", 1.0), ("audio", -1.0), ("video", 1.0), ("video", 0.0)])
@pytest.mark.parametrize("norm", ["linf:0.5", "l2:0.5"])
def test_the_box_is_checked_to_the_last_bit_even_inside_the_budget(modality: str, edge: float, norm: str) -> None:
    clean = AVInput(torch.full((3, 50), 0.9), torch.full((3, 2, 3, 4, 4), 0.9))
    if edge < 0.5:
        clean = AVInput(-clean.audio, 1 - clean.video)
    region = Region(parse_threat(f"X{modality[0].upper()}:{norm}"), clean)
    clip = getattr(clean, modality).clone()
    clip[1].view(-1)[3] = edge
    region.check(clean._replace(**{modality: clip}), IDS, "legal")
    clip[1].view(-1)[3] = torch.tensor(edge).nextafter(torch.tensor(math.copysign(9.0, edge - 0.5)))
    with pytest.raises(BudgetViolation, match="sample b"):
        region.check(clean._replace(**{modality: clip}), IDS, "cheat")


@pytest.mark.parametrize("norm", BUDGETS.names())
def test_random_clips_fill_the_budget_uniformly(norm: str) -> None:
    ids = tuple(map(str, range(2000)))
    clean = torch.full((2000, 1, 3, 1, 1), 0.5)
    ball = BUDGETS.get(norm)(0.1).ball(clean, (0, 1))
    drawn = ball.sample(Rng(0, "s", ids), "p")
    assert (drawn - clean).mean().abs() < 0.005
    share = ball.distance(drawn) / 0.1
    # In three dimensions, a cube or a ball of half the radius holds an eighth of the volume.
    assert (share < 0.5).double().mean().item() == pytest.approx(0.125, abs=0.03)
    assert share.max() > 0.95


def test_presets_are_those_of_the_papers() -> None:
    assert [str(t) for t in find_threats("cvpr21-attack")] == [
        "XA:linf:0.012",
        "XV:linf:0.012",
        "XAV:linf:0.006:linf:0.006",
    ]
    assert [str(t) for t in find_threats("standard/XV")] == ["XV:linf:0.006"]
    assert len(PRESETS.get("strength-curve")) == 39


def test_containment_is_a_partial_order_and_follows_the_lattice() -> None:
    threats = [t for name in PRESETS.names() for t in PRESETS.get(name)]
    for one, other in itertools.product(threats, threats):
        if one.contains(other) and other.contains(one):
            assert one == other
    for name in ("standard", "strength-curve"):
        for audio, video, both in zip(*[iter(PRESETS.get(name))] * 3, strict=True):
            assert both.contains(audio)
            assert both.contains(video)
            assert not audio.contains(both)
    assert not parse_threat("XA:linf:0.1").contains(parse_threat("XA:linf:0.05@black-box"))
    assert not parse_threat("XA:linf:0.1").contains(parse_threat("XA:l2:0.05"))


def test_random_clips_depend_on_the_sample_and_on_nothing_else() -> None:
    threat = parse_threat("XAV:linf:0.1:l2:0.5")
    whole = Region(threat, CLEAN).sample(Rng(7, "s", IDS), "p")
    for i, name in enumerate(IDS):
        alone = Region(threat, CLEAN.pick(slice(i, i + 1))).sample(Rng(7, "s", (name,)), "p")
        assert torch.equal(alone.audio[0], whole.audio[i])
        assert torch.equal(alone.video[0], whole.video[i])
    for other in (Rng(8, "s", IDS), Rng(7, "z", IDS), Rng(7, "s", ("x", "y", "z"))):
        assert not torch.equal(Region(threat, CLEAN).sample(other, "p").audio, whole.audio)
