"""A pull request is one new folder of plain files, or each broken rule is told; git's objects are all that is read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from metadata_hostile import VALID

from avbench import files
from avbench.errors import BadOption
from avbench.submit.tree import LARGEST, MOST, Change, broken_rules, read_changes, read_existing

ME, THERE = "submissions/org--model", "submissions/org--there"
GRAPH = VALID.replace("architecture: avnet\n", f"graph: {{file: graph.json, sha256: {'0' * 64}}}\n").replace(
    "arguments: {fusion: concat, width: 8, penalty: 0.5, deep: true}\n", ""
)
CODE = VALID.replace("architecture: avnet", "code: model.py:Net")
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
FILE, EXECUTABLE, LINK, SUBMODULE = "100644", "100755", "120000", "160000"
Tree = dict[str, tuple[str, bytes]]  # mode and content, by path
GOOD: Tree = {f"{ME}/submission.yaml": (FILE, VALID.encode()), f"{ME}/weights.safetensors": (FILE, b"weights")}


def plus(path: str, content: bytes | str = b"x", mode: str = FILE, base: Tree = GOOD) -> Tree:
    return base | {path: (mode, content.encode() if isinstance(content, str) else content)}


def of(form: str, *names: str) -> Tree:
    return {f"{ME}/{name}": (FILE, b"x") for name in names} | {f"{ME}/submission.yaml": (FILE, form.encode())}


def moved(folder: str) -> Tree:
    return {path.replace(ME, f"submissions/{folder}"): entry for path, entry in GOOD.items()}


# What a pull request adds to the base, and part of the rule that it breaks.
HOSTILE: dict[str, tuple[Tree, str]] = {
    "a symbolic link": (plus(f"{ME}/weights.safetensors", "/etc/passwd", LINK), "is a symbolic link"),
    "a link as its form": (plus(f"{ME}/submission.yaml", "../org--there/submission.yaml", LINK), "is a symbolic link"),
    "a link in place of its folder": ({ME: (LINK, b"../.github")}, "lies outside"),
    "a submodule": (plus(f"{ME}/weights", b"", SUBMODULE), "is a submodule"),
    "a submodule in place of its folder": ({ME: (SUBMODULE, b"")}, "lies outside"),
    "a list of submodules": (plus(".gitmodules", "[submodule]"), "lies outside"),
    "an executable": (plus(f"{ME}/weights.safetensors", b"#!/bin/sh", EXECUTABLE), "is executable"),
    "an executable form": (plus(f"{ME}/submission.yaml", VALID, EXECUTABLE), "is executable"),
    "a pointer of LFS": (plus(f"{ME}/weights.safetensors", LFS), "pointer of Git LFS"),
    "attributes of git": (plus(f"{ME}/.gitattributes", "* filter=lfs"), "reserved"),
    "attributes of git at the root": (plus(".gitattributes", "* filter=lfs"), "lies outside"),
    "a case collision": (plus(f"{ME}/Weights.safetensors"), "by case only"),
    "a case collision in code": (plus(f"{ME}/Net.py", base=of(CODE, "model.py", "net.py")), "by case only"),
    "a case collision of forms": (plus(f"{ME}/SUBMISSION.YAML", VALID), "by case only"),
    "a case collision by the Kelvin sign": (plus(f"{ME}/wei\u212ahts", base=plus(f"{ME}/weikhts")), "by case only"),
    "a folder that collides by case": (moved("ORG--There"), "is no id"),
    "a folder that collides by its form": (moved("\uff4frg--there"), "is no id"),
    "a new line in a name": (plus(f"{ME}/weights.safetensors\n::set-env"), "has a name of other characters"),
    "a new line in a folder": (moved("org--mo\ndel"), "is no id"),
    "a tab in a name": (plus(f"{ME}/weights\tx"), "has a name of other characters"),
    "a quote in a name": (plus(f'{ME}/"weights"'), "has a name of other characters"),
    "a command in a name": (plus(f"{ME}/$(touch canary)"), "has a name of other characters"),
    "a command in a folder": (moved("org--$(touch canary)"), "is no id"),
    "an expression in a name": (plus(f"{ME}/${{{{ github.token }}}}"), "has a name of other characters"),
    "an escape of a terminal in a name": (plus(f"{ME}/\x1b[31mx"), "has a name of other characters"),
    "text from right to left in a name": (plus(f"{ME}/x\u202etxt.exe"), "has a name of other characters"),
    "a name that is no UTF-8": (plus(os.fsdecode(f"{ME}/x".encode() + b"\xff\xfe")), "has a name of other characters"),
    "a name that is an option": (plus(f"{ME}/-rf"), "has a name of other characters"),
    "a name that is hidden": (plus(f"{ME}/.hidden"), "has a name of other characters"),
    "a name of a device": (plus(f"{ME}/con.py", base=of(CODE, "model.py")), "has a name of other characters"),
    "a name with a stream": (plus(f"{ME}/weights.safetensors:x"), "has a name of other characters"),
    "a name of 200 letters": (plus(f"{ME}/{'x' * 200}.py", base=of(CODE, "model.py")), "has a name of other characters"),
    "a folder that is an option": (moved("-rf"), "is no id"),
    "a folder of a device": (moved("con"), "is no id"),
    "a folder that is half a device": (moved("org--nul"), "a reserved word"),
    "a workflow": (plus(".github/workflows/ci.yml", "on: push"), "lies outside"),
    "a result": (plus("leaderboard/results/synthav-test-standard@1/org--model/run.json", "{}"), "lies outside"),
    "rows": (plus("leaderboard/results/synthav-test-standard@1/org--model/rows.parquet", b"PAR1"), "lies outside"),
    "rows beside its form": (plus(f"{ME}/rows.parquet", b"PAR1" * 2**19), "is no file of tier zoo"),
    "a table of formulas": (plus(f"{ME}/table.csv", "=HYPERLINK(1)"), "is no file of tier zoo"),
    "code of avbench": (plus("avbench/judge.py", "judge = None"), "lies outside"),
    "a split": (plus("datasets/synthav/test.csv", "id,label,sha256"), "lies outside"),
    "what is run by CI": (plus(".ci/run", "exit 0", EXECUTABLE), "lies outside"),
    "a file among the folders": (plus("submissions/x.yaml"), "lies outside"),
    "two submissions": (plus("submissions/org--second/submission.yaml", VALID), "2 submissions are changed"),
    "no submission": ({"README.md": (FILE, b"x")}, "0 submissions are changed"),
    "a change of another's submission": ({f"{THERE}/submission.yaml": (FILE, VALID.encode())}, "is taken"),
    "other weights in another's submission": ({f"{THERE}/weights.safetensors": (FILE, b"y")}, "is taken"),
    "a file in another's submission": (plus(f"{THERE}/evil.py"), "2 submissions are changed"),
    "another's title": (
        plus(f"{ME}/submission.yaml", VALID.replace("A title", "wHAT IS THERE")), "'wHAT IS THERE' is taken"
    ),
    "no form": ({f"{ME}/weights.safetensors": (FILE, b"x")}, "there is no new submission.yaml"),
    "a form one folder too deep": (of(VALID, "deeper/submission.yaml"), "is no file of tier zoo"),
    "a form that cannot be read": (of("title: [", "weights.safetensors"), "cannot be read"),
    "a form of 17 kB": (of("#" * 17_000, "weights.safetensors"), "larger than"),
    "a title that is a command": (of(VALID.replace("A title", "A $(touch canary)")), "title: holds '$'"),
    "a title that is an expression": (of(VALID.replace("A title", "A ${{ github.token }}")), "title: holds '$'"),
    "a title that is a formula": (of(VALID.replace("A title", "'=1+1'")), "title: begins with"),
    "a revision that is a branch": (of(VALID.replace("a" * 40, "main")), "weights.revision"),
    "a revision of 39 digits": (of(VALID.replace("a" * 40, "a" * 39)), "weights.revision"),
    "code in tier zoo": (plus(f"{ME}/model.py"), "is no file of tier zoo"),
    "code in tier graph": (of(GRAPH, "graph.json", "weights.safetensors", "model.py"), "is no file of tier graph"),
    "a pickle": (plus(f"{ME}/weights.pt"), "is no file of tier zoo"),
    "a pickle in tier code": (of(CODE, "model.py", "weights.pt"), "is no file of tier code"),
    "requirements": (of(CODE, "model.py", "requirements.txt"), "is no file of tier code"),
    "a library": (of(CODE, "model.py", "net.so"), "is no file of tier code"),
    "compiled code": (of(CODE, "model.py", "__pycache__/model.pyc"), "is no file of tier code"),
    "an exported program": (plus(f"{ME}/model.pt2"), "is no file of tier zoo"),
    "an archive": (plus(f"{ME}/weights.zip"), "is no file of tier zoo"),
    "a page": (plus(f"{ME}/index.html", "<script>"), "is no file of tier zoo"),
    "other weights than its form names": (plus(f"{ME}/other.safetensors"), "is no file of tier zoo"),
    "weights over a MiB": (plus(f"{ME}/weights.safetensors", bytes(LARGEST + 1)), f"has {LARGEST + 1} bytes"),
    "a thousand files": (plus(f"{ME}/x", base={f"{ME}/x{i}.py": (FILE, b"") for i in range(1000)}), "1001 files"),
}  # fmt: skip
SOUND: dict[str, Tree] = {
    "tier zoo": GOOD,
    "tier zoo, weights on the Hub": of(VALID),
    "tier graph": of(GRAPH, "graph.json", "weights.safetensors"),
    "tier code": of(CODE, "model.py", "parts/layers.py", "weights.safetensors"),
    "weights of a MiB": plus(f"{ME}/weights.safetensors", bytes(LARGEST)),
}


class Repository:
    """A repository that is written to by its plumbing, which lets through what a hostile one may hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--bare", "--initial-branch=main")
        kept = {f"{THERE}/submission.yaml": (FILE, VALID.replace("A title", "What is there").encode())}
        self.base = self.commit(kept | {f"{THERE}/weights.safetensors": (FILE, b"x"), "README.md": (FILE, b"avbench")})
        self.git("update-ref", "refs/heads/main", self.base)

    def git(self, *words: str, data: bytes | None = None) -> bytes:
        identity = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = os.environ | identity | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_INDEX_FILE": "scratch"}
        done = subprocess.run(["git", *words], cwd=self.folder, input=data, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, tree: Tree, parent: str | None = None, removed: tuple[str, ...] = ()) -> str:
        self.git("read-tree", parent) if parent else self.git("read-tree", "--empty")
        lines = [b"0 %s\t%s\0" % (b"0" * 40, path.encode()) for path in removed]
        contents = {content for mode, content in tree.values() if mode != SUBMODULE}
        blobs = {content: self.git("hash-object", "-w", "--stdin", data=content) for content in contents}
        for path, (mode, content) in tree.items():
            blob = b"1" * 40 if mode == SUBMODULE else blobs[content]
            lines.append(b"%s %s\t%s\0" % (mode.encode(), blob, os.fsencode(path)))
        self.git("update-index", "-z", "--index-info", data=b"".join(lines))
        parents = ["-p", parent] if parent else []
        return self.git("commit-tree", self.git("write-tree").decode(), *parents, data=b"x").decode()

    def broken(self, head: str) -> list[str]:
        rules = broken_rules(read_changes(self.base, head, self.folder), read_existing(self.base, self.folder))
        assert all(rule.isascii() and rule.isprintable() and len(rule) < 2000 for rule in rules)
        return rules


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository"))


@pytest.mark.parametrize("name", SOUND)
def test_one_new_folder_of_plain_files_breaks_no_rule(repository: Repository, name: str) -> None:
    assert repository.broken(repository.commit(SOUND[name], repository.base)) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_pull_request_must_not_bring_is_told(
    repository: Repository, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree, rule = HOSTILE[name]
    broken = repository.broken(repository.commit(tree, repository.base))
    assert any(rule in one for one in broken), broken
    assert not list(tmp_path.iterdir()), "no canary"


def test_what_is_removed_is_told(repository: Repository) -> None:
    head = repository.commit(GOOD, repository.base, ("README.md",))
    assert any("README.md" in rule for rule in repository.broken(head))
    gone = Change(f"{ME}/x", "000000")
    assert any("is removed" in rule for rule in broken_rules([gone], {}))


def test_what_the_base_did_since_is_not_held_against_it(repository: Repository) -> None:
    head = repository.commit(GOOD, repository.base)
    later = repository.commit({".github/workflows/ci.yml": (FILE, b"on: push")}, repository.base)
    assert broken_rules(read_changes(later, head, repository.folder), read_existing(later, repository.folder)) == []
    taken = repository.commit(of(VALID.replace("A title", "Another")), repository.base)
    rules = broken_rules(read_changes(taken, head, repository.folder), read_existing(taken, repository.folder))
    assert len(rules) == 1
    assert "is taken" in rules[0]


@pytest.mark.parametrize(
    "commit",
    ["main", "HEAD", "--output=canary", "$(touch canary)", "a" * 39, "A" * 40, "a" * 40, "", "x y", "${{ x }}"],
)
def test_a_commit_is_40_digits_that_are_there(repository: Repository, commit: str, tmp_path: Path) -> None:
    for pair in ((repository.base, commit), (commit, repository.base)):
        with pytest.raises(BadOption):
            read_changes(*pair, repository.folder)
    assert not (repository.folder / "canary").exists()


def test_all_that_was_tried_is_counted(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    held = [name for name, (tree, _) in HOSTILE.items() if repository.broken(repository.commit(tree, repository.base))]
    with capsys.disabled():
        print(f"\nhostile pull requests: {len(held)} of {len(HOSTILE)} held")
    assert held == list(HOSTILE)


def run(repository: Repository, *words: str) -> Any:
    environment = os.environ | {"PYTHONPATH": str(files.root()), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "avbench.submit.tree", *words]
    return subprocess.run(command, cwd=repository.folder, env=environment, capture_output=True, text=True)


def test_the_command_tells_ci_by_its_exit_code_and_needs_no_torch(repository: Repository) -> None:
    good = repository.commit(GOOD, repository.base)
    bad = repository.commit(HOSTILE["a new line in a name"][0], repository.base)
    results = [run(repository, repository.base, head) for head in (good, bad, "main")]
    assert [result.returncode for result in results] == [0, 1, 2]
    assert "no rule is broken" in results[0].stdout
    assert all(line.startswith("- ") for line in results[1].stdout.splitlines()), "no line is a command of a workflow"
    assert results[2].stderr.startswith("BadOption: ")
    code = "import sys, avbench.submit.tree; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_much_is_not_read_at_all(repository: Repository) -> None:
    many = {f"{ME}/{i}.py": (FILE, hashlib.sha256(b"%d" % (i % 3)).digest()) for i in range(MOST + 1)}
    changes = read_changes(repository.base, repository.commit(many, repository.base), repository.folder)
    assert len(changes) == MOST + 1
    assert not any(change.start for change in changes)
