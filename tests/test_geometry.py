"""Density and convexity: closed forms of volumes, linear regions, and the identities of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import Linear, Wavy, candidate, make_split
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avbench.analyze import accuracy_drop, analyze
from avbench.geometry import STREAMS, convexity, density, log_ball_volume
from avbench.rng import Rng
from avbench.types import AVInput


@pytest.mark.parametrize("radius", [0.01, 1.0, 7.5])
def test_the_log_volume_is_the_closed_form(radius: float) -> None:
    known = {1: 2 * radius, 2: math.pi * radius**2, 3: 4 / 3 * math.pi * radius**3}
    for dimension, volume in known.items():
        assert log_ball_volume(dimension, radius) == pytest.approx(math.log(volume), rel=1e-12)
    # An even dimension 2k has pi^k r^2k / k!, here with exact integers.
    wanted = 256 * math.log(math.pi) + 512 * math.log(radius) - math.log(math.factorial(256))
    assert log_ball_volume(512, radius) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 3, 10, 512])
def test_balls_of_other_norms_are_cubes_and_cross_polytopes(dimension: int) -> None:
    assert log_ball_volume(dimension, 2.0, math.inf) == pytest.approx(dimension * math.log(4))
    wanted = dimension * math.log(4) - math.lgamma(dimension + 1)
    assert log_ball_volume(dimension, 2.0, 1.0) == pytest.approx(wanted)
    assert log_ball_volume(dimension, 0.0) == -math.inf


@given(st.integers(2, 40), st.integers(1, 6), st.sampled_from([0.6, 0.8]), st.sampled_from([1.0, 2.0, math.inf]))
def test_a_density_is_its_definition(n: int, dimension: int, tau: float, p: float) -> None:
    points = np.random.default_rng(n).normal(0, 50, (n, dimension))
    found = density(points, tau, p)
    distances = [np.linalg.norm(x - points.mean(axis=0), p) for x in points]
    assert found.radius == pytest.approx(np.quantile(distances, tau))
    outside = sum(d > found.radius for d in distances)
    if found.log_volume > 0:
        assert found.value == pytest.approx(outside / found.log_volume)
    else:
        assert math.isnan(found.value)
    moved = density(points + 1000, tau, p)
    assert moved.log_volume == pytest.approx(found.log_volume, abs=1e-6)


def test_a_density_without_a_positive_log_volume_is_not_a_number() -> None:
    points = np.random.default_rng(0).normal(0, 0.01, (30, 3))
    found = density(points, 0.8)
    assert found.log_volume < 0
    assert math.isnan(found.value)
    assert math.isnan(density(points[:1], 0.8).value)


SPLIT = make_split(60)


def shares(model: nn.Module, label: int) -> dict[str, tuple[float, int]]:
    batch = SPLIT.batch([i for i in range(60) if SPLIT.lock.rows[i].label == label])

    def classify(inputs: AVInput) -> Tensor:
        return model(*inputs).argmax(dim=1)

    with torch.no_grad():
        found = {s: convexity(batch, label, s, classify, Rng(0, "test", ("x",))) for s in STREAMS}
    return {streams: (one.value, one.points) for streams, one in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_every_region_of_a_linear_classifier_is_convex(seed: int) -> None:
    for label in (0, 1):
        for value, points in shares(Linear(seed), label).values():
            assert value == 1
            assert points > 300


def test_a_region_that_is_not_convex_is_found_out() -> None:
    class Outside(nn.Module):
        """Class 1 lies on both sides of class 0."""

        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            far = (audio.mean(dim=1) + video.mean(dim=(1, 2, 3, 4)) - 0.5).abs()
            return torch.stack([torch.full_like(far, 0.05), far], dim=1)

    assert shares(Outside(), 0)["joint"][0] == 1
    assert 0.3 < shares(Outside(), 1)["joint"][0] < 0.95


def test_the_table_has_every_class_stream_and_measure() -> None:
    table = analyze(candidate(Linear()), SPLIT, device="cpu", quiet=True)
    kinds = table.groupby(["measure", "streams", "parameter"], dropna=False)["class"].apply(list)
    assert all(classes == [0, 1] for classes in kinds)
    assert len(kinds) == 3 + 3 + 2 * 2 * 3
    convex = table[table["measure"].str.endswith("convexity")]
    assert (convex["value"] == 1).all()
    assert (convex["low"] > 0.99).all()
    again = analyze(candidate(Linear()), SPLIT, device="cpu", quiet=True)
    assert table.equals(again)
    whole = analyze(candidate(Wavy(classes=2)), SPLIT, device="cpu", quiet=True)
    assert set(whole["measure"]) == {"input-convexity", "density", "log-volume"}


def test_accuracy_drops_are_those_of_the_rows() -> None:
    from avbench.metrics.sketch import sketch

    rows = sketch({"clean none": "1110", "XA:linf:0.1 pgd": "1000", "XA:linf:0.1 late": "1"})
    frame = rows.frame.assign(label=[0, 0, 1, 1] * 2 + [0])
    drops = accuracy_drop(frame).set_index("class")["drop"].to_dict()
    assert drops == {0: 50.0, 1: 50.0}
