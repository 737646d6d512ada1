"""A run with its scores: what its cells on a board say, and why it may not rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from avbench.diagnose import COVERAGE
from avbench.form import Claim
from avbench.metrics import Score
from avbench.site.figures import Figure
from avbench.site.records import Run
from avbench.site.tables import Cell, number


@dataclass(frozen=True)
class Scored:
    """A run with all its scores, and its place where it has one."""

    run: Run
    scores: pd.DataFrame
    place: int | None = None
    tie_group: int | None = None

    @cached_property
    def by_name(self) -> dict[tuple[str, str, str], Score]:
        """Scores by metric, threat and attack."""
        return {(row[0], row[1], row[2]): Score(*row) for row in self.scores.itertuples(index=False)}

    @property
    def claim(self) -> Claim | None:
        """What the author says of this suite; `test-256` is a fair draw of `test`."""
        record = self.run.record
        for split in (record.dataset.split, record.dataset.split.rpartition("-")[0]):
            for claim in record.model.claims:
                if (claim.suite, claim.split) == (record.suite.name, split):
                    return claim
        return None

    def cell(self, figure: Figure) -> Cell:
        """One figure, with its interval unless it is a detail."""
        score = self.by_name.get((figure.metric, figure.threat, figure.attack))
        if score is None:
            return None
        if "overview" not in figure.column.views:
            return number(score.value, digits=figure.column.digits)
        return number(score.value, score.low, score.high, figure.column.digits)


def why_unranked(run: Run) -> str:
    """Say why a run cannot rank, or nothing if it may."""
    dataset, suite = run.record.dataset, run.record.suite
    if not run.full_precision:
        return f"reduced precision: clips crafted in {run.record.precision}"
    if not run.complete or 100 * dataset.coverage < COVERAGE:
        return f"partial: {dataset.evaluated} of {dataset.size}"
    if not suite.published:
        return "partial: unpublished suite"
    if run.health is None:
        return "not diagnosed"
    if run.health.raised and not run.review:
        return f"in review: {', '.join(map(str, run.health.raised))}"
    return "reference" if run.record.model.unimodal else ""
