"""The command says what it made, and the documented commands work as they stand."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from own_clips import DOCS, MINE, bytes_of, put, root, table, workers, write_parquet

from avbench import files
from avbench.cli import main
from avbench.datasets.shards import LOCK, folder
from avbench.defenses.train import Recipe, read_recipe


def avbench(line: str) -> str:
    [program, *words] = line.split()
    assert program == "avbench"
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_says_what_it_made_and_what_comes_next(root: Path, put: Callable[..., Path], workers: None) -> None:
    write_parquet(put, root / "hub/all.parquet", MINE, names=None, split=True)
    said = avbench("avbench data new mine --from hf hub --frames 2 --size 12")
    assert (
        "datasets/mine: 30 clips (train 15, val 6, test 9) of 2 classes; each 1.00 s of sound and 2 x 12 x 12 pixels"
        in said
    )
    assert f"continue by: avbench data prepare mine --videos {files.cache()}/downloads/mine/clips" in said
    for split, count in {"train": 15, "val": 6, "test": 9}.items():
        lock = (folder("mine") / split / LOCK).read_bytes()
        assert (
            f"mine {split}: {count} of {count} samples (100.00 %), lock sha256 {hashlib.sha256(lock).hexdigest()}"
            in said
        )
    assert "avbench data audit mine" in said
    assert "avbench train datasets/mine/recipe.yaml\n" in said
    assert "avbench evaluate runs/train/mine/weights.safetensors\n" in said
    again = CliRunner().invoke(main, ["data", "new", "mine", "--from", "hf", "hub"])
    assert again.exit_code == 2
    assert "BadOption: there is a dataset mine already" in again.output


@pytest.mark.slow
def test_the_documented_commands_work_as_they_stand(root: Path, real_data: Path) -> None:
    [block] = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    assert [line.split()[1:3] for line in lines] == [
        ["data", "new"],
        ["train", lines[1].split()[2]],
        ["evaluate", lines[2].split()[2]],
    ]
    some(real_data / "grid_s1_pack", root / "grid_s1_pack")
    told = avbench(lines[0])
    assert "of 4 classes" in told
    recipe = next((root / "datasets").glob("*/recipe.yaml"))
    assert lines[1] in told
    assert lines[2] in told
    shorten(recipe, read_recipe(recipe))
    assert "weights.safetensors" in avbench(lines[1])
    assert "9 of 9 samples" in avbench(lines[2])


def some(pack: Path, place: Path) -> None:
    """A twenty-fifth of a pack, with its table."""
    with (pack / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for split in ("train", "test") for row in [r for r in rows if r["split"] == split][::25]]
    table(place / "labels.csv", [list(rows[0]), *(list(row.values()) for row in kept)])
    for row in kept:
        (place / row["file"]).parent.mkdir(exist_ok=True)
        shutil.copy(pack / row["file"], place / row["file"])


def shorten(path: Path, recipe: Recipe) -> None:
    """Train one epoch only: here the commands count, not the model."""
    assert recipe.epochs >= 10
    path.write_text(path.read_text().replace(f"epochs: {recipe.epochs}\n", "epochs: 1\n"))
