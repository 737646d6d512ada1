"""The summary of a run, the tests behind tie groups, and the ranking itself."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from avbench import summarize
from avbench.errors import IncompleteRun, ProtocolMismatch
from avbench.metrics import METRICS, WORST_CASE, Rows, Score
from avbench.metrics.significance import holm, sign_flip_test
from avbench.metrics.sketch import sketch
from avbench.summarize import rank, score

XA, XV, XAV = "XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"


def run(xa: str, xv: str | None = None, xav: str | None = None) -> Rows:
    """Draw a run with one attack and every clip right when clean; XV and XAV as XA unless given."""
    clean = "".join("." if mark == "." else "1" for mark in xa)
    return sketch({"clean none": clean, f"{XA} pgd": xa, f"{XV} pgd": xv or xa, f"{XAV} pgd": xav or xa})


some_runs = st.integers(1, 30).flatmap(
    lambda n: st.dictionaries(
        st.sampled_from("abcdef"), st.lists(st.text("01", min_size=n, max_size=n), min_size=3, max_size=3), min_size=1
    )
)


def test_a_summary_has_one_row_for_every_score_of_every_metric() -> None:
    rows = run("110")
    frame = score(rows)
    assert list(frame.columns) == list(Score._fields)
    assert len(frame) == sum(len(METRICS.get(name)(rows)) for name in METRICS.names())
    assert not frame.duplicated(["metric", "threat", "attack"]).any()


def test_the_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(summarize).failed == 0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_sign_flip_test_counts_every_assignment_of_signs(differences: list[int]) -> None:
    sums = [abs(sum(signed)) for signed in itertools.product(*[(d, -d) for d in differences])]
    expected = np.mean([total >= abs(sum(differences)) for total in sums])
    assert sign_flip_test(np.array(differences)) == pytest.approx(expected)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
def test_of_one_outcome_the_sign_flip_test_is_the_exact_mcnemar_test(better: int, worse: int, equal: int) -> None:
    differences = np.array([1] * better + [-1] * worse + [0] * equal, dtype=int)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert sign_flip_test(differences) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(raw: list[float]) -> None:
    p_values = np.array(raw)
    corrected = holm(p_values)
    assert (p_values <= corrected).all()
    assert (corrected <= np.minimum(1, len(raw) * p_values)).all()
    assert corrected[p_values.argmin()] == min(1, len(raw) * p_values.min())
    assert (np.diff(corrected[np.argsort(p_values, kind="stable")]) >= 0).all()


@settings(max_examples=10, deadline=None)
@given(drawn=some_runs)
def test_ranks_follow_the_figure_and_every_group_starts_with_its_best(drawn: dict[str, list[str]]) -> None:
    table = rank({name: run(*marks) for name, marks in drawn.items()})
    assert sorted(table["run"]) == sorted(drawn)
    assert table["value"].is_monotonic_decreasing
    assert table["rank"].tolist() == table["value"].rank(method="min", ascending=False).astype(int).tolist()
    assert table["tie_group"].is_monotonic_increasing
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    for group, members in table.groupby("tie_group"):
        assert members["p"].iloc[0] == 1
        assert (members["p"] >= 0.05).all()
        assert group == 1 or members.index[0] > 0


@settings(max_examples=10, deadline=None)
@given(drawn=some_runs)
def test_the_order_in_which_runs_are_given_changes_nothing(drawn: dict[str, list[str]]) -> None:
    runs = {name: run(*marks) for name, marks in drawn.items()}
    assert rank(runs).equals(rank(dict(reversed(runs.items()))))


def test_the_ranking_figure_is_the_worst_case_avg_of_the_summary() -> None:
    rows = run("1101", "1011", "1111")
    figures = score(rows).set_index(["metric", "attack"]).loc[("avg", WORST_CASE)]
    ranked = rank({"one": rows}).iloc[0]
    assert ranked["value"] == figures["value"] == pytest.approx(100 * (3 + 3 + 2) / 12)
    assert ranked[["low", "high", "n"]].tolist() == figures[["low", "high", "n"]].tolist()


def test_a_difference_splits_a_tie_group_only_where_the_data_support_it() -> None:
    marks = {"best": 40, "alike": 40, "close": 38, "far": 20, "farther": 19}
    runs = {name: run("1" * right + "0" * (40 - right)) for name, right in marks.items()}
    table = rank(runs).set_index("run")
    assert table["rank"].to_dict() == {"alike": 1, "best": 1, "close": 3, "far": 4, "farther": 5}
    assert table["tie_group"].to_dict() == {"alike": 1, "best": 1, "close": 1, "far": 2, "farther": 2}
    assert rank(runs, level=0.9).set_index("run").loc["close", "tie_group"] == 1  # 10 pairs: p = 0.5 is corrected to 1


def test_runs_alike_under_xav_are_told_apart_by_the_other_threats() -> None:
    weak = "0" * 20
    runs = {"joint": run("1" * 20, "1" * 20, weak), "weak": run(weak)}
    assert rank(runs)["tie_group"].tolist() == [1, 2]


def test_equal_totals_give_equal_figures_however_they_come_about() -> None:
    spread = run("000000001110011111111011", "000000110001100000001111", "0" * 24)
    packed = run("000000000000000111111111", "000000000000001111111111", "000000000000000000000011")
    table = rank({"packed": packed, "spread": spread})  # in thirds, which floats cannot hold
    assert table["value"].nunique() == 1
    assert table["rank"].tolist() == [1, 1]


def test_the_correction_covers_all_pairs() -> None:
    pair = {"a": run("1" * 8), "b": run("0" * 7 + "1")}
    alone = 2 / 2**7
    assert rank(pair, level=alone)["tie_group"].tolist() == [1, 1]
    assert rank(pair, level=1.01 * alone)["tie_group"].tolist() == [1, 2]
    assert rank(pair, level=alone)["p"].tolist() == [1, alone]
    several = pair | {"c": run("1" * 8), "d": run("1" * 8)}  # 6 pairs, 3 of them this far apart
    assert rank(several).set_index("run").loc["b", "p"] == 6 * alone


def test_runs_are_compared_on_common_samples_only() -> None:
    table = rank({"long": run("1111"), "short": run("01..")}).set_index("run")
    assert table["n"].eq(2).all()
    assert table["value"].to_dict() == pytest.approx({"long": 100, "short": 50})


def test_a_run_in_which_nothing_reached_xav_ranks_last() -> None:
    broken = Rows(run("00", "00", "..").frame)  # its cells are not known; those of the other run are
    assert rank({"broken": broken, "fine": run("11")})["run"].tolist() == ["fine", "broken"]


@pytest.mark.parametrize(
    ("runs", "error", "message"),
    [
        ({}, IncompleteRun, "no runs to rank"),
        ({"a": run("1."), "b": run(".1")}, IncompleteRun, "no sample in common"),
        ({"a": run("1"), "b": sketch({"clean none": "1", "XA:linf:0.012 pgd": "1"})}, ProtocolMismatch, "one suite"),
        ({"a": sketch({"clean none": "1", f"{XA} pgd": "1"})}, ProtocolMismatch, "exactly one XA"),
    ],
)
def test_what_cannot_be_ranked_is_refused(runs: dict[str, Rows], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rank(runs)
