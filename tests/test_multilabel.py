"""Clips with several labels, from rows to scores: exact figures, honest intervals, and no accuracy where none is due."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from conftest import MemorySplit, Wavy, candidate, make_split, thinned
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from site_runs import Page, write_run
from sklearn.metrics import average_precision_score, roc_auc_score

from avbench import files, store
from avbench.cli import main
from avbench.cli.tables import print_run, print_scores
from avbench.datasets.splits import open_split
from avbench.errors import DataError, IncompleteRun, ProtocolMismatch
from avbench.judge import judge
from avbench.metrics import CLEAN, METRICS, NONE, WORST_CASE, Rows
from avbench.metrics.intervals import share
from avbench.metrics.multilabel import d_prime, per_class, rank_class, rank_classes
from avbench.metrics.sketch import sketch, sketch_scores
from avbench.objectives import classification_loss, margin
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.site import build
from avbench.site.published import d_prime as d_prime_of_the_papers
from avbench.suites import find_suite
from avbench.summarize import rank, score

XA, XV, XAV = "XA:linf:0.01", "XV:linf:0.01", "XAV:linf:0.01:linf:0.01"
CELLS = ("clean none", *(f"{threat} {attack}" for threat in (XA, XV, XAV) for attack in ("fgsm", "pgd")))
CLASSES = 5
SUITE = dataclasses.replace(find_suite(None, (XA, XV, XAV), ("fgsm", "noise:draws=2")), published=True)
MEANS = {"mean-average-precision": (0, 1), "mean-auc": (0, 1), "d-prime": (-9, 9), "mean-class-d-prime": (-9, 9)}
ROOT = Path(__file__).resolve().parent.parent

some = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, n: int = 40, classes: int = CLASSES) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draw scores with many ties, (n, classes), and labels, of which one class has none and one has all."""
    random = np.random.default_rng(seed)
    truth = random.random((n, classes)) < random.uniform(0.1, 0.9, classes)
    truth[:, 0], truth[:, 1] = False, True
    return (random.integers(-4, 4, (n, classes)) + 2 * truth).astype(np.float32), truth


def draw_run(seed: int, n: int = 40) -> Rows:
    scores, truth = draw(seed, n)
    labels = [np.flatnonzero(row).tolist() for row in truth]
    random = np.random.default_rng(seed)
    return sketch_scores({cell: (scores - random.integers(0, 3, scores.shape)).tolist() for cell in CELLS}, labels)


def figure(rows: Rows, metric: str, threat: str = CLEAN, attack: str = NONE) -> float:
    [name] = {
        name for name in METRICS.names() if metric.endswith(name) or (metric, name) == ("mean-class-d-prime", "d-prime")
    }
    [found] = [s.value for s in METRICS.get(name)(rows) if s[:3] == (metric, threat, attack)]
    return found


# Figures of a class


@some
@given(seeds, st.integers(2, 60))
def test_figures_agree_with_scikit_learn_ties_and_missing_classes_included(seed: int, n: int) -> None:
    scores, truth = draw(seed, n)
    found = rank_classes(scores, truth).table
    assert found["class"].tolist() == list(range(CLASSES))
    assert found["positives"].tolist() == truth.sum(axis=0).tolist()
    for one, ap, auc in zip(found["class"], found["ap"], found["auc"], strict=True):
        if 0 < truth[:, one].sum() < n:
            assert ap == pytest.approx(average_precision_score(truth[:, one], scores[:, one]), abs=1e-9)
            assert auc == pytest.approx(roc_auc_score(truth[:, one], scores[:, one]), abs=1e-9)
        else:
            assert math.isnan(ap)
            assert math.isnan(auc)
    assert found["d_prime"].isna().equals(found["auc"].isna())
    assert rank_classes(scores[:, 2:], truth[:, 2:]).errors == rank_classes(scores, truth).errors


@some
@given(seeds)
def test_only_the_order_of_scores_counts_not_that_of_samples_or_classes(seed: int) -> None:
    scores, truth = draw(seed)
    random = np.random.default_rng(seed)
    found = rank_classes(scores, truth)
    steps = np.cumsum(random.integers(1, 100, 30)).astype(np.float32)  # any strictly increasing function of the scores
    assert rank_classes(steps[scores.astype(int) + 10], truth).table.equals(found.table)
    samples, classes = random.permutation(len(scores)), random.permutation(CLASSES)
    assert rank_classes(scores[samples], truth[samples]).table.equals(found.table)
    moved = rank_classes(scores[:, classes], truth[:, classes])
    assert moved.table.drop(columns="class").equals(
        found.table.drop(columns="class").iloc[classes].reset_index(drop=True)
    )
    assert moved.errors == pytest.approx(found.errors)


@pytest.mark.parametrize(
    ("scores", "ap", "auc"),
    [
        ([4, 3, 2, 1], 1, 1),
        ([1, 2, 3, 4], (1 / 3 + 2 / 4) / 2, 0),
        ([0, 0, 0, 0], 1 / 2, 1 / 2),  # the share of positives, and chance
        ([3, 1, 2, 0], (1 + 2 / 3) / 2, 3 / 4),
        ([1, 0, 1, 0], 1 / 2, 1 / 2),
    ],
)
def test_small_cases_have_closed_forms(scores: list[int], ap: float, auc: float) -> None:
    found = rank_class(np.array(scores, dtype=np.float32), np.array([True, True, False, False]))
    assert (found.ap, found.auc) == pytest.approx((ap, auc))


def test_d_prime_is_the_papers_and_finite_at_the_ends() -> None:
    for auc in (0.895, 0.963, 0.971, 0.5):
        assert d_prime(auc, 10**9) == pytest.approx(d_prime_of_the_papers(auc))
    assert d_prime(1, 50) == d_prime(0.99, 50) == -d_prime(0, 50)
    assert d_prime(1, 50) < d_prime(1, 51) < math.inf


# Intervals


@some
@given(seeds)
def test_derivatives_by_the_weight_of_a_sample_are_those_of_the_weighted_figures(seed: int) -> None:
    scores, truth = (table[:, 2] for table in draw(seed, 12))
    if 0 < truth.sum() < len(truth):
        found, step = rank_class(scores, truth), 1e-5
        for which, by in ((average_precision_score, found.ap_by), (roc_auc_score, found.auc_by)):
            for sample in range(len(scores)):
                ends = [which(truth, scores, sample_weight=1 + sign * step * np.eye(12)[sample]) for sign in (1, -1)]
                assert by[sample] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


@some
@given(seeds)
def test_the_error_of_one_auc_is_that_of_delong(seed: int) -> None:
    scores, truth = (table[:, 2:3] for table in draw(seed, 30))
    high, low = scores[truth], scores[~truth]
    if min(len(high), len(low)):
        pairs = (high[:, None] > low) + (high[:, None] == low) / 2
        parts = [pairs.mean(axis=1).var() / len(high), pairs.mean(axis=0).var() / len(low)]
        assert rank_classes(scores, truth).errors["auc"] == pytest.approx(math.sqrt(sum(parts)))


@pytest.mark.parametrize("figure", ["auc", "ap", "d_prime"])
def test_intervals_cover_what_they_claim_though_classes_share_samples(figure: str) -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(400):
        ease = random.normal(size=(150, 1))  # of a clip, for all classes at once: errors of classes are correlated
        truth = random.random((150, 6)) < 0.4
        scores = (np.where(truth, 1, -1) * (1 + ease) + random.normal(size=(150, 6)) / 3).astype(np.float32)
        classes = rank_classes(scores, truth)
        found.append((classes.mean(figure), classes.errors[figure]))
    values, errors = np.array(found).T
    reach = np.abs(values - values.mean()) / errors
    assert 0.9 < (reach < 1.96).mean() < 0.98
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15)


def test_an_interval_stays_in_its_range_and_is_not_claimed_from_samples_without_spread() -> None:
    low, high = share(0.999, 0.01)
    assert 0 < low < 0.999 < high < 1
    perfect = sketch_scores({"clean none": [[1, 0], [0, 1]]}, labels=[[0], [1]])
    found = score(perfect).set_index("metric")
    assert found.loc["mean-auc", "value"] == found.loc["mean-average-precision", "value"] == 1
    assert found[["low", "high"]].isna().all().all()
    assert found["value"].map(math.isfinite).all()


# Scores of a run


@pytest.mark.parametrize("name", METRICS.names())
@settings(max_examples=5, deadline=None)
@given(seeds)
def test_every_figure_is_finite_in_range_inside_its_interval_and_named_once(name: str, seed: int) -> None:
    rows = draw_run(seed)
    found = METRICS.get(name)(rows)
    assert len({s[:3] for s in found}) == len(found)
    for s in found:
        lowest, highest = MEANS.get(s.metric, (0, CLASSES))
        assert lowest <= s.value <= highest
        assert math.isnan(s.low) or lowest <= s.low < s.value < s.high <= highest
        assert s.n == 40
    shuffled = Rows(rows.frame.sample(frac=1, random_state=seed % 99), cells=rows.cells[::-1])
    kinds = dict.fromkeys(["sample", "threat", "attack"], "category")
    assert repr(METRICS.get(name)(shuffled)) == repr(found) == repr(METRICS.get(name)(Rows(rows.frame.astype(kinds))))


def test_a_run_has_means_over_classes_in_every_cell_and_no_accuracy() -> None:
    found = score(draw_run(0))
    cells = [(CLEAN, NONE), *((t, a) for t in (XA, XV, XAV) for a in ("fgsm", "pgd", WORST_CASE))]
    for metric in MEANS:
        assert [*found[found["metric"] == metric][["threat", "attack"]].itertuples(index=False, name=None)] == cells
    assert set(found["metric"]) == {*MEANS, "classes-left-out"}
    assert found[found["metric"] == "classes-left-out"]["value"].tolist() == [2]


def test_a_run_with_one_label_a_clip_has_no_means_over_classes() -> None:
    assert not {*MEANS, "classes-left-out"} & set(score(sketch({"clean none": "10", f"{XA} pgd": "10"}))["metric"])


def test_means_are_those_of_the_classes_that_have_figures() -> None:
    rows = draw_run(1)
    found = of_cell(rows, XA, "pgd")
    cell = rows.frame[(rows.frame["threat"] == XA) & (rows.frame["attack"] == "pgd")]
    scores, truth = np.stack(list(cell["scores"])), draw(1)[1]
    assert found["ap"].isna().tolist() == [True, True, False, False, False]
    assert figure(rows, "mean-average-precision", XA, "pgd") == pytest.approx(
        average_precision_score(truth[:, 2:], scores[:, 2:], average="macro"), abs=1e-9
    )
    auc = roc_auc_score(truth[:, 2:], scores[:, 2:], average="macro")
    assert figure(rows, "mean-auc", XA, "pgd") == pytest.approx(auc, abs=1e-9)
    assert figure(rows, "d-prime", XA, "pgd") == pytest.approx(d_prime_of_the_papers(auc))
    assert figure(rows, "mean-class-d-prime", XA, "pgd") == pytest.approx(found["d_prime"].mean())


def of_cell(rows: Rows, threat: str, attack: str) -> pd.DataFrame:
    found = per_class(rows)
    return found[(found["threat"] == threat) & (found["attack"] == attack)]


def test_each_class_has_its_figures_in_every_cell_and_in_each_worst_case() -> None:
    rows = draw_run(5)
    found = per_class(rows)
    cells = found[["threat", "attack"]].drop_duplicates().itertuples(index=False, name=None)
    assert [*cells] == [(CLEAN, NONE), *((t, a) for t in (XA, XV, XAV) for a in ("fgsm", "pgd", WORST_CASE))]
    assert set(found["n"]) == {40}
    for (threat, attack), table in found.groupby(["threat", "attack"]):
        assert table["class"].tolist() == list(range(CLASSES))
        assert table["positives"].tolist() == draw(5)[1].sum(axis=0).tolist()
        assert table["ap"].isna().sum() == figure(rows, "classes-left-out") == 2
        for column, metric in (
            ("ap", "mean-average-precision"),
            ("auc", "mean-auc"),
            ("d_prime", "mean-class-d-prime"),
        ):
            assert table[column].mean() == pytest.approx(figure(rows, metric, threat, attack), abs=1e-12)


def test_the_worst_case_takes_each_samples_largest_loss_along_the_lattice() -> None:
    clean = [[2, -2], [-2, 2], [2, 2], [-2, -2]]
    weak, strong = np.array(clean) * 0.5, -np.array(clean)
    mixed = [*strong[:2], *weak[2:]]
    cells = {"clean none": clean, f"{XA} fgsm": mixed, f"{XA} pgd": weak, f"{XV} pgd": [*weak[:2], *strong[2:]],
             f"{XAV} pgd": weak, "XA:linf:0.02 pgd": weak}  # fmt: skip
    rows = sketch_scores({name: np.array(scores).tolist() for name, scores in cells.items()}, [[0], [1], [0, 1], []])
    aucs = {t: figure(rows, "mean-auc", t, WORST_CASE) for t in (XA, XV, XAV, "XA:linf:0.02")}
    assert aucs[XAV] == 0, "every sample is at its worst: two inside XA, two inside XV"
    assert aucs[XA] == figure(rows, "mean-auc", XA, "fgsm") == aucs["XA:linf:0.02"], "the wider one holds XA"
    assert aucs[XV] == figure(rows, "mean-auc", XV, "pgd")
    assert figure(rows, "mean-auc", XAV, "pgd") == 1


def test_what_did_not_run_on_every_sample_has_no_figure_and_its_threat_is_refused() -> None:
    rows = draw_run(2)
    gap = (rows.frame["threat"] == XA) & (rows.frame["attack"] == "pgd") & (rows.frame["sample"] == "s3")
    with pytest.raises(IncompleteRun, match=f"no row for {XA}, pgd"):
        score(Rows(rows.frame[~gap], cells=rows.cells))
    silent = rows.frame[rows.frame["threat"] == CLEAN].assign(attack="silence-audio").iloc[1:]
    found = score(Rows(pd.concat([rows.frame, silent]), cells=rows.cells))
    assert "silence-audio" not in set(found["attack"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", np.array([CLASSES])),
        ("labels", np.array([-1])),
        ("labels", None),
        ("scores", np.zeros(CLASSES + 1)),
        ("scores", np.full(CLASSES, np.nan)),
        ("scores", None),
    ],
)
def test_rows_that_were_tampered_with_are_refused(column: str, value: object) -> None:
    frame = draw_run(3).frame
    frame[column] = pd.Series([value, *frame[column].iloc[1:]])
    with pytest.raises(IncompleteRun, match="labels and scores are malformed"):
        score(Rows(frame))


def test_runs_are_not_ranked_by_accuracy() -> None:
    with pytest.raises(ProtocolMismatch, match="several labels"):
        rank({"one": draw_run(0), "two": draw_run(1)})


# Rows


def test_rows_with_one_label_keep_their_schema_and_their_bytes(tmp_path: Path) -> None:
    committed = sorted((ROOT / "leaderboard" / "results").rglob("rows.parquet"))
    assert committed
    for path in committed:
        file = pq.ParquetFile(path)
        assert file.schema_arrow.remove_metadata().equals(store.schema(multilabel=False), check_metadata=True)
        metadata = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
        again = tmp_path / path.parent.name / "rows.parquet"
        again.parent.mkdir(exist_ok=True)
        again.unlink(missing_ok=True)
        store.write_table(again, store.read_rows(path), metadata)
        if pq.ParquetFile(again).metadata.created_by == file.metadata.created_by:
            assert again.read_bytes() == path.read_bytes()


def test_rows_with_several_labels_come_back_as_they_were_and_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows = draw_run(4).frame
    store.write_table(tmp_path / "one.parquet", rows, {"protocol": "1"})
    back = store.read_rows(tmp_path / "one.parquet")
    assert set(back.columns) == set(store.columns(multilabel=True))
    assert {"label", "prediction"} & set(back.columns) == set()
    pd.testing.assert_frame_equal(back[rows.columns], rows, check_dtype=False)
    store.write_table(tmp_path / "two.parquet", back, {"protocol": "1"})
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    fields = pq.read_schema(tmp_path / "one.parquet")
    assert [str(fields.field(name).type.value_type) for name in ("labels", "scores")] == ["int16", "float"]
    pq.write_table(pq.read_table(tmp_path / "one.parquet").drop(["labels"]), tmp_path / "two.parquet")
    with pytest.raises(IncompleteRun, match="lacks the columns labels"):
        store.read_rows(tmp_path / "two.parquet")


def test_the_judge_writes_labels_scores_worst_class_and_summed_loss() -> None:
    batch = several(6).batch(range(6))
    victim = Victim(Wavy(classes=CLASSES), CLASSES, torch.device("cpu"))
    rows = judge(victim, batch, batch.inputs, {})
    logits = victim.logits(batch.inputs, {}, batch.ids)
    assert np.array_equal(np.stack(list(rows["scores"])), logits.numpy())
    assert [labels.tolist() for labels in rows["labels"]] == [row.nonzero()[:, 0].tolist() for row in batch.labels]
    assert np.array_equal(rows["margin"], margin(logits, batch.labels))
    assert np.array_equal(rows["loss"], classification_loss(logits, batch.labels))
    assert rows["correct"].equals(rows["margin"] > 0)


# A run, end to end


def several(n: int) -> MemorySplit:
    """A split whose clips have none to all of the labels."""
    split = make_split(n, CLASSES)
    card = split.card.model_copy(update={"task": "multilabel"})
    rows = sorted(split.lock.rows)
    labels = [tuple(c for c in range(CLASSES) if (i * 7 + c * c) % 3 == 0 and c < 4) for i in range(n)]
    lock = type(split.lock)([row._replace(label=some) for row, some in zip(rows, labels, strict=True)])
    return dataclasses.replace(split, card=card, lock=lock)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path)


def run_of(folder: Path, n: int = 20, seed: int = 0, name: str = "toy") -> Path:
    how = RunOptions(output_dir=folder, batch_size=8)
    return evaluate(candidate(Wavy(seed, CLASSES), name), several(n), SUITE, how, quiet=True)


def test_a_run_gives_the_same_rows_however_it_was_interrupted(tmp_path: Path, run: Path) -> None:
    whole, parts = run / "rows.parquet", sorted(run.rglob("part-*.parquet"))
    rows = store.read_rows(run)
    assert rows.groupby(["threat", "attack"])["sample"].nunique().eq(20).all()
    assert len(rows) == 20 * (3 + 3 * 2)
    sha256 = files.sha256_file(whole)
    for part in (*parts[::2], whole):
        part.unlink()
    (kept,) = {path.stat().st_mtime_ns for path in parts[1:2]}
    assert files.sha256_file(run_of(tmp_path) / "rows.parquet") == sha256
    assert parts[1].stat().st_mtime_ns == kept, "a part that was there is read, not made again"


def test_the_scores_of_a_run_are_those_of_its_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = several(20)
    batch = split.batch(range(20))
    logits = Wavy(0, CLASSES)(*batch.inputs).detach().numpy()
    scored = [c for c in range(CLASSES) if 0 < batch.labels[:, c].sum() < 20]
    assert 0 < len(scored) < CLASSES
    expected = average_precision_score(batch.labels.numpy()[:, scored], logits[:, scored])
    rows = Rows(store.read_rows(run))
    scores = score(rows)
    assert figure(rows, "mean-average-precision") == pytest.approx(expected, abs=1e-6)
    assert {"median-audio-linf", "median-video-linf"} < set(scores["metric"])
    assert not [metric for metric in set(scores["metric"]) if "accuracy" in metric or "success" in metric]
    assert figure(rows, "mean-auc", XAV, "fgsm") < figure(rows, "mean-auc")
    print_run(run, scores)
    print_scores(scores)
    shown = capsys.readouterr().out
    assert f"{expected:.4f} [" in shown
    assert f"without a positive or a negative sample: {CLASSES - len(scored)}\n" in shown
    assert "RI" not in shown
    json.loads(scores.to_json(orient="records"))


THREATS = ("XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006")  # of icassp22
INSIDE = dict(zip(THREATS, (THREATS[:1], THREATS[1:2], THREATS), strict=True))


@pytest.fixture(scope="module")
def icassp22(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed model under the threats and attacks of icassp22, its universal perturbation fitted for one epoch."""
    folder = tmp_path_factory.mktemp("icassp22")
    words = ["--threat", "standard", "--attack", "universal:epochs=1", "--attack", "pgd", "--limit", "40"]
    command = ["evaluate", "avbench--synthav-multi-concat", *words, "--output-dir", str(folder)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    [path] = folder.rglob("classes.parquet")
    assert "classes.parquet" in result.output.replace("\n", "")
    return path.parent


def scores_in(frame: pd.DataFrame, ids: list[str], cells: list[tuple[str, str]]) -> NDArray[np.float32]:
    """Stored scores, (cells, samples, classes)."""
    found = [frame[(frame["threat"] == t) & (frame["attack"] == a)].set_index("sample")["scores"] for t, a in cells]
    return np.stack([np.stack(list(scores.loc[ids])) for scores in found])


def by_scikit_learn(truth: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """AP, AUC and d' of every class, (3, classes); NaN without a positive or without a negative sample."""
    found = np.full((3, truth.shape[1]), np.nan)
    for one, (right, column) in enumerate(zip(truth.T, scores.T, strict=True)):
        if pairs := int(right.sum() * (1 - right).sum()):
            auc = roc_auc_score(right, column)
            kept = min(max(auc, 0.5 / pairs), 1 - 0.5 / pairs)
            found[:, one] = average_precision_score(right, column), auc, math.sqrt(2) * NormalDist().inv_cdf(kept)
    return found


@pytest.mark.parametrize("n", thinned([6, 40], 2))
def test_every_score_of_a_committed_model_is_that_of_scikit_learn(n: int, icassp22: Path) -> None:
    split = open_split("synthav-multi", "test")
    ids, truth = list(split.ids[:n]), split.batch(range(n)).labels.numpy().astype(int)
    frame = store.read_rows(icassp22)
    attacks = sorted(set(frame["attack"]) - {NONE, "silence-audio", "silence-video"})
    assert [attack.partition(":")[0] for attack in attacks] == ["pgd", "universal"]
    expected = {(t, a): scores_in(frame, ids, [(t, a)])[0] for t in THREATS for a in attacks}
    expected[CLEAN, NONE] = scores_in(frame, ids, [(CLEAN, NONE)])[0]
    for threat, inside in INSIDE.items():
        offered = scores_in(frame, ids, [(t, a) for t in inside for a in attacks]).astype(np.float64)
        worst = (np.logaddexp(0, offered) - truth * offered).sum(axis=2).argmax(axis=0)
        expected[threat, WORST_CASE] = offered[worst, range(n)].astype(np.float32)
    rows = Rows(frame[frame["sample"].isin(ids)])
    found = score(rows).set_index(["metric", "threat", "attack"])["value"]
    table = pd.read_parquet(icassp22 / "classes.parquet") if n == 40 else per_class(rows)
    assert set(table[["threat", "attack"]].itertuples(index=False, name=None)) >= set(expected)
    for (threat, attack), scores in expected.items():
        classes = table[(table["threat"] == threat) & (table["attack"] == attack)]
        ours = classes[["ap", "auc", "d_prime"]].to_numpy().T
        figures = by_scikit_learn(truth, scores)
        assert ours == pytest.approx(figures, abs=1e-9, nan_ok=True)
        assert classes["positives"].tolist() == truth.sum(axis=0).tolist()
        mean_ap, mean_auc, mean_d = np.nanmean(figures, axis=1)
        assert found["mean-average-precision", threat, attack] == pytest.approx(mean_ap, abs=1e-9)
        assert found["mean-auc", threat, attack] == pytest.approx(mean_auc, abs=1e-9)
        assert found["mean-class-d-prime", threat, attack] == pytest.approx(mean_d, abs=1e-9)
        if 0.1 < mean_auc < 0.9:
            d = math.sqrt(2) * NormalDist().inv_cdf(mean_auc)
            assert found["d-prime", threat, attack] == pytest.approx(d, abs=1e-9)
    left_out = int(((truth.sum(axis=0) == 0) | (truth.sum(axis=0) == n)).sum())
    assert found["classes-left-out", CLEAN, NONE] == left_out
    assert (left_out > 0) == (n == 6), "both cases are met"


def test_a_board_shows_means_over_classes_best_first_and_ranks_nobody(tmp_path: Path) -> None:
    for seed in range(3):
        run_of(tmp_path / "results", seed=seed, name=f"toy{seed}")
    build([tmp_path / "results"], tmp_path / "out")
    [path] = (tmp_path / "out" / "lb" / "toy").glob("*.html")
    page = Page(path)
    data = json.loads(page.data)
    assert "Rank" not in [column["title"] for column in data["columns"]]
    assert all(word in page.text for word in ("Clean mAP", "XAV AUC", "XV d'", "means over classes"))
    assert "Robust accuracy" not in page.text
    heads = [f"{head} mAP" for head in ("XA", "XV", "XAV")]
    columns = [text.strip() for text in path.read_text().split("<thead>")[1].split("</thead>")[0].split("</th>")]
    places = [next(i for i, text in enumerate(columns) if text.endswith(f">{head}")) for head in heads]
    worst = [float(np.mean([row[place][0] for place in places])) for row in data["rows"]]
    assert worst == sorted(worst, reverse=True)
    assert len(set(worst)) == 3
    assert "XAV mAP" in (tmp_path / "out" / "models" / "toy0.html").read_text()
    for card in (tmp_path / "out" / "evals").glob("*.html"):
        assert "mean-average-precision" in card.read_text()
        assert "classes-left-out" in card.read_text()


def test_a_board_refuses_rows_of_another_kind_than_its_dataset(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "results", "odd", suite="quick")
    rows = draw_run(0, 500).frame
    rows = rows[rows["threat"] == CLEAN]
    (folder / "rows.parquet").unlink()
    store.write_table(folder / "rows.parquet", rows, {})
    record = json.loads((folder / "run.json").read_text())
    record |= {"rows_sha256": files.sha256_file(folder / "rows.parquet")}
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="multiclass dataset"):
        build([tmp_path / "results"], tmp_path / "out")
