"""The runner: exactly once, resumable at any moment, never a row for another model, no way to cheat it."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Linear, Wavy, assert_same_rows, candidate, count_parts, kill_9, make_split, start_clean
from torch import Tensor, nn

from avbench import store
from avbench.attacks import ATTACKS, Attack, Cost, parse_attack
from avbench.datasets.cards import Lock
from avbench.errors import (
    BadModel,
    BudgetViolation,
    DiskFull,  # noqa: F401  used by the full-disk script
    IncompleteRun,
    NonFiniteOutput,
    ProtocolMismatch,
    RunConflict,
)
from avbench.options import RunOptions
from avbench.runner import Run, evaluate
from avbench.suites import Suite, find_suite
from avbench.threats import parse_threat
from avbench.threats.presets import linf_triple
from avbench.threats.region import Region
from avbench.types import AVInput

SPLIT = make_split(50, 3)
SUITE = find_suite(None, ("XA:linf:0.01", "XAV:linf:0.01:linf:0.02"), ("fgsm", "noise:draws=2"))
WORST = Suite("worst", 1, "", linf_triple(0.06, 0.06), (parse_attack("fgsm"), parse_attack("pgd")), "worst-case")


def options(folder: Path, **changes: object) -> RunOptions:
    return RunOptions(output_dir=folder, **{"batch_size": 8, **changes})  # type: ignore[arg-type]


def rows_of(folder: Path, suite: Suite = SUITE, model: nn.Module | None = None, **changes: object) -> pd.DataFrame:
    run = evaluate(candidate(model or Wavy()), SPLIT, suite, options(folder, **changes), quiet=True)
    return store.read_rows(run)


def test_every_cell_has_every_sample_exactly_once(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    counts = rows.groupby(["threat", "attack"])["sample"].agg(["nunique", "size"])
    assert len(counts) == 3 + 2 * 2
    assert (counts == len(SPLIT)).all().all()
    assert rows["correct"].equals(rows["margin"] > 0)


def test_the_micro_batch_changes_no_more_than_rounding(tmp_path: Path) -> None:
    one, other = rows_of(tmp_path / "a", batch_size=1), rows_of(tmp_path / "b", batch_size=32)
    pd.testing.assert_frame_equal(one, other, rtol=1e-3, atol=1e-3)


def test_a_limited_run_resumes_into_the_full_one(tmp_path: Path) -> None:
    for suite in (SUITE, WORST):
        full = rows_of(tmp_path / "full", suite)
        limited = rows_of(tmp_path / "steps", suite, limit=20)
        assert limited["sample"].nunique() == 20
        pd.testing.assert_frame_equal(rows_of(tmp_path / "steps", suite), full)


def test_a_finished_run_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(tmp_path)
    monkeypatch.setattr(ATTACKS.get("fgsm"), "run", lambda *_: pytest.fail("the attack ran again"))
    pd.testing.assert_frame_equal(rows_of(tmp_path), before)


def same_name(radius: float) -> Suite:
    attacks = (parse_attack("fgsm"), parse_attack("noise:draws=2"))
    return Suite("same", 1, "", (parse_threat(f"XA:linf:{radius}"),), attacks)


@pytest.mark.parametrize("change", [{"model": Wavy(1)}, {"suite": same_name(0.02)}, {"seed": 1}], ids=str)
def test_a_row_is_never_served_to_another_model_radius_or_seed(tmp_path: Path, change: dict[str, Any]) -> None:
    rows_of(tmp_path, same_name(0.01))
    with pytest.raises(RunConflict, match="another model, split, seed or set of attacks"):
        rows_of(tmp_path, **{"suite": same_name(0.01), **change})
    # Even if the record is lost, the cells' own fingerprints keep the rows apart.
    for record in tmp_path.rglob("run.json"):
        record.unlink()
    changed = rows_of(tmp_path, **{"suite": same_name(0.01), **change})
    fresh = rows_of(tmp_path / "fresh", **{"suite": same_name(0.01), **change})
    pd.testing.assert_frame_equal(changed, fresh)


def test_a_fingerprint_holds_all_that_a_row_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prints(split: Any = SPLIT, **changes: Any) -> set[str]:
        given = candidate(Wavy())
        run = Run(dataclasses.replace(given, **changes), split, SUITE, options(tmp_path))
        return {run.fingerprint(cell) for cell in run.cells}

    first = prints()
    assert len(first) == 4
    others = [
        prints(make_split(51, 3)),
        prints(weights_sha256="0"),
        prints(arguments={"width": 8}),
        prints(architecture="x"),
    ]
    monkeypatch.setattr(type(parse_attack("fgsm")), "version", 99)
    others.append(prints() - first)
    assert len(others[-1]) == 2, "only the attack of another version changes"
    assert not any(first & other for other in others)


def test_numerics_hold_threads_device_and_what_the_model_answers(tmp_path: Path) -> None:
    class Changed(Wavy):
        shift = 0.0

        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio, video) + self.shift * audio[:, :1]

    Changed.__name__ = "Wavy"
    first = rows_of(tmp_path, model=Changed())
    Changed.shift = 1.0  # the code changes under the same name and weights
    second = rows_of(tmp_path, model=Changed())
    assert not first["margin"].equals(second["margin"])
    [record] = (store.read_record(path.parent) for path in tmp_path.rglob("run.json"))
    assert record["numerics"]["threads"] == torch.get_num_threads()
    assert record["numerics"]["torch"] == torch.__version__


def test_parts_of_other_numerics_are_not_mixed(tmp_path: Path) -> None:
    rows_of(tmp_path, batch_size=8)
    rows_of(tmp_path, batch_size=16)
    names = {path.name.rpartition("-")[2] for path in tmp_path.rglob("cells/*")}
    assert len(names) == 2
    for path in tmp_path.rglob("run.json"):
        assert '"micro_batch": 16' in path.read_text()


def test_a_torn_or_foreign_part_goes_to_quarantine_and_is_made_again(tmp_path: Path) -> None:
    before = rows_of(tmp_path)
    parts = sorted(tmp_path.rglob("part-*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    parts[1].write_bytes(b"")
    foreign = next(p for p in parts[2:] if p.name == parts[2].name and p != parts[2])
    parts[2].write_bytes(foreign.read_bytes())
    flipped = bytearray(parts[4].read_bytes())
    flipped[40] ^= 1
    parts[4].write_bytes(bytes(flipped))
    neighbor = next(p for p in parts if p.parent == parts[-1].parent and p != parts[-1])
    parts[-1].write_bytes(neighbor.read_bytes())
    pd.testing.assert_frame_equal(rows_of(tmp_path), before)
    assert len(list(tmp_path.rglob("quarantine/*"))) == 5


def test_a_worst_case_suite_attacks_survivors_only_and_inherits_along_the_lattice(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, WORST)
    every = rows_of(tmp_path / "every", Suite("every", 1, "", WORST.threats, WORST.attacks))
    broken = set(rows[(rows["threat"] == "clean") & (rows["attack"] == "none") & ~rows["correct"]]["sample"])
    seen: dict[str, set[str]] = {}
    for threat in sorted(WORST.threats, key=lambda t: len(t.budgets)):
        inherited = broken | {s for text, bad in seen.items() if threat.contains(parse_threat(text)) for s in bad}
        for attack in map(str, WORST.attacks):
            cell = rows[(rows["threat"] == str(threat)) & (rows["attack"] == attack)]
            assert set(cell["sample"]) == set(SPLIT.ids) - inherited
            same = every[(every["threat"] == str(threat)) & (every["attack"] == attack)]
            merged = cell.merge(same, on="sample", suffixes=("", "_every"))
            assert (merged["correct"] == merged["correct_every"]).all(), "a survivor's row is the row of a full run"
            inherited |= set(cell.loc[~cell["correct"], "sample"])
        seen[str(threat)] = inherited
    assert 0 < len(broken) < len(seen[str(WORST.threats[-1])]), "the radii must break something, or this test is idle"


def test_passes_are_counted_and_the_other_branch_runs_once(tmp_path: Path) -> None:
    suite = find_suite(None, ("XA:linf:0.01", "XV:linf:0.01", "XAV:linf:0.01:linf:0.01"), ("fgsm", "pgd"))
    run = Run(candidate(Linear()), make_split(16), suite, options(tmp_path))
    with run.locked():
        run.execute(quiet=True)
    passes = {key: count / 16 for key, count in run.victim.passes.items()}
    # Audio: clean embedding, silence, and under XA and XAV one a step and one to judge.
    assert passes["audio", "forward"] == passes["video", "forward"] == 2 + 2 * (1 + 1) + 2 * (10 + 1)
    assert passes["audio", "backward"] == passes["video", "backward"] == 2 * (1 + 10)
    record = store.read_record(run.folder)
    pgd = {c["threat"][:3]: (c["forward"], c["backward"]) for c in record["cells"] if c["attack"] == "pgd"}
    assert pgd == {"XA:": (11 * 16, 10 * 16), "XV:": (11 * 16, 10 * 16), "XAV": (11 * 16, 10 * 16)}


@dataclass(frozen=True)
class Cheat(Attack):
    """Attacks that try to win without finding anything; each on one sample of a later micro-batch."""

    way: str = "leave the budget"

    def run(self, oracle: Any, batch: Any, region: Any, rng: Any) -> Any:
        clips = AVInput(batch.inputs.audio.clone(), batch.inputs.video.clone())
        if SPLIT.ids[30] in batch.ids:
            one = batch.ids.index(SPLIT.ids[30])
            clips.audio[one] += 0.02
            if self.way == "move the clean clip":
                batch.inputs.audio[one] += 0.02
            if self.way == "widen the budget":
                region.balls["audio"] = Region(parse_threat("XA:linf:2"), batch.inputs).balls["audio"]
            if self.way == "change the label":
                batch.labels[one] = (batch.labels[one] + 1) % 3
                return batch.inputs
        return clips

    def cost(self) -> Cost:
        return Cost(0, 0)


ATTACKS.register("cheat")(Cheat)


@pytest.mark.parametrize("way", ["leave the budget", "move the clean clip", "widen the budget"])
def test_a_cheating_attack_is_caught_and_nothing_finished_is_lost(tmp_path: Path, way: str) -> None:
    suite = Suite("cheats", 1, "", (parse_threat("XA:linf:0.01"),), (parse_attack("fgsm"), Cheat(way)))
    with pytest.raises(BudgetViolation, match=f"left XA:linf:0.01: the audio of sample {SPLIT.ids[30]}"):
        rows_of(tmp_path, suite)
    assert not list(tmp_path.rglob("rows.parquet"))
    assert len(list(tmp_path.rglob("part-*"))) == 3 * 5 + 4, "all parts before the violation are kept"


def test_an_attack_cannot_change_what_is_judged(tmp_path: Path) -> None:
    suite = Suite("cheats", 1, "", (parse_threat("XA:linf:0.01"),), (Cheat("change the label"), parse_attack("fgsm")))
    honest = Suite("honest", 1, "", suite.threats, (parse_attack("fgsm"),))
    rows, expected = rows_of(tmp_path, suite), rows_of(tmp_path, honest)
    cheated = rows[rows["attack"].str.startswith("cheat")].reset_index(drop=True)
    clean = rows[rows["attack"] == "none"].reset_index(drop=True)
    assert cheated["label"].equals(clean["label"])
    later = rows[rows["attack"] == "fgsm"].reset_index(drop=True)
    pd.testing.assert_frame_equal(later, expected[expected["attack"] == "fgsm"].reset_index(drop=True))


def test_a_model_that_works_in_place_harms_nobody(tmp_path: Path) -> None:
    class InPlace(Linear):
        def encode_audio(self, audio: Tensor) -> Tensor:
            return super().encode_audio(audio.mul_(2).div_(2))

        def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
            video += audio
            score = video + self.bias
            return torch.cat([torch.zeros_like(score), score], dim=1)

    small = make_split(20)
    threats = find_suite(None, ("XA:linf:0.01", "XV:linf:0.05"), ("pgd",))
    one, other = (
        store.read_rows(evaluate(candidate(model, name), small, threats, options(tmp_path), quiet=True))
        for name, model in (("plain", Linear()), ("inplace", InPlace()))
    )
    pd.testing.assert_frame_equal(one, other, atol=1e-5)


def test_a_model_in_training_mode_is_judged_in_eval_mode(tmp_path: Path) -> None:
    class Dropping(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(audio, video), 0.9, self.training)

    pd.testing.assert_frame_equal(rows_of(tmp_path / "a", model=Dropping().train()), rows_of(tmp_path / "b"))


def test_a_half_precision_model_is_a_named_error_or_is_judged_in_float32(tmp_path: Path) -> None:
    class Cast(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio, video).bfloat16()

    assert rows_of(tmp_path / "a", model=Cast())["margin"].dtype == "float32"
    with pytest.raises(BadModel, match="forward failed on a batch of 8"):
        rows_of(tmp_path / "b", model=Wavy().bfloat16())


def test_a_smaller_run_does_not_replace_a_larger_one(tmp_path: Path) -> None:
    rows_of(tmp_path)
    with pytest.raises(RunConflict, match="holds this run on 50 samples"):
        rows_of(tmp_path, limit=10)
    assert len(store.read_rows(next(tmp_path.rglob("rows.parquet")))) == 7 * 50


def test_repeating_a_finished_run_keeps_its_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of(tmp_path)
    [path] = tmp_path.rglob("run.json")
    before = path.read_text()
    monkeypatch.setattr("avbench.runner.provenance", lambda device: {"created": "later"})
    rows_of(tmp_path)
    assert path.read_text() == before


def test_score_only_attacks_work_on_a_model_without_gradients(tmp_path: Path) -> None:
    class Hard(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio, video).detach()

    suite = find_suite(None, ("XA:linf:0.5",), ("noise:draws=2",))
    rows_of(tmp_path, suite, model=Hard(), batch_size=None)
    with pytest.raises(BadModel, match="no gradient reaches the audio"):
        rows_of(tmp_path, SUITE, model=Hard())


def test_a_model_that_lies_about_its_modalities_is_found(tmp_path: Path) -> None:
    class Liar(Wavy):
        modalities = ("video",)

    with pytest.raises(BadModel, match="does not read audio, but its answers depend on it"):
        rows_of(tmp_path, model=Liar())


def test_stages_that_disagree_with_the_whole_are_found(tmp_path: Path) -> None:
    class TwoFaced(Linear):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio, video) + 1

    with pytest.raises(BadModel, match="differs from forward"):
        evaluate(candidate(TwoFaced()), make_split(8), SUITE, options(tmp_path), quiet=True)


def test_a_nan_answer_stops_the_run_and_names_the_sample(tmp_path: Path) -> None:
    bad = float(SPLIT.batch([17]).inputs.audio[0, 0])

    class Broken(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return super().forward(audio, video) / (audio[:, :1] != bad)

    with pytest.raises(NonFiniteOutput, match=SPLIT.ids[17]):
        rows_of(tmp_path, model=Broken())


def test_a_tie_is_an_error_of_the_model(tmp_path: Path) -> None:
    class Undecided(Wavy):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return 0 * super().forward(audio, video)

    assert not rows_of(tmp_path, model=Undecided())["correct"].any()


def test_another_protocol_is_refused_until_fresh(tmp_path: Path) -> None:
    rows_of(tmp_path)
    [record] = tmp_path.rglob("run.json")
    record.write_text(record.read_text().replace('"protocol": 1', '"protocol": 99'))
    with pytest.raises(ProtocolMismatch, match="protocol 99"):
        rows_of(tmp_path)
    rows_of(tmp_path, fresh=True)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    run = Run(candidate(Wavy()), SPLIT, SUITE, options(tmp_path))
    with run.locked(), pytest.raises(RunConflict, match="another avbench"):
        rows_of(tmp_path)


def test_a_run_without_rows_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IncompleteRun, match="avbench evaluate"):
        store.read_rows(tmp_path)


def test_rows_say_their_units(tmp_path: Path) -> None:
    rows_of(tmp_path)
    [path] = tmp_path.rglob("rows.parquet")
    schema = pq.read_schema(path)
    for field in schema:
        assert field.metadata[b"description"], field.name
    assert schema.field("audio_snr_db").metadata[b"unit"] == b"dB"
    assert schema.metadata[b"protocol"] == b"1"


_FULL_DISK = """
import subprocess, sys; sys.path.insert(0, {tests!r})
from test_runner import *
disk = Path({disk!r})
try:
    rows_of(disk, batch_size=1)
except DiskFull as error:
    print("DiskFull", error)
    print(len(list(disk.rglob("part-*"))), len(list(disk.rglob(".*.tmp"))))
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    print(len(rows_of(disk, batch_size=1)))
"""


def test_a_full_disk_is_a_named_error_and_the_run_resumes(tmp_path: Path) -> None:
    """On a real, tiny file system."""
    disk, script = tmp_path / "disk", tmp_path / "fill.py"
    disk.mkdir()
    script.write_text(_FULL_DISK.format(tests=str(Path(__file__).parent), disk=str(disk)))
    mount = 'mount -t tmpfs -o size=500k none "$1" && exec "$2" "$3"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(disk), sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no private mounts here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("DiskFull no space left"), done.stderr
    parts, leftovers = map(int, lines[1].split())
    assert parts > 10
    assert leftovers == 0
    assert int(lines[2]) == 7 * 50


class Slow(Wavy):
    """The same answers, slowly enough to be interrupted anywhere."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        time.sleep(0.002)
        return super().forward(audio, video)


def _slowly(suite: Suite, folder: Path) -> None:
    evaluate(candidate(Slow()), SPLIT, suite, options(folder), quiet=True)


@pytest.mark.parametrize(
    "suite", [pytest.param(SUITE, id="every", marks=pytest.mark.slow), pytest.param(WORST, id="worst-case")]
)
def test_kill_9_at_20_random_moments_then_resume_gives_the_same_bytes(tmp_path: Path, suite: Suite) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    start_clean(_slowly, suite, calm).join()
    moments, kills, seen = random.Random(0), 0, set[int]()
    while kills < 20:
        if kill_9(start_clean(_slowly, suite, killed), lambda: count_parts(killed), moments):
            kills += 1
            seen.add(count_parts(killed))
        else:  # finished before the blow: lose some parts and go on
            for part in sorted(killed.rglob("part-*"))[:: moments.randint(2, 5)]:
                part.unlink()
    assert len(seen) > 5, "the kills must fall at different moments, or this test is idle"
    process = start_clean(_slowly, suite, killed)
    process.join()
    assert process.exitcode == 0
    assert_same_rows(calm, killed)
    assert not list(killed.rglob(".*.tmp"))


def test_what_all_samples_share_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made for each part, it would let time grow with the square of the number of samples."""
    made: list[Lock] = []
    text = Lock.text.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Lock, "text", property(lambda lock: made.append(lock) or text(lock)))
    split = make_split(60)
    evaluate(candidate(Linear()), split, WORST, options(tmp_path), quiet=True)
    assert len(made) == 1
    assert split.ids is split.ids
