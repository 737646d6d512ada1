"""`avbench submit new` writes a folder that every other command takes, from what the model says and the author adds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from avbench import files
from avbench.cli import main
from avbench.errors import SubmissionError
from avbench.form import Submission, parse_submission, read_submission
from avbench.graph.pack import pack
from avbench.submission import find_candidate
from avbench.submit.new import Begun, describe, render, write

ROOT = files.root()
WEIGHTS = ROOT / "submissions" / "avbench--synthav-concat" / "weights.safetensors"
SAID = {
    "id": "org--model", "title": "A model", "summary": "One line.", "training-data": "synthav train", "license": "MIT",
    "authors": "Someone",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new(*words: object, answers: str | None = None, **changes: str) -> Result:
    said = [word for name, value in (SAID | changes).items() for word in (f"--{name}", value)]
    return CliRunner().invoke(main, ["submit", "new", *map(str, words), *([] if answers else said)], input=answers)


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.startswith("SubmissionError: ") or result.stderr.startswith("BadOption: "), result.stderr
    assert all(part in result.stderr for part in parts), result.stderr
    assert not list(Path().rglob("*")), "nothing is left behind"


def test_flags_and_answers_write_the_same_folder() -> None:
    flags = new(WEIGHTS, "--claim", "standard:90.5:10", paper="https://arxiv.org/abs/1", submissions="one")
    assert flags.exit_code == 0, flags.output
    assert flags.stdout.endswith("now:  avbench submit check one/org--model\n")
    lines = ["ORG", "org--model", "<b>", "A model", "One line.", "synthav train", "a b", "MIT", "Someone", "", "http://x",
             "https://arxiv.org/abs/1", ""]  # fmt: skip
    command = ["submit", "new", str(WEIGHTS), "--submissions", "two", "--claim", "standard:90.5:10"]
    asked = CliRunner().invoke(main, command, input="\n".join([*lines, ""]))
    assert asked.exit_code == 0, asked.output
    assert asked.output.count("Error: ") == 4, "what is wrong is asked for again"
    for path in Path("one").rglob("*.*"):
        assert path.read_bytes() == (Path("two") / path.relative_to("one")).read_bytes()


def test_what_the_weights_say_is_not_asked_for() -> None:
    assert new(WEIGHTS).exit_code == 0
    made, committed = read_submission(Path("submissions/org--model")), read_submission(WEIGHTS.parent)
    assert (made.architecture, made.arguments, made.dataset) == ("avnet", {"fusion": "concat", "width": 4}, "synthav")
    assert made.weights is not None
    assert committed.weights is not None
    assert (made.weights.sha256, made.weights.size) == (committed.weights.sha256, WEIGHTS.stat().st_size)
    found, _ = find_candidate("submissions/org--model")
    original, _ = find_candidate(str(WEIGHTS.parent))
    assert (found.id, found.identity) == ("org--model", original.identity)
    assert found.about["title"] == "A model"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    candidate, card = find_candidate("avbench--synthav-audio")
    pack(candidate.module, card, folder)
    return folder


def test_a_packed_model_becomes_a_submission_that_pins_both_files(packed: Path) -> None:
    assert new(packed).exit_code == 0
    folder = Path("submissions/org--model")
    made = read_submission(folder)
    assert (made.tier, made.dataset) == ("graph", "synthav")
    candidate, card = find_candidate(str(folder))
    assert made.graph is not None
    assert made.weights is not None
    assert (candidate.id, card.name) == ("org--model", "synthav")
    assert candidate.identity["arguments"] == {"graph_sha256": made.graph.sha256}
    assert candidate.weights_sha256 == made.weights.sha256
    for pinned in (made.graph.sha256, made.weights.sha256):
        text = (folder / "submission.yaml").read_text()
        (folder / "submission.yaml").write_text(text.replace(pinned, "0" * 64))
        with pytest.raises(SubmissionError, match="pins 0000"):
            find_candidate(str(folder))
        (folder / "submission.yaml").write_text(text)


def test_code_becomes_a_submission_that_is_not_run() -> None:
    Path("net.py").write_text("open('canary', 'w')")
    shutil.copy(WEIGHTS, "mine.safetensors")
    result = new("net.py:Net", "--weights", "mine.safetensors", "--arg", "width=8", dataset="synthav")
    assert result.exit_code == 0, result.output
    made = read_submission(Path("submissions/org--model"))
    assert result.stdout.endswith("check submissions/org--model --trust-remote-code\n")
    assert (made.tier, made.code, made.arguments) == ("code", "net.py:Net", {"width": 8})
    assert sorted(path.name for path in Path("submissions/org--model").iterdir()) == [
        "mine.safetensors", "net.py", "submission.yaml"
    ]  # fmt: skip
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    ("words", "changes", "part"),
    [
        ([WEIGHTS], {"id": "Org--Model"}, "is no id"),
        ([WEIGHTS], {"id": "../org--model"}, "is no id"),
        ([WEIGHTS], {"id": "avbench--synthav-sum"}, "is taken"),
        ([WEIGHTS], {"title": "<b>"}, "title: holds '<'"),
        ([WEIGHTS], {"license": "my own"}, "license: "),
        ([WEIGHTS, "--claim", "standard"], {}, "--claim takes"),
        ([WEIGHTS, "--claim", "standard:200"], {}, "claims.0.clean"),
        ([WEIGHTS, "--claim", "standard:.nan"], {}, "claims.0.clean"),
        ([WEIGHTS, "--weights", WEIGHTS], {}, "brings its own weights"),
        (
            [f"{__file__}:Net", "--weights", "nowhere.safetensors"],
            {"dataset": "synthav"},
            "no file nowhere.safetensors",
        ),
        (["nowhere.py:Net"], {"dataset": "synthav"}, "no file nowhere.py"),
        (["weights.pt2"], {}, "pack the model"),
        (["weights.ckpt"], {}, "pack the model"),
    ],
    ids=str,
)
def test_what_cannot_be_submitted_is_named_and_leaves_nothing(
    words: list[object], changes: dict[str, str], part: str
) -> None:
    refused(new(*words, **changes), part)


def test_without_anybody_who_answers_the_missing_flags_are_named() -> None:
    words = ["submit", "new", str(WEIGHTS), "--id", "org--model", "--license", "MIT"]
    refused(CliRunner().invoke(main, words, input=""), "--title, --summary, --training-data, --authors\n")
    refused(CliRunner().invoke(main, words, input="A model\nOne line.\n"), "give --training-data, --authors\n")
    given = [*words, "--title", "A model", "--summary", "One line.", "--training-data", "none"]
    assert CliRunner().invoke(main, given, input="Someone\n").exit_code == 0, "what may be left out is left out"


def test_nothing_is_overwritten() -> None:
    assert new(WEIGHTS).exit_code == 0
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    again = new(WEIGHTS, title="Another")
    assert again.exit_code == 2
    assert "'org--model' is taken" in again.stderr
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


def test_half_a_folder_is_never_seen() -> None:
    begun = describe(str(WEIGHTS))
    entries = begun.entries | {name.replace("-", "_"): text for name, text in SAID.items() if name != "id"}
    with pytest.raises(SubmissionError, match="could not be written"):
        write(
            Path("submissions"), "org--model", Begun(entries, {"a.safetensors": WEIGHTS, "b.safetensors": Path("gone")})
        )
    assert not list(Path("submissions").iterdir())


def test_a_graph_without_its_weights_is_named(packed: Path) -> None:
    shutil.copy(packed / "graph.json", "graph.json")
    result = new("graph.json")
    assert result.exit_code == 2
    assert "no file weights.safetensors" in result.stderr


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    TEXT,
    st.dictionaries(st.from_regex("[a-z][a-z0-9_]{0,9}", fullmatch=True), TEXT | st.booleans() | st.integers(0, 10**9)),
)
def test_what_is_written_reads_as_what_was_meant(text: str, arguments: dict[str, str | bool | int]) -> None:
    entries = {
        "title": "A", "summary": text, "architecture": "avnet", "arguments": arguments, "dataset": "synthav",
        "weights": {"file": "weights.safetensors", "sha256": "0" * 64, "size": 1}, "training_data": "x", "license": "MIT",
        "authors": text, "claims": [{"suite": "quick", "clean": 12.5}],
    }  # fmt: skip
    try:
        meant = Submission.model_validate(entries)
    except ValueError:
        return
    assert parse_submission(render(entries).encode()) == meant
