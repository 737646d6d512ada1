"""Weights on the Hub: what is pushed can be pulled at its commit, and nothing but the pinned file is ever kept."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from hub_server import HubServer
from huggingface_hub import constants
from safetensors.torch import save_file
from sandboxed import HOSTILE, needs_sandbox

from avbench import files
from avbench.cli import main
from avbench.datasets.cards import read_card
from avbench.datasets.splits import open_split
from avbench.errors import BadOption, SubmissionError
from avbench.form import Submission, read_submission
from avbench.graph.pack import pack
from avbench.hub import models
from avbench.hub.client import HubError
from avbench.hub.models import model_card, push_weights, whole
from avbench.sandbox import open_model
from avbench.submission import find_candidate
from avbench.submit import check

REPO = "org/toy"
NAME = "org--model"
WEIGHTS = files.root() / "submissions" / "avbench--synthav-audio" / "weights.safetensors"
SIZE = WEIGHTS.stat().st_size
SAID = ["--id=org--model", "--title=Model", "--summary=One", "--training-data=synthav", "--license=MIT", "--authors=Me"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)
    one = HubServer.serving(tmp_path, monkeypatch)
    monkeypatch.setenv("AVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield one
    one.close()


def submission(model: Path | str = WEIGHTS, *more: str) -> Path:
    """Write a submission as its author does."""
    said = CliRunner().invoke(main, ["submit", "new", str(model), *SAID, *more])
    assert said.exit_code == 0, said.output
    return Path("submissions") / NAME


def pushed(*more: str) -> Path:
    """Give a submission whose weights are on the Hub only."""
    folder = submission(WEIGHTS, *more)
    push_weights(folder, REPO)
    (folder / "weights.safetensors").unlink()
    return folder


def pulled(folder: Path) -> bytes:
    return (whole(folder, read_submission(folder)) / "weights.safetensors").read_bytes()


def repin(folder: Path, **new: object) -> None:
    """Change what submission.yaml says of the weights, as someone with an editor does."""
    weights = read_submission(folder).weights
    assert weights
    path = folder / "submission.yaml"
    text = path.read_text()
    for name, value in new.items():
        text = text.replace(f"{name}: {getattr(weights, name)}", f"{name}: {value}")
    path.write_text(text)


def nothing_was_kept() -> bool:
    return [p for p in files.cache().rglob("*") if p.is_file() and p.name != ".preparing"] == []


def zoo() -> tuple[Path, str]:
    return submission(), "weights.safetensors"


def graph() -> tuple[Path, str]:
    candidate, card = find_candidate("avbench--synthav-audio")
    pack(candidate.module, card, Path("packed"))
    return submission("packed"), "weights.safetensors"


def code() -> tuple[Path, str]:
    Path("mine.py").write_text((HOSTILE / "honest.py").read_text())
    module = open_model("mine.py:Small", trust_remote_code=True, sandbox=False)[0].module
    save_file({name: tensor + 1e-3 for name, tensor in module.state_dict().items()}, "mine.safetensors")
    return submission("mine.py:Small", "--dataset", "synthav", "--weights", "mine.safetensors"), "mine.safetensors"


@needs_sandbox
@pytest.mark.parametrize(
    "make", [zoo, pytest.param(graph, marks=pytest.mark.slow), pytest.param(code, marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_a_model_of_each_tier_is_the_same_when_its_weights_come_from_the_hub(
    hub: HubServer, make: Callable[[], tuple[Path, str]]
) -> None:
    folder, name = make()
    split = open_split("synthav", "test")
    clips = split.batch(split.present[:2]).inputs
    before, _ = open_model(str(folder), trust_remote_code=True)
    sent = (folder / name).read_bytes()
    answer = before.module(*clips)
    made = push_weights(folder, REPO)
    (folder / name).unlink()
    hub.seen = []
    for _ in range(2):
        after, _ = open_model(str(folder), trust_remote_code=True)
        assert (after.id, after.identity) == (before.id, before.identity)
        assert torch.equal(after.module(*clips), answer)
    assert hub.fetched() == [name]  # once, and no other file
    assert (whole(folder, made) / name).read_bytes() == sent
    assert set(hub.files("model", REPO)) == {".gitattributes", "README.md", name}
    if make is zoo:
        found, _ = find_candidate(str(folder))
        assert found.identity == before.identity


WAYS = {
    "as `submit new` writes it": lambda text: text,
    "on one line": lambda text: re.sub(
        r"weights:\n  (file: \S+)\n  (sha256: \w+)\n  size: \d+", r"weights: {\1, \2}  # flow", text
    ),
    "as the last field": lambda text: re.sub(r"(?s)(weights:\n(?:  [^\n]+\n)+)(.*)", r"\2\1# the end", text),
    "with remarks around it": lambda text: text.replace("weights:", "# before\nweights:  # beside").replace(
        "tracks:", "# after: it\n\ntracks:"
    ),
    "with other line ends": lambda text: text.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_push_changes_the_lines_of_the_weights_and_no_other(hub: HubServer, way: str) -> None:
    folder = submission()
    path = folder / "submission.yaml"
    path.write_bytes(WAYS[way](path.read_text()).encode())
    text, before = path.read_bytes().decode(), read_submission(folder)
    push_weights(folder, REPO)
    after, now = read_submission(folder), path.read_bytes().decode()
    assert after.weights
    assert after.weights.model_dump() == {
        "file": "weights.safetensors", "sha256": files.sha256_file(WEIGHTS), "size": SIZE, "repo": REPO,
        "revision": hub.heads[f"model/{REPO}"],
    }  # fmt: skip
    assert after == before.model_copy(update={"weights": after.weights})
    own = re.compile(r"(weights|  (file|sha256|size|repo|revision)):")
    others = [line for line in text.splitlines() if not own.match(line)]
    assert [line for line in now.splitlines() if not own.match(line) and line != "  # flow"] == others
    push_weights(folder, REPO)
    assert path.read_bytes().decode() == now  # the same bytes are the same commit


def test_the_pinned_commit_counts_although_main_has_moved(hub: HubServer) -> None:
    folder = pushed()
    hub.commit("model", REPO, {"weights.safetensors": b"another model"})
    assert pulled(folder) == WEIGHTS.read_bytes()


def test_another_file_at_the_pinned_commit_is_refused_and_not_kept(hub: HubServer) -> None:
    """As after a namespace was deleted and registered again: whoever has it now cannot have the same sha256."""
    data = bytearray(WEIGHTS.read_bytes())
    data[SIZE // 2] ^= 1
    folder = pushed()
    for other in (bytes(data), data[:-1], b""):
        repin(folder, revision=hub.commit("model", REPO, {"weights.safetensors": bytes(other)}))
        with pytest.raises(SubmissionError, match=r"is not the pinned file, and nothing of it was kept: it has sha256"):
            pulled(folder)
        assert nothing_was_kept()


def test_a_file_larger_than_pinned_is_stopped_at_the_pinned_size(hub: HubServer) -> None:
    folder = pushed()
    right = hub.heads[f"model/{REPO}"]
    repin(folder, revision=hub.commit("model", REPO, {"weights.safetensors": WEIGHTS.read_bytes() + bytes(1 << 20)}))
    with pytest.raises(SubmissionError, match=f"it has more than the pinned {SIZE} bytes"):
        pulled(folder)
    assert nothing_was_kept()
    repin(folder, revision=right)
    hub.broken = {"weights.safetensors": "endless"}
    with pytest.raises(SubmissionError, match="it has more than the pinned"):
        pulled(folder)
    assert nothing_was_kept()
    assert 0 < hub.sent < 300 * SIZE  # of a thousand; what lies in buffers was sent, too


@pytest.mark.parametrize("resumes", [True, False])
def test_a_stopped_download_continues(hub: HubServer, monkeypatch: pytest.MonkeyPatch, resumes: bool) -> None:
    monkeypatch.setattr(models, "_PIECE", 1000)
    folder = pushed()
    hub.broken = {"weights.safetensors": "cut"}
    with pytest.raises(HubError, match="continues where it stopped"):
        pulled(folder)
    [part] = list(files.cache().rglob("part"))
    have = part.stat().st_size
    assert SIZE // 2 - 1000 <= have <= SIZE // 2
    hub.seen, hub.broken = [], {} if resumes else {"weights.safetensors": "whole"}
    assert pulled(folder) == WEIGHTS.read_bytes()
    assert [one.range for one in hub.seen if one.cdn] == [f"bytes={have}-"]
    hub.seen = []
    assert pulled(folder) == WEIGHTS.read_bytes()
    assert hub.seen == []
    assert not part.exists()


def test_a_part_that_was_spoilt_is_dropped(hub: HubServer) -> None:
    folder = pushed()
    place = files.cache() / "models" / files.sha256_file(WEIGHTS)
    for spoilt in (b"x" * 100, b"x" * SIZE, b"x" * (SIZE + 1)):
        place.mkdir(parents=True, exist_ok=True)
        (place / "part").write_bytes(spoilt)
        with pytest.raises(SubmissionError, match="not the pinned file"):
            pulled(folder)
        assert nothing_was_kept()
    assert pulled(folder) == WEIGHTS.read_bytes()


def test_a_cached_file_that_was_spoilt_is_fetched_again(hub: HubServer) -> None:
    folder = pushed()
    kept = whole(folder, read_submission(folder)) / "weights.safetensors"
    kept.write_bytes(b"x" * SIZE)
    assert pulled(folder) == WEIGHTS.read_bytes()


def test_the_cached_copy_follows_its_submission(hub: HubServer) -> None:
    folder = pushed()
    (folder / "old.py").write_text("x")
    copy = whole(folder, read_submission(folder))
    assert (copy / "old.py").exists()
    (folder / "old.py").unlink()
    text = (folder / "submission.yaml").read_text().replace("title: Model", "title: Renamed")
    (folder / "submission.yaml").write_text(text)
    assert find_candidate(str(folder))[0].about["title"] == "Renamed"
    assert (copy / "submission.yaml").read_text() == text
    assert {path.name for path in copy.iterdir()} == {"submission.yaml", "weights.safetensors"}
    (folder / "graph.json").symlink_to(WEIGHTS)
    with pytest.raises(SubmissionError, match="is a link or a special file"):
        pulled(folder)


def test_without_a_network_the_cache_is_used_or_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pushed()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.seen = []
    with pytest.raises(HubError, match=f"HF_HUB_OFFLINE is set, and what is asked of {REPO} is not here; unset it"):
        pulled(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pulled(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.seen = []
    assert pulled(folder) == WEIGHTS.read_bytes()
    assert hub.seen == []


def test_a_hub_that_does_not_have_it_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pushed()
    repin(folder, revision="0" * 40)
    with pytest.raises(HubError, match=f"{REPO} has no such commit"):
        pulled(folder)
    repin(folder, revision=hub.commit("model", REPO, {"weights.safetensors": None}))
    with pytest.raises(HubError, match="answers 404"):
        pulled(folder)
    repin(folder, repo="org/none")
    with pytest.raises(HubError, match="answers 404 for org/none: there is no such repository"):
        pulled(folder)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="check the network"):
        pulled(folder)


def test_a_check_looks_at_the_weights_on_the_hub(hub: HubServer) -> None:
    folder = pushed()
    for status, commit in (("pass", None), ("fail", hub.commit("model", REPO, {"weights.safetensors": b"x"}))):
        if commit:
            shutil.rmtree(files.cache())
            repin(folder, revision=commit)
        examined = check._Check(folder, 1, Path("runs"), False)
        found = {step.name: examined.take(step) for step in check.STEPS if step.name in ("schema", "tree", "files")}
        assert [finding.status for finding in found.values()] == ["pass", "pass", status]


def test_what_is_not_the_pinned_file_is_not_published(hub: HubServer) -> None:
    folder = submission()
    path = folder / "weights.safetensors"
    with pytest.raises(BadOption, match="ORG/NAME"):
        push_weights(folder, "toy")
    path.write_bytes(WEIGHTS.read_bytes() + b"x")
    with pytest.raises(SubmissionError, match="pins"):
        push_weights(folder, REPO)
    path.unlink()
    path.symlink_to(WEIGHTS)
    with pytest.raises(SubmissionError, match="no regular file"):
        push_weights(folder, REPO)
    path.unlink()
    with pytest.raises(SubmissionError, match="is missing"):
        push_weights(folder, REPO)
    assert hub.heads == {}


def test_only_the_login_of_the_hub_is_asked_for_a_token_and_it_goes_nowhere_else(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submission()
    said = CliRunner().invoke(main, ["submit", "push", str(folder), "--repo", "someone/toy"])
    assert said.exit_code == 2
    assert "HubError: the Hub answers 403 for someone/toy" in said.stderr
    told = CliRunner().invoke(main, ["submit", "push", str(folder), "--repo", REPO])
    (folder / "weights.safetensors").unlink()
    pulled(folder)
    assert any(one.token == hub.token for one in hub.seen)
    assert not any(one.token for one in hub.seen if one.cdn)
    assert hub.token not in said.output + told.output
    held = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(held) > 5
    assert not any(hub.token.encode() in path.read_bytes() for path in held)
    monkeypatch.delenv("HF_TOKEN")
    said = CliRunner().invoke(main, ["submit", "push", str(submission_again()), "--repo", REPO])
    assert said.exit_code == 2
    assert "HubError: nobody is logged in to the Hub; run `hf auth login`" in said.stderr


def submission_again() -> Path:
    shutil.rmtree("submissions")
    return submission()


def test_the_commands_that_it_prints_commit_all_but_the_weights(hub: HubServer, tmp_path: Path) -> None:
    folder = submission()
    said = CliRunner().invoke(main, ["submit", "push", str(folder), "--repo", REPO], catch_exceptions=False)
    assert f"weights.safetensors is published: {REPO} at {hub.heads[f'model/{REPO}']}" in said.output
    commands = [line.strip() for line in said.output.splitlines() if line.startswith("  git ")]
    assert commands[-1] == f"git push --set-upstream origin {NAME}"
    setting = "git init -q; git config user.name x; git config user.email x@localhost"
    subprocess.run(["bash", "-ec", "\n".join([setting, *commands[:-1]])], check=True, cwd=tmp_path, capture_output=True)
    held = subprocess.run(["git", "ls-tree", "-r", "--name-only", NAME], capture_output=True, text=True, check=True)
    assert held.stdout.split() == [f"submissions/{NAME}/submission.yaml"]


def test_a_model_card_is_metadata_and_plain_text(hub: HubServer) -> None:
    folder = submission(WEIGHTS, "--claim", "standard:90.5:12.25", "--paper", "https://arxiv.org/abs/2104.02000")
    push_weights(folder, REPO)
    _, head, body = hub.read("model", REPO, "README.md").decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "mit", "tags": ["avbench", "audio-visual", "adversarial-robustness", "zoo"], "datasets": ["synthav"],
        "metrics": ["accuracy"], "library_name": "avbench",
    }  # fmt: skip
    assert "| standard | test | 90.5 | 12.25 |" in body
    assert f"avbench evaluate {NAME}" in body


def test_what_an_author_writes_is_no_markup_in_the_model_card(hub: HubServer) -> None:
    honest = read_submission(submission())
    signs = "a [x](https://evil.example) ![y](z) **b** _c_ # d <script> `e` @f | ~g~ {h} --- "
    hostile = honest.model_copy(update=dict.fromkeys(("title", "summary", "authors", "training_data"), signs))
    hostile = hostile.model_copy(update={"license": "x\ndatasets: [evil]"})
    head, body = model_card(NAME, Submission.model_construct(**dict(hostile))).split("---\n", 2)[1:]
    assert yaml.safe_load(head)["license"] == "other"
    assert yaml.safe_load(head)["datasets"] == [read_card("synthav").name]
    assert body.count(r"a \[x\]\(https\://evil.example\) \!\[y\]\(z\) \*\*b\*\* \_c\_ \# d \<script\>") == 4
    for line in body.splitlines():
        if "evil" in line:
            assert not re.search(r"(?<!\\)[\[\]()<>*_`@|!~{}]", line.partition(": ")[2] or line)
