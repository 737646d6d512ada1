"""The command line as a user meets it: bad input is one named line and exit code 2, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import TEST_DATA, committed, hear_ctrl_c

from avbench import files, store
from avbench.cli import main
from avbench.datasets import shards, splits
from avbench.datasets.encoding import Clip, encode

MODEL = "avbench--synthav-concat"
SUBMISSION = files.root() / "submissions" / MODEL
SMALL = ["--limit", "8", "--batch-size", "8", "--threat", "standard/XA", "--attack", "fgsm"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(result: Result, name: str, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"{name}: "), result.stderr
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    result = run("evaluate", MODEL, *SMALL, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    [folder] = (path.parent for path in tmp_path.rglob("run.json"))
    return folder


def test_a_submission_its_weights_and_a_lightning_copy_give_the_same_rows(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(SUBMISSION / "weights.safetensors")
    torch.save({"state_dict": {f"net.{k}": v for k, v in state.items()}}, tmp_path / "model.ckpt")
    commands = [
        (MODEL,), (SUBMISSION,), (SUBMISSION / "weights.safetensors",),
        (tmp_path / "model.ckpt", "--architecture", "avnet", "--arg", "width=4", "--arg", "fusion=concat"),
    ]  # fmt: skip
    found = []
    for i, words in enumerate(commands):
        result = run("evaluate", *words, *SMALL, "--output-dir", tmp_path / str(i))
        assert result.exit_code == 0, result.output
        [rows] = (tmp_path / str(i)).rglob("rows.parquet")
        found.append(store.read_rows(rows))
    assert all(frame.equals(found[0]) for frame in found[1:])


def test_show_and_score_need_only_the_rows(evaluated: Path) -> None:
    shown, scored = run("show", evaluated), run("score", evaluated, "--json")
    assert shown.exit_code == scored.exit_code == 0
    assert "XA:linf:0.006 fgsm: 8 rows, 16 forward, 8 backward" in shown.output
    scores = json.loads(scored.output)
    clean = next(s for s in scores if s["metric"] == "clean-accuracy")
    rows = store.read_rows(evaluated)
    assert clean["value"] == pytest.approx(100 * rows[(rows["attack"] == "none")]["correct"].mean())
    assert clean["n"] == 8


# The other attacks have a closer look in test_estimate.py.
LOOKED_UP = ("transfer:attack=mma/steps=2,surrogates=avbench--synthav-audio+avbench--synthav-sum", "universal:epochs=1")


@pytest.mark.parametrize("attack", LOOKED_UP)
def test_a_dry_run_predicts_the_passes_and_writes_nothing(tmp_path: Path, attack: str) -> None:
    words = [
        "evaluate",
        MODEL,
        "--limit",
        "4",
        "--batch-size",
        "4",
        "--threat",
        "standard-transfer/XA" if attack.startswith("transfer") else "standard/XA",
        "--attack",
        attack,
        "--output-dir",
        tmp_path,
    ]
    dry = run(*words, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert not list(tmp_path.rglob("*"))
    lines = [line.split() for line in dry.output.splitlines() if line.startswith(("X", "clean"))]
    predicted = {(words[0], words[1]): words[2:5] for words in lines if words[1] != "fit"}
    fits = {words[0]: words[6:8] for words in lines if words[1] == "fit"}  # "fit universal on val", samples, passes
    assert run(*words).exit_code == 0
    [record] = (json.loads(path.read_text()) for path in tmp_path.rglob("run.json"))
    made = {(c["threat"], c["attack"]): [str(c[k]) for k in ("rows", "forward", "backward")] for c in record["cells"]}
    assert made == predicted
    made = {c["threat"]: [str(c["fit"][k]) for k in ("forward", "backward")] for c in record["cells"] if "fit" in c}
    assert made == fits


def test_lists_are_complete_and_also_json() -> None:
    for what in (
        "attacks",
        "threats",
        "suites",
        "datasets",
        "models",
        "metrics",
        "architectures",
        "defenses",
        "budgets",
    ):
        plain, parsed = run("list", what), json.loads(run("list", what, "--json").output)
        assert parsed
        for name in parsed:
            assert name in plain.output


def test_env_says_where_things_are() -> None:
    found = json.loads(run("env").output)
    assert torch.__version__.startswith(found["torch"])
    assert Path(found["cache"]) == files.cache()


@pytest.mark.slow
def test_a_board_is_built_from_a_run(evaluated: Path, tmp_path: Path) -> None:
    result = run("leaderboard", "build", "--results", evaluated.parent.parent, "--out", tmp_path / "site")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "site" / "index.html").is_file()
    assert (tmp_path / "site" / "models" / f"{MODEL}.html").is_file()


@pytest.mark.parametrize(
    ("words", "name", "parts"),
    [
        (["nothing.ckpt"], "CheckpointError", ["no model at nothing.ckpt"]),
        ([MODEL, "--dataset", "avmnist"], "SubmissionError", ["for synthav, not for avmnist"]),
        ([MODEL, "--dataset", "synthave"], "UnknownName", ["did you mean synthav"]),
        ([MODEL, "--split", "tset"], "BadOption", ["train, val, test"]),
        ([MODEL, "--suite", "cvpr21-atack"], "UnknownName", ["did you mean cvpr21-attack"]),
        ([MODEL, "--suite", "quick@9"], "BadOption", ["at version 1"]),
        ([MODEL, "--suite", "quick", "--attack", "mim"], "BadOption", ["nothing of suite quick@1 is left"]),
        ([MODEL, "--attack", "pgt"], "UnknownName", ["did you mean pgd"]),
        ([MODEL, "--attack", "pgd:steps=0"], "BadOption", ["at least 1"]),
        ([MODEL, "--threat", "XA:linf:-1"], "BadBudget", ["at least 0"]),
        ([MODEL, "--threat", "XV:linf:2"], "BadBudget", ["larger than the whole range"]),
        ([MODEL, "--threat", "XQ:linf:1"], "BadBudget", ["is not a threat model"]),
        ([MODEL, "--batch-size", "0"], "BadOption", ["at least 1"]),
        ([MODEL, "--batch-size", "many"], "BadOption", ["whole number or auto"]),
        ([MODEL, "--limit", "-3"], "BadOption", ["at least 1"]),
        ([MODEL, "--seed", "-1"], "BadOption", ["--seed"]),
        ([MODEL, "--device", "gpu"], "BadOption", ["is not a device"]),
        ([MODEL, "--device", "cuda:99"], "BadOption", ["CUDA devices"]),
        ([MODEL, "--arg", "width=8"], "BadOption", ["its own architecture"]),
        ([SUBMISSION / "weights.safetensors", "--arg", "width"], "BadOption", ["NAME=VALUE"]),
        ([SUBMISSION / "weights.safetensors", "--arg", "width=16"], "ArchitectureMismatch", ["wrong shape"]),
        ([SUBMISSION / "weights.safetensors", "--architecture", "avnett"], "UnknownName", ["did you mean avnet"]),
        ([SUBMISSION / "weights.safetensors", "--arg", "width=["], "BadOption", ["not a value"]),
        (["x" * 300], "CheckpointError", ["no model"]),
        ([MODEL, "--suite", "quick@"], "BadOption", ["at version 1"]),
        ([MODEL, "--threat", "XA:linf:0.01@black-box", "--attack", "pgd"], "BadOption", ["does not grant"]),
        ([files.root()], "SubmissionError", ["<org>--<model>"]),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_to_evaluate_is_named(words: list[object], name: str, parts: list[str], tmp_path: Path) -> None:
    refused(run("evaluate", *words, "--output-dir", tmp_path / "runs"), name, *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["{file}", "{file}/x", "/proc/x", "{folder}/" + "x" * 300])
@pytest.mark.parametrize(
    "words",
    [["evaluate", MODEL, *SMALL], ["train", files.root() / "recipes" / f"{MODEL}.yaml"]],
    ids=["evaluate", "train"],
)
def test_an_output_folder_that_cannot_be_written_is_named(tmp_path: Path, words: list[object], place: str) -> None:
    (tmp_path / "file").write_text("")
    where = place.format(file=tmp_path / "file", folder=tmp_path)
    refused(run(*words, "--output-dir", where), "BadOption", "cannot write to")


def test_an_output_folder_may_have_any_name(tmp_path: Path) -> None:
    assert run("evaluate", MODEL, *SMALL, "--output-dir", tmp_path / "a [b] ä" / "[/c]").exit_code == 0


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"protocol": 1}', '{"protocol": 1, "run": 3}'])
def test_a_damaged_record_is_named(evaluated: Path, record: str) -> None:
    (evaluated / "run.json").write_text(record)
    for words in (
        ["show", evaluated],
        ["score", evaluated],
        ["evaluate", MODEL, *SMALL, "--output-dir", evaluated.parent.parent],
    ):
        refused(run(*words), "IncompleteRun", "is not the record of a run")


def test_the_baseline_counts_only_if_it_is_whole_and_of_the_same_protocol(tmp_path: Path) -> None:
    other = "avbench--synthav-sum"
    words = ["--limit", "8", "--suite", "quick", "--output-dir", tmp_path]  # no committed run to fall back on
    for model in (MODEL, other):
        assert run("evaluate", model, *words).exit_code == 0
    [mine] = (path.parent for path in tmp_path.rglob("run.json") if path.parent.name == other)
    baseline = mine.parent / MODEL

    def has_ri() -> bool:
        result = run("score", mine, "--json")
        assert result.exit_code == 0, result.output
        return any(score["metric"] == "ri" and score["n"] == 8 for score in json.loads(result.output))

    assert has_ri()
    record = json.loads((baseline / "run.json").read_text())
    rows = (baseline / "rows.parquet").read_bytes()
    for key, value in (
        ("attacks", ["fgsm"]),
        ("rows_sha256", None),
        ("dataset", {**record["dataset"], "fixed_sha256": "0"}),
    ):
        (baseline / "run.json").write_text(json.dumps({**record, key: value}))
        assert not has_ri(), key
    (baseline / "run.json").write_text(json.dumps(record))
    (baseline / "rows.parquet").write_bytes(rows[:1000])
    assert not has_ri()
    (baseline / "rows.parquet").write_bytes(rows)
    assert has_ri()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["score", "nowhere"], "IncompleteRun"),
        (["show", "nowhere"], "IncompleteRun"),
        (["train", "nowhere.yaml"], "RecipeError"),
        (["data", "info", "mnist"], "UnknownName"),
        (["data", "prepare", "avmnist", "--videos", "/nonexistent"], "DataError"),
        (["data", "prepare", "synthav", "--split", "dev"], "BadOption"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_to_the_other_commands_is_named(words: list[str], name: str) -> None:
    refused(run(*words), name)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("title: [", "cannot be read"),
        ("a: 1\na: 2", "given twice"),
        ("a: &x 1\nb: *x", "aliases or tags"),
        ("a: !!python/object/apply:os.system [id]", "aliases or tags"),
        ("title: x", "dataset: Field required"),
        ("[" * 5000, "in one another"),
        ("x" * 20000, "larger than"),
    ],
)
def test_a_malformed_submission_is_named(tmp_path: Path, text: str, part: str) -> None:
    folder = tmp_path / "org--model"
    folder.mkdir()
    (folder / "submission.yaml").write_text(text)
    refused(run("evaluate", folder), "SubmissionError", part)


def test_weights_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "org--model"
    shutil.copytree(SUBMISSION, folder)
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(content))
    refused(run("evaluate", folder), "SubmissionError", "pins")


def test_changed_rows_are_not_scored(evaluated: Path) -> None:
    rows = store.read_rows(evaluated)
    rows["correct"] = True
    store.write_table(evaluated / "rows.parquet", rows, {})
    refused(run("score", evaluated), "IncompleteRun", "not those of its record")


def test_a_dataset_that_is_not_prepared_says_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path))
    result = run("data", "verify", "avmnist")
    refused(result, "DatasetNotPrepared", "avbench data prepare avmnist")


def test_a_corrupt_shard_is_found_by_verify_and_by_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path))
    assert run("data", "prepare", "synthav", "--split", "val").exit_code == 0
    assert run("data", "verify", "synthav", "--split", "val").exit_code == 0
    shard, _ = sorted((tmp_path / "data" / "synthav" / "val").glob("*.parquet"))
    content = bytearray(shard.read_bytes())
    for change in (lambda c: c[: len(c) // 2], lambda c: c[:5000] + bytes([c[5000] ^ 255]) + c[5001:]):
        shard.write_bytes(change(bytes(content)))
        splits._group.cache_clear()
        refused(run("data", "verify", "synthav", "--split", "val"), "CorruptShard", "avbench data prepare synthav")
        refused(
            run("evaluate", MODEL, "--split", "val", *SMALL, "--limit", "400", "--output-dir", tmp_path / "r"),
            "CorruptShard",
        )


def test_a_changed_sample_with_a_sound_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path))
    split = splits.open_split("synthav", "val")
    path = shards.shard_path(shards.folder("synthav") / "val", 0)
    rows = list(shards.read_rows(path))
    other = split.stored(7)
    clip = encode(Clip(other.audio + 1, other.video), split.card.sample_rate)
    rows[7] = rows[7]._replace(clip=clip._replace(sha256=rows[7].clip.sha256))
    shards.write(path, split.card, rows, shards.read_meta(path))
    splits._group.cache_clear()
    refused(run("data", "verify", "synthav", "--split", "val"), "CorruptShard", committed("synthav", "val")[7][0])


@pytest.mark.skipif(not TEST_DATA.is_dir(), reason=f"no test data at {TEST_DATA} (set AVBENCH_TEST_DATA)")
def test_the_whole_way_on_real_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path))
    prepared = run("data", "prepare", "avmnist", "--videos", TEST_DATA, "--split", "test")
    assert prepared.exit_code == 0, prepared.output
    result = run("evaluate", "avbench--avmnist-concat", "--suite", "quick", "--output-dir", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    [rows] = (tmp_path / "runs").rglob("rows.parquet")
    frame = store.read_rows(rows)
    assert frame[frame["attack"] == "none"]["correct"].mean() > 0.9
    assert result.output.count("%") > 0


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "avbench",
        "evaluate",
        MODEL,
        "--batch-size",
        "2",
        "--limit",
        "16",
        "--suite",
        "cvpr21-defense",
        "--output-dir",
        str(tmp_path),
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("part-*"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")}
    assert len(parts) >= 10
    subprocess.run(words, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == modified for path, modified in parts.items()), (
        "a finished part was made again"
    )
    [record] = (json.loads(path.read_text()) for path in tmp_path.rglob("run.json"))
    assert {cell["rows"] for cell in record["cells"]} == {16}
