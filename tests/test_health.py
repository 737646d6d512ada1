"""The health.json of a run: who writes it, who may not, and what a raised flag does to a rank."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Linear, Wavy, candidate, make_split
from site_runs import write_health, write_run

from avbench import files, store
from avbench.cli.diagnose import diagnose
from avbench.cli.look import show
from avbench.datasets.splits import open_split
from avbench.diagnose import FLAGS, THRESHOLDS, Where, read_health
from avbench.diagnose.runs import diagnose_run
from avbench.errors import DataError, ProtocolMismatch
from avbench.options import RunOptions
from avbench.runner import evaluate
from avbench.site.boards import why_unranked
from avbench.site.records import read_run
from avbench.submission import find_candidate
from avbench.suites import Suite, find_suite

ROOT = Path(__file__).resolve().parent.parent


def options(folder: Path, limit: int | None = None) -> RunOptions:
    return RunOptions(limit=limit, batch_size=8, device="cpu", output_dir=folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of a committed model on few clips."""
    suite = find_suite(None, ("XA:linf:0.006",), ("fgsm",))
    model, _ = find_candidate("avbench--synthav-audio")
    return evaluate(model, open_split("synthav", "test"), suite, options(tmp_path, limit=8), quiet=True)


def test_the_command_writes_the_flags_of_a_run_beside_it_the_same_each_time(run: Path) -> None:
    done = CliRunner().invoke(diagnose, [str(run), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    before = (run / "health.json").read_bytes()
    health = diagnose_run(run, device="cpu")
    assert (run / "health.json").read_bytes() == before
    assert before.decode() == files.canonical_json(json.loads(before)) + "\n"
    assert [flag.model_dump() for flag in health.flags] == json.loads(done.stdout)
    assert {(flag.name, flag.where) for flag in health.flags} == {(n, w) for n, ws in FLAGS.items() for w in ws}
    assert [str(flag) for flag in health.raised] == ["incomplete-coverage"]
    assert health.probed == 8
    record = store.read_record(run)
    assert read_health(run, record["run"], record["rows_sha256"]) == health
    assert read_health(run, record["run"], "0" * 64) is None, "flags of other rows are none of this run's"


def test_another_model_is_not_probed_for_a_run(run: Path) -> None:
    with pytest.raises(ProtocolMismatch, match="another model"):
        diagnose_run(run, candidate(Wavy()))
    record = json.loads((run / "run.json").read_text())
    record["model"]["id"] = "avbench--unknown"
    (run / "run.json").write_text(json.dumps(record))
    health = diagnose_run(run, device="cpu")
    assert health.probed == 0
    checked = {flag.name for flag in health.flags if flag.state != "not checked"}
    assert checked == {"incomplete-coverage", "loss-not-larger"}


def test_a_run_ranks_only_if_diagnosed_and_no_flag_is_raised_or_a_person_has_looked(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "model")
    assert why_unranked(read_run(folder)) == ""
    write_health(folder, rows_sha256="0" * 64)
    assert why_unranked(read_run(folder)) == "not diagnosed", "flags of other rows"
    write_health(folder, probed=0)
    assert why_unranked(read_run(folder)) == "not diagnosed", "nothing was shown to the model"
    write_health(folder, thresholds=THRESHOLDS - 1)
    assert why_unranked(read_run(folder)) == "not diagnosed", "other thresholds"
    write_health(folder, raised=("audio",))
    assert why_unranked(read_run(folder)) == "in review: zero-gradients (audio)"
    review = {"health_sha256": files.sha256_file(folder / "health.json"), "reason": "silent clips"}
    (folder / "review.json").write_text(json.dumps(review))
    assert why_unranked(read_run(folder)) == ""
    for change in ({"health_sha256": "0" * 64}, {"reason": ""}):
        (folder / "review.json").write_text(json.dumps(review | change))
        assert why_unranked(read_run(folder)).startswith("in review"), "a review is of one set of flags, for a reason"
    (folder / "health.json").unlink()
    assert why_unranked(read_run(folder)) == "not diagnosed"


def test_a_health_file_that_leaves_a_flag_out_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "model")
    found = json.loads((folder / "health.json").read_text())
    for flags in (found["flags"][1:], [*found["flags"][1:], found["flags"][1]], []):
        (folder / "health.json").write_text(json.dumps(found | {"flags": flags}))
        with pytest.raises(DataError, match="every flag in every place"):
            why_unranked(read_run(folder))


@pytest.mark.parametrize(
    ("suite", "limit", "diagnosed"),
    [
        (find_suite("cvpr21-defense"), None, True),
        (find_suite("cvpr21-defense"), 8, False),
        (find_suite(None, ("XA:linf:0.006",), ("fgsm",)), None, False),
    ],
    ids=["may rank", "limited", "unpublished"],
)
def test_a_run_that_may_rank_is_diagnosed_at_its_end(
    tmp_path: Path, suite: Suite, limit: int | None, diagnosed: bool
) -> None:
    def again() -> Path:
        return evaluate(candidate(Linear()), make_split(12), suite, options(tmp_path, limit), quiet=True)

    run = again()
    assert (run / "health.json").exists() == diagnosed
    if diagnosed:
        record, before = store.read_record(run), (run / "health.json").stat().st_ino
        health = read_health(run, record["run"], record["rows_sha256"])
        assert health is not None
        assert (health.probed, health.raised) == (12, [])
        assert (again() / "health.json").stat().st_ino == before, "nothing is looked for twice"
        (run / "health.json").unlink()
        assert (again() / "health.json").exists()


@pytest.mark.parametrize(
    ("raised", "reason", "words"),
    [
        (None, "", ["not looked for", "avbench diagnose"]),
        ((), "", ["none raised"]),
        (("video",), "", ["does not rank until reviewed", "zero-gradients", "video", "100.00", "1.00", "64"]),
        (("video",), "dark clips", ["accepted: dark clips", "zero-gradients"]),
    ],
)
def test_show_prints_raised_flags(
    tmp_path: Path, raised: tuple[Where, ...] | None, reason: str, words: list[str]
) -> None:
    folder = write_run(tmp_path, "model")
    (folder / "health.json").unlink()
    if raised is not None:
        write_health(folder, raised)
    if reason:
        review = {"health_sha256": files.sha256_file(folder / "health.json"), "reason": reason}
        (folder / "review.json").write_text(json.dumps(review))
    done = CliRunner().invoke(show, [str(folder)])
    assert done.exit_code == 0, done.output
    printed = done.stdout.partition("health flags:")[2]
    for word in words:
        assert word in printed
    assert ("zero-gradients" in printed) == bool(raised)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"flags": [{"name": "<script>"}]}', "x" * 200_000, "[" * 50_000])
def test_a_strange_health_file_is_a_named_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "health.json").write_text(text)
    with pytest.raises(DataError):
        read_health(tmp_path, "0", "0")


@pytest.mark.parametrize(("claim", "state"), [(40, "passed"), (99, "raised")])
def test_what_a_submission_claims_is_compared_with_what_is_found(tmp_path: Path, claim: float, state: str) -> None:
    folder = tmp_path / "org--claimed"
    shutil.copytree(ROOT / "submissions" / "avbench--synthav-audio", folder)
    with (folder / "submission.yaml").open("a") as file:
        file.write(f"claims: [{{suite: standard, clean: {claim}}}]\n")
    model, _ = find_candidate(str(folder))
    suite = find_suite(None, ("XA:linf:0.006",), ("fgsm",))
    run = evaluate(model, open_split("synthav", "test"), suite, options(tmp_path / "runs", limit=8), quiet=True)
    [flag] = [flag for flag in diagnose_run(run, model).flags if flag.name == "clean-accuracy-not-as-claimed"]
    assert (flag.state, flag.threshold) == (state, claim)
    assert [one.clean for one in read_run(run).record.model.claims] == [claim]
