"""Try everything on a submission that decides whether it can become a row: what a maintainer's machine does, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from avbench import api
from avbench.checkpoint import Candidate
from avbench.datasets.cards import Card, read_card
from avbench.datasets.splits import Split, open_split
from avbench.diagnose.runs import diagnose_run
from avbench.errors import (
    AvbenchError,
    BadOption,
    DatasetNotPrepared,
    SandboxError,
    SandboxUnavailable,
    SubmissionError,
    UntrustedCode,
)
from avbench.form import SUBMISSION, Submission, read_submission
from avbench.graph.read import read_graph
from avbench.hub.models import whole
from avbench.options import RunOptions
from avbench.oracle import Victim
from avbench.runner import evaluate
from avbench.sandbox import open_model
from avbench.sandbox.remote import RemoteModel
from avbench.submit import compare, folder, probes
from avbench.submit.lint import lint_graph, lint_module
from avbench.submit.report import Finding
from avbench.submit.slopes import gradients
from avbench.suites import SUITES, find_suite
from avbench.types import Batch

SPLIT, SIBLING = "test", "val"  # the one that is scored, and one of the same kind that is not
QUICK = SUITES.get("quick")
LIMIT = 64  # samples, as many as `quick` takes
CPU = torch.device("cpu")  # where a worker computes, and where bits can be compared
TIMES = 4  # as many samples as that are compared between the splits
# Flags that say nothing of a run on few samples, or have a step of their own.
ELSEWHERE = ("incomplete-coverage", "clean-accuracy-not-as-claimed")
THEIRS = (SandboxUnavailable, UntrustedCode, DatasetNotPrepared)  # who checks has to mend these, not the author


def check(
    path: Path, limit: int = LIMIT, output_dir: Path | None = None, trust_remote_code: bool = False
) -> list[Finding]:
    """Take all steps on a submission, on the CPU; a step that fails stops only those that cannot do without it.

    Args:
        path: folder of the submission.
        limit: samples to try the model on, at most.
        output_dir: where the run of `quick` is kept; by default nowhere.
        trust_remote_code: whether code may run, in a sandbox.

    Raises:
        SubmissionError: if there is no submission.yaml in the folder.
        BadOption: if the limit is not 1 to 64.
        UntrustedCode, SandboxUnavailable, DatasetNotPrepared: if this machine or its user does not let the model run.
    """
    if not os.path.lexists(path / SUBMISSION):
        raise SubmissionError(f"{path} holds no {SUBMISSION}; give a folder of submissions/ (`avbench submit new`)")
    if not 1 <= limit <= LIMIT:
        raise BadOption(f"--limit is 1 to {LIMIT}, not {limit}")
    with TemporaryDirectory(prefix="avbench-check-") as scratch:
        examined = _Check(path, limit, output_dir or Path(scratch), trust_remote_code)
        return [examined.take(step) for step in STEPS]


class _Check:
    """One submission, and what the steps have found out about it."""

    submission: Submission
    card: Card
    candidate: Candidate
    run: Path

    def __init__(self, folder: Path, limit: int, output_dir: Path, trust: bool) -> None:
        self.folder, self.limit, self.output_dir, self.trust = folder, limit, output_dir, trust
        self.there: set[str] = set()  # of what steps need

    def take(self, step: Step) -> Finding:
        """Take a step, if what it needs is there; a named error is a failure."""
        if step.needs and step.needs not in self.there:
            return Finding(step.name, "skip", f"not tried, for want of a {step.needs}: see the first failure")
        try:
            return step.examine(self)
        except THEIRS:
            raise
        except AvbenchError as error:
            if isinstance(error, SandboxError) and "model" in self.there:
                self._open_again()
            return Finding(step.name, "fail", "it ended in an error", f"{type(error).__name__}: {error}")

    @cached_property
    def split(self) -> Split:
        """The one that is scored."""
        return open_split(self.card.name, SPLIT)

    @cached_property
    def batch(self) -> Batch:
        """Samples that the model is tried on."""
        return self.split.batch(self.split.present[: self.limit])

    @property
    def victim(self) -> Victim:
        """The opened model."""
        return self._victim(self.candidate)

    def read(self) -> Finding:
        """Read the form, and look up the names in it."""
        submission = read_submission(self.folder)
        self.card = read_card(submission.dataset)
        for claim in submission.claims:
            self.card.find(claim.split)
        for suite in {*submission.tracks, *(claim.suite for claim in submission.claims)}:
            find_suite(suite)
        self.submission = submission
        self.there.add("form")
        return Finding("schema", "pass", f"it says all that is needed, for a model of the tier {submission.tier}")

    def load(self) -> Finding:
        """Open the model: a stranger's in a worker."""
        self.candidate = self._open()
        self.there.add("model")
        walls = isinstance(self.candidate.module, RemoteModel)
        return Finding(
            "load", "pass", f"it opens {'in a worker behind walls' if walls else 'without any code of its own'}"
        )

    def lint(self) -> Finding:
        """Look for what hides gradients, without running it."""
        if graph := self.submission.graph:
            return lint_graph(read_graph(self.folder / graph.file)[0])
        return lint_module(self.candidate.module)

    def quick(self) -> Finding:
        """Evaluate it as any model is."""
        options = RunOptions(limit=self.limit, device=CPU.type, output_dir=self.output_dir)
        self.run = evaluate(self.candidate, self.split, QUICK, options, quiet=True)
        self.there.add("run")
        return compare.evaluated(api.read_run(self.run))

    def health(self) -> Finding:
        """Look for what makes the robustness that was measured doubtful."""
        found = diagnose_run(self.run, self.candidate, self.split, CPU.type).raised
        if raised := [str(flag) for flag in found if flag.name not in ELSEWHERE]:
            return Finding("health", "warn", f"a person has to look at these flags: {', '.join(raised)}")
        return Finding("health", "pass", "no health flag is raised")

    def claims(self) -> Finding:
        """Compare what the author measured with what was found."""
        return compare.claims(api.read_run(self.run), self.submission.claims, SPLIT, QUICK.name)

    def history(self) -> Finding:
        """Look for a memory."""
        [joint] = [threat for threat in QUICK.threats if threat.label == "XAV"]
        return probes.history(self.victim, self._victim(self._open()), self.batch, joint)

    def memorization(self) -> Finding:
        """Look for knowledge of the clips that are scored."""
        if SIBLING not in self.card.splits:
            return Finding("memorization", "skip", f"the dataset has no split {SIBLING} to compare with")
        return compare.memorization(self.victim, self.split, open_split(self.card.name, SIBLING), TIMES * self.limit)

    def _open(self) -> Candidate:
        candidate, _ = open_model(str(self.folder.absolute()), trust_remote_code=self.trust)
        return candidate

    def _open_again(self) -> None:
        """Go on with a new worker where the last one is gone."""
        try:
            self.candidate = self._open()
        except AvbenchError:
            self.there.discard("model")

    def _victim(self, candidate: Candidate) -> Victim:
        return Victim(candidate.module, len(self.card.classes), CPU)


class Step(NamedTuple):
    """One step with what has to be there before it."""

    name: str
    needs: str
    examine: Callable[[_Check], Finding]


STEPS = (
    Step("schema", "", _Check.read),
    Step("tree", "form", lambda one: folder.rules(one.folder, one.submission)),
    Step("files", "form", lambda one: folder.pinned(whole(one.folder, one.submission), one.submission)),
    Step("load", "form", _Check.load),
    Step("shapes", "model", lambda one: probes.shapes(one.victim, one.batch)),
    Step("determinism", "model", lambda one: probes.determinism(one.victim, one.batch)),
    Step("batch", "model", lambda one: probes.independence(one.victim, one.batch)),
    Step("gradients", "model", lambda one: gradients(one.victim, probes.pick(one.batch, range(min(16, one.limit))))),
    Step("lint", "model", _Check.lint),
    Step("quick", "model", _Check.quick),
    Step("health", "run", _Check.health),
    Step("claims", "run", _Check.claims),
    Step("history", "model", _Check.history),  # after all the others, so that there is one
    Step("memorization", "model", _Check.memorization),
)
