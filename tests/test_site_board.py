"""What a board says of each run, each figure against its definition, and what of it stands where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from site_runs import THREATS, Page, make_rows, sha, write_health, write_run

from avbench import files, store
from avbench.analyze import GEOMETRY, bound, read_geometry
from avbench.diagnose import FLAGS
from avbench.errors import DataError
from avbench.site.boards import Board, make_boards
from avbench.site.content import Content
from avbench.site.pages import boards as pages
from avbench.site.pages import environment
from avbench.site.published import Reported
from avbench.site.records import read_runs
from avbench.site.tables import WITHOUT_SCRIPT, Column, Row, Table

CLAIMS = [
    {"suite": "standard", "split": "test", "clean": 1.0, "robust": 2.0},
    {"suite": "cvpr21-attack", "split": "test", "clean": 91.0, "robust": 40.0},
]


def geometry(convexity: float = 0.75) -> pd.DataFrame:
    """Figures of two classes, as `avbench analyze` makes them."""
    rows = [(0, "joint", "input-convexity", np.nan, convexity), (1, "joint", "input-convexity", np.nan, 0.25),
            (0, "audio", "input-convexity", np.nan, 0.0), (0, "joint", "density", 0.6, 0.5),
            (1, "joint", "density", 0.6, np.nan), (0, "joint", "density", 0.8, 9.0),
            (0, "joint", "log-volume", 0.6, -np.inf)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["class", "streams", "measure", "parameter", "value"])
    return table.assign(low=np.nan, high=np.nan, n=10)


def read_one(root: Path) -> Board:
    [board] = make_boards(read_runs([root]))
    return board


def cells_of(board: Board) -> dict[str, dict[str, Any]]:
    titles = [column.title for column in board.table.columns]
    rows = [dict(zip(titles, row.cells, strict=True)) for row in board.table.rows]
    return {row["Model"][0]: row for row in rows}  # type: ignore[index]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    root = tmp_path_factory.mktemp("results")
    strong = write_run(root, "strong", 0, 0.8, model__claims=CLAIMS, model__defense="mixup")
    store.publish_table(strong / GEOMETRY, geometry(), bound(store.read_record(strong)))
    weak = write_run(root, "weak", 1, 0.2, model__claims=CLAIMS[:1], model__license="MIT")
    store.publish_table(weak / GEOMETRY, geometry(), bound(store.read_record(strong)))
    write_health(write_run(root, "masked", 2, 0.5), raised=("video",))
    return read_one(root)


def test_the_worst_case_counts_what_every_attack_of_every_threat_leaves(board: Board) -> None:
    rows = make_rows(0, 0.8, 500)
    right = rows[~rows["attack"].str.startswith("silence")].groupby("sample")["correct"].all()
    value, low, high = cells_of(board)["Model strong"]["Worst case"]
    assert value == round(100 * right.mean(), 2)
    assert low < value < high
    assert value < min(cells_of(board)["Model strong"][head][0] for head in ("XA", "XV", "XAV"))


def test_a_threat_that_nothing_survived_to_meet_has_a_figure(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "broken", suite__mode="worst-case")
    record, rows = store.read_record(folder), store.read_rows(folder)
    rows.loc[rows["threat"].str.startswith("XA:"), "correct"] = False
    rows = rows[~rows["threat"].str.startswith("XAV")]  # which contains XA only if its radius is as large
    threats = [threat.replace("0.012", "0.006") for threat in THREATS]
    rows = rows.assign(threat=rows["threat"].str.replace("0.012", "0.006"))
    store.write_table(folder / "rows.parquet", rows, {})
    cells = [cell | {"threat": cell["threat"].replace("0.012", "0.006")} for cell in record["cells"]]
    record |= {"threats": threats, "cells": [cell for cell in cells if not cell["threat"].startswith("XAV")],
               "rows_sha256": files.sha256_file(folder / "rows.parquet")}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    found = cells_of(read_one(tmp_path))["Model broken"]
    assert (found["XAV"][0], found["Worst case"][0]) == (0, 0)
    assert found["Avg"][0] == pytest.approx(found["XV"][0] / 3, abs=0.01)


def test_a_gap_is_measured_minus_reported_for_the_same_suite(board: Board) -> None:
    strong, weak = cells_of(board)["Model strong"], cells_of(board)["Model weak"]
    assert (strong["Reported clean"], strong["Reported"]) == (91.0, 40.0)
    assert strong["Clean gap"] == pytest.approx(strong["Clean"][0] - 91, abs=0.006)
    assert strong["Gap"] == pytest.approx(strong["Avg"][0] - 40, abs=0.006)
    assert [weak[title] for title in ("Reported clean", "Clean gap", "Reported", "Gap")] == [None] * 4


def test_geometry_is_the_mean_over_classes_of_both_modalities_together(board: Board) -> None:
    strong = cells_of(board)["Model strong"]
    assert (strong["Convexity"], strong["Density"]) == (50.0, 0.5)


def test_geometry_of_another_run_is_not_shown(board: Board) -> None:
    assert cells_of(board)["Model weak"]["Convexity"] is None


def test_a_column_that_is_empty_in_all_rows_is_left_out(board: Board) -> None:
    titles = [column.title for column in board.table.columns]
    assert "Embedding convexity" not in titles
    assert "Best known" not in titles
    assert "RI" not in titles  # the baseline is not on this board
    assert all(any(row.cells[i] is not None for row in board.table.rows) for i in range(len(titles)))


def test_health_counts_what_was_checked_and_names_what_is_raised(board: Board) -> None:
    places = sum(map(len, FLAGS.values()))
    assert cells_of(board)["Model strong"]["Health"] == ["0 raised", f"{places} of {places} checked"]
    assert cells_of(board)["Model masked"]["Health"] == ["1 raised", "zero-gradients"]


def test_every_row_says_under_what_it_was_made(board: Board) -> None:
    wanted = {"Suite": "cvpr21-attack@1, test", "Seed": 0, "Date": "2026-11-01", "Commit": "0" * 12, "n": 500,
              "Coverage": 100.0, "Architecture": "avnet, concat", "Defense": "mixup"}  # fmt: skip
    assert cells_of(board)["Model strong"].items() >= wanted.items()


def test_rows_can_be_chosen_where_values_differ(board: Board) -> None:
    found = {column.title: values for _, column, values in board.table.filters}
    assert found == {"State": ["in review", "ranked"]}


def test_every_column_is_in_a_view_and_every_view_has_columns(board: Board) -> None:
    table = board.table
    assert [column.title for column in table.columns if not column.views] == []
    assert list(table.views) == ["overview", "attacks", "reported", "geometry", "provenance"]
    attacks = [column.title for column in table.columns if column.views == ("attacks",)]
    assert len(attacks) == 1 + len(THREATS) * 3  # with the worst case of all threats
    assert {"Clean", "Avg", "Reported", "Gap"} <= {c.title for c in table.columns if "reported" in c.views}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"value": 1.5}, "out of its range"),
        ({"value": np.inf}, "out of its range"),
        ({"value": "much"}, "could not convert"),
        ({"measure": 3}, "str"),
    ],
)
def test_a_geometry_that_cannot_be_is_a_named_error(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    store.publish_table(tmp_path / GEOMETRY, geometry().assign(**changes), {"run": sha("a"), "rows_sha256": sha("b")})
    with pytest.raises(DataError, match=what):
        read_geometry(tmp_path, sha("a"), sha("b"))


def test_a_geometry_is_bound_to_its_run_and_rows(tmp_path: Path) -> None:
    assert read_geometry(tmp_path, sha("a"), sha("b")) is None
    store.publish_table(tmp_path / GEOMETRY, geometry(), {"run": sha("a"), "rows_sha256": sha("b")})
    first = (tmp_path / GEOMETRY).read_bytes()
    assert read_geometry(tmp_path, sha("a"), sha("b")) is not None
    assert read_geometry(tmp_path, sha("a"), sha("c")) is None
    assert read_geometry(tmp_path, sha("c"), sha("b")) is None
    store.publish_table(tmp_path / GEOMETRY, geometry(), {"run": sha("a"), "rows_sha256": sha("b")})
    assert (tmp_path / GEOMETRY).read_bytes() == first
    (tmp_path / GEOMETRY).write_bytes(first[:-50])
    with pytest.raises(DataError, match="repeat `avbench analyze`"):
        read_geometry(tmp_path, sha("a"), sha("b"))


def test_a_view_can_be_cited(board: Board) -> None:
    env = environment()

    def render(path: str, template: str, **context: Any) -> tuple[str, str]:
        return path, env.get_template(template).render(root="../" * path.count("/"), **context)

    written = dict(pages.files(Content([board], []), render))
    text = str(written["data/lb/synthav/cvpr21-attack.js"])
    about = json.loads(text.removeprefix("window.avbenchTable=").removesuffix(";\n"))["about"]
    assert about["bibtex"].startswith("@misc{avbench-synthav-cvpr21-attack,")
    assert "cvpr21-attack@1, split test" in about["bibtex"]
    assert re.search(r"note = \{ROWS\},\n  url = \{ADDRESS\}\n\}\n$", about["bibtex"])
    assert about["bibtex"].count("{") == about["bibtex"].count("}")


def large(n: int) -> Table:
    """Make a board of n rows as long as real ones get."""
    columns = [Column("Rank", "rank"), Column("Model", "model"), *(Column(f"c{i}") for i in range(13)),
               *(Column(f"d{i}", views=("attacks",)) for i in range(21))]  # fmt: skip
    row = Row([[100, "group 20"], ["A model with a long name", "avbench--a-long-name", "0123456789ab"],
               *([50.25, 45.75, 55.75] for _ in range(13)), *(50.25 for _ in range(21))], "ranked")  # fmt: skip
    return Table(columns, [row] * n)


@pytest.mark.parametrize("n", [300, 5000])
def test_a_page_of_many_rows_keeps_to_its_budget(tmp_path: Path, n: int) -> None:
    macros = environment().get_template("macros.html.j2").make_module({"root": "../../"})
    html = macros.board(large(n), "caption")  # type: ignore[attr-defined]
    assert len(html.encode()) < 80_000  # of 120 KB; the rest is for what stands around it
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    shown = [one for one in Page(tmp_path / "page.html").rows if one]
    assert (len(shown), len(shown[0])) == (WITHOUT_SCRIPT, 15)


def test_5000_rows_are_fed_in_less_than_three_megabytes() -> None:
    reported = Reported("ave", "tian2021", "9", large(5000), ())
    written = dict(pages.files(Content([], [reported]), lambda path, template, **context: (path, "")))
    assert 2_000_000 < len(written["data/lb/ave/tian2021-table9.js"]) < 3_000_000


def test_a_model_of_which_nothing_survives_has_zero_and_no_gap() -> None:
    """In a worst-case suite nothing is left to attack, so that the later threats have no row."""
    run = Path(__file__).parent.parent / "leaderboard/results/avmnist-test-256-standard@1/avbench--avmnist-g-blend"
    assert "XAV" not in {str(threat)[:3] for threat in store.read_rows(run)["threat"].unique()}
    [row] = cells_of(read_one(run)).values()
    assert row["XAV"][0] == 0.0
    assert row["Avg"] is not None


def test_the_board_that_ranks_stands_first_of_its_dataset(tmp_path: Path) -> None:
    for suite in ("cvpr21-attack", "standard", "iclr25"):
        write_run(tmp_path, "one", suite=suite)
    assert [board.name for board in make_boards(read_runs([tmp_path]))] == ["standard", "cvpr21-attack", "iclr25"]
