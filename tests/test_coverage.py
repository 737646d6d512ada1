"""Clips that could not be had: left out by id, counted, and compared on what both runs have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import Linear, MemorySplit, candidate, make_split

from avbench import api, store
from avbench.cli import main
from avbench.datasets.cards import Lists, Lock
from avbench.errors import IncompleteRun, ProtocolMismatch
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.site.boards import make_boards
from avbench.site.records import read_runs
from avbench.suites import Suite, find_suite

SUITE = find_suite(None, (), ("fgsm",))
PUBLISHED = replace(find_suite("cvpr21-attack"), attacks=SUITE.attacks)  # whose runs are diagnosed, which takes seconds


def holed(missing: Collection[int], n: int = 60) -> MemorySplit:
    """A split of video files of which some could not be had."""
    whole = make_split(n)
    rows = [row._replace(sha256="") if i in missing else row for i, row in enumerate(whole.lock.rows)]
    card = whole.card.model_copy(update={"lists": Lists(format="table", files={"test": "list.csv"})})
    return MemorySplit(card, "test", Lock(rows))


def run(
    folder: Path,
    missing: Collection[int],
    seed: int = 0,
    name: str = "one",
    limit: int | None = None,
    suite: Suite = SUITE,
) -> Path:
    options = RunOptions(output_dir=folder, batch_size=8, device="cpu", limit=limit)
    return evaluate(candidate(Linear(seed), name), holed(missing), suite, options, quiet=True)


def test_a_missing_clip_has_no_row_and_is_counted(tmp_path: Path) -> None:
    missing = {0, 7, 59}
    folder = run(tmp_path, missing)
    rows, record = store.read_rows(folder), store.read_record(folder)
    ids = holed(()).ids
    for _, cell in rows.groupby(["threat", "attack"]):
        assert list(cell["sample"]) == [ids[i] for i in range(60) if i not in missing]
    whole = store.read_rows(run(tmp_path / "whole", ()))
    there = whole[whole["sample"].isin(set(rows["sample"]))].reset_index(drop=True)
    plain = ["sample", "threat", "attack", "label", "prediction", "correct"]
    assert there[plain].equals(rows[plain])
    assert {k: record["dataset"][k] for k in ("size", "missing", "evaluated")} == {
        "size": 60, "missing": 3, "evaluated": 57
    }  # fmt: skip


def test_a_limit_counts_places_of_the_fixed_split(tmp_path: Path) -> None:
    rows = store.read_rows(run(tmp_path, {0, 7, 59}, limit=10))
    assert set(rows["sample"]) == {holed(()).ids[i] for i in range(10) if i not in (0, 7)}


def test_runs_that_lack_different_clips_are_compared_on_what_both_have(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a", {1, 2}), run(tmp_path / "b", {2, 3, 4}, seed=1)
    found = api.compare(one, other)
    assert set(found["n"]) == {60 - 4}
    both = [set(store.read_rows(folder)["sample"]) for folder in (one, other)]
    common = both[0] & both[1]
    for column, folder in (("one", one), ("other", other)):
        rows = store.read_rows(folder)
        clean = rows[(rows["attack"] == "none") & rows["sample"].isin(common)]
        assert found[column].iloc[0] == pytest.approx(100 * clean["correct"].mean())
    result = CliRunner().invoke(main, ["compare", str(one), str(other)])
    assert result.exit_code == 0, result.output
    assert "56 samples that both have, of 58 and 57" in result.output


def test_runs_of_other_splits_are_not_compared(tmp_path: Path) -> None:
    one = run(tmp_path / "a", {1})
    options = RunOptions(output_dir=tmp_path / "b", batch_size=8, device="cpu")
    other = evaluate(candidate(Linear(), "one"), make_split(60, name="other"), SUITE, options, quiet=True)
    with pytest.raises(ProtocolMismatch, match="not comparable"):
        api.compare(one, other)
    left, right = run(tmp_path / "c", set(range(30))), run(tmp_path / "d", set(range(30, 60)))
    with pytest.raises(IncompleteRun, match="no sample in common"):
        api.compare(left, right)


@pytest.mark.slow
def test_a_run_ranks_from_95_percent_coverage_on_beside_runs_that_lack_others(tmp_path: Path) -> None:
    run(tmp_path, (), seed=0, name="whole", suite=PUBLISHED)
    run(tmp_path, {4, 5, 6}, seed=1, name="just", suite=PUBLISHED)  # 57 of 60: 95 %
    run(tmp_path, {1, 2, 3, 9}, seed=2, name="partial", suite=PUBLISHED)
    run(tmp_path, (), seed=3, name="limited", limit=59, suite=PUBLISHED)
    [board] = make_boards(read_runs([tmp_path]))
    places = {scored.run.record.model.id: scored.place for scored in board.runs}
    assert places["whole"]
    assert places["just"]
    assert places["partial"] is None
    assert places["limited"] is None
    heads = [column.title for column in board.table.columns]
    cells = {row.cells[1][0]: dict(zip(heads, row.cells, strict=True)) for row in board.table.rows}
    assert cells["just"]["Coverage"] == pytest.approx(95.0)
    assert cells["partial"]["State"] == ["partial", "56 of 60"]
    assert cells["whole"]["n"] == 60


def test_more_clips_found_later_are_another_run_and_nothing_is_mixed(tmp_path: Path) -> None:
    from avbench.errors import RunConflict

    run(tmp_path, {4, 5})
    with pytest.raises(RunConflict):
        run(tmp_path, {4})


def test_no_zeros_take_a_missing_clips_place() -> None:
    split = holed({3})
    assert 3 not in split.present
    with pytest.raises(AssertionError):
        split.stored(3)
    assert torch.equal(split.batch([2, 4]).labels, make_split().batch([2, 4]).labels)
