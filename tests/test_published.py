"""The formulas reproduce the papers' tables from their own columns, except where spec erratum 7 says they cannot."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from avbench.metrics.avg import average
from avbench.metrics.multilabel import d_prime
from avbench.metrics.ri import improvement
from avbench.site.published import DIFFERS, read_published

FOLDER = Path(__file__).parent.parent / "leaderboard" / "published"
PUBLISHED, MULTILABEL = FOLDER / "accuracy.csv", FOLDER / "multilabel.csv"
ROUNDING = 0.01  # the papers round or cut at two decimals

ERRATA = {  # table, dataset, defense, attack, column; spec erratum 7
    ("table3", "mit-music", "pcl", "fgsm", "avg"): (51.91, 51.92),
    ("table3", "kinetics-sounds", "minsim", "fgsm", "ri"): (8.99, 8.90),
    ("table6", "mit-music", "maxsim", "mim", "ri"): (12.84, 12.82),
    ("table1", "mit-music", "none", "pgd", "avg"): (5.09, 5.13),
}
D_ERRATA = {  # model, training, attacked modalities: d' as [L22] table 1 prints it, and that of the printed AUC
    ("mid-fusion", "g-blend", "audio+video"): (1.836, 1.727),
    ("mid-fusion", "g-blend", "video"): (2.441, 2.383),
    ("mid-fusion", "g-blend", "audio"): (2.276, 2.199),
    ("mid-fusion", "mixup", "audio+video"): (1.983, 1.742),
    ("mid-fusion", "adversarial-training", "audio+video"): (1.861, 1.812),
    ("mid-fusion", "adversarial-training", "none"): (2.53, 2.544),
}
THIRD = 0.0005  # half a unit of the third decimal, to which [L22] prints
MANY = 10**9  # pairs: the AUC is not kept from its ends


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    """Printed figures, with the printed figures of the undefended baseline of the same table and dataset."""
    table = pd.read_csv(PUBLISHED)
    undefended = table[(table["defense"] == "none") & (table["model"] == "resnet18-anet") & table["ri_printed"].notna()]
    columns = ["table", "dataset", "attack", "clean_av", "avg_printed"]
    return table.merge(undefended[columns], on=columns[:3], how="left", suffixes=("", "_baseline"), validate="m:1")


def test_exactly_the_rows_of_erratum_7_differ_from_their_own_columns(published: pd.DataFrame) -> None:
    differ = {}
    for row in published[published["table"] != "table2"].itertuples():
        avg = average(row.xa, row.xv, row.xav)
        ri = improvement(row.clean_av, row.avg_printed, row.clean_av_baseline, row.avg_printed_baseline)
        for column, printed, ours in (("avg", row.avg_printed, avg), ("ri", row.ri_printed, ri)):
            if abs(printed - ours) >= ROUNDING:
                differ[row.table, row.dataset, row.defense, row.attack, column] = (printed, round(ours, 2))
    assert differ == ERRATA


def test_every_printed_improvement_has_its_baseline(published: pd.DataFrame) -> None:
    with_ri = published[published["ri_printed"].notna()]
    assert len(with_ri) == 42
    assert with_ri["avg_printed_baseline"].notna().all()
    assert (with_ri.loc[(with_ri["defense"] == "none") & (with_ri["fusion"] == "concat"), "ri_printed"] == 0).all()


def test_table_2_averages_four_columns_with_the_clean_one(published: pd.DataFrame) -> None:
    table2 = published[published["table"] == "table2"]
    assert len(table2) == 5
    of_four = table2[["clean_av", "xa", "xv", "xav"]].mean(axis=1)
    assert (of_four - table2["avg_printed"]).abs().lt(ROUNDING).all()
    of_three = average(*(table2[column].to_numpy() for column in ("xa", "xv", "xav")))
    assert (abs(of_three - table2["avg_printed"]) > 10).all()


def test_exactly_the_rows_of_erratum_7_have_a_d_prime_that_no_auc_of_three_digits_gives() -> None:
    table = pd.read_csv(MULTILABEL)
    differ = {}
    for row in table.itertuples():
        low, high = (d_prime(row.auc + sign * THIRD, MANY) + sign * THIRD for sign in (-1, 1))
        if not low <= row.d_prime_printed <= high:
            key = (row.model, row.training, row.attack_modalities)
            differ[key] = (row.d_prime_printed, round(d_prime(row.auc, MANY), 3))
    assert differ == D_ERRATA
    assert len(table) == 10


def test_the_board_shows_both_d_primes_and_marks_exactly_those_rows() -> None:
    [board] = [one for one in read_published(FOLDER) if one.dataset == "audioset"]
    assert [column.title for column in board.table.columns][-3:] == ["d' printed", "d'", "Notes"]
    note = board.notes.index(DIFFERS["d"]) + 1
    shown = {tuple(row.cells[:3]): row.cells[-3:] for row in board.table.rows}
    printed = pd.read_csv(MULTILABEL).set_index(["model", "training", "attack_modalities"])
    assert list(shown) == list(printed.index)
    for key, (stated, ours, marks) in shown.items():
        assert stated == printed.loc[key, "d_prime_printed"]
        assert ours == pytest.approx(d_prime(printed.loc[key, "auc"], MANY), abs=THIRD)
        assert marks == ([note] if key in D_ERRATA else None)
