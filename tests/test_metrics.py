"""Properties of every registered metric, and closed forms on runs small enough to check by eye."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import avbench.metrics
from avbench.errors import IncompleteRun, ProtocolMismatch, RunConflict
from avbench.metrics import METRICS, WORST_CASE, Rows, Score
from avbench.metrics.avg import MEAN_OF_THREATS, average
from avbench.metrics.outcomes import read
from avbench.metrics.ri import improvement
from avbench.metrics.sketch import PERCEPTIBILITY, sketch, sketch_scores
from avbench.threats import parse_threat

XA, XV, XAV = "XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"
SILENCED = ("clean silence-audio", "clean silence-video")
ATTACKED = tuple(f"{threat} {attack}" for threat in (XA, XV, XAV) for attack in ("fgsm", "pgd"))
CELLS = ("clean none", *SILENCED, *ATTACKED)
UNITS = {"%": (0, 100), "points": (-200, 200), "dB": (-math.inf, math.inf), "input units": (0, math.inf), "1": (0, 1)}
MODULES = [f"avbench.metrics.{module.name}" for module in pkgutil.iter_modules(avbench.metrics.__path__)]

few = settings(max_examples=10, deadline=None)
every_metric = pytest.mark.parametrize("name", METRICS.names())


def outcomes(n: int) -> st.SearchStrategy[dict[str, str]]:
    """Draw the outcomes of n samples in every cell."""
    marks = st.text("01", min_size=n, max_size=n)
    return st.fixed_dictionaries(dict.fromkeys(CELLS, marks))


samples = st.integers(1, 12)
cells = samples.flatmap(outcomes)
pairs = samples.flatmap(lambda n: st.tuples(outcomes(n), outcomes(n)))


def until_broken(full: dict[str, str]) -> dict[str, str]:
    """Drop the rows that a worst-case suite does not make: what is broken is so in every larger threat too."""
    kept = {name: list(marks) for name, marks in full.items()}
    for sample, clean in enumerate(full["clean none"]):
        broken = set() if clean == "1" else {XA, XV, XAV}
        for name in ATTACKED:
            threat = name.split()[0]
            if threat in broken:
                kept[name][sample] = "."
            elif full[name][sample] == "0":
                broken |= {threat, XAV}
    return {name: "".join(marks) for name, marks in kept.items()}


def with_sizes(rows: Rows, seed: int = 0) -> Rows:
    """Fill the perceptibility columns; one in four clips is unchanged, so its decibels are infinite."""
    rng = np.random.default_rng(seed)
    attacked = rows.frame["threat"] != "clean"
    for column in PERCEPTIBILITY:
        sizes = rng.random(int(attacked.sum()))
        if column.endswith(("db", "db_x")):
            sizes[rng.random(len(sizes)) < 0.25] = -np.inf if column.endswith("x") else np.inf
        rows.frame.loc[attacked, column] = sizes
    return rows


def value(scores: list[Score], metric: str, threat: str, attack: str) -> float:
    [found] = [score.value for score in scores if score[:3] == (metric, threat, attack)]
    return found


def all_scores(rows: Rows) -> list[Score]:
    return [score for name in METRICS.names() for score in METRICS.get(name)(rows)]


@every_metric
@few
@given(pair=pairs, worst_case=st.booleans())
def test_every_figure_lies_in_its_units_range_and_in_its_interval(
    name: str, pair: tuple[dict[str, str], dict[str, str]], worst_case: bool
) -> None:
    run, baseline = map(until_broken, pair) if worst_case else pair
    scores = METRICS.get(name)(with_sizes(sketch(run, baseline)))
    for score in scores:
        lowest, highest = UNITS[score.unit]
        assert lowest <= score.value <= highest, score
        assert math.isfinite(score.value), score
        ends = (score.low, score.high)
        assert all(map(math.isnan, ends)) or lowest <= score.low <= score.value <= score.high <= highest, score
        assert score.threat in {"clean", MEAN_OF_THREATS, "XV - XA"} or str(parse_threat(score.threat)) == score.threat
    assert len({score[:3] for score in scores}) == len(scores), "metric, threat and attack name one figure"


@every_metric
def test_every_metric_has_a_figure_for_a_complete_run(name: str) -> None:
    full = dict.fromkeys(CELLS, "1101")
    scores_of_samples = ((1, 0), (0, 1), (0, 0), (1, 1))
    several = sketch_scores(dict.fromkeys(CELLS, scores_of_samples), labels=[[0], [1], [0, 1], []])
    kinds = [METRICS.get(name)(with_sizes(rows)) for rows in (sketch(full, full), several)]
    assert any(kinds)  # for clips with one label, with several, or with either
    scores = [score for kind in kinds for score in kind]
    assert METRICS.summary(name)
    assert {score.n for score in scores} <= {3, 4}  # 3 are right when clean: the base of the attack success rate


@every_metric
@few
@given(pair=pairs, seed=st.integers(0, 99))
def test_the_order_of_rows_changes_nothing(name: str, pair: tuple[dict[str, str], dict[str, str]], seed: int) -> None:
    rows = with_sizes(sketch(*pair))
    assert rows.baseline is not None
    shuffled = Rows(
        rows.frame.sample(frac=1, random_state=seed), rows.baseline.sample(frac=1, random_state=seed), rows.cells[::-1]
    )
    assert repr(METRICS.get(name)(shuffled)) == repr(METRICS.get(name)(rows))


@every_metric
def test_categories_serve_as_well_as_strings(name: str) -> None:
    rows = with_sizes(sketch(dict.fromkeys(CELLS, "110")))
    kinds = dict.fromkeys(["sample", "threat", "attack"], "category")
    assert repr(METRICS.get(name)(Rows(rows.frame.astype(kinds)))) == repr(METRICS.get(name)(rows))


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_hold(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_scoring_needs_no_torch() -> None:
    program = (
        "import sys; from avbench.summarize import score; from avbench.metrics.sketch import sketch\n"
        f"assert len(score(sketch({{'clean none': '10', '{XA} pgd': '10'}}))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@few
@given(full=cells)
def test_the_worst_case_is_at_most_any_attack_and_falls_along_the_lattice(full: dict[str, str]) -> None:
    scores = all_scores(sketch(full))
    robust = {threat: value(scores, "robust-accuracy", threat, WORST_CASE) for threat in (XA, XV, XAV)}
    for score in scores:
        if score.metric == "attack-accuracy":
            assert robust[score.threat] <= score.value
        if score.metric == "attack-success-rate" and score.attack != WORST_CASE:
            assert value(scores, score.metric, score.threat, WORST_CASE) >= score.value
    assert robust[XAV] <= min(robust[XA], robust[XV])
    assert max(robust.values()) <= value(scores, "clean-accuracy", "clean", "none")


@few
@given(pair=pairs)
def test_stopping_at_the_first_success_leaves_the_worst_case_as_it_is(
    pair: tuple[dict[str, str], dict[str, str]],
) -> None:
    full, stopped = all_scores(sketch(*pair)), all_scores(sketch(*map(until_broken, pair)))
    assert [s for s in full if s.attack == WORST_CASE] == [s for s in stopped if s.attack == WORST_CASE]
    assert {s for s in stopped if s.metric == "attack-accuracy"} <= set(full)


@few
@given(full=cells, data=st.data())
def test_a_missing_row_of_an_unbroken_sample_is_named(full: dict[str, str], data: st.DataObject) -> None:
    sample = data.draw(st.integers(0, len(full["clean none"]) - 1))
    gap = data.draw(st.sampled_from(ATTACKED))
    for name in full:
        mark = "." if name == gap else "1"
        full[name] = full[name][:sample] + mark + full[name][sample + 1 :]
    with pytest.raises(IncompleteRun, match=rf"sample s{sample} has no row for {gap.replace(' ', ', ')}"):
        METRICS.get("robust-accuracy")(sketch(full))


def test_a_threat_that_nothing_survived_to_meet_scores_zero() -> None:
    cells = {"clean none": "10", f"{XA} pgd": "0.", f"{XV} pgd": "1.", f"{XAV} pgd": ".."}
    scores = all_scores(sketch(cells))
    assert value(scores, "robust-accuracy", XAV, WORST_CASE) == 0
    assert value(scores, "avg", MEAN_OF_THREATS, WORST_CASE) == pytest.approx(50 / 3)


def test_radii_outside_the_lattice_do_not_break_each_other() -> None:
    wide = "XA:linf:0.012"  # cvpr21-attack: XA at twice the radius of XAV
    scores = all_scores(sketch({"clean none": "11", f"{wide} pgd": "01", f"{XAV} pgd": "11"}))
    assert [value(scores, "robust-accuracy", threat, WORST_CASE) for threat in (wide, XAV)] == [50, 100]


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (sketch({f"{XA} pgd": "1"}).frame, IncompleteRun, "no rows with threat 'clean'"),
        (sketch({"clean none": "1.", f"{XA} pgd": "11"}).frame, IncompleteRun, "sample s1 has no row for clean, none"),
        (pd.concat([sketch({"clean none": "1"}).frame] * 2), RunConflict, "sample s0 has two rows for clean, none"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(frame: pd.DataFrame, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(Rows(frame))


@few
@given(pair=pairs)
def test_avg_and_ri_are_the_papers_formulas_of_the_accuracies(pair: tuple[dict[str, str], dict[str, str]]) -> None:
    figures = []
    for full in pair:
        scores = all_scores(sketch(full))
        xa, xv, xav = (value(scores, "attack-accuracy", threat, "pgd") for threat in (XA, XV, XAV))
        assert value(scores, "avg", MEAN_OF_THREATS, "pgd") == pytest.approx(average(xa, xv, xav))
        assert value(scores, "modality-gap", "XV - XA", "pgd") == pytest.approx(xv - xa)
        figures += [value(scores, "clean-accuracy", "clean", "none"), average(xa, xv, xav)]
    assert value(all_scores(sketch(*pair)), "ri", MEAN_OF_THREATS, "pgd") == pytest.approx(improvement(*figures))


def test_ri_rests_on_common_samples() -> None:
    run = dict.fromkeys(("clean none", *ATTACKED), "111.")
    baseline = dict.fromkeys(("clean none", *ATTACKED), ".100")
    for score in METRICS.get("ri")(sketch(run, baseline)):
        assert (score.value, score.n) == (100, 2)


def test_ri_refuses_a_baseline_attacked_at_another_radius() -> None:
    run = dict.fromkeys(("clean none", *ATTACKED), "1")
    baseline = {name.replace(XA, "XA:linf:0.012"): marks for name, marks in run.items()}
    with pytest.raises(ProtocolMismatch, match=r"XA:linf:0\.012"):
        METRICS.get("ri")(sketch(run, baseline))


def test_ri_refuses_a_baseline_that_met_fewer_attacks() -> None:
    run = dict.fromkeys(("clean none", *ATTACKED), "1")
    with pytest.raises(IncompleteRun, match=f"s0 has no row for {XA}, pgd"):
        METRICS.get("ri")(sketch(run, {name: marks for name, marks in run.items() if name != f"{XA} pgd"}))


def test_a_model_that_only_hears_is_told_from_one_that_only_sees() -> None:
    hears = {"clean none": "11", SILENCED[0]: "00", SILENCED[1]: "11", f"{XA} pgd": "00", f"{XV} pgd": "11"}
    sees = hears | {SILENCED[0]: "11", SILENCED[1]: "00", f"{XA} pgd": "11", f"{XV} pgd": "00"}
    for cells, expected in ((hears, [0, 100, 100, 0, 100, 100]), (sees, [100, 0, 0, 100, -100, -100])):
        assert [score.value for score in METRICS.get("modality-reliance")(sketch(cells))] == expected


def test_perceptibility_keeps_unchanged_clips_and_skips_untouched_modalities() -> None:
    rows = sketch({"clean none": "111", f"{XA} pgd": "000", f"{XV} pgd": "000"}, video_linf=0.0)
    rows.frame.loc[3:5, "audio_snr_db"] = [30.0, 40.0, np.inf]
    rows.frame.loc[6:8, "video_psnr_db"] = [30.0, np.inf, np.inf]
    found = [(score.metric, score.threat, score.value, score.n) for score in METRICS.get("perceptibility")(rows)]
    assert found == [("median-audio-snr-db", XA, 40.0, 3), ("median-video-linf", XV, 0.0, 3)]
