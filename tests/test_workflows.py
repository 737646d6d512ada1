"""The workflows: linters find nothing in them and the flaws that are put in, and their scripts do what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import click
import pytest
from workflow_steps import FOLDER, NAMES, PARSED, ROOT, TAKEN, git, run_step

from avbench.cli import main

JOBS = {f"{name}/{job}": content for name in NAMES for job, content in PARSED[name]["jobs"].items()}
# Flaw: workflow, what is replaced, by what, and the rule that has to find it; "schema" is check-jsonschema.
FLAWS = {
    "a title in a script": ("validate", "git init --quiet .", 'echo "${{ github.event.pull_request.title }}"',
                            "template-injection"),
    "an input in a script": ("evaluate", '"$SPLIT" --save', "${{ inputs.split }} --save", "template-injection"),
    "an action at a tag": ("site", "@d6db90164ac5ed86f2b6aed7e0febac5b3c0c03e # v4.0.5", "@v4", "unpinned-uses"),
    "the trigger with secrets": ("validate", "pull_request:", "pull_request_target:", "dangerous-triggers"),
    "all permissions": ("validate", "permissions: {}\nconc", "permissions: write-all\nconc", "excessive-permissions"),
    "a token that stays": ("ci", "persist-credentials: false", "fetch-depth: 1", "artipacked"),
    "a word for a number": ("evaluate", "timeout-minutes: 10", "timeout-minutes: soon", "schema"),
    "a job without machine": ("site", "    runs-on: ubuntu-24.04\n", "", "schema"),
    "a trigger that is none": ("validate", "pull_request:", "pull_requests:", "schema"),
}  # fmt: skip


def tool(name: str) -> str:
    return shutil.which(name) or str(Path(sys.executable).with_name(name))


def schema_finds(paths: list[Path], kind: str = "workflows") -> subprocess.CompletedProcess[str]:
    command = [tool("check-jsonschema"), "--builtin-schema", f"vendor.github-{kind}", "--output-format", "json"]
    return subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)


def zizmor(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    command = [tool("zizmor"), "--quiet", "--offline", "--persona", "pedantic", "--format", "json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def test_no_linter_finds_anything() -> None:
    assert set(NAMES) == {"ci", "evaluate", "site", "validate"}
    assert zizmor(FOLDER) == (0, [])
    assert schema_finds(sorted(FOLDER.glob("*.yml"))).returncode == 0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Rules that find something in each flawed workflow."""
    folder = tmp_path_factory.mktemp("flawed") / ".github" / "workflows"
    folder.mkdir(parents=True)
    for flaw, (name, old, new, _) in FLAWS.items():
        text = (FOLDER / f"{name}.yml").read_text()
        assert old in text
        (folder / f"{flaw}.yml").write_text(text.replace(old, new, 1))
    rules: dict[str, set[str]] = {flaw: set() for flaw in FLAWS}
    for finding in zizmor(folder)[1]:
        for place in finding["locations"]:
            rules[Path(place["symbolic"]["key"]["Local"]["verbatim_path"]).stem].add(finding["ident"])
    for error in json.loads(schema_finds(sorted(folder.glob("*.yml"))).stdout)["errors"]:
        rules[Path(error["filename"]).stem].add("schema")
    return rules


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_that_is_put_in_is_found(found: dict[str, set[str]], flaw: str) -> None:
    assert FLAWS[flaw][3] in found[flaw]


def test_make_lint_calls_both_and_their_versions_are_pinned() -> None:
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    assert "zizmor --quiet --offline --persona pedantic .github/workflows" in lint
    assert "check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml" in lint
    assert "check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out" in lint
    assert "check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml" in lint
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"(?m)^zizmor==[\d.]+$", pins)
    assert re.search(r"(?m)^check-jsonschema==[\d.]+$", pins)


def test_issue_forms_are_what_github_shows_and_a_flaw_in_one_is_found(tmp_path: Path) -> None:
    templates = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = [path for path in sorted(templates.glob("*.yml")) if path.name != "config.yml"]
    assert {path.stem for path in forms} == {"wrong-number", "bug", "new-attack-or-dataset"}
    assert schema_finds(forms, "issue-forms").returncode == 0
    assert schema_finds([templates / "config.yml"], "issue-config").returncode == 0
    flawed = tmp_path / "bug.yml"
    flawed.write_text(forms[0].read_text().replace("type: textarea", "type: essay", 1))
    assert schema_finds([flawed], "issue-forms").returncode == 1


def test_each_path_that_has_an_owner_is_there() -> None:
    lines = [line.split() for line in (ROOT / ".github" / "CODEOWNERS").read_text().splitlines() if line[:1] == "/"]
    owned = {path: owners for path, *owners in lines}
    assert {"/.github/", "/avbench/sandbox/", "/avbench/graph/operators.py", "/leaderboard/", "/submissions/"} <= set(
        owned
    )
    for path, owners in owned.items():
        there = ROOT / path[1:]
        assert there.is_dir() if path.endswith("/") else there.is_file()
        assert owners == ["@avbench/maintainers"]


def test_templates_name_commands_that_there_are() -> None:
    files = [path for path in (ROOT / ".github").rglob("*") if path.parent != FOLDER and path.is_file()]
    named = {words for path in files for words in re.findall(r"`(avbench|make) ([a-z -]+)", path.read_text())}
    assert len(named) > 5
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    for program, words in named:
        if program == "make":
            assert words in targets
            continue
        command: click.Command = main
        for word in words.split():
            if isinstance(command, click.Group):
                assert word in command.commands, f"there is no avbench {words}"
                command = command.commands[word]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_has_no_permission_that_no_job_asks_for_and_no_expression_in_a_script(name: str) -> None:
    assert PARSED[name]["permissions"] == {}
    assert "secrets." not in (FOLDER / f"{name}.yml").read_text()
    for job in PARSED[name]["jobs"].values():
        assert "permissions" in job
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}|", step.get("uses", ""))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_may_write_runs_neither_avbench_nor_what_pip_brings(name: str) -> None:
    job = JOBS[name]
    scripts = "".join(step.get("run", "") for step in job["steps"])
    if "write" in job["permissions"].values():
        assert name in ("evaluate/propose", "site/deploy")
        assert not re.search(r"pip|venv|python|avbench ", scripts.replace("user.name='avbench evaluate'", ""))
    if "self-hosted" in job["runs-on"]:
        assert set(PARSED[name.partition("/")[0]]["on"]) == {"workflow_dispatch"}
        assert {"ephemeral"} < set(job["runs-on"])
        assert job["environment"]
        assert job["permissions"] == {}
        assert job["if"] == "github.ref == 'refs/heads/main'"


def test_what_looks_at_a_pull_request_uses_no_action_and_has_no_permission() -> None:
    [job] = PARSED["validate"]["jobs"].values()
    assert PARSED["validate"]["on"] == {"pull_request": ""}
    assert job["permissions"] == {}
    assert not any("uses" in step for step in job["steps"])


# -- the script of validate.yml, on a repository


GOOD = """title: A model
summary: One line.
architecture: avnet
dataset: synthav
weights: {file: weights.safetensors, sha256: %s}
training_data: synthav train
license: MIT
authors: Someone
""" % ("0" * 64)
SUBMITTED = {"submissions/org--model/submission.yaml": GOOD, "submissions/org--model/weights.safetensors": "x"}
EVIL = "import pathlib\npathlib.Path('{canary}').touch()\nprint('one new submission; no rule is broken')\n"
# What a pull request brings, and what the validator says of it.
PULLS = {
    "a submission": (SUBMITTED, 0, "no rule is broken"),
    "code of avbench": ({"avbench/new.py": "x = 1\n"}, 0, "there is nothing to validate"),
    "a result": ({"leaderboard/results/t/org--model/rows.parquet": "x"}, 1, "lies outside"),
    "a submission and a workflow": (SUBMITTED | {".github/workflows/x.yml": "on: push\n"}, 1, "lies outside"),
    "a validator of its own": (SUBMITTED | {"avbench/submit/tree.py": EVIL}, 1, "'avbench/submit/tree.py' lies"),
    "modules that the validator imports": (SUBMITTED | {"yaml.py": EVIL, "sitecustomize.py": EVIL}, 1, "'yaml.py' lies"),
    "a command as a name": (SUBMITTED | {"submissions/org--model/$(touch canary)": "x"}, 1, "has a name of other"),
    "a line of a workflow as a name": (SUBMITTED | {"submissions/org--model/\n::error::x": "x"}, 1, "other characters"),
}  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A server with avbench and one submission; the commit."""
    place = tmp_path_factory.mktemp("server") / "org" / "avbench"
    place.mkdir(parents=True)
    git(place, "init", "--quiet", "--initial-branch=main")
    git(place, "config", "uploadpack.allowAnySHA1InWant", "true")
    shutil.copytree(ROOT / "avbench", place / "avbench", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "submissions" / "org--other").mkdir(parents=True)
    (place / "submissions" / "org--other" / "submission.yaml").write_text(GOOD.replace("A model", "Another"))
    git(place, "add", ".")
    git(place, "commit", "--quiet", "--message=base")
    return place, git(place, "rev-parse", "HEAD")


@pytest.mark.parametrize("pull", PULLS)
def test_a_pull_request_is_looked_at_by_the_code_of_its_base(
    repository: tuple[Path, str], tmp_path: Path, pull: str
) -> None:
    server, base = repository
    brought, status, sentence = PULLS[pull]
    canary = tmp_path / "canary"
    git(server, "checkout", "--quiet", "--detach", base)
    for name, text in brought.items():
        (server / name).parent.mkdir(parents=True, exist_ok=True)
        (server / name).write_text(text.replace("{canary}", str(canary)))
    git(server, "add", ".")
    git(server, "commit", "--quiet", "--message=pull")
    head = git(server, "rev-parse", "HEAD")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    environment = {"BASE": base, "HEAD": head, "RUNNER_TEMP": str(tmp_path), "GITHUB_REPOSITORY": "org/avbench",
                   "GITHUB_SERVER_URL": f"file://{server.parent.parent}"}  # fmt: skip
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if "site-packages" in path)
    assert run_step("validate", "tree", "Fetch both commits, check out the base", work, environment) == (0, "")
    code, said = run_step("validate", "tree", "Compare", work, environment)
    assert (code, sentence in said) == (status, True), said
    assert not any(line.startswith("::") for line in said.splitlines())
    assert not canary.exists()
    assert not list(tmp_path.rglob("canary"))


def test_the_validator_needs_only_what_its_workflow_installs() -> None:
    code = (
        "import sys; before = set(sys.modules); import avbench.submit.tree; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = {name for name in done.stdout.split() if not name.startswith(("_", "cython"))}
    pulled_in = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    assert {"avbench", "pydantic", "yaml"} < needed <= {"avbench", "pydantic", "yaml"} | pulled_in


# -- the scripts of evaluate.yml around a result


RECORD = {"model": {"id": "org--model"}, "suite": {"name": "standard", "published": True},
          "track": "synthav-test-standard@1"}  # fmt: skip
RESULT = {"run.json": json.dumps(RECORD), "rows.parquet": "rows", "health.json": "{}", "SHA256SUMS": "sums",
          "adversarial/SHA256SUMS": "sums", "adversarial/clips.npz": "clips", ".gitattributes": "* x"}  # fmt: skip


INPUTS = {"SUBMISSION": "org--model", "SUITE": "cvpr21-defense", "SPLIT": "test-128"}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(
    "value", ["", "..", "a b", "-x", "a;b", "$(touch x)", "a\nb", "A--b", "a/../b--c", "org--model/.."]
)
def test_only_words_are_taken_as_inputs(tmp_path: Path, name: str, value: str) -> None:
    assert run_step("evaluate", "run", "Check the inputs", tmp_path, INPUTS)[0] == 0
    assert run_step("evaluate", "run", "Check the inputs", tmp_path, INPUTS | {name: value})[0] == 1


def test_a_result_is_packed_without_the_parts_it_was_made_of(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "synthav-test-standard@1" / "org--model"
    for name in (*RESULT, "cells/a/part-0.parquet", "quarantine/x", ".lock"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    environment = {"RUNNER_TEMP": str(tmp_path), "SUBMISSION": "org--model", "GITHUB_OUTPUT": str(tmp_path / "output")}
    assert run_step("evaluate", "run", "Pack the result", tmp_path, environment) == (0, "")
    assert run_step("evaluate", "verify", "Unpack the result", tmp_path, environment) == (0, "")
    got = tmp_path / "org--model"
    assert {str(path.relative_to(got)) for path in got.rglob("*") if path.is_file()} == set(RESULT)
    sums = subprocess.run(["sha256sum", tmp_path / "result.tar"], capture_output=True, text=True, check=True)
    assert (tmp_path / "output").read_text() == f"sha256={sums.stdout.split()[0]}\n"


def take(tmp_path: Path, files: dict[str, str], link: str = "", sha256: str = "") -> tuple[int, set[str]]:
    """Let the workflow take a packed result; give the exit code and the files that are in the checkout then."""
    made, work = tmp_path / "made", tmp_path / "work"
    for name, text in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    if link:
        (made / link).unlink()
        (made / link).symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "result.tar", "w") as archive:
        archive.add(made, ".")
    work.mkdir()
    sums = subprocess.run(["sha256sum", "result.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    environment = {"SUBMISSION": "org--model", "SUITE": "standard", "RUNNER_TEMP": str(tmp_path),
                   "SHA256": sha256 or sums.stdout.split()[0]}  # fmt: skip
    code, _ = run_step("evaluate", "propose", "Take the verified files, and no others", work, environment)
    return code, {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()}


needs_jq = pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")


@needs_jq
def test_only_the_verified_files_of_a_result_are_proposed(tmp_path: Path) -> None:
    code, held = take(tmp_path, RESULT)
    assert code == 0
    assert held == {f"leaderboard/results/synthav-test-standard@1/org--model/{name}" for name in TAKEN}


@needs_jq
@pytest.mark.parametrize(
    ("record", "link", "sha256"),
    [
        ({"model": {"id": "org--other"}}, "", ""),
        ({"suite": {"name": "quick", "published": True}}, "", ""),
        ({"suite": {"name": "standard", "published": False}}, "", ""),
        ({"track": "../../.github/workflows"}, "", ""),
        ({"track": "a/b@1"}, "", ""),
        ({}, "rows.parquet", ""),
        ({}, "", "0" * 64),
    ],
)
def test_a_result_that_is_not_the_verified_one_is_not_proposed(
    tmp_path: Path, record: dict[str, Any], link: str, sha256: str
) -> None:
    code, held = take(tmp_path, RESULT | {"run.json": json.dumps(RECORD | record)}, link, sha256)
    assert code != 0
    assert held == set()
