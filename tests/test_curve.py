"""Strength curves: the scores of the run as they are, unimodal runs beside them, and a figure that shows just that."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import Linear, MemorySplit, Wavy, candidate, make_split
from PIL import Image
from torch import Tensor

from avbench import api
from avbench.cli import main
from avbench.curve import METRICS, draw_curve
from avbench.metrics import CLEAN, NONE, SILENCE_AUDIO, SILENCE_VIDEO, WORST_CASE, Score
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.suites import SUITES, Suite, find_suite

SPLIT = make_split(60, name="synthav")  # a name that has a card
RADII = [0.0, 0.01, 0.02, 0.04, 0.1, 0.4]
THREATS = [t for r in RADII for t in (f"XA:linf:{r}", f"XV:linf:{r}", f"XAV:linf:{r}:linf:{r}")]
CURVE = find_suite(None, tuple(THREATS), ("fgsm", "mim"))
FILES = ("curve.parquet", "curve.png", "curve.svg")


class Hears(Linear):
    """Only the sound counts."""

    modalities = ("audio",)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().fuse(2 * audio, torch.zeros_like(video) - self.bias)


class Sees(Linear):
    """Only the picture counts."""

    modalities = ("video",)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return super().fuse(torch.zeros_like(audio), 2 * video + self.bias)


def run_of(
    folder: Path, model: torch.nn.Module, name: str = "toy", suite: Suite = CURVE, limit: int | None = None,
    split: MemorySplit = SPLIT,
) -> Path:  # fmt: skip
    reference = {Hears: "unimodal-audio", Sees: "unimodal-video"}.get(type(model))
    entered = dataclasses.replace(candidate(model, name), about={"reference": reference} if reference else {})
    how = RunOptions(output_dir=folder, batch_size=64, limit=limit)
    return evaluate(entered, split, suite, how, quiet=True)


def drawn(run: Path) -> pd.DataFrame:
    assert draw_curve(run, api.summarize.score(api.Rows(api.store.read_rows(run))))
    return pd.read_parquet(run / "curve.parquet")


def scores_of(run: Path, limit: int | None = None) -> pd.DataFrame:
    """What the package scores of a run, cut to its first samples."""
    rows = api.store.read_rows(run)
    rows = rows[rows["sample"].isin(SPLIT.ids[:limit])]
    found = api.summarize.score(api.Rows(rows))
    return found[found["metric"].isin(METRICS)].reset_index(drop=True)


def curve_of(table: pd.DataFrame, model: str, label: str, attack: str) -> list[float]:
    """Accuracies from the least radius to the largest."""
    found = table[(table["model"] == model) & (table["label"] == label) & (table["attack"] == attack)]
    return found.sort_values(["radius_audio", "radius_video"])["value"].to_list()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A linear model, two unimodal ones and one that reads both, on one track."""
    folder = tmp_path_factory.mktemp("curve")
    models = {"toy": Linear(), "hears": Hears(), "sees": Sees(), "both": Linear(1)}
    return {name: run_of(folder, model, name) for name, model in models.items()}


@pytest.fixture(scope="module")
def table(runs: dict[str, Path]) -> pd.DataFrame:
    return drawn(runs["toy"])


# The table


def test_the_table_holds_the_scores_as_they_are_of_the_run_and_of_its_references(
    runs: dict[str, Path], table: pd.DataFrame
) -> None:
    roles = {"toy": "model", "hears": "unimodal-audio", "sees": "unimodal-video"}
    assert dict(table[["model", "role"]].drop_duplicates().itertuples(index=False, name=None)) == roles
    threats = [(t, a) for t in THREATS for a in ("fgsm", "mim", WORST_CASE)]
    cells = {(CLEAN, a) for a in (NONE, SILENCE_AUDIO, SILENCE_VIDEO)} | set(threats)
    for name in roles:
        own = table[table["model"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own[list(Score._fields)], scores_of(runs[name]), check_exact=True)
        assert {*own[["threat", "attack"]].itertuples(index=False, name=None)} == cells
        assert len(own) == len(cells) == 3 + 3 * len(RADII) * 3


def test_each_row_has_the_label_and_the_radii_of_its_threat(table: pd.DataFrame) -> None:
    for row in table.itertuples():
        audio, video = "A" in row.label, "V" in row.label
        assert row.label == row.threat.partition(":")[0]
        radii = [radius for radius, there in ((row.radius_audio, audio), (row.radius_video, video)) if there]
        assert row.threat == ":".join([row.label, *(f"linf:{radius!r}" for radius in radii)])
        assert (np.isnan(row.radius_audio), np.isnan(row.radius_video)) == (not audio, not video)
    assert sorted(table["radius_audio"].dropna().unique()) == RADII


def test_the_curves_of_a_linear_model_are_the_closed_form(table: pd.DataFrame) -> None:
    model, batch = Linear(), SPLIT.batch(range(60))
    with torch.no_grad():
        logit = model(*batch.inputs)[:, 1].double()
        margin = torch.where(batch.labels == 1, logit, -logit)
        drop = {"A": model.audio.double().abs().sum(), "V": model.video.double().abs().sum()}
        for label in ("XA", "XV", "XAV"):
            by_radius = sum(drop[letter] for letter in label[1:])
            expected = [100 * float((margin > radius * by_radius).double().mean()) for radius in RADII]
            for attack in ("fgsm", "mim", WORST_CASE):
                assert curve_of(table, "toy", label, attack) == pytest.approx(expected)
            assert len(set(expected)) > 2, "the radii must make a difference"


def test_the_worst_case_never_rises_though_an_attack_does(tmp_path: Path) -> None:
    found = drawn(run_of(tmp_path, Wavy(), split=make_split(60, 3, "synthav")))
    for label in ("XA", "XV", "XAV"):
        worst = curve_of(found, "toy", label, WORST_CASE)
        assert worst == sorted(worst, reverse=True)
        assert len(worst) == len(RADII)
        assert worst[0] == found["value"].iloc[0], "radius 0 is clean"
        for attack in ("fgsm", "mim"):
            assert (np.array(curve_of(found, "toy", label, attack)) >= worst).all()
    single, joint = (np.array(curve_of(found, "toy", label, WORST_CASE)) for label in ("XA", "XAV"))
    assert (joint <= single).all()
    fgsm = [curve_of(found, "toy", label, "fgsm") for label in ("XA", "XV", "XAV")]
    assert any(one != sorted(one, reverse=True) for one in fgsm), "or this test is idle"


# References


def test_a_reference_is_scored_on_the_samples_of_the_run_and_left_out_where_it_lacks_one(tmp_path: Path) -> None:
    few = find_suite(None, ("XA:linf:0.0", "XA:linf:0.01"), ("fgsm",))
    run = run_of(tmp_path, Linear(), suite=few, limit=40)
    wide = run_of(tmp_path, Hears(), "hears", few)
    short = run_of(tmp_path, Sees(), "sees", few, limit=39)
    found = drawn(run)
    assert set(found["model"]) == {"toy", "hears"}
    assert set(found["n"]) == {40}
    own = found[found["model"] == "hears"][list(Score._fields)].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, scores_of(wide, 40), check_exact=True)
    assert not own["value"].equals(scores_of(wide)["value"]), "or this test is idle"
    assert set(drawn(short)["model"]) == {"sees", "hears"}, "a unimodal run has the other as its reference"


@pytest.mark.parametrize("spoil", ["unfinished", "rows", "split", "track", "record"])
def test_a_reference_that_is_broken_or_of_other_clips_is_left_out(
    spoil: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run, other = (shutil.copytree(runs[name], tmp_path / name) for name in ("toy", "hears"))
    assert set(drawn(run)["model"]) == {"toy", "hears"}
    record = json.loads((other / "run.json").read_text())
    if spoil == "unfinished":
        (other / "rows.parquet").unlink()
    elif spoil == "rows":
        (other / "rows.parquet").write_bytes((run / "rows.parquet").read_bytes())
    elif spoil == "split":
        record["dataset"]["fixed_sha256"] = "0" * 64
    elif spoil == "track":
        record["track"] = "synthav-test-quick@1"
    (other / "run.json").write_text("{" if spoil == "record" else json.dumps(record))
    assert set(drawn(run)["model"]) == {"toy"}


# The figure


def legend(run: Path) -> list[str]:
    texts = [text.text or "" for text in ET.parse(run / "curve.svg").iter("{http://www.w3.org/2000/svg}text")]
    return [text for text in texts if " under " in text or text.endswith("silenced")]


def test_the_figure_has_a_line_for_each_threat_and_reference_in_each_panel(
    runs: dict[str, Path], table: pd.DataFrame
) -> None:
    solid = [f"toy under {label}" for label in ("XA", "XV", "XAV")]
    dashed = ["hears under XA", "sees under XV", "toy, audio silenced", "toy, video silenced"]
    assert legend(runs["toy"]) == solid + dashed
    svg = (runs["toy"] / "curve.svg").read_text()
    for text in ("fgsm", "mim", "worst case", "attack strength (radius)", "accuracy (%)"):
        assert f">{text}</text>" in svg
    paths = [p.attrib for p in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path") if "clip-path" in p.attrib]
    lines = [p for p in paths if "fill: none" in p["style"] and "stroke: #b0b0b0" not in p["style"]]  # no grid
    assert len([p for p in lines if "stroke-dasharray" not in p["style"]]) == 3 * len(solid)
    assert len([p for p in lines if "stroke-dasharray" in p["style"]]) == 3 * len(dashed)
    colors = [re.search("stroke: (#.{6})", p["style"])[1] for p in lines]  # type: ignore[index]
    assert colors[:7] == colors[7:14] == colors[14:], "one color for each name"
    assert len(set(colors)) == 7
    points = [np.array(re.findall(r"[ML] (\S+) (\S+)", p["d"]), dtype=float) for p in lines[:7]]
    expected = [(RADII, curve_of(table, "toy", label, "fgsm")) for label in ("XA", "XV", "XAV")]
    expected += [(RADII, curve_of(table, "hears", "XA", "fgsm")), (RADII, curve_of(table, "sees", "XV", "fgsm"))]
    for silenced in (SILENCE_AUDIO, SILENCE_VIDEO):
        expected.append(([0, max(RADII)], curve_of(table, "toy", CLEAN, silenced) * 2))
    assert [len(one) for one in points] == [len(x) for x, _ in expected]
    wanted = np.concatenate([np.transpose(one) for one in expected])
    for shown, value in zip(np.concatenate(points).T, wanted.T, strict=True):  # horizontal, then vertical
        slope, start = np.polyfit(value, shown, 1)
        assert shown == pytest.approx(slope * value + start, abs=1e-4), "one scale for all lines of a panel"


def test_the_picture_can_be_read_and_the_same_run_gives_the_same_bytes(runs: dict[str, Path]) -> None:
    folder = runs["toy"]
    drawn(folder)
    first = [(folder / name).read_bytes() for name in FILES]
    with Image.open(folder / "curve.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 20
    drawn(folder)
    assert [(folder / name).read_bytes() for name in FILES] == first


# Which runs have one


def test_the_suite_strength_curve_has_the_thirteen_radii_of_each_label(tmp_path: Path) -> None:
    suite = dataclasses.replace(SUITES.get("strength-curve"), published=False)
    found = drawn(run_of(tmp_path, Linear(), suite=suite, limit=8))
    for label in ("XA", "XV", "XAV"):
        rows = found[(found["label"] == label) & (found["attack"] == WORST_CASE)]
        radii = rows[[f"radius_{m}" for m, letter in (("audio", "A"), ("video", "V")) if letter in label]]
        assert all(sorted(radii[column]) == [i / 1000 for i in range(13)] for column in radii)


@pytest.mark.parametrize(
    ("threats", "names"),
    [
        (("XA:linf:0.01", "XV:linf:0.01", "XAV:linf:0.005:linf:0.005"), []),
        (("XA:linf:0.01", "XA:l2:0.01", "XV:linf:0.01"), []),  # one radius in each norm
        (("XA:linf:0.02", "XA:linf:0.01", "XV:linf:0.01"), ["XA"]),
        (("XA:linf:0.01", "XA:linf:0.02", "XA:l2:0.1", "XA:l2:0.2"), ["XA linf", "XA l2"]),
        (("XAV:linf:0.01:linf:0.01", "XAV:linf:0.01:linf:0.02"), ["XAV"]),  # only the video radius differs
        (tuple(f"XAV:linf:{a}:linf:{v}" for a in (0.1, 0.2) for v in (0.1, 0.2)), []),  # a grid is no curve
    ],
)
def test_a_curve_is_of_threats_that_differ_in_their_radius_only(
    threats: tuple[str, ...], names: list[str], tmp_path: Path
) -> None:
    run = run_of(tmp_path, Linear(), suite=find_suite(None, threats, ("fgsm",)), limit=8)
    if names:
        drawn(run)
        assert [name for name in legend(run) if "silenced" not in name] == [f"toy under {name}" for name in names]
    else:
        assert not draw_curve(run, scores_of(run))
    assert [path.name for path in sorted(run.glob("curve.*"))] == (list(FILES) if names else [])


@pytest.mark.parametrize("turn", [1, -1])
def test_a_line_goes_from_the_least_radius_to_the_largest_whatever_the_order_of_threats(
    turn: int, tmp_path: Path
) -> None:
    threats = tuple(f"XAV:linf:{a}:linf:{v}" for a, v in [(0.0, 0.05), (0.02, 0.01), (0.02, 0.1)])[::turn]
    run = run_of(tmp_path, Linear(), suite=find_suite(None, threats, ("fgsm",)))
    drawn(run)
    [line, *_] = [p.attrib["d"] for p in ET.parse(run / "curve.svg").iter("{http://www.w3.org/2000/svg}path")
                  if "stroke: #1f77b4" in p.attrib.get("style", "")]  # fmt: skip
    places = [float(x) for x in re.findall(r"[ML] (\S+) \S+", line)]
    assert len(places) == 3
    assert places == sorted(places)


def test_the_command_draws_at_its_end_and_again_when_references_have_come(tmp_path: Path) -> None:
    words = ["--threat", "XA:linf:0.001", "--threat", "XA:linf:0.003", "--attack", "fgsm", "--limit", "8"]
    results = []
    for name in ("concat", "audio", "concat"):
        command = ["evaluate", f"avbench--synthav-{name}", *words, "--output-dir", str(tmp_path)]
        results.append(CliRunner().invoke(main, command))
        assert results[-1].exit_code == 0, results[-1].output
        assert "curve.png" in results[-1].output.replace("\n", "")
        [run] = tmp_path.glob(f"*/avbench--synthav-{name}")
        roles = {"model"} if len(results) == 1 else {"model", "unimodal-audio"}
        assert set(pd.read_parquet(run / "curve.parquet")["role"]) == (roles if name == "concat" else {"model"})
    quick = ["evaluate", "avbench--synthav-audio", "--suite", "quick", "--limit", "8", "--output-dir", str(tmp_path)]
    result = CliRunner().invoke(main, quick)
    assert result.exit_code == 0, result.output
    assert "curve" not in result.output
    assert not list(tmp_path.glob("*quick*/*/curve.*"))
