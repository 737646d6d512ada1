"""The whole pipeline on a linear model: robust accuracy equals what algebra says, for every threat, norm and radius."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Linear, candidate, make_split

from avbench import api
from avbench.metrics import WORST_CASE
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.suites import find_suite

SPLIT = make_split(200)


def closed_form(norm: str, radius: float) -> dict[str, float]:
    """Robust accuracy in percent: the worst perturbation moves the margin by radius times the weights' dual norm."""
    model, batch = Linear(), SPLIT.batch(range(200))
    order = 1 if norm == "linf" else 2
    with torch.no_grad():
        logit = model(*batch.inputs)[:, 1].double()
        signed = torch.where(batch.labels == 1, logit, -logit)
        drop = {m: radius * w.double().norm(p=order) for m, w in (("A", model.audio), ("V", model.video))}
        return {
            f"X{kind}": 100 * float((signed > sum(drop[letter] for letter in kind)).double().mean())
            for kind in ("A", "V", "AV")
        }


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.03, 0.06, 0.1])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "mim"])
def test_robust_accuracy_is_the_closed_form(norm: str, radius: float, attack: str, tmp_path: Path) -> None:
    threats = (f"XA:{norm}:{radius}", f"XV:{norm}:{radius}", f"XAV:{norm}:{radius}:{norm}:{radius}")
    options = RunOptions(output_dir=tmp_path, batch_size=64)
    run = evaluate(candidate(Linear()), SPLIT, find_suite(None, threats, (attack,)), options, quiet=True)
    scores = api.summarize.score(api.Rows(api.store.read_rows(run)))
    found = scores[(scores["metric"] == "robust-accuracy") & (scores["attack"] == WORST_CASE)]
    expected = closed_form(norm, radius)
    assert {t.partition(":")[0]: v for t, v in zip(found["threat"], found["value"], strict=True)} == pytest.approx(
        expected, abs=1e-9
    )
    if radius == 0.03 and norm == "linf":
        assert 0 < expected["XAV"] < expected["XA"] < 100, "the radii must make a difference, or this test is idle"
