"""History of the boards: no number changes, goes or comes back without a reason, and releases never change."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from site_runs import sha, write_run

from avbench import files
from avbench.errors import AvbenchError, BadOption, DataError, RunConflict
from avbench.site import HOME, build, read_content
from avbench.site.content import Content
from avbench.site.history import FIELDS, merge, read_history
from avbench.site.releases import SUMS, check, explain, freeze, read_releases, unexplained

N = 60  # samples of each run: history looks at numbers, not at what they mean
EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-02-02T00:00:00+00:00"
BOARD = "synthav-test-cvpr21-attack@1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(HOME / "published", tmp_path / "home" / "published")
    write_run(tmp_path / "home" / "results", "one", 1, 0.3, N, provenance__created=EARLY)
    return tmp_path / "home"


def read(home: Path) -> Content:
    return read_content([home / "results"], home)


def release(home: Path, version: str) -> None:
    freeze(read(home), version, home / "releases")


def rewrite(home: Path, name: str, seed: int, **changes: object) -> Path:
    """Write a newer run of the model `one`, with other rows."""
    return write_run(home / "results" / name, "one", seed, 0.6, N, provenance__created=LATE, **changes)


def withdraw(folder: Path, **change: str) -> None:
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    text = {"rows_sha256": record["rows_sha256"], "date": "2026-03-03", "reason": "wrong weights <b>"} | change
    (folder / "withdrawn.json").write_text(json.dumps(text), encoding="utf-8")


def run_folder(home: Path) -> Path:
    return home / "results" / BOARD / "one"


def test_a_release_is_what_the_boards_showed_and_can_be_checked_by_sha256sum(home: Path) -> None:
    release(home, "2026.1")
    [found] = read_releases(home / "releases")
    assert found.version == "2026.1"
    [scored] = read(home).boards[0].runs
    assert list(found.numbers["value"]) == pytest.approx(list(scored.scores["value"]), nan_ok=True)
    assert set(found.numbers["track"]) == {BOARD}
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=home / "releases", check=True)


def test_any_changed_byte_of_a_release_is_found(home: Path) -> None:
    release(home, "2026.1")
    for path in sorted((home / "releases" / "2026.1").iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 50)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(DataError, match="not as it was released"):
                read_releases(home / "releases")
        path.unlink()
        with pytest.raises(DataError, match="not as it was released"):
            read_releases(home / "releases")
        path.write_bytes(whole)
    (home / "releases" / "2026.1" / "extra").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="not as it was released"):
        read_releases(home / "releases")


def test_the_releases_of_this_repository_are_as_they_were_released() -> None:
    assert all(len(release.numbers) for release in read_releases(HOME / "releases"))


@pytest.mark.parametrize("version", ["../out", "", "Release", "1/2", "1\n"])
def test_a_version_names_a_folder_or_is_refused(home: Path, version: str) -> None:
    with pytest.raises(BadOption, match="cannot name a release"):
        release(home, version)


def test_a_release_is_never_made_twice(home: Path) -> None:
    release(home, "1.0")
    with pytest.raises(RunConflict, match="releases never change"):
        release(home, "1.0")


def test_a_changed_number_is_refused_until_somebody_says_why(home: Path, tmp_path: Path) -> None:
    release(home, "1.0")
    before = read(home)
    build([home / "results"], tmp_path / "out", home)
    shutil.rmtree(run_folder(home))
    rewrite(home, "again", 9)
    with pytest.raises(DataError, match=r"changed without a reason .*leaderboard explain"):
        build([home / "results"], tmp_path / "out", home)
    with pytest.raises(DataError, match="changed without a reason"):
        release(home, "1.1")
    count = explain(read(home), "one, with the right weights", home / "history.csv")
    build([home / "results"], tmp_path / "out", home)
    events = read_history(home / "history.csv")
    assert len(events) == count > 4
    [line] = [e for e in events if e.metric == "avg"]
    averages = [
        float(content.boards[0].runs[0].scores.query("metric == 'avg' and attack == 'worst case'")["value"].iloc[0])
        for content in (before, read(home))
    ]
    assert [line.old, line.new] == [f"{value:.2f}" for value in averages]
    assert (line.kind, line.track, line.model, line.reason) == (
        "superseded", BOARD, "avbench--one", "one, with the right weights",
    )  # fmt: skip
    release(home, "1.1")
    check(read(home))


def test_reasons_are_a_chain_and_a_number_that_goes_back_needs_its_own(home: Path) -> None:
    release(home, "1.0")
    first = run_folder(home).rename(home / "first")
    rewrite(home, "again", 9)
    explain(read(home), "other seed", home / "history.csv")
    shutil.rmtree(home / "results" / "again")
    rewrite(home, "third", 11)
    with pytest.raises(DataError, match="changed without"):
        check(read(home))
    explain(read(home), "yet another", home / "history.csv")
    check(read(home))
    history = home / "history.csv"
    written = history.read_text(encoding="utf-8")
    old = next(event.old for event in read_history(history) if event.reason == "yet another" and event.metric == "avg")
    before, last, after = written.rpartition(f",{old},")
    history.write_text(before + last.replace(old, "99.99") + after, encoding="utf-8")
    with pytest.raises(DataError, match="changed without"):  # a reason for another number is none for this one
        check(read(home))
    history.write_text(written, encoding="utf-8")
    shutil.rmtree(home / "results" / "third")
    first.rename(run_folder(home))
    with pytest.raises(DataError, match="changed without"):
        check(read(home))


def test_a_superseded_run_needs_a_reason_even_without_a_release(home: Path) -> None:
    rewrite(home, "again", 9)
    content = read(home)
    assert [one.state for one in content.retired] == ["superseded"]
    with pytest.raises(DataError, match="changed without"):
        check(content)
    explain(content, "more samples", home / "history.csv")
    check(read(home))


def test_equal_rows_that_score_otherwise_are_a_correction(home: Path) -> None:
    release(home, "1.0")
    path = home / "releases" / "1.0" / "boards.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame["metric"] == "clean-accuracy", "value"] += 1
    frame.to_parquet(path)
    sums = home / "releases" / SUMS
    lines = [line.split("  ") for line in sums.read_text(encoding="utf-8").splitlines()]
    new = [f"{files.sha256_file(home / 'releases' / name)}  {name}\n" for _, name in lines]
    sums.write_text("".join(new), encoding="utf-8")
    [change] = unexplained(read(home))
    assert (change.kind, change.metric) == ("corrected", "clean-accuracy")
    assert float(change.old) == pytest.approx(float(change.new) + 1, abs=0.011)


def test_a_run_that_disappears_is_refused_and_one_that_is_withdrawn_says_why(home: Path) -> None:
    write_run(home / "results", "two", 2, 0.5, N)
    release(home, "1.0")
    hidden = run_folder(home).rename(home / "hidden")
    with pytest.raises(DataError, match="-> none"):
        check(read(home))
    hidden.rename(run_folder(home))
    withdraw(run_folder(home))
    content = read(home)
    check(content)
    assert [scored.run.record.model.id for scored in content.boards[0].runs] == ["avbench--two"]
    events = merge(content)
    assert [(e.date, e.model, e.reason, e.new) for e in events if e.kind == "withdrawn"] == [
        ("2026-03-03", "avbench--one", "wrong weights <b>", "")
    ]


@pytest.mark.parametrize("change", [{"rows_sha256": sha("other")}, {"reason": ""}, {"date": "today"}])
def test_a_withdrawal_of_other_rows_or_without_a_reason_is_a_named_error(home: Path, change: dict[str, str]) -> None:
    withdraw(run_folder(home), **change)
    with pytest.raises(DataError, match=r"withdrawn\.json"):
        read(home)


def test_runs_of_ones_own_may_take_the_place_of_committed_ones(home: Path, tmp_path: Path) -> None:
    release(home, "1.0")
    write_run(tmp_path / "mine", "one", 9, 0.6, N, provenance__created=LATE)
    build([home / "results", tmp_path / "mine"], tmp_path / "out", home)


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-01,changed,synthav,avbench--one,avg,,1.00,2.00,,",
        "yesterday,changed,synthav,avbench--one,avg,,1.00,2.00,,why",
        "2026-01-01,mended,synthav,avbench--one,avg,,1.00,2.00,,why",
        "2026-01-01,changed,synthav,../one,avg,,1.00,2.00,,why",
        "2026-01-01,changed,synthav,avbench--one,avg,,one,2.00,,why",
        "2026-01-01,changed,synthav,avbench--one",
        "2026-01-01,changed,synthav,avbench--one,avg,,1.00,2.00,,why,more",
    ],
)
def test_a_bad_line_of_history_is_a_named_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(",".join(FIELDS) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(AvbenchError, match=r"history\.csv, line 2"):
        read_history(path)


def test_written_lines_keep_their_bytes(home: Path) -> None:
    text = ",".join(FIELDS) + '\n2026-01-01,changed,synthav,avbench--one,avg,,1.00,2.00,,"why, then"\n'
    (home / "history.csv").write_text(text, encoding="utf-8")
    rewrite(home, "again", 9)
    explain(read(home), 'said "so", twice', home / "history.csv")
    assert (home / "history.csv").read_text(encoding="utf-8").startswith(text)
    assert read_history(home / "history.csv")[-1].reason == 'said "so", twice'
    with pytest.raises(BadOption, match="reason is empty"):
        explain(read(home), " ", home / "history.csv")


def test_a_site_of_ones_own_runs_alone_shows_no_release_of_the_committed_ones(home: Path, tmp_path: Path) -> None:
    release(home, "1.0")
    write_run(tmp_path / "own", "mine")
    assert read_content([home / "results", tmp_path / "own"], home).releases
    assert read_content([tmp_path / "own"], home).releases == []
