"""Models behind the wire: the same bits as in process, and no stranger's code without being asked or without walls."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sandboxed import BATCH, CPU, HOSTILE, answers, local, needs_sandbox, remote
from torch import nn

from avbench import files, store
from avbench.attacks import parse_attack
from avbench.cells import Cell, check_stages, embed, make_clips
from avbench.cli import main
from avbench.datasets.splits import open_split
from avbench.device import probe_micro_batch
from avbench.errors import BadModel, BadOption, CheckpointError, SandboxUnavailable, SubmissionError
from avbench.judge import drawn_at_random
from avbench.oracle import Victim
from avbench.rng import seeded
from avbench.sandbox import open_model, wire
from avbench.sandbox.process import Limits
from avbench.sandbox.remote import RemoteModel
from avbench.sandbox.wire import Message
from avbench.submission import find_candidate
from avbench.threats import parse_threat
from avbench.types import MODALITIES, AVInput, Batch, TwoStageModel

MODELS = ["Small", "Noisy", "Rounded", "Deaf", "Whole"]
THREATS = ["XA:linf:0.006", "XV:linf:0.006", "XAV:linf:0.006:linf:0.006"]


def clips(model: nn.Module, batch: Batch, attack: str, threat: str, classes: int) -> AVInput:
    """Adversarial clips, made as a run makes them."""
    victim = Victim(model, classes, CPU, draws=3)
    victim.random = bool(drawn_at_random(victim, batch).any())
    check_stages(victim, batch)
    cell = Cell(parse_threat(threat), parse_attack(attack))
    with seeded(CPU, "run"):
        fixed = embed(victim, batch, [m for m in MODALITIES if m not in cell.attacked])
        return make_clips(victim, batch, cell, fixed, 0)


def same(one: AVInput, other: AVInput) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@needs_sandbox
@pytest.mark.parametrize("attack", ["pgd", pytest.param("tma", marks=pytest.mark.slow)])
def test_a_model_of_the_zoo_meets_the_same_adversarial_bits_in_a_worker_as_in_process(attack: str) -> None:
    split = open_split("synthav", "test")
    batch = split.batch(split.present[:8])
    (inside, _), (plain, _) = (open_model("avbench--synthav-concat", sandbox=way) for way in (True, False))
    assert inside.identity == plain.identity
    assert (inside.id, inside.about) == (plain.id, plain.about)
    for threat in THREATS:
        made = clips(inside.module, batch, attack, threat, 8)
        assert same(made, clips(plain.module, batch, attack, threat, 8))
        assert not same(made, batch.inputs)


@needs_sandbox
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("Small", "Noisy") else pytest.mark.slow) for name in MODELS]
)
def test_code_meets_the_same_adversarial_bits_in_a_worker_as_in_process(name: str) -> None:
    inside, plain = remote(f"honest:{name}"), local(f"honest:{name}")
    assert isinstance(inside, TwoStageModel) == isinstance(plain, TwoStageModel) == (name != "Whole")
    for threat in THREATS if name != "Deaf" else THREATS[1:]:
        for attack in ("pgd:steps=3", "tma:steps=3"):
            made = clips(inside, BATCH, attack, threat, 3)
            assert same(made, clips(plain, BATCH, attack, threat, 3))
            assert not same(made, BATCH.inputs)


@needs_sandbox
def test_a_packed_model_runs_in_a_worker_by_default_and_answers_the_same_bits(tmp_path: Path) -> None:
    assert call("pack", "avbench--synthav-concat", "--out", str(tmp_path / "packed"))[0] == 0
    split = open_split("synthav", "test")
    batch = split.batch(split.present[:8])
    (inside, _), (plain, _) = (open_model(str(tmp_path / "packed"), sandbox=way) for way in (None, False))
    assert type(inside.module) is RemoteModel
    assert inside.identity == plain.identity
    made = [clips(one.module, batch, "pgd:steps=3", THREATS[2], 8) for one in (inside, plain)]
    assert same(*made)


@needs_sandbox
def test_a_gradient_that_is_not_there_is_missed_alike() -> None:
    for model in (remote("honest:Rounded"), local("honest:Rounded").requires_grad_(False)):
        audio = BATCH.inputs.audio.clone().requires_grad_()
        fixed = BATCH.inputs.video.clone()
        [found] = torch.autograd.grad(model(audio, fixed).sum(), [audio])
        assert not found.any()
        assert not model.encode_video(fixed).requires_grad
        with torch.no_grad():
            assert not model(audio, fixed).requires_grad


@needs_sandbox
def test_a_graph_can_be_used_twice_and_is_forgotten_with_its_answer() -> None:
    model = remote("honest:Small")
    audio = BATCH.inputs.audio.clone().requires_grad_()
    first = model.encode_audio(audio)
    model.encode_audio(audio * 2)
    grads = [torch.autograd.grad(first[:, 0].sum(), [audio], retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads)
    ticket = first.grad_fn.call.number  # type: ignore[union-attr]
    del first
    answers(model)
    with pytest.raises(BadModel, match="KeyError"):
        model.worker.call(Message(wire.BACK, 0, 0, ticket, tensors=(torch.zeros(12, 8),)))


@pytest.mark.slow
@needs_sandbox
def test_the_micro_batch_is_found_as_in_process() -> None:
    arguments: dict[str, Any] = {"width": 1_500_000}
    found = [probe_micro_batch(Victim(make("honest:Small", **arguments), 3, CPU), BATCH) for make in (remote, local)]
    assert found[0] == found[1] < 64


@needs_sandbox
def test_an_error_of_the_model_names_its_part_and_holds_no_control_characters() -> None:
    victim = Victim(remote("honest:Failing"), 3, CPU)
    victim.embed(BATCH.inputs, "video")
    with pytest.raises(BadModel, match=r"RuntimeError: out of \\x1b\[31mink"):
        victim.embed(BATCH.inputs, "video")


@needs_sandbox
def test_clips_that_do_not_fit_are_an_error_that_says_what_to_do() -> None:
    model = remote("honest:Small")
    with pytest.raises(BadOption, match="smaller --batch-size"):
        model.encode_audio(torch.zeros(1).expand(1 << 29))
    with pytest.raises(BadOption, match="--device cpu"):
        model.encode_audio(torch.zeros(1, device="meta"))


@needs_sandbox
def test_a_limit_that_is_too_small_for_torch_is_said() -> None:
    with pytest.raises(SandboxUnavailable, match="worker ended"):
        remote("honest:Small", Limits(memory=5))


def code(folder: Path, canary: Path) -> Path:
    """An honest model, whose file leaves a canary where it runs without walls."""
    folder.mkdir()
    file = folder / "mine.py"
    text = (HOSTILE / "honest.py").read_text()
    file.write_text(f"{text}\ntry:\n    open({str(canary)!r}, 'w').close()\nexcept OSError:\n    pass\n")
    return file


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


@needs_sandbox
def test_a_run_of_code_writes_the_same_rows_in_a_worker_as_in_process(tmp_path: Path) -> None:
    file, canary = code(tmp_path / "code", tmp_path / "canary"), tmp_path / "canary"
    hashes = []
    for flag in ("--sandbox", "--no-sandbox"):
        out = tmp_path / flag
        words = ["--suite", "quick", "--limit", "8", "--batch-size", "4", "--device", "cpu", "--output-dir", str(out)]
        exit_code, output = call("evaluate", f"{file}:Noisy", "--trust-remote-code", flag, *words)
        assert exit_code == 0, output
        [run] = (path.parent for path in out.rglob("run.json"))
        assert store.read_record(run)["model"]["architecture"] == "mine.py:Noisy"
        hashes.append(files.sha256_file(run / "rows.parquet"))
        assert canary.exists() == (flag == "--no-sandbox")
    assert hashes[0] == hashes[1]


def test_code_is_refused_unless_it_is_trusted(tmp_path: Path) -> None:
    file = code(tmp_path / "code", tmp_path / "canary")
    for flags in ([], ["--no-sandbox"], ["--sandbox"]):
        exit_code, output = call("evaluate", f"{file}:Small", *flags)
        assert exit_code == 2
        assert output.startswith("UntrustedCode: ")
        assert "--trust-remote-code" in output
        assert not (tmp_path / "canary").exists()


def no_bubblewrap(tmp_path: Path, monkeypatch: Any) -> str:
    monkeypatch.setenv("PATH", str(tmp_path))
    return "bubblewrap is not installed"


def failing_bubblewrap(tmp_path: Path, monkeypatch: Any) -> str:
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'no permission to create a new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return "no permission"


def no_seccomp(tmp_path: Path, monkeypatch: Any) -> str:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    return "libseccomp2"


@pytest.mark.parametrize("lack", [no_bubblewrap, failing_bubblewrap, no_seccomp])
def test_without_a_sandbox_a_stranger_s_model_does_not_run(lack: Any, tmp_path: Path, monkeypatch: Any) -> None:
    if lack is failing_bubblewrap:
        pytest.importorskip("pyseccomp")
    file = code(tmp_path / "code", tmp_path / "canary")
    words = lack(tmp_path, monkeypatch)
    for model, *flags in ([f"{file}:Small", "--trust-remote-code"], ["avbench--synthav-concat", "--sandbox"]):
        exit_code, output = call("evaluate", model, *flags, "--output-dir", str(tmp_path / "runs"))
        assert exit_code == 2
        assert output.startswith("SandboxUnavailable: ")
        assert words in output
        assert "--no-sandbox" in output
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "runs").exists()


def test_every_file_beside_the_code_is_part_of_its_identity(tmp_path: Path) -> None:
    file = code(tmp_path / "code", tmp_path / "canary")

    def sha256() -> str:
        return open_model(f"{file}:Small", None, None, None, True, False)[0].weights_sha256

    found = [sha256(), sha256()]
    (file.parent / "weights.bin").write_bytes(b"1")
    found.append(sha256())
    (file.parent / "weights.bin").write_bytes(b"2")
    found.append(sha256())
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_folder_that_is_more_than_a_model_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    file = code(tmp_path / "code", tmp_path / "canary")
    model = f"{file}:Small"
    (file.parent / "link").symlink_to("/etc/shadow")
    with pytest.raises(CheckpointError, match="link"):
        open_model(model, trust_remote_code=True)
    (file.parent / "link").unlink()
    for home in (file.parent, file.parent / "me"):
        monkeypatch.setenv("HOME", str(home))
        with pytest.raises(CheckpointError, match="folder of its own"):
            open_model(model, trust_remote_code=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(300):
        (file.parent / f"{number}").touch()
    with pytest.raises(CheckpointError, match="more than 256"):
        open_model(model, trust_remote_code=True)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("model", "error"),
    [("honest.py:Nothing", BadModel), ("honest.py:torch", BadModel), ("none.py:Small", CheckpointError)],
)
def test_code_that_makes_no_model_is_a_named_error(model: str, error: Any) -> None:
    with pytest.raises(error):
        open_model(f"{HOSTILE}/{model}", trust_remote_code=True, sandbox=False)
    with pytest.raises(BadOption, match="--architecture"):
        open_model(f"{HOSTILE}/honest.py:Small", architecture="avnet", trust_remote_code=True)


@pytest.mark.slow
@needs_sandbox
def test_what_is_wrong_with_weights_is_said_by_the_same_error_from_a_worker(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    moved = tmp_path / "avbench--synthav-concat"
    shutil.copytree(files.root() / "submissions" / "avbench--synthav-concat", moved)
    (moved / "weights.safetensors").write_bytes(b"other")
    for model in (str(broken), str(moved), str(tmp_path / "none.pt"), "avbench--nothing"):
        said = []
        for sandbox in (True, False):
            with pytest.raises((CheckpointError, SubmissionError)) as caught:
                open_model(model, sandbox=sandbox)
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]


def test_a_model_of_avbench_s_own_formats_stays_in_process_by_default() -> None:
    module = open_model("avbench--synthav-concat")[0].module
    assert type(module) is type(find_candidate("avbench--synthav-concat")[0].module)
