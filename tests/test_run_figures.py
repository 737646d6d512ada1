"""`avbench figures`: what is drawn is what the models say of the clips of the runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from avbench import run_figures, store
from avbench.analyze import COLUMNS, GEOMETRY, bound
from avbench.cli import main
from avbench.datasets.splits import open_split
from avbench.submission import find_candidate

MODELS = ("avbench--synthav-concat", "avbench--synthav-minsim", "avbench--synthav-audio")
LOOKS = "avbench--synthav-localization"
CLIPS = 24


def edit_record(folder: Path, **changes: object) -> None:
    """Change entries of run.json, `model__title` reaching into `model`."""
    record = json.loads((folder / "run.json").read_text())
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        record |= {outer: record[outer] | {inner: value} if inner else value}
    (folder / "run.json").write_text(json.dumps(record))


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, found = tmp_path_factory.mktemp("runs"), {}
    for model in (*MODELS, LOOKS):
        result = run("evaluate", model, "--suite", "quick", "--limit", 4, "--output-dir", root)
        assert result.exit_code == 0, result.output
        [record] = root.rglob(f"*/{model}/run.json")
        classes = [(c, "joint", m, t, v, v, v, 9) for c in range(8) for m, t, v in
                   (("input-convexity", np.nan, 0.9 + c / 100), ("density", 0.6, c / 8), ("density", 0.8, 99.0))]  # fmt: skip
        table, about = pd.DataFrame(classes, columns=COLUMNS), bound(store.read_record(record.parent))
        store.publish_table(record.parent / GEOMETRY, table, about)
        found[model] = record.parent
    return found


@pytest.fixture(scope="module")
def drawn(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "CLIPS", CLIPS)
        result = run("figures", *runs.values(), "--output-dir", folder, "--seed", 3)
    assert result.exit_code == 0, result.output
    for path in result.output.split():
        assert Path(path).stat().st_size > 2000
    return folder


def test_each_model_shows_each_modality_it_reads_clean_and_attacked(drawn: Path) -> None:
    table = pd.read_parquet(drawn / "tsne.parquet")
    split = open_split("synthav", "test")
    shown = {model: set(rows["modality"]) for model, rows in table.groupby("model")}
    both = {"audio", "video"}
    assert shown == {MODELS[0]: both, MODELS[1]: both, MODELS[2]: {"audio"}, LOOKS: both}
    for _, rows in table.groupby(["model", "modality"]):
        assert np.isfinite(rows[["x", "y"]]).all(axis=None)
        for attacked in (False, True):
            part = rows[rows["attacked"] == attacked]
            assert tuple(part["sample"]) == split.ids[:CLIPS]
            assert part["label"].tolist() == [row.label for row in split.lock.rows[:CLIPS]]


def test_classes_that_the_model_tells_apart_lie_apart(drawn: Path) -> None:
    """Of clean clips the nearest neighbor is mostly of the same sound, which the audio embedding is trained to tell."""
    table = pd.read_parquet(drawn / "tsne.parquet")
    rows = table[(table["model"] == MODELS[2]) & ~table["attacked"]]
    points, labels = rows[["x", "y"]].to_numpy(), rows["label"].to_numpy()
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    sound = np.array([0, 0, 1, 1, 2, 2, 3, 3])[labels]  # of the classes of synthav
    assert (sound[apart.argmin(axis=1)] == sound).mean() > 0.6


def test_the_figure_says_seed_perplexity_attack_and_threat(drawn: Path) -> None:
    text = (drawn / "tsne.svg").read_text(encoding="utf-8")
    for words in ("seed 3", f"perplexity {(2 * CLIPS - 1) / 3:.3g}", "fgsm", "XAV:linf:", "mean nothing"):
        assert words in text, words


def test_a_map_shows_where_the_model_looks(drawn: Path) -> None:
    card_model, card = find_candidate(LOOKS)
    clips = open_split("synthav", "test").batch([0]).inputs
    table = pd.read_parquet(drawn / "localization.parquet")
    first = table[(table["clip"] == table["clip"].iloc[0]) & ~table["attacked"]]
    with torch.no_grad():
        weights = card_model.module.eval().attention_map(*clips)[0, card.spec.frames // 2]  # type: ignore[operator]
    assert first["weight"].to_numpy().reshape(weights.shape) == pytest.approx(weights.numpy(), abs=1e-5)
    assert set(table["model"]) == {LOOKS}
    assert table.groupby(["clip", "attacked"])["weight"].sum().to_numpy() == pytest.approx(1, abs=1e-5)
    moved = table[table["attacked"]]["weight"].to_numpy() - table[~table["attacked"]]["weight"].to_numpy()
    assert np.abs(moved).max() > 1e-3, "the attack changes where it looks"


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_figures, "CLIPS", 8)
    for name in ("one", "two"):
        assert run("figures", runs[LOOKS], "--output-dir", tmp_path / name).exit_code == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"model__weights_sha256": "0" * 64}, "RunConflict", "other weights"),
        ({"dataset__split": "val"}, "RunConflict", "different clips"),
        ({"attacks": ["mask:ratio=0.5"]}, "BadOption", "looks at its model alone"),
    ],
    ids=["weights", "split", "attacks"],
)
def test_what_cannot_be_drawn_is_said(
    runs: dict[str, Path], tmp_path: Path, change: dict[str, object], name: str, words: str
) -> None:
    other = tmp_path / "run"
    shutil.copytree(runs[MODELS[0]], other)
    edit_record(other, **change)
    result = run("figures", runs[MODELS[0]], other, "--output-dir", tmp_path / "out")
    assert (result.exit_code, result.stderr.partition(":")[0]) == (2, name), result.output
    assert words in result.stderr
    assert not (tmp_path / "out").exists()
