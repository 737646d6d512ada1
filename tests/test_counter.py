"""Clips of third parties lower what is known of a row, with credit, if and only if they break what nobody had broken."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from verified_runs import MODEL, clean_batch, copied, edit_rows, edit_shard, make_run

from avbench import api, attacks, files, store
from avbench.adversarial import read_clips, write_clips
from avbench.cli import main
from avbench.cli.counter import attack
from avbench.counter import Counter, accept, best_known, best_known_avg, check_counters, read_counters
from avbench.errors import AvbenchError, BadOption, BudgetViolation, DataError, VerificationFailed
from avbench.metrics import Rows
from avbench.metrics.outcomes import read
from avbench.objectives import margin
from avbench.site import build
from avbench.submission import find_candidate
from avbench.suites import Suite, find_suite
from avbench.threats import parse_threat
from avbench.types import AVInput, Batch
from avbench.verify import verify

XA, XV, XAV = "XA:linf:0.004", "XV:linf:0.004", "XAV:linf:0.004:linf:0.004"
WEAK = Suite(
    "weak", 1, "", tuple(map(parse_threat, (XA, XV, XAV))), find_suite(None, ("standard",), ("noise:draws=1",)).attacks,
    "worst-case", published=False,
)  # fmt: skip
SAMPLES = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), WEAK, limit=SAMPLES, batch_size=8)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def alive(run: Path, threat: str) -> list[str]:
    outcomes = read(rows_of(run))
    return sorted(outcomes.samples[outcomes.robust(threat)])


def rows_of(run: Path) -> Rows:
    return Rows(store.read_rows(run), cells=tuple((t, "noise:draws=1") for t in (XA, XV, XAV)))


def crafted(batch: Batch, threat: str = XA) -> AVInput:
    """What a third party does: an attack on the model's tensors."""
    candidate, _ = find_candidate(MODEL)
    return attacks.get("pgd")(candidate.module, *batch.inputs, batch.labels, threat)


def right(batch: Batch, clips: AVInput) -> list[bool]:
    candidate, _ = find_candidate(MODEL)
    with torch.no_grad():
        found: list[bool] = (margin(candidate.module.eval()(*clips), batch.labels) > 0).tolist()
    return found


@pytest.fixture(scope="module")
def stronger(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stronger")
    names = alive(made, XA)
    for number, ids in enumerate((names[:5], names[5:])):
        batch = clean_batch(ids)
        write_clips(folder / f"{number}.npz", XA, batch, crafted(batch))
    return folder


@pytest.fixture
def clips(stronger: Path, tmp_path: Path) -> Path:
    """Stronger clips of all samples that the run leaves robust within XA, in two files."""
    return Path(shutil.copytree(stronger, tmp_path / "clips"))


def hand_in(run: Path, clips: Path, name: str = "Ada Attacker", url: str | None = None) -> Counter:
    return accept(clips, verify(run, device="cpu")[1], name, url)


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_stronger_clips_lower_what_is_known_and_nothing_else(run: Path, clips: Path) -> None:
    before, scores, survivors = content(run), api.score(run), alive(run, XA)
    batch = clean_batch(survivors)
    broken = {name for name, ok in zip(survivors, right(batch, crafted(batch)), strict=True) if not ok}
    assert 0 < len(broken) < len(survivors), "some fall and some do not, or this test is idle"
    counter = hand_in(run, clips, "Ada Attacker", "https://github.com/ada/attack")
    assert set(counter.frame["sample"]) == broken
    known = best_known(rows_of(run), read_counters(run, store.read_record(run)))
    outcomes = read(rows_of(run))
    assert set(outcomes.samples[known[XA]]) == set(survivors) - broken
    assert set(outcomes.samples[known[XAV]]) == set(alive(run, XAV)) - broken, "XA lies inside XAV"
    assert set(outcomes.samples[known[XV]]) == set(alive(run, XV))
    after = content(run)
    assert {name: after[name] for name in before if name != "SHA256SUMS"} == {k: v for k, v in before.items() if k != "SHA256SUMS"}  # fmt: skip
    assert scores.equals(api.score(run)), "the run's own figures stay"
    kept = {name for path in counter.folder.glob("*.npz") for name in read_clips(path, verify(run, device="cpu")[1].run.split.card.spec).samples}  # fmt: skip
    assert kept == broken, "only clips that gain are kept"


def test_what_is_kept_verifies_and_any_flipped_bit_of_it_is_found(run: Path, clips: Path) -> None:
    folder = hand_in(run, clips).folder
    replay = verify(run, device="cpu")[1]
    assert [one.folder for one in check_counters(replay)] == [folder]
    draw = random.Random(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in draw.sample(range(8 * len(whole)), 40):
            torn = bytearray(whole)
            torn[place // 8] ^= 1 << place % 8
            path.write_bytes(torn)
            with pytest.raises(AvbenchError):
                check_counters(verify(run, device="cpu")[1] if path.name == "counter.json" else replay)
        path.unlink()
        with pytest.raises(AvbenchError):
            check_counters(replay)
        path.write_bytes(whole)
    (folder / "more").write_text("")
    with pytest.raises(VerificationFailed, match=r"its files are not those that counter.json names"):
        check_counters(replay)


def test_nobody_can_take_the_credit_of_another(run: Path, clips: Path) -> None:
    path = hand_in(run, clips).folder / "counter.json"
    path.write_text(path.read_text().replace("Ada", "Eve"))
    assert read_counters(run, store.read_record(run))[0].record.credit.name == "Eve Attacker"
    with pytest.raises(VerificationFailed, match=r"counter.json"):
        verify(run, device="cpu")


def test_rows_of_a_counter_attack_that_its_clips_do_not_show_are_named_though_every_hash_fits(
    run: Path, clips: Path
) -> None:
    counter = hand_in(run, clips)
    replay = verify(run, device="cpu")[1]
    rows = counter.folder / "rows.parquet"
    honest = store.read_rows(rows)

    def rewrite(frame: Any) -> None:
        store.write_table(rows, frame, {})
        pinned = counter.record.model_copy(update={"rows_sha256": files.sha256_file(rows)})
        (counter.folder / "counter.json").write_text(files.readable_json(pinned.model_dump()))

    other = next(name for name in alive(run, XA) if name not in set(honest["sample"]))
    changes = [
        honest.assign(margin=honest["margin"] - 1),
        honest.assign(sample=[other, *honest["sample"][1:]]),
        honest.assign(threat=XAV),
        honest[1:],
        honest.iloc[[*range(len(honest)), 0]].assign(sample=[*honest["sample"], other]),
    ]
    for changed in changes:
        rewrite(changed.reset_index(drop=True))
        with pytest.raises(VerificationFailed, match=counter.folder.name):
            check_counters(replay)
    rewrite(honest)
    check_counters(replay)


def test_the_same_clips_again_and_clips_that_break_nothing_gain_nothing(run: Path, clips: Path, tmp_path: Path) -> None:
    idle = clean_batch(alive(run, XA)[:2])
    write_clips(tmp_path / "idle" / "0.npz", XA, idle, idle.inputs)
    before = content(run)
    with pytest.raises(VerificationFailed, match="breaks no sample that was not broken already"):
        hand_in(run, tmp_path / "idle")
    assert content(run) == before
    hand_in(run, clips)
    before = content(run)
    with pytest.raises(VerificationFailed, match="breaks no sample that was not broken already"):
        hand_in(run, clips, "Somebody Else")
    assert content(run) == before, "who comes second gets no credit for what is known"


def test_a_sample_handed_in_twice_counts_once(run: Path, clips: Path) -> None:
    shutil.copy(clips / "0.npz", clips / "2.npz")
    frame = hand_in(run, clips).frame
    assert not frame.duplicated("sample").any()


def test_one_clip_outside_the_budget_refuses_all(run: Path, clips: Path) -> None:
    batch = clean_batch(alive(run, XA)[-2:])
    wide = "XA:linf:0.00401"
    write_clips(clips / "1.npz", wide, batch, crafted(batch, wide))
    edit_shard(clips / "1.npz", lambda arrays: arrays.update(threat=np.array(XA)))
    before = content(run)
    with pytest.raises(BudgetViolation, match=rf"the audio of sample {batch.ids[0]} is .* outside {XA}"):
        hand_in(run, clips)
    assert content(run) == before


def test_clips_of_other_samples_are_refused(run: Path, clips: Path) -> None:
    def turn(arrays: dict[str, Any]) -> None:
        arrays["samples"] = np.roll(arrays["samples"], 1)

    edit_shard(clips / "0.npz", turn)
    with pytest.raises(BudgetViolation, match="outside"):
        hand_in(run, clips)


def test_clips_of_strange_samples_threats_or_none_are_refused(run: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"holds 0 .npz files"):
        hand_in(run, tmp_path / "none")
    batch = clean_batch(alive(run, XA)[:2])
    write_clips(tmp_path / "wide" / "0.npz", "XA:linf:0.1", batch, crafted(batch, "XA:linf:0.1"))
    with pytest.raises(DataError, match=r"is within XA:linf:0.1; the run has"):
        hand_in(run, tmp_path / "wide")
    unseen = clean_batch([next(n for n in (f"test-{i:05d}" for i in range(500)) if n not in set(store.read_rows(run)["sample"]))])  # fmt: skip
    write_clips(clips / "9.npz", XA, unseen, crafted(unseen))
    with pytest.raises(DataError, match="which is no sample of the run"):
        hand_in(run, clips)


def test_a_credit_that_cannot_be_shown_is_refused(run: Path, clips: Path) -> None:
    verified = verify(run, device="cpu")[1]
    for name, url in (
        ("<script>", None), ("", None), ("a" * 81, None), ("=1+1", None), ("../../x\u202e", None),
        ("Ada", "javascript:alert(1)"), ("Ada", "https://user@github.com/x"), ("Ada", "http://github.com/x"),
    ):  # fmt: skip
        with pytest.raises(BadOption, match=r"credit: (name|url)"):
            accept(clips, verified, name, url)
    assert not list(run.glob("counter/*"))


def test_a_counter_attack_for_another_run_is_refused_where_it_lies(run: Path, clips: Path) -> None:
    path = hand_in(run, clips).folder / "counter.json"
    path.write_text(files.readable_json(json.loads(path.read_text()) | {"run": "0" * 64}))
    with pytest.raises(DataError, match="is for another run"):
        read_counters(run, store.read_record(run))


def test_a_tampered_run_takes_no_counter_attack(run: Path, clips: Path) -> None:
    rows = (run / "rows.parquet").read_bytes()
    (run / "rows.parquet").write_bytes(rows[:-1] + b"\0")
    with pytest.raises(VerificationFailed, match=r"rows.parquet"):
        hand_in(run, clips)


def test_the_site_shows_the_best_known_figure_and_who_found_it(run: Path, clips: Path, tmp_path: Path) -> None:
    results = tmp_path / "results" / "synthav-test-weak@1"
    shutil.copytree(run, results / run.name)
    build([results], tmp_path / "before")
    assert "Best known" not in (tmp_path / "before" / "lb" / "synthav" / "weak.html").read_text()
    counter = hand_in(results / run.name, clips)
    build([results], tmp_path / "after")
    page = (tmp_path / "after" / "lb" / "synthav" / "weak.html").read_text()
    value = best_known_avg(rows_of(run), [counter])
    avg = api.score(run).query("metric == 'avg'")["value"].iloc[0]
    assert value is not None
    assert value < avg
    assert f"{value:.2f}" in page
    assert f"{avg:.2f}" in page
    assert "Best known" in page
    assert "Ada Attacker" in page


def test_the_site_leaves_out_what_was_accepted_for_the_rows_that_a_run_had_before_and_says_so(
    run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results" / "synthav-test-weak@1"
    shutil.copytree(run, results / run.name)
    counter = hand_in(results / run.name, clips)
    edit_rows(results / run.name, lambda rows: rows.assign(margin=rows["margin"] + 1))
    build([results], tmp_path / "site")
    assert "Best known" not in (tmp_path / "site" / "lb" / "synthav" / "weak.html").read_text()
    assert f"leftout:{counter.folder}isforanotherrun" in "".join(capsys.readouterr().err.split())
    (counter.folder / "counter.json").write_text("{}")
    with pytest.raises(DataError, match="not the record of a counter attack"):
        build([results], tmp_path / "site")


def test_the_command_prints_what_was_gained_and_verify_and_submit_know_it(run: Path, clips: Path) -> None:
    wanted = ["--device", "cpu", "--name", "Ada Attacker"]
    done = CliRunner().invoke(main, ["submit", attack.name or "", str(clips), str(run), *wanted])
    assert done.exit_code == 0, done.output
    before, after = (100 * len(names) / SAMPLES for names in (alive(run, XA), alive(run, XA)))
    [counter] = read_counters(run, store.read_record(run))
    after -= 100 * len(counter.frame) / SAMPLES
    assert f"{XA}: best known {before:.2f} % -> {after:.2f} %" in done.output
    done = CliRunner().invoke(main, ["verify", str(run), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert f"{len(counter.frame)} clips of Ada Attacker, same answers" in done.output
    done = CliRunner().invoke(main, ["submit", "attack", str(clips), str(run), *wanted])
    assert done.exit_code == 2
    assert "VerificationFailed" in done.output
