"""Whoever opens a model, opens it in one way: avbench's own code here, everything else behind walls, code if trusted."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from sandboxed import HOSTILE, needs_sandbox

from avbench import api
from avbench.checkpoint import Candidate
from avbench.cli import main
from avbench.crafting import find_surrogate, same
from avbench.datasets.splits import open_split
from avbench.errors import (
    ArchitectureMismatch,
    AvbenchError,
    BadModel,
    BadOption,
    SandboxUnavailable,
    SubmissionError,
    UntrustedCode,
)
from avbench.sandbox import open_model
from avbench.sandbox.remote import RemoteModel

COMMANDS = sorted(  # those that take a model; `verify` takes a run, and is in test_verify.py
    name for name, command in main.commands.items() if "sandbox" in {p.name for p in command.params}
)
CODE = """
from pathlib import Path
from honest import Small

class Weighed(Small):
    pass

class Looking(Small):
    def encode_audio(self, audio):
        raise RuntimeError(sorted(path.name for path in Path(__file__).parent.rglob("*") if path.is_file()))
"""


def written(folder: Path, **entries: Any) -> Path:
    """Write the form of a submission beside its files; of these the sha256."""
    form = {
        "title": "A model", "summary": "Of a test", "dataset": "synthav", "training_data": "synthav", "license": "MIT",
        "authors": "A",
    }  # fmt: skip
    for key in ("graph", "weights"):
        if name := entries.get(key):
            entries[key] = {"file": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    (folder / "submission.yaml").write_text(yaml.safe_dump(form | entries))
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph") / "org--graph"
    done = CliRunner().invoke(main, ["pack", "avbench--synthav-concat", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return written(folder, graph="graph.json", weights="weights.safetensors")


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    """Code with weights beside it that are not those it would draw, and files that are no part of it."""
    folder = tmp_path / "org--code"
    (folder / "part" / "__pycache__").mkdir(parents=True)
    (folder / "part" / "__pycache__" / "x.pyc").touch()
    (folder / "part" / "table.txt").touch()
    shutil.copy(HOSTILE / "honest.py", folder)
    (folder / "mine.py").write_text(CODE)
    state = code(folder, "Weighed", sandbox=False).module.state_dict()
    save_file({name: tensor + 1 for name, tensor in state.items()}, folder / "weights.safetensors")
    return written(folder, code="mine.py:Weighed", weights="weights.safetensors")


def code(folder: Path, factory: str, sandbox: bool | None = None) -> Candidate:
    return open_model(f"{folder / 'mine.py'}:{factory}", "synthav", trust_remote_code=True, sandbox=sandbox)[0]


@needs_sandbox
def test_a_submitted_graph_runs_in_a_worker_by_default_and_answers_the_same_bits(packed: Path) -> None:
    (inside, card), (plain, _) = (open_model(str(packed), sandbox=way) for way in (None, False))
    assert type(inside.module) is RemoteModel
    assert type(plain.module) is not RemoteModel
    assert (inside.id, inside.identity, inside.about) == (plain.id, plain.identity, plain.about)
    assert inside.about["title"] == "A model"
    batch = open_split(card.name, "test").batch(range(4))
    assert torch.equal(inside.module(*batch.inputs), plain.module(*batch.inputs))


@needs_sandbox
def test_submitted_code_runs_in_a_worker_by_default_with_its_pinned_weights(coded: Path) -> None:
    (inside, card), (plain, _) = (open_model(str(coded), trust_remote_code=True, sandbox=way) for way in (None, False))
    assert type(inside.module) is RemoteModel
    assert (inside.id, inside.identity, inside.about) == (plain.id, plain.identity, plain.about)
    kept = load_file(coded / "weights.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in plain.module.state_dict().items())
    batch = open_split(card.name, "test").batch(range(4))
    assert torch.equal(inside.module(*batch.inputs), plain.module(*batch.inputs))


def test_weights_that_are_not_the_pinned_ones_or_do_not_fit_are_refused(
    coded: Path, packed: Path, tmp_path: Path
) -> None:
    graph = Path(shutil.copytree(packed, tmp_path / packed.name))
    for folder in (coded, graph):
        weights = folder / "weights.safetensors"
        save_file({"a": torch.ones(1)}, weights)
        with pytest.raises(AvbenchError, match=r"pins|differ"):
            open_model(str(folder), trust_remote_code=True, sandbox=False)
    written(coded, code="mine.py:Weighed", weights="weights.safetensors")
    with pytest.raises(ArchitectureMismatch, match="missing"):
        open_model(str(coded), trust_remote_code=True, sandbox=False)
    with pytest.raises(SubmissionError, match="not for avmnist"):
        open_model(str(coded), "avmnist", trust_remote_code=True, sandbox=False)
    with pytest.raises(BadOption, match="states its own"):
        open_model(str(coded), arguments={"width": 3}, trust_remote_code=True, sandbox=False)


@pytest.mark.slow
@needs_sandbox
def test_code_sees_what_is_part_of_its_identity_and_no_more(coded: Path) -> None:
    found = code(coded, "Looking")
    with pytest.raises(BadModel) as caught:
        found.module(*open_split("synthav", "test").batch(range(2)).inputs)
    assert str(["honest.py", "mine.py", "table.txt", "weights.safetensors"]) in str(caught.value)
    (coded / "submission.yaml").write_text("another: text")
    (coded / "part" / "__pycache__" / "x.pyc").write_text("other")
    assert code(coded, "Looking").identity == found.identity
    (coded / "part" / "table.txt").write_text("other")
    assert code(coded, "Looking").identity != found.identity


def test_every_command_that_opens_a_model_is_known() -> None:
    assert {"analyze", "attack", "diagnose", "evaluate"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_code_unasked_or_a_stranger_s_model_without_walls(
    command: str, coded: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no bubblewrap
    more = ["synthav/test/any"] if command == "attack" else []
    canary = tmp_path / "canary"
    with (coded / "mine.py").open("a") as file:
        file.write(f"Path({str(canary)!r}).touch()")
    for model, flags, error in (
        (str(coded), [], "UntrustedCode"),
        (f"{coded / 'mine.py'}:Weighed", [], "UntrustedCode"),
        (str(coded), ["--trust-remote-code"], "SandboxUnavailable"),
        (str(packed), [], "SandboxUnavailable"),
        ("avbench--synthav-concat", ["--sandbox"], "SandboxUnavailable"),
    ):
        done = CliRunner().invoke(main, [command, model, *more, *flags])
        assert done.exit_code == 2
        assert done.output.startswith(f"{error}: "), done.output
    assert not canary.exists()


def test_the_call_in_python_and_surrogates_are_no_way_around(
    coded: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UntrustedCode):
        api.evaluate_model(coded)
    monkeypatch.setenv("PATH", str(tmp_path))  # no bubblewrap
    for model, trusted in ((coded, True), (packed, False)):
        with pytest.raises(SandboxUnavailable):
            api.evaluate_model(model, trust_remote_code=trusted)
    victim, split = open_model("avbench--synthav-sum")[0], open_split("synthav", "test")
    for folder in (coded, packed):
        shutil.copytree(folder, tmp_path / "submissions" / folder.name)
    monkeypatch.setattr("avbench.sandbox.files.root", lambda: tmp_path)
    with pytest.raises(BadOption, match="is code, which is not run"):
        find_surrogate("org--code", victim, split)
    with pytest.raises(SandboxUnavailable):
        find_surrogate("org--graph", victim, split)


@pytest.mark.slow
@needs_sandbox
def test_two_models_in_workers_are_one_only_if_their_identity_is(coded: Path, packed: Path) -> None:
    split = open_split("synthav", "test")
    first, second = code(coded, "Small"), code(coded, "Weighed")
    assert not list(first.module.state_dict()), "a worker shows no weights"
    assert not same(first, second)
    assert same(first, code(coded, "Small"))
    victim, _ = open_model(str(packed))
    found = find_surrogate("avbench--synthav-sum", victim, split)
    assert found.id == "avbench--synthav-sum"
