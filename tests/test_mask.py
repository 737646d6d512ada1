"""Masked segments: how many, which, and that a corruption is no attack to anything that counts attacks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Wavy, candidate, make_split

from avbench import store, summarize
from avbench.attacks import parse_attack
from avbench.attacks.mask import Mask
from avbench.cells import Cell
from avbench.errors import BadOption
from avbench.metrics import Rows
from avbench.options import RunOptions
from avbench.rng import Rng
from avbench.runner import evaluate
from avbench.suites import Suite, find_suite
from avbench.threats import parse_threat
from avbench.threats.presets import linf_triple
from avbench.types import AVInput

SPLIT = make_split(40, 3)
IDS = tuple(f"clip-{i}" for i in range(30))
CLIPS = AVInput(torch.ones(30, 64), torch.ones(30, 20, 3, 2, 2))


def masked(mask: Mask, clips: AVInput = CLIPS, ids: tuple[str, ...] = IDS) -> AVInput:
    return mask.corrupt(clips, Rng(0, "mask", ids))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.9])
def test_it_masks_whole_segments_and_exactly_the_ratio(ratio: float, mode: str) -> None:
    found = masked(Mask(ratio, segments=10, mode=mode), CLIPS._replace(audio=torch.ones(30, 50)))
    for clip, each in ((found.audio, 5), (found.video.amin(dim=(2, 3, 4)), 2)):
        segments = clip.view(30, 10, each)
        assert (segments == segments[:, :, :1]).all(), "a segment is masked or not"
        assert ((segments[:, :, 0] == 0).sum(dim=1) == round(10 * ratio)).all()
    assert len({tuple(row) for row in found.audio.tolist()}) > 5, "each clip loses its own segments"


def test_sync_masks_the_same_time_in_both_streams_and_async_does_not() -> None:
    clips = CLIPS._replace(audio=torch.ones(30, 20))
    for mode, same in (("sync", 30), ("async", 3)):
        found = masked(Mask(0.5, mode=mode), clips)
        equal = (found.audio == found.video[:, :, 0, 0, 0]).all(dim=1).sum()
        assert equal == same if mode == "sync" else equal <= same


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_larger_ratio_masks_more_of_the_same_clip(mode: str) -> None:
    before = masked(Mask(0.0, mode=mode))
    assert torch.equal(before.audio, CLIPS.audio)
    assert torch.equal(before.video, CLIPS.video)
    for tenth in range(1, 11):
        now = masked(Mask(tenth / 10, mode=mode))
        for new, old in zip(now, before, strict=True):
            assert (new <= old).all()
            assert new.sum() < old.sum()
        before = now
    assert not before.audio.any()
    assert not before.video.any()


def test_a_frame_goes_with_the_segment_that_holds_its_middle() -> None:
    clips = AVInput(torch.ones(30, 10), torch.ones(30, 4, 3, 1, 1))
    found = masked(Mask(0.5), clips)
    assert torch.equal(found.video[:, :, 0, 0, 0], found.audio[:, [1, 3, 6, 8]])


def test_each_clip_loses_the_same_segments_in_any_company() -> None:
    some = [7, 2, 11]
    few = masked(Mask(0.4), CLIPS.pick(torch.tensor(some)), tuple(IDS[i] for i in some))
    for one, other in zip(few, masked(Mask(0.4)), strict=True):
        assert torch.equal(one, other[some])


@pytest.mark.parametrize("mode", ["every", "worst-case"])
def test_its_rows_are_clean_ones_and_no_robust_accuracy_depends_on_them(tmp_path: Path, mode: str) -> None:
    attacks = (parse_attack("fgsm"), parse_attack("pgd"))
    options = RunOptions(output_dir=tmp_path, batch_size=16)
    found = {}
    for name, corruptions in (("plain", ()), ("masked", (Mask(0.3), Mask(1.0, mode="async")))):
        suite = Suite(name, 1, "", linf_triple(0.05, 0.05), attacks, mode, corruptions=corruptions)  # type: ignore[arg-type]
        found[name] = evaluate(candidate(Wavy()), SPLIT, suite, options, quiet=True)
    rows = {name: store.read_rows(run) for name, run in found.items()}
    extra = rows["masked"][rows["masked"]["attack"].str.startswith("mask")]
    rest = rows["masked"].drop(extra.index).reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, rows["plain"])
    cells = tuple((str(threat), str(attack)) for threat in linf_triple(0.05, 0.05) for attack in attacks)
    one, other = (summarize.score(Rows(frame, cells=cells)) for frame in rows.values())
    pd.testing.assert_frame_equal(one, other)
    assert set(extra["threat"]) == {"clean"}
    counts = extra.groupby("attack")["sample"].nunique().to_dict()
    assert counts == {"mask": 40, "mask:ratio=1.0,mode=async": 40}
    silent = Wavy()(torch.zeros(1, 24), torch.zeros(1, 2, 3, 3, 3)).argmax()
    assert (extra.loc[extra["attack"] != "mask", "prediction"] == int(silent)).all()


def test_it_runs_without_a_threat_and_never_under_one(tmp_path: Path) -> None:
    suite = find_suite(None, (), ("mask:ratio=0.5,mode=async",))
    run = evaluate(candidate(Wavy()), SPLIT, suite, RunOptions(output_dir=tmp_path, batch_size=16), quiet=True)
    assert len(store.read_rows(run)) == 4 * 40
    assert store.read_record(run)["corruptions"] == ["mask:ratio=0.5,mode=async"]
    with pytest.raises(BadOption, match="leave --threat out"):
        find_suite(None, ("standard",), ("mask",))
    for make in (Cell, lambda threat, attack: Suite("x", 1, "", (threat,), (attack,))):
        with pytest.raises(BadOption, match="a corruption, without a budget"):
            make(parse_threat("XA:linf:0.1"), Mask())


@pytest.mark.parametrize("text", ["mask:ratio=1.1", "mask:ratio=-0.1", "mask:segments=0", "mask:mode=both"])
def test_a_bad_parameter_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        parse_attack(text)
