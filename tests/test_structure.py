"""The shape of the package: imports go downwards, files stay small, dropping a file in is enough."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avbench.cli.look import REGISTRIES
from avbench.errors import UnknownName
from avbench.options import RunOptions
from avbench.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "avbench"
# Each layer imports only from those before it; modules in one layer are independent of each other.
LAYERS = [
    "errors", "options", "files", "types", "registry", "rng", "provenance", "progress", "precision", "memory",
    "threats", "datasets", "models", "metrics", "objectives", "oracle", "attacks", "suites", "device", "judge", "adversarial", "bounded", "store", "cells", "figures", "geometry",
    "run_progress", "checkpoint", "graph", "convert", "names", "form", "hub", "submission", "sandbox", "crafting", "engines", "diagnose", "defenses", "summarize", "runner", "verify", "counter", "evidence", "estimate", "analyze", "attack_clip", "tensors", "api", "submit",
    "curve", "run_figures", "site", "publish", "cli",
]  # fmt: skip
# Calls that run or unpickle what a stranger wrote, with the files that may make them and why.
BANNED = {
    "torch.load": {"train.py"},  # of its own states, with weights_only=True, which the test below checks
    "yaml.load": {"names.py"},  # with a BaseLoader, which makes nothing but text, lists and mappings
    **{
        name: set()
        for name in ("pickle.load", "pickle.loads", "torch.jit.load", "torch.export.load", "eval", "exec", "os.system")
    },
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level parts of avbench that a file imports, also inside functions; not those only for type checkers."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "avbench":
            names |= {alias.name for alias in node.names if alias.name in LAYERS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avbench."):
            names.add(node.module.split(".")[1])  # type: ignore[union-attr]
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if place in ("__init__", "__main__"):
        return
    above = [name for name in imported(path) if LAYERS.index(name) > LAYERS.index(place)]
    assert not above, f"{place} imports {above}, which lie above it"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            code = node.end_lineno - node.body[0].lineno + 1  # type: ignore[operator]
            assert code <= 45, f"{node.name} has {code} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_what_a_stranger_wrote(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in BANNED or path.name in BANNED[name], f"{name} in {path.name}"
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("shell") != "True"
        if name == "torch.load":
            assert keywords["weights_only"] == "True"
    templates = [*PACKAGE.rglob("*.j2")]
    assert templates
    assert not any(re.search(r"\|\s*safe\b", template.read_text()) for template in templates)


@pytest.mark.parametrize(
    "code", ["import avbench", "import avbench.cli", "import avbench.threats.presets, avbench.metrics"]
)
def test_what_must_be_fast_does_not_import_torch(code: str) -> None:
    check = f"{code}; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("what", sorted(REGISTRIES))
def test_every_registered_thing_can_be_had_and_says_what_it_is(what: str) -> None:
    module, variable = REGISTRIES[what]
    registry: Registry[object] = getattr(importlib.import_module(module), variable)
    assert registry.names()
    for name in registry.names():
        thing = registry.get(name)
        assert registry.name_of(thing) == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        if isinstance(thing, type) or callable(thing):
            assert registry.summary(name) == (thing.__doc__ or "").partition("\n")[0] != ""


def test_an_unknown_name_suggests_the_nearest() -> None:
    from avbench.attacks import ATTACKS

    with pytest.raises(UnknownName, match="did you mean fgsm"):
        ATTACKS.get("fgms")


NEW_ATTACK = '''
"""A new idea."""
from __future__ import annotations
from dataclasses import dataclass
from avbench.attacks import ATTACKS, Attack, Cost

@ATTACKS.register("new-idea")
@dataclass(frozen=True)
class NewIdea(Attack):
    """Do nothing, newly."""
    def run(self, oracle, batch, region, rng):
        return batch.inputs
    def cost(self):
        return Cost(0, 0)
'''


def test_dropping_a_file_in_lists_it_and_runs_it(tmp_path: Path) -> None:
    for name in ("avbench", "datasets", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "avbench" / "attacks" / "new_idea.py").write_text(NEW_ATTACK)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    listed = subprocess.run(
        [sys.executable, "-m", "avbench", "list", "attacks", "--json"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(listed.stdout)["new-idea"] == "Do nothing, newly."
    code = "from avbench.suites import find_suite; print(find_suite(None, (), ('new-idea',)).attacks)"
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "(NewIdea(),)"


def test_each_run_option_is_a_flag_and_the_other_way_round() -> None:
    from avbench.cli.runs import evaluate

    own = {"model", "dataset", "split", "suite", "threats", "attacks", "architecture", "arguments", "dry_run"}
    own |= {"trust_remote_code", "sandbox"}
    flags = {parameter.name: parameter for parameter in evaluate.params}
    fields = {field.name: field for field in dataclasses.fields(RunOptions)}
    assert set(flags) - own == set(fields)
    for name, field in fields.items():
        assert flags[name].help == field.metadata["help"]  # type: ignore[attr-defined]
        if field.default is not False:  # click has its own word for an unset switch
            assert flags[name].default == field.default
