"""A result is believed only as far as its files, its clips and its model agree; whatever is changed is named."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from conftest import make_split, thinned
from sandboxed import HOSTILE, needs_sandbox
from verified_runs import MODEL, SAMPLES, WORST, clean_batch, copied, edit_rows, edit_shard, make_run, reseal

from avbench import files, store
from avbench.api import evaluate_model
from avbench.cli import main
from avbench.diagnose.runs import diagnose_run
from avbench.errors import AvbenchError, BadOption, DataError, IncompleteRun, VerificationFailed
from avbench.options import RunOptions
from avbench.threats import parse_threat
from avbench.threats.region import Region
from avbench.verify import Report, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs"))
    diagnose_run(run, device="cpu")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def check(run: Path, **how: Any) -> Report:
    return verify(run, device="cpu", **how)[0]


def shards(run: Path, threat: str = "X") -> list[Path]:
    return sorted((run / "adversarial").glob(f"{threat}*/*.npz"))


def content(run: Path) -> dict[str, bytes]:
    names = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in names}


def test_an_honest_run_passes_and_nothing_in_it_changes(run: Path) -> None:
    before = content(run)
    report = check(run)
    rows = store.read_rows(run)
    assert report.samples == SAMPLES
    assert report.rows == len(rows)
    assert report.clips == (rows["threat"] != "clean").sum() > 10
    assert set(report.used) == {"XA:linf:0.004 audio", "XV:linf:0.004 video", "XAV:linf:0.004:linf:0.004 audio",
                                "XAV:linf:0.004:linf:0.004 video"}  # fmt: skip
    assert all(0.999 < share <= 1 for share in report.used.values())
    assert [what for what in report.unchecked if "health" not in what] == []
    assert content(run) == before


def test_the_command_prints_what_was_checked_and_exits_with_2_if_something_differs(run: Path) -> None:
    done = CliRunner().invoke(main, ["verify", str(run), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert store.result_id(store.read_record(run)) in done.output
    assert "clips measured in integers" not in done.output.replace("clips:", "")
    assert "robust-accuracy" in done.output
    (run / "rows.parquet").unlink()
    done = CliRunner().invoke(main, ["verify", str(run), "--device", "cpu"])
    assert done.exit_code == 2
    assert "VerificationFailed" in done.output
    assert "rows.parquet" in done.output


def test_show_prints_the_id_and_any_tool_for_rfc_8785_and_sha256_finds_the_same(run: Path) -> None:
    """Of a record whose numbers Python writes otherwise than RFC 8785 does."""
    record = json.loads((run / "run.json").read_text())
    shown = CliRunner().invoke(main, ["show", str(run)]).output
    assert f"result:          {store.result_id(record)}" in shown
    assert (
        store.result_id({"b": 1.0, "a": 1e-05, "\u20ac": 1e21, "é": "ü\n"})
        == hashlib.sha256('{"a":0.00001,"b":1,"é":"ü\\n","€":1e+21}'.encode()).hexdigest()
    )
    with pytest.raises(BadOption, match="--seed below"):
        store.result_id(record | {"seed": 2**60})


@pytest.mark.parametrize(
    "name", ["run.json", "rows.parquet", "health.json", "SHA256SUMS", "adversarial/SHA256SUMS", "a shard"]
)
def test_every_flipped_bit_is_found(run: Path, name: str) -> None:
    path = shards(run)[3] if name == "a shard" else run / name
    whole = path.read_bytes()
    draw = random.Random(name)
    for place in [*draw.sample(range(8 * len(whole)), 60), 0, 8 * len(whole) - 1]:
        torn = bytearray(whole)
        torn[place // 8] ^= 1 << place % 8
        path.write_bytes(torn)
        with pytest.raises(AvbenchError) as found:
            check(run)
        assert isinstance(found.value, VerificationFailed | IncompleteRun), f"bit {place}: {found.value!r}"
    for torn in (whole[:-1], whole + b" ", b"", whole[: len(whole) // 2]):
        path.write_bytes(torn)
        with pytest.raises(VerificationFailed if torn and path.suffix != ".json" else AvbenchError):
            check(run)
    path.write_bytes(whole)
    check(run)


def test_every_file_that_is_missing_is_named(run: Path) -> None:
    for name, whole in content(run).items():
        if name == ".lock":
            continue
        (run / name).unlink()
        with pytest.raises(AvbenchError, match=Path(name).name):
            check(run)
        (run / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["more.parquet", "adversarial/more.npz", "adversarial/x/README", ".hidden"])
def test_every_file_too_many_is_named(run: Path, name: str) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("more")
    with pytest.raises(VerificationFailed, match=Path(name).name):
        check(run)


def test_a_link_in_place_of_a_file_is_named(run: Path, tmp_path: Path) -> None:
    shutil.move(run / "rows.parquet", tmp_path / "rows")
    os.symlink(tmp_path / "rows", run / "rows.parquet")
    with pytest.raises(VerificationFailed, match=r"rows.parquet is a link"):
        check(run)


def first_attacked(rows: pd.DataFrame, right: bool = False) -> Any:
    return rows.index[(rows["threat"] != "clean") & (rows["correct"] == right)][0]


def set_value(name: str, change: Callable[[Any], Any], where: Callable[[pd.DataFrame], Any] = first_attacked) -> Any:
    def edit(rows: pd.DataFrame) -> pd.DataFrame:
        row = where(rows)
        rows.loc[row, name] = change(rows.loc[row, name])
        return rows

    return edit


def declare_robust(rows: pd.DataFrame) -> pd.DataFrame:
    """Claim that the model withstood the last attack of all that broke it, where no later row hangs on it."""
    row = rows.index[(rows["threat"] != "clean") & ~rows["correct"]][-1]
    label = rows.loc[row, "label"]
    rows.loc[row, ["correct", "margin", "prediction"]] = [True, 0.5, label]
    return rows


def swap_labels(rows: pd.DataFrame) -> pd.DataFrame:
    ids = rows["sample"].unique()
    one, other = ids[0], next(name for name in ids if int(name[-5:]) % 8 != int(ids[0][-5:]) % 8)
    labels = {name: rows.loc[rows["sample"] == name, "label"].iloc[0] for name in (one, other)}
    rows.loc[rows["sample"] == one, "label"] = labels[other]
    rows.loc[rows["sample"] == other, "label"] = labels[one]
    return rows


def drop_broken(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out the row that shows how a sample was broken."""
    return rows.drop(rows.index[(rows["threat"] != "clean") & ~rows["correct"]][-1])


ROWS = {
    "a margin by 1e-3": (set_value("margin", lambda m: m - 1e-3), "the margin of sample"),
    "a verdict": (declare_robust, "the margin of sample|has to have"),
    "a verdict against its margin": (set_value("correct", lambda c: not c, lambda r: r.index[-1]), "the correct of"),
    "a clean margin": (set_value("margin", lambda m: m + 1, lambda r: r.index[0]), "clean, none: the margin of"),
    "a silenced margin": (
        set_value("margin", lambda m: m + 1, lambda r: r.index[r["attack"] == "silence-video"][0]),
        "silence-video: the margin of",
    ),
    "a wrong prediction": (set_value("prediction", lambda p: (p + 3) % 8), "the prediction of|the correct of"),
    "no class": (set_value("prediction", lambda p: -1), "the prediction of sample"),
    "a loss": (set_value("loss", lambda x: x / 2), "the loss of sample"),
    "a size": (set_value("audio_l2", lambda x: x / 2), "the audio_l2 of sample"),
    "two labels swapped": (swap_labels, "the label of sample"),
    "a sample for another": (set_value("sample", lambda s: "test-00001"), "has to have"),
    "a row left out": (drop_broken, "has to have"),
    "rows of a threat of no suite": (lambda r: r.assign(threat=r["threat"].replace("XA:linf:0.004", "XA:linf:0.003")), "cells"),
}  # fmt: skip


@pytest.mark.parametrize("change", thinned(ROWS, 2))
def test_rows_that_the_model_does_not_answer_are_named_though_every_hash_fits(run: Path, change: str) -> None:
    edit, message = ROWS[change]
    edit_rows(run, edit)
    with pytest.raises(VerificationFailed, match=message):
        check(run)


WORST_TOLD = {"name": "worst", "version": 1, "mode": "worst-case", "published": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 1}, "the run's fingerprint"), ({"run": "0" * 64}, "the run's fingerprint"), ({"draws": 20}, "draws"),
     ({"track": "synthav-test-standard@1"}, "the track is synthav-test-worst@1"), ({"cells": []}, "the cells"),
     ({"suite": WORST_TOLD | {"name": "quick", "published": True}}, "the suite is not quick@1"),
     ({"suite": WORST_TOLD | {"name": "quick", "published": True}, "numerics": {"micro_batch": 4, "precision": "bf16"}},
      "crafted in bf16, and quick@1 is published for fp32"),
     ({"suite": WORST_TOLD | {"mode": "every"}}, "the run's fingerprint"),
     ({"suite": WORST_TOLD | {"published": True}}, "no suite is called 'worst'"),
     ({"threats": ["XA:linf:0.005", "XV:linf:0.004", "XAV:linf:0.005:linf:0.004"]}, "the run's fingerprint"),
     ({"attacks": ["fgsm", "pgd:steps=3"]}, "the run's fingerprint")],
    ids=str,
)  # fmt: skip
def test_a_record_that_does_not_follow_from_model_suite_and_split_is_named(
    run: Path, change: dict[str, Any], message: str
) -> None:
    reseal(run, **change)
    with pytest.raises(VerificationFailed, match=message):
        check(run)


@pytest.mark.parametrize(
    ("part", "change"),
    [("dataset", {"evaluated": 9}), ("dataset", {"lock_sha256": "0" * 64}), ("dataset", {"size": 400}),
     ("model", {"weights_sha256": "0" * 64}), ("model", {"arguments": {"fusion": "sum", "width": 8}}),
     ("numerics", {"micro_batch": 5})],
    ids=str,
)  # fmt: skip
def test_a_part_of_the_record_that_is_not_true_is_named(run: Path, part: str, change: dict[str, Any]) -> None:
    reseal(run, **{part: store.read_record(run)[part] | change})
    with pytest.raises(VerificationFailed):
        check(run)


@pytest.mark.parametrize("change", [{"cells": {}}, {"threats": [1]}, {"seed": "0"}, {"model": {"id": []}}, {"numerics": {"micro_batch": 0}}], ids=str)  # fmt: skip
def test_a_record_of_another_form_is_a_named_error(run: Path, change: dict[str, Any]) -> None:
    reseal(run, **change)
    with pytest.raises(IncompleteRun, match="not the record of a run"):
        check(run)


def test_rows_and_clips_of_another_model_are_named(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", model="avbench--synthav-sum")
    mine = store.read_record(run)
    record = store.read_record(other) | {key: mine[key] for key in ("model", "run")}
    record["cells"] = [
        cell | {"fingerprint": next(c["fingerprint"] for c in mine["cells"] if c["attack"] == cell["attack"] and c["threat"] == cell["threat"])}
        for cell in record["cells"]
    ]  # fmt: skip
    folders = {path.name.rsplit("-", 2)[0]: path.name for path in (run / "adversarial").iterdir() if path.is_dir()}
    reseal(other, **record)
    for path in [path for path in (other / "adversarial").iterdir() if path.is_dir()]:
        path.rename(path.with_name(folders.get(path.name.rsplit("-", 2)[0], path.name)))
    reseal(other)
    with pytest.raises(VerificationFailed, match="the margin of"):
        check(other)


def test_a_clip_one_float_outside_its_radius_is_named_with_its_sample(run: Path) -> None:
    """One number that float32 can hold beyond the last legal one; the judge's own bound is the reference."""
    for threat, modality in (("XA:linf:0.004", "audio"), ("XV:linf:0.004", "video")):
        path = shards(run, threat[:3].replace(":", "-"))[0]
        legal = path.read_bytes()
        with np.load(path) as found:
            ids = found["samples"].tolist()
        batch = clean_batch(ids)
        clean = getattr(batch.inputs, modality).numpy()
        high = Region(parse_threat(threat), batch.inputs).balls[modality].high.numpy()  # type: ignore[attr-defined, index]
        place = tuple(np.argwhere((clean[1] > 0.1) & (clean[1] < 0.5))[0])
        bound, start = (values[1][place].view(np.int32) for values in (high, clean))

        def put(steps: int, place: Any = place, modality: str = modality) -> Callable[[dict[str, Any]], None]:
            return lambda arrays: arrays[modality][1].__setitem__(place, steps)

        edit_shard(path, put(bound - start + 1))
        reseal(run)
        with pytest.raises(VerificationFailed, match=f"the {modality} of sample {ids[1]} is .* outside {threat}"):
            check(run)
        path.write_bytes(legal)
        reseal(run)
    check(run)


SHARDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "clips of two samples swapped": (
        lambda a: a.update(samples=a["samples"][[1, 0, *range(2, len(a["samples"]))]]),
        "outside|outside \\[",
    ),
    "a clip left clean": (lambda a: a["audio"][0].fill(0), "the margin of sample|the audio_l"),
    "out of the box": (lambda a: a["audio"][0].fill(2**31 - 1), "is outside \\[-1, 1\\]"),
    "another threat": (lambda a: a.update(threat=np.array("XA:linf:0.005")), "within another threat"),
    "a stranger's sample": (lambda a: a["samples"].__setitem__(0, "test-99999"), "no sample of the run"),
    "the other modality too": (
        lambda a: a.update(threat=np.array("XAV:linf:0.004:linf:0.004"), video=np.zeros((len(a["samples"]), 4, 3, 48, 48), np.int32)),
        "within another threat",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", SHARDS)
def test_clips_that_are_not_those_of_the_rows_are_named_though_every_hash_fits(run: Path, change: str) -> None:
    edit, message = SHARDS[change]
    edit_shard(shards(run, "XA-")[0], edit)
    reseal(run)
    with pytest.raises(VerificationFailed, match=message):
        check(run)


def test_a_missing_and_a_spare_file_of_clips_are_named_though_every_hash_fits(run: Path) -> None:
    gone = shards(run)[2]
    whole = gone.read_bytes()
    gone.unlink()
    reseal(run)
    with pytest.raises(VerificationFailed, match=gone.name):
        check(run)
    gone.write_bytes(whole)
    shutil.copy(gone, gone.with_name("part-9.npz"))
    reseal(run)
    with pytest.raises(VerificationFailed, match=r"part-9.npz holds clips of no rows"):
        check(run)


def test_a_flag_that_the_rows_raise_cannot_be_left_out_of_health_json(run: Path) -> None:
    health = json.loads((run / "health.json").read_text())
    raised = [flag for flag in health["flags"] if flag["name"] == "incomplete-coverage"]
    assert [flag["state"] for flag in raised] == ["raised"], "ten samples of 500"
    raised[0]["state"] = "passed"
    (run / "health.json").write_text(files.canonical_json(health) + "\n")
    reseal(run)
    with pytest.raises(VerificationFailed, match="does not raise incomplete-coverage"):
        check(run)


@pytest.mark.slow
def test_without_clips_everything_else_is_verified_and_the_report_says_what_was_not(tmp_path: Path) -> None:
    run = make_run(tmp_path, save_adversarial=False)
    report = check(run)
    assert (report.clips, report.rows) == (0, 3 * SAMPLES)
    assert any(what.startswith("attacked rows: their clips were not kept") for what in report.unchecked)
    edit_rows(run, drop_broken)
    with pytest.raises(VerificationFailed, match="has to have"):
        check(run)


@pytest.mark.slow
def test_a_run_of_a_model_of_ones_own_needs_the_model(run: Path, tmp_path: Path) -> None:
    weights = files.root() / "submissions" / MODEL / "weights.safetensors"
    mine = shutil.copy(weights, tmp_path / "mine.safetensors")
    own = make_run(tmp_path / "own", model=str(mine))
    with pytest.raises(BadOption, match="--model"):
        check(own)
    assert check(own, model=str(mine)).clips == check(run).clips
    with pytest.raises(VerificationFailed, match="the model's"):
        check(own, model="avbench--synthav-sum")


def test_rows_that_no_run_of_these_samples_writes_are_refused_before_they_are_read(run: Path) -> None:
    table = pq.read_table(run / "rows.parquet")
    pq.write_table(table.take(pa.array(np.arange(1_000_000) % len(table))), run / "rows.parquet")
    reseal(run)
    with pytest.raises(DataError, match="1000000 rows"):
        check(run)


@needs_sandbox
def test_a_run_of_code_is_verified_where_code_is_allowed_and_never_without_walls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    code = f"{shutil.copy(HOSTILE / 'honest.py', tmp_path / 'code')}:Small"
    how = RunOptions(output_dir=tmp_path / "runs", device="cpu", limit=4, batch_size=4, save_adversarial=True)
    run = evaluate_model(code, suite=WORST, options=how, quiet=True, trust_remote_code=True, sandbox=False)
    words = ["verify", str(run), "--model", code, "--device", "cpu"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "UntrustedCode" in refused.output
    done = CliRunner().invoke(main, [*words, "--trust-remote-code"])
    assert done.exit_code == 0, done.output
    assert f"rows:            {len(store.read_rows(run))} asked for again" in done.output
    monkeypatch.setenv("PATH", str(tmp_path))  # no bubblewrap
    without = CliRunner().invoke(main, [*words, "--trust-remote-code"])
    assert without.exit_code == 2
    assert "SandboxUnavailable" in without.output


def test_an_unfinished_run_is_an_error_that_says_so(run: Path) -> None:
    record = store.read_record(run)
    (run / "run.json").write_text(files.readable_json(record | {"rows_sha256": None}))
    with pytest.raises(IncompleteRun, match="is not finished"):
        check(run)


def test_a_margin_under_1e_4_does_not_count_as_robust(tmp_path: Path) -> None:
    from conftest import Wavy, candidate

    from avbench.judge import SAME
    from avbench.runner import Run
    from avbench.verify import count_close

    class Faint(Wavy):
        def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
            return super().forward(audio, video) * 1e-5

    run = Run(candidate(Faint()), make_split(8, 3), WORST, RunOptions(output_dir=tmp_path, device="cpu"))
    with run.locked():
        rows = store.read_rows(run.execute(quiet=True))
    assert rows["correct"].any()
    assert (rows["margin"].abs() < SAME).all()
    close, scores = count_close(rows, run)
    assert close == rows["correct"].sum()
    assert set(scores["value"][scores["metric"] == "robust-accuracy"]) == {0.0}
