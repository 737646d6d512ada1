"""The whole path of a submission, acted out: pull request, validate, evaluate, the result's pull request, the site.

The scripts of the workflows run as they stand. GitHub and the network are not there: `python3 -m venv` and its pip give the
libraries that are installed here, `sudo` does nothing, `gh` writes down its words, and actions that carry an archive from
one machine to another use a folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sandboxed import needs_sandbox
from site_runs import Page
from workflow_steps import PARSED, ROOT, TAKEN, git, run_script

from avbench import files

COMMITTED, MODEL, TITLE = "submissions/avbench--synthav-concat", "someone--packed", "A packed model"
SUITE, SPLIT = "cvpr21-defense", "test-32"  # the cheapest suite that is published, on a fair draw of what code makes
NEW = f"""avbench submit new "$MODEL" --id {MODEL} --title '{TITLE}' --summary 'One line.' \\
    --training-data 'synthav train' --license MIT --authors Someone --track {SUITE}"""
# What a machine of GitHub has, in words that need no network.
PROGRAMS = {
    "python3": """[ "$1 $2" = "-m venv" ]; mkdir -p "$3/bin"; cp "$PROGRAMS/"{python,pip,avbench} "$3/bin" """,
    "python": f"""exec {shlex.quote(sys.executable)} "$@" """,
    "avbench": f"""exec {shlex.quote(sys.executable)} -m avbench "$@" """,  # from where it is: --editable .
    "pip": """[[ $* == "install --quiet "*"--constraint constraints.txt"* ]]; test -f constraints.txt""",
    "sudo": "true",
    "gh": """printf '%s\\n' "$@" > "$PROGRAMS/gh $1 $2" """,
}


@dataclass
class Github:
    """What GitHub is to the workflows: a server with the repository, machines, and archives between them."""

    place: Path
    known: dict[str, str] = field(default_factory=dict)  # values of expressions

    @property
    def server(self) -> Path:
        return self.place / "org" / "avbench"

    @property
    def main(self) -> str:
        return git(self.server, "rev-parse", "main")

    def fill(self, text: str) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: self.known[found[1]], text)

    def run(self, workflow: str, job: str) -> tuple[int, str]:
        """Run a job on a machine of its own; give the exit code of the step that ended it, and what was said."""
        machine, content = self.place / "machines" / f"{workflow}-{job}", PARSED[workflow]["jobs"][job]
        shutil.rmtree(machine, ignore_errors=True)
        (machine / "work").mkdir(parents=True)
        (machine / "temp").mkdir()
        self.known["runner.temp"] = str(machine / "temp")
        said = ""
        for step in content["steps"]:
            if "uses" in step:
                self._carry(step["uses"].partition("@")[0], step["with"])
                continue
            given = [PARSED[workflow].get("env", {}), content.get("env", {}), step.get("env", {})]
            environment = {name: self.fill(value) for one in given for name, value in one.items()}
            code, words = run_script(step["run"], machine / "work", self.environment(machine) | environment)
            said += words
            if code:
                return code, said
            self._keep(step.get("id"), machine / "output")
        for name, value in content.get("outputs", {}).items():
            self.known[f"needs.{job}.outputs.{name}"] = self.fill(value)
        return 0, said

    def environment(self, machine: Path) -> dict[str, str]:
        programs = str(self.place / "programs")
        return {
            "HOME": str(machine),
            "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
            "PROGRAMS": programs,
            "RUNNER_TEMP": str(machine / "temp"),
            "GITHUB_SERVER_URL": f"file://{self.place}",
            "GITHUB_REPOSITORY": "org/avbench",
            "GITHUB_SHA": self.main,
            "GITHUB_OUTPUT": str(machine / "output"),
            "GITHUB_STEP_SUMMARY": str(machine / "summary.md"),
            "GITHUB_RUN_ID": "1",
            "GITHUB_RUN_ATTEMPT": "1",
            "AVBENCH_CACHE": str(files.cache()),
            "OMP_NUM_THREADS": "1",
        }

    def _carry(self, action: str, words: Mapping[str, str]) -> None:
        archive, path = self.place / "archives" / words["name"], Path(self.fill(words["path"]))
        if action == "actions/upload-artifact":
            archive.mkdir(parents=True)
            shutil.copy(path, archive)
        else:
            assert action == "actions/download-artifact"
            shutil.copytree(archive, path, dirs_exist_ok=True)

    def _keep(self, step: str | None, output: Path) -> None:
        for line in output.read_text().splitlines() if output.exists() else ():
            name, _, value = line.partition("=")
            self.known[f"steps.{step}.outputs.{name}"] = value

    def open_pull(self, author: Path) -> None:
        """Take a pull request: the server knows its commits, though they lie in a fork."""
        git(author, "push", "--quiet", "--force", str(self.server), "HEAD:refs/pull/1/head")
        self.known["github.event.pull_request.base.sha"] = self.main
        self.known["github.event.pull_request.head.sha"] = git(author, "rev-parse", "HEAD")

    def merge(self, reference: str) -> None:
        maintainer = self.place / "maintainer"
        shutil.rmtree(maintainer, ignore_errors=True)
        git(self.place, "clone", "--quiet", str(self.server), str(maintainer))
        git(maintainer, "fetch", "--quiet", "origin", reference)
        git(maintainer, "merge", "--quiet", "--no-ff", "--message=merge", "FETCH_HEAD")
        git(maintainer, "push", "--quiet", "origin", "main")


@pytest.fixture
def github(tmp_path: Path) -> Github:
    """A server with the files of this checkout and one submission, but no results."""
    seed, made = tmp_path / "seed", Github(tmp_path)
    for name in ("avbench", "datasets", COMMITTED, "leaderboard/published"):
        shutil.copytree(ROOT / name, seed / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", ".gitignore", "CITATION.cff"):
        shutil.copy(ROOT / name, seed)
    git(seed, "init", "--quiet", "--initial-branch=main")
    git(seed, "add", ".")
    git(seed, "commit", "--quiet", "--message=main")
    git(tmp_path, "clone", "--quiet", "--bare", str(seed), str(made.server))
    git(made.server, "config", "uploadpack.allowAnySHA1InWant", "true")
    (tmp_path / "programs").mkdir()
    for name, script in PROGRAMS.items():
        (tmp_path / "programs" / name).write_text(f"#!/bin/bash -e\n{script}\n")
        (tmp_path / "programs" / name).chmod(0o755)
    return made


def submit(github: Github, model: str, first: str = "") -> Path:
    """Let an author write a submission in a fork, and commit it; give the fork."""
    author = github.place / "author"
    git(github.place, "clone", "--quiet", str(github.server), str(author))
    environment = github.environment(author) | {"MODEL": model}
    code, said = run_script(f"{first}\n{NEW}\ngit add submissions", author, environment)
    assert code == 0, said
    git(author, "commit", "--quiet", f"--message=Submit {MODEL}")
    return author


def board_rows(site: Path) -> list[dict[str, Any]]:
    """The rows of the submission on all boards of its dataset that are measured, by the titles of columns."""
    found = [json.loads(Page(path).data) for path in (site / "lb" / "synthav").glob("*.html")]
    titled = [dict(zip(titles(table), row, strict=True)) for table in found for row in table["rows"]]
    return [row for row in titled if row["Model"][0] == TITLE]


def titles(table: dict[str, Any]) -> list[str]:
    return [*(column["title"] for column in table["columns"]), "state of the row"]


def figures(result: Path) -> list[float]:
    """Avg, clean, XA, XV and XAV of a result, counted in its rows."""
    rows = pd.read_parquet(result / "rows.parquet").set_index("sample")
    clean = rows[(rows["threat"] == "clean") & (rows["attack"] == "none")]["correct"]
    robust = [
        rows[rows["threat"].str.startswith(f"{label}:")]["correct"].groupby("sample").all() & clean
        for label in ("XA", "XV", "XAV")
    ]
    shares = [100 * one.mean() for one in (clean, *robust)]
    return [sum(shares[1:]) / 3, *shares]


def test_a_submission_that_changes_another_file_is_refused(github: Github) -> None:
    author = submit(github, f"{COMMITTED}/weights.safetensors")
    with (author / "avbench" / "judge.py").open("a") as file:
        file.write("# harmless\n")
    git(author, "commit", "--quiet", "--all", "--message=mend the judge")
    github.open_pull(author)
    code, said = github.run("validate", "tree")
    assert (code, said) == (1, "- 'avbench/judge.py' lies outside submissions/<org>--<model>/; leave it as it is\n")
    git(author, "reset", "--quiet", "--hard", "HEAD~1")
    github.open_pull(author)
    assert github.run("validate", "tree") == (0, "one new submission of plain files; no rule is broken\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_sandbox
@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_a_packed_model_goes_from_its_pull_request_to_a_row_of_the_site(github: Github) -> None:
    github.open_pull(submit(github, "../packed", f"avbench pack {COMMITTED} --out ../packed"))
    assert github.run("validate", "tree")[0] == 0
    github.merge("refs/pull/1/head")
    asked_for = github.main
    inputs = {"submission": MODEL, "suite": SUITE, "split": SPLIT, "reviewed": "false"}
    github.known |= {f"inputs.{name}": value for name, value in inputs.items()} | {"github.token": "none"}
    for job in ("run", "verify", "propose"):
        code, said = github.run("evaluate", job)
        assert code == 0, said

    words = (github.place / "programs" / "gh pr create").read_text().splitlines()
    opened = dict(zip(words[2::2], words[3::2], strict=True))
    assert (opened["--repo"], opened["--base"]) == ("org/avbench", "main")
    assert github.main == asked_for, "only a person changes main"
    place = Path("leaderboard", "results", f"synthav-{SPLIT}-{SUITE}@1", MODEL)
    brought = git(github.server, "diff", "--name-only", f"main...{opened['--head']}").splitlines()
    assert set(brought) == {str(place / name) for name in TAKEN}
    github.merge(opened["--head"])
    code, said = github.run("site", "build")
    assert code == 0, said

    with tarfile.open(github.place / "archives" / "github-pages" / "artifact.tar") as archive:
        archive.extractall(github.place / "site", filter="data")
    result = github.place / "maintainer" / place
    record = json.loads((result / "run.json").read_text())
    assert (record["provenance"]["git_commit"], record["provenance"]["dirty"]) == (asked_for, False)
    [row] = board_rows(github.place / "site")
    assert [cell[0] for cell in list(row.values())[2:7]] == pytest.approx(figures(result), abs=0.006)
    assert (row["Rank"], row["State"], row["state of the row"]) == ([1, "group 1"], "ranked", "ranked")
    assert TITLE in (github.place / "site" / "models" / f"{MODEL}.html").read_text()
