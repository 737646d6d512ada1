"""`avbench submit check`: an honest submission passes, what is wrong is said, and nothing of a stranger breaks out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from markdown_it import MarkdownIt
from rich.console import Console
from sandboxed import HOSTILE as MODELS
from sandboxed import local, needs_sandbox
from torch import Tensor, nn

from avbench import files
from avbench.cli import main
from avbench.datasets.cards import read_card
from avbench.errors import BadOption, SubmissionError, UntrustedCode
from avbench.graph.operators import _POINTWISE, OPERATORS, aten
from avbench.graph.pack import pack
from avbench.graph.read import FORMAT, GRAPH, WEIGHTS, Graph, parse_graph, read_graph
from avbench.models import ARCHITECTURES
from avbench.sandbox.code import load_code
from avbench.submit import lint
from avbench.submit.check import STEPS, check
from avbench.submit.report import Finding, code, markdown, table, worst

ROOT = files.root()
SUBMISSIONS = ROOT / "submissions"
HOSTILE = [
    "a | b", "a \\| b", "`code`", "``` fence", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "@everyone",
    "[x](javascript:alert(1))", "![x](https://evil.example/x.png)", "https://evil.example", "www.evil.example", "#1",
    "x\n\n# heading\n| a | b |", "x\r| y |", "\x1b[2J\x1b]0;owned\x07", "\u202e right", "a\u200bb", "\ud800", "&lt;b&gt;",
    "[[red]]x[/red]", "[link=https://evil.example]x[/link]", "x" * 100_000, "\\", "`", "|", "-->", "$(id)", "${{ x }}",
]  # fmt: skip


def copied(name: str, folder: Path, **changes: Any) -> Path:
    """A committed submission under a name of its own, with another form."""
    shutil.copytree(SUBMISSIONS / name, folder)
    import yaml

    form = yaml.safe_load((folder / "submission.yaml").read_text()) | changes
    (folder / "submission.yaml").write_text(json.dumps(form))
    return folder


def by_step(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.step: finding for finding in findings}


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["submit", "check", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("avbench--synthav-concat", 4),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (("avbench--synthav-audio", 8), ("avbench--synthav-multi-concat", 4))
        ),
    ],
)
def test_an_honest_submission_passes_every_step(name: str, limit: int, tmp_path: Path) -> None:
    exit_code, output = call(str(SUBMISSIONS / name), "--limit", str(limit), "--markdown", str(tmp_path / "report.md"))
    assert exit_code == 0, output
    text = (tmp_path / "report.md").read_text()
    states = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ")
    }
    assert states.pop("step") == "status"
    assert states == {step.name: "skip" if step.name == "claims" else "pass" for step in STEPS}
    assert all(step.name in output for step in STEPS)


def test_a_wrong_file_fails_and_what_needs_the_model_is_skipped(tmp_path: Path) -> None:
    folder = copied("avbench--synthav-video", tmp_path / "acme--other")
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    found = by_step(check(folder, 2))
    assert {step for step, finding in found.items() if finding.status == "fail"} == {"files", "load"}
    assert "sha256" in found["files"].value
    assert found["load"].value.startswith("SubmissionError: ")
    assert {finding.status for step, finding in found.items() if step not in ("files", "load")} == {"pass", "skip"}
    exit_code, output = call(str(folder), "--limit", "2")
    assert exit_code == 1
    assert "skip" in output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "nothing"}, "UnknownName: no dataset"),
        ({"tracks": ["nothing"]}, "UnknownName: no suite"),
        ({"claims": [{"suite": "nothing", "clean": 90}]}, "UnknownName: no suite"),
        ({"claims": [{"suite": "standard", "split": "nothing", "clean": 90}]}, "BadOption: synthav has the splits"),
        ({"tracks": ["standard@9"]}, "SubmissionError: "),
        ({"paper": "javascript:alert(1)"}, "SubmissionError: "),
        ({"title": "<script>"}, "SubmissionError: "),
        ({"surprise": 1}, "SubmissionError: "),
    ],
)
def test_a_form_that_is_wrong_fails_and_nothing_else_is_tried(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    first, *rest = check(copied("avbench--synthav-audio", tmp_path / "acme--other", **changes))
    assert (first.step, first.status) == ("schema", "fail")
    assert first.value.startswith(words)
    assert {finding.status for finding in rest} == {"skip"}


def test_a_folder_that_no_pull_request_may_bring_fails(tmp_path: Path) -> None:
    folder = copied(
        "avbench--synthav-audio", tmp_path / "acme--other", weights={"file": "w.safetensors", "sha256": "0" * 64}
    )
    os.rename(folder / "weights.safetensors", folder / "w.safetensors")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("/etc/passwd")
    found = by_step(check(folder))
    for words in ("link", "symbolic link", "run.sh", "executable"):
        assert words in found["tree"].value
    assert [found[step].status for step in ("tree", "files", "load")] == ["fail"] * 3


def test_what_cannot_be_checked_is_bad_input(tmp_path: Path) -> None:
    folder = copied("avbench--synthav-audio", tmp_path / "acme--code")
    (folder / "mine.py").write_text("raise SystemExit\n")
    form = json.loads((folder / "submission.yaml").read_text())
    del form["architecture"], form["arguments"], form["weights"]
    (folder / "submission.yaml").write_text(json.dumps(form | {"code": "mine.py:Make"}))
    cases = {SubmissionError: [str(tmp_path)], BadOption: [str(folder), "--limit", "65"], UntrustedCode: [str(folder)]}
    for kind, words in cases.items():
        exit_code, output = call(*words)
        assert exit_code == 2
        assert output.strip().splitlines()[-1].startswith(f"{kind.__name__}: ")


def test_the_run_of_a_check_is_kept_where_one_says(tmp_path: Path) -> None:
    check(SUBMISSIONS / "avbench--synthav-audio", 2, tmp_path)
    assert len(list(tmp_path.rglob("run.json"))) == 1


# -- the report


class Tags(HTMLParser):
    """What a page shows: its tags, and its text outside of code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._code = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self._code = tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._code = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._code else data


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:20])
def test_no_value_of_a_stranger_breaks_out_of_its_cell(value: str) -> None:
    findings = [Finding("load", "fail", "it ended in an error", value), Finding("quick", "skip", "not tried")]
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    page, plain = (Tags(parser.render(markdown(one, [Finding("load", "fail", "it ended in an error", one), findings[1]])))
                   for one in (value, "harmless"))  # fmt: skip
    assert page.tags == plain.tags
    assert page.text == plain.text
    assert "`" not in code(value)[1:-1]
    shown = StringIO()
    Console(file=shown, width=200, force_terminal=False).print(table(value, findings))
    assert shown.getvalue().count("it ended in an error") == 1
    lines = shown.getvalue().replace("\n", "")
    assert not any(ord(sign) < 32 or 0x80 <= ord(sign) < 0xA0 or sign in "\u202e\u200b\ud800" for sign in lines)
    assert len(shown.getvalue()) < 4000


def test_the_worst_of_several_findings_counts() -> None:
    def one(*states: Any) -> str:
        return worst([Finding("", state, "") for state in states])

    assert (one("pass", "skip"), one("pass", "warn", "skip"), one("warn", "fail"), one()) == (
        "pass",
        "warn",
        "fail",
        "skip",
    )


# -- the lint


def graph(nodes: list[dict[str, Any]]) -> Graph:
    inputs = {"audio": [4], "video": [1, 3, 1, 1]}
    whole = {"format": FORMAT, "dataset": "toy", "classes": 4, "inputs": inputs, "nodes": nodes}
    return parse_graph(json.dumps(whole | {"output": {"node": len(nodes) - 1}}).encode())


def node(op: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"op": op if op == "item" else f"aten.{op}", "args": list(args), "kwargs": kwargs}


AUDIO, VIDEO = {"input": "audio"}, {"node": 0}
MEAN = node("mean.dim", {"input": "video"}, [1, 2, 3, 4])  # node 0: a number a clip


def at(number: int) -> dict[str, int]:
    return {"node": number}


@pytest.mark.parametrize(
    ("nodes", "status", "named"),
    [
        ([node("sin.default", AUDIO), node("add.Tensor", at(1), at(0))], "pass", []),
        ([node("round.default", AUDIO), node("add.Tensor", at(1), at(0))], "fail", ["node 1 (aten.round.default)"]),
        ([node("round.default", AUDIO), node("add.Tensor", at(1), AUDIO), node("add.Tensor", at(2), at(0))], "warn",
         ["node 1 (aten.round.default)"]),
        # what does not reach the answer harms nothing
        ([node("round.default", AUDIO), node("add.Tensor", AUDIO, at(0))], "pass", []),
        # once a gradient is lost, the rest of the way is not named
        ([node("sign.default", AUDIO), node("floor.default", at(1)), node("add.Tensor", at(2), at(0))], "fail",
         ["node 1 (aten.sign.default)"]),
        ([node("to.dtype", AUDIO, {"dtype": "int32"}), node("add.Tensor", at(1), at(0))], "fail", ["node 1"]),
        ([node("to.dtype", AUDIO, {"dtype": "float64"}), node("add.Tensor", at(1), at(0))], "pass", []),
        ([node("div.Tensor_mode", AUDIO, 2.0, rounding_mode="floor"), node("add.Tensor", at(1), at(0))], "fail", ["node 1"]),
        ([node("topk.default", AUDIO, 4), node("item", at(1), 0), node("add.Tensor", at(2), at(0))], "pass", []),
        ([node("topk.default", AUDIO, 4), node("item", at(1), 1), node("add.Tensor", at(2), at(0))], "fail", ["node 2 (item)"]),
        # a shape is no value
        ([node("fill.Scalar", AUDIO, 0.0), node("add.Tensor", at(1), at(0))], "pass", []),
        ([node("round.default", AUDIO), node("view_as.default", AUDIO, at(1)), node("add.Tensor", at(2), at(0))], "pass", []),
        ([node("zeros_like.default", AUDIO), node("add.Tensor", at(1), at(0))], "pass", []),
        # a step function of the sound
        ([node("gt.Scalar", AUDIO, 0), node("where.self", at(1), at(0), at(0))], "fail", ["node 1 (aten.gt.Scalar)"]),
        # a leaky unit
        ([node("gt.Scalar", AUDIO, 0), node("where.self", at(1), AUDIO, at(0))], "warn", ["node 1 (aten.gt.Scalar)"]),
    ],
)  # fmt: skip
def test_operators_that_end_a_gradient_are_named_and_fail_if_they_end_all(
    nodes: list[dict[str, Any]], status: str, named: list[str]
) -> None:
    found = lint.lint_graph(graph([MEAN, *nodes]))
    assert found.status == status
    assert bool(found.value) == bool(named)
    assert all(words in found.value for words in named)


def test_the_lint_knows_each_pointwise_operator_of_the_table_that_has_no_gradient() -> None:
    assert {
        name
        for name in lint.FLAT | set(lint.SHAPES) | lint.INDICES
        if not any(f"aten.{name}." in op for op in OPERATORS)
    } == set()
    tried = 0
    for operator in _POINTWISE:
        gradient = tried_alone(operator)
        if gradient is None or str(operator).split(".")[1] in lint.SHAPES:
            continue
        tried += 1
        zero = not gradient.any()
        assert zero == (str(operator).split(".")[1] in lint.FLAT), operator
    assert tried > 60


def tried_alone(operator: Any) -> Tensor | None:
    """Gradient of an operator to its first argument at some point, zero if it has none; None if it wants other arguments."""
    point = torch.tensor([0.3, 0.7, 0.45, 0.9])
    for rest in ((), (0.6,), (point.flip(0),), (1.1, point), (point > 0.5, 0.6)):
        x = point.clone().requires_grad_()
        for first in (
            (x, torch.complex(x, x))
            if operator in (aten.real.default, aten.imag.default, aten.view_as_real.default)
            else (x,)
        ):
            try:
                value = operator(first, *rest)
            except (RuntimeError, TypeError, ValueError, IndexError):
                continue
            if not value.requires_grad:
                return torch.zeros(4)
            try:
                return torch.autograd.grad(value.float().sum(), x)[0]
            except RuntimeError as error:
                assert "is not implemented" in str(error)
                return torch.zeros(4)
    return None


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_no_architecture_has_a_layer_that_the_lint_names(name: str, seeded: None) -> None:
    from avbench.models import build

    card = read_card("avmnist")
    assert lint.lint_module(build(name, len(card.classes), card.spec, {})).status == "pass"


def test_layers_and_stand_ins_are_shown_to_a_person(seeded: None) -> None:
    class Quantize(nn.Module):
        pass

    for module, words in (
        (nn.Sequential(Quantize()), "0 (Quantize)"),
        (nn.Sequential(nn.Threshold(0, 0)), "Threshold"),
    ):
        found = lint.lint_module(module)
        assert found.status == "warn"
        assert words in found.value
    assert lint.lint_module(local("honest:Rounded")).value == "differentiable_encode_audio"
    signal = nn.Sequential()
    signal.add_module("signal", nn.Linear(1, 1))
    assert lint.lint_module(signal).status == "pass"


class Rounded(nn.Module):
    """A committed model behind a quantizer of the sound."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        logits: Tensor = self.inner((audio * 64).round() / 64, video)
        return logits


def packed(folder: Path, module: nn.Module) -> Path:
    """A submission of tier graph for synthav."""
    folder.mkdir()
    pack(module, read_card("synthav"), folder)
    pins: Mapping[str, Any] = {
        key: {"file": file, "sha256": files.sha256_file(folder / file)}
        for key, file in (("graph", GRAPH), ("weights", WEIGHTS))
    }
    form = {"title": "Packed", "summary": "A graph.", "dataset": "synthav", "training_data": "synthav train",
            "license": "MIT", "authors": "Nobody"}  # fmt: skip
    (folder / "submission.yaml").write_text(json.dumps(form | pins))
    return folder


@pytest.mark.slow
@needs_sandbox
def test_a_graph_that_rounds_its_input_is_found_without_running_it_and_by_its_gradients(tmp_path: Path) -> None:
    spec = read_card("synthav").spec
    inner = load_code(MODELS / "honest.py", "Small", 8, spec, {})
    found = by_step(check(packed(tmp_path / "acme--rounded", Rounded(inner)), 2))
    assert {step for step, finding in found.items() if finding.status == "fail"} == {"gradients", "lint"}
    assert "(aten.round.default)" in found["lint"].value
    assert "worker" in found["load"].sentence
    pack(inner, read_card("synthav"), tmp_path / "honest")
    assert lint.lint_graph(read_graph(tmp_path / "honest" / GRAPH)[0]).status == "pass"
