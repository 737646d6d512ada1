"""A submission.yaml is read as it was written, or refused by a sentence that names the field."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metadata_hostile import FILES, IDS, LINES, NEIGHBORS, TEXTS, URLS, VALID

from avbench import files
from avbench.errors import SubmissionError, UntrustedCode
from avbench.form import Submission, parse_submission, read_submission
from avbench.names import ID, LARGEST_YAML, check_free, check_id
from avbench.submission import find_candidate

ROOT = files.root()
PROSE = ("title", "summary", "training_data", "authors", "contact", "defense")  # fields that hold a line of text
CASES = {
    **{f"text: {name}": name for name in TEXTS},
    **{f"address: {name}": name for name in URLS},
    **{f"field: {name}": name for name in LINES},
    **{f"file: {name}": name for name in FILES},
}


def put(start: str, line: str) -> bytes:
    """Replace the line of VALID that begins so."""
    old = next(one for one in VALID.splitlines() if one.startswith(start))
    return VALID.replace(old, line, 1).encode()


def quoted(text: str) -> str:
    """Write what YAML reads as this text, whatever is in it; it knows no pairs of surrogates."""
    return '"' + "".join(c if ord(c) > 0xFFFF else json.dumps(c)[1:-1] for c in text) + '"'


def attempts(case: str) -> list[tuple[bytes, str]]:
    """Files that try something, each with a part of the reason for which it is refused."""
    kind, name = case.split(": ", 1)
    if kind == "text":
        text, reason = TEXTS[name]
        tries = [(put(f"{field}:", f"{field}: {quoted(text)}"), f"{field}: |{reason}") for field in PROSE]
        if text != "-1":  # which is a number
            tries.append((put("arguments", f"arguments: {{fusion: {quoted(text)}}}"), "arguments"))
        return tries
    if kind == "address":
        return [(put(f"{field}:", f"{field}: {quoted(URLS[name])}"), field) for field in ("paper", "source")]
    if kind == "field":
        start, line, reason = LINES[name]
        return [(put(start, line), reason)]
    return [FILES[name]]


def refusal(data: bytes) -> str:
    """Say why it is refused; in little time, and in a message that can be shown."""
    started = time.process_time()
    with pytest.raises(SubmissionError) as caught:
        parse_submission(data)
    assert time.process_time() - started < 2
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 2000
    return message


def test_the_example_is_read_as_it_was_written() -> None:
    read = parse_submission(VALID.encode())
    assert read.arguments == {"fusion": "concat", "width": 8, "penalty": 0.5, "deep": True}
    assert [type(value) for value in read.arguments.values()] == [str, int, float, bool]
    assert read.weights is not None
    assert (read.weights.size, read.claims[0].clean, read.claims[0].robust) == (10, 90.5, 10.0)
    assert read.model_dump(mode="json", exclude_unset=True) == yaml.safe_load(VALID)


@pytest.mark.parametrize("case", CASES)
def test_what_a_stranger_writes_is_refused_for_its_own_reason(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for data, reason in attempts(case):
        message = refusal(data)
        assert all(part in message for part in reason.split("|")), message
    assert not list(tmp_path.iterdir()), "no canary"


@pytest.mark.parametrize("name", IDS, ids=ascii)
def test_an_id_is_only_what_it_may_be(name: str) -> None:
    with pytest.raises(SubmissionError) as caught:
        check_id(name)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", NEIGHBORS, ids=ascii)
def test_a_name_that_looks_like_another_is_taken(name: str) -> None:
    others = ["org--other", "avbench--synthav-concat", "Other", "SynthAV concat fusion"]
    with pytest.raises(SubmissionError, match="is taken"):
        check_free(name, others)
    assert check_free("org--new", others) == "org--new"


def test_all_metadata_that_was_tried_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"texts": TEXTS, "addresses": URLS, "fields": LINES, "files": FILES, "ids": IDS, "names": NEIGHBORS}
    held = {"ids": sum(map(_is_refused_id, IDS)), "names": sum(map(_is_taken, NEIGHBORS))}
    for kind, word in (("texts", "text"), ("addresses", "address"), ("fields", "field"), ("files", "file")):
        held[kind] = sum(all(map(_is_refused, attempts(case))) for case in CASES if case.startswith(f"{word}: "))
    with capsys.disabled():
        said = ", ".join(f"{held[kind]} of {len(tried)} {kind}" for kind, tried in kinds.items())
        print(f"\nhostile metadata: {sum(held.values())} of {sum(map(len, kinds.values()))} held ({said})")
    assert held == {kind: len(tried) for kind, tried in kinds.items()}


def _is_refused(attempt: tuple[bytes, str]) -> bool:
    try:
        parse_submission(attempt[0])
    except SubmissionError:
        return True
    return False


def _is_refused_id(name: str) -> bool:
    try:
        check_id(name)
    except SubmissionError:
        return True
    return False


def _is_taken(name: str) -> bool:
    try:
        check_free(name, ["avbench--synthav-concat", "SynthAV concat fusion"])
    except SubmissionError:
        return True
    return False


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "1.10",
        ".nan",
        "2024-01-01",
        "0x10",
        "null",
        "Émile's model, v2 (50 % smaller)",
        "模型 にほん",
        "Модель",
    ],
)
def test_text_stays_what_was_written(text: str) -> None:
    if text[0].isalnum():
        assert parse_submission(put("title:", f"title: {text}")).title == text
    else:
        refusal(put("title:", f"title: {text}"))
    assert parse_submission(put("title:", f"title: 1 {text}")).title == f"1 {text}"


@pytest.mark.parametrize("text", ["no", ".nan", "1_0", "0x10", "007", "1:30", "+1", "inf", "1e999", "True"])
def test_an_argument_is_a_number_only_as_json_has_it(text: str) -> None:
    if text[0].isalnum():
        assert parse_submission(put("arguments", f"arguments: {{width: {text}}}")).arguments == {"width": text}
    else:
        refusal(put("arguments", f"arguments: {{width: {text}}}"))


@pytest.mark.parametrize(
    "url",
    [
        "https://arxiv.org/abs/2104.02000v2", "https://doi.org/10.1109/CVPR46437.2021.00555", "https://github.com/org/m.git",
        "https://openreview.net/forum?id=abc-DEF_1", "https://huggingface.co/org/model/tree/main/",
    ],
)  # fmt: skip
def test_an_address_of_a_known_site_stays_as_it_is(url: str) -> None:
    assert parse_submission(put("paper:", f"paper: {url}")).paper == url


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_change_of_a_file_gives_a_submission_or_a_named_error(data: st.DataObject) -> None:
    text = VALID
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from([0, 1, 5, 40])))
        pieces = st.one_of(st.text(max_size=20), st.sampled_from(PIECES), st.just(text[end : end + 30]))
        text = text[:start] + data.draw(pieces) + text[end:]
    changed = text.encode("utf-8", "surrogatepass")
    started = time.process_time()
    try:
        assert isinstance(parse_submission(changed), Submission)
    except SubmissionError as error:
        assert str(error).isascii()
    assert time.process_time() - started < 1


PIECES = [
    "&a ", "*a", "!!str ", "!", "? ", ": ", "- ", "\n", "\n  ", "{", "}", "[", "]", "'", '"', "|\n", ">\n", "%", "@", "`", "#",
    "---\n", "...\n", "<<: ", "\\", '"\\x', '"\\ud800"', '"\\UFFFFFFFF"', "\0", "\ufeff", "\u202e", "\u2028", "\t", "[" * 600,
    "{" * 600, "9" * 400, "1e400", ".nan", "~", "null", "title: b\n", "sha256: 0\n", "x" * 300,
]  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_named_error(data: bytes) -> None:
    assert refusal(data)


@pytest.mark.parametrize("folder", sorted((ROOT / "submissions").glob("*--*")), ids=lambda path: path.name)
def test_every_committed_submission_is_valid(folder: Path) -> None:
    assert read_submission(folder).tier == "zoo"
    assert ID.fullmatch(folder.name)


def test_the_json_schema_in_the_docs_is_current() -> None:
    written = (ROOT / "docs" / "submission.schema.json").read_text()
    assert written == files.readable_json(Submission.model_json_schema()), "run `make schema`"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "submissions" / "avbench--synthav-concat", tmp_path / "org--model"))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "missing"])
def test_the_file_is_a_plain_file(zoo: Path, kind: str) -> None:
    path = zoo / "submission.yaml"
    path.rename(zoo / "moved.yaml")
    if kind == "link":
        path.symlink_to("moved.yaml")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(SubmissionError, match=r"submission\.yaml"):
        read_submission(zoo)


def test_a_large_file_is_not_read_whole(zoo: Path) -> None:
    with (zoo / "submission.yaml").open("ab") as file:
        file.truncate(2**40)  # a hole, which reading would fill
    with pytest.raises(SubmissionError, match=f"larger than {LARGEST_YAML}"):
        read_submission(zoo)


def test_code_is_not_found_without_the_sandbox(zoo: Path) -> None:
    text = (zoo / "submission.yaml").read_text().replace("architecture: avnet", "code: model.py:Net")
    (zoo / "submission.yaml").write_text(text)
    (zoo / "model.py").write_text("open('canary', 'w')")
    with pytest.raises(UntrustedCode, match="--trust-remote-code"):
        find_candidate(str(zoo))
    assert not Path("canary").exists()
