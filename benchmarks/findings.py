"""Which claims of the papers hold on the small boards? Writes docs/findings.md from the committed rows.

python benchmarks/findings.py
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from boards import COSTS, NAMES, SPLITS
from tabulate import tabulate

import avbench
from avbench.datasets.cards import read_card
from avbench.defenses import DEFENSES
from avbench.defenses.curriculum import AdversarialCurriculum
from avbench.defenses.recipe import read_recipe
from avbench.diagnose import read_health
from avbench.errors import AvbenchError
from avbench.metrics.avg import MEAN_OF_THREATS
from avbench.store import read_record
from avbench.threats import find_threats

ROOT = Path(__file__).resolve().parent.parent
XA, XV, XAV = map(str, find_threats("standard"))
CLEAN = "clean"


class Question(NamedTuple):
    """Is one model better than another? The claim says yes."""

    one: str
    other: str
    where: str = MEAN_OF_THREATS
    suite: str = "standard"


class Claim(NamedTuple):
    """What a paper says, and the differences that should be positive if it is so here."""

    title: str
    source: str
    says: str
    questions: list[Question]


FUSIONS = ("sum", "film", "gated-sum", "gated-concat")
CLAIMS = [
    Claim(
        "Integration can weaken robustness", "[T21] section 4.2, figure 3",
        "Attacked in one modality, it is right less often than the model that knows only the other one.",
        [Question("video", "concat", XA), Question("audio", "concat", XV)],
    ),
    Claim("Concat is the most robust fusion", "[T21] table 2", "Its Avg is above that of the others.",
          [Question("concat", fusion) for fusion in FUSIONS]),
    Claim("MinSim beats MaxSim", "[T21] table 3", "Its Avg is higher.", [Question("minsim", "maxsim")]),
    Claim("MinSim defends", "[T21] table 3", "Its Avg is above that of no defense.", [Question("minsim", "concat")]),
    Claim("PCL is biased to sight", "[T21] table 3",
          "It gains under XA over no defense, where sight has to decide, and not under XV.",
          [Question("pcl", "concat", XA), Question("concat", "pcl", XV)]),
    Claim("Sight alone does well on Avg", "[T21] table 3",
          "Its Avg is above that of the undefended audio-visual model, since half of the attacks do not touch it.",
          [Question("video", "concat")]),
    Claim("ExFMem's gain survives attacks through the ISTA", "[T21] table 3, attacked there without it",
          "Its Avg, attacked end to end, is above that of no defense; with MinSim too.",
          [Question("exfmem", "concat"), Question("minsim-exfmem", "minsim")]),
    Claim("Mix-up protects like adversarial training", "[L22] table 1", "Its Avg is above no defense; and above AT?",
          [Question("mixup", "concat"), Question("mixup", "adversarial")]),
    Claim("The curriculum is as robust as adversarial training", "[Z25] table 3",
          "Its Avg is above no defense; and above AT? For the time see below.",
          [Question("curriculum", "concat"), Question("curriculum", "adversarial")]),
    Claim("The undefended network wins on clean clips", "all three", "Clean accuracy is what a defense costs.",
          [Question("concat", d, CLEAN) for d in ("minsim", "pcl", "mixup", "adversarial", "curriculum")]),
]  # fmt: skip
INTRODUCTION = """# Findings

Which claims of the three papers hold on the small boards? Made by `python benchmarks/findings.py` from the rows in
leaderboard/results. Accuracies in %; worst case of the suite `standard`; differences in points with 95 % bootstrap
intervals, paired by sample. *Holds* and *fails* mean that the interval excludes zero; else the data do not decide. A
star: a health flag is raised, so gradients may be masked, the figure is an upper bound, and the run does not rank. One
seed a model, small networks, small splits: none of this says that a paper is wrong on its own data.
"""


COST = """## What training costs

CPU seconds on one thread of a busy machine. In brackets thousands of clips that went through the network forward and
backward, in crafting and in the loss; what training looks at between epochs is in the seconds only.
"""
CURRICULUM = """## What the curriculum saves

Adversarial training for as many epochs, with PGD of as many steps as the curriculum ends with. Seconds and passes are
those of the curriculum divided by those of plain adversarial training; a clip of the curriculum is crafted on a quarter
of its frames, at least one, which the passes do not show.
"""


def main() -> None:
    sections = [INTRODUCTION]
    for claim in CLAIMS:
        rows = [row for dataset in SPLITS for row in answers(claim, dataset)]
        table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True) if rows else "No rows yet."
        sections.append(f"## {claim.title}\n\n{claim.source}: {claim.says}\n\n{table}\n")
    sections.append(f"{COST}\n{costs()}\n\n{CURRICULUM}\n{ratios()}\n")
    (ROOT / "docs" / "findings.md").write_text("\n".join(sections))


def answers(claim: Claim, dataset: str) -> Iterator[dict[str, str]]:
    for question in claim.questions:
        try:
            found = avbench.compare(*(folder(dataset, name, question.suite) for name in question[:2]))
        except AvbenchError:
            continue  # not evaluated yet
        row = found[found["threat"] == question.where].iloc[0]
        one, other = (f"{name}{flagged(folder(dataset, name, question.suite))}" for name in question[:2])
        yield {
            "board": NAMES[dataset],
            "n": str(row["n"]),
            "where": question.where if question.where in (CLEAN, MEAN_OF_THREATS) else question.where.partition(":")[0],
            "model": f"{one} {row['one']:.2f}",
            "against": f"{other} {row['other']:.2f}",
            "difference": f"{round(row['difference'], 2) + 0:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]",
            "": verdict(row),
        }


def verdict(row: pd.Series) -> str:
    return "holds" if row["low"] > 0 else "fails" if row["high"] < 0 else "not decided"


def flagged(run: Path) -> str:
    """Mark a model in whose run a health flag is raised."""
    record = read_record(run)
    health = read_health(run, record["run"], record["rows_sha256"])
    return "" if health and not health.raised else "*"


def folder(dataset: str, name: str, suite: str) -> Path:
    track = f"{dataset}-{SPLITS[dataset]}-{suite}@1"
    return ROOT / "leaderboard" / "results" / track / f"avbench--{dataset}-{name}"


def seconds() -> dict[str, int]:
    """CPU seconds of each model's training."""
    with COSTS.open(newline="") as file:
        return {model: int(cpu) for model, step, cpu, _ in csv.reader(file) if step == "train"}


def costs() -> str:
    spent, rows = seconds(), []
    for name in sorted({path.stem.split("-", 3)[3] for path in (ROOT / "recipes").glob("*.yaml")}):
        each = [ROOT / "recipes" / f"avbench--{dataset}-{name}.yaml" for dataset in SPLITS]
        shown = [f"{spent[p.stem]} ({passes(p) / 1000:.0f})" if p.stem in spent else "" for p in each]
        rows += [[name, *shown]] if any(shown) else []
    return tabulate(rows, ["model", *(NAMES[d] for d in SPLITS)], tablefmt="github", disable_numparse=True)


def passes(path: Path) -> int:
    """Clips that a recipe's training sends through the network forward and backward."""
    recipe = read_recipe(path)
    size, defense = read_card(recipe.dataset).splits["train"], DEFENSES.get(recipe.defense)(**recipe.defense_arguments)
    total = 0
    for epoch in range(recipe.epochs):
        for start in range(0, size, recipe.batch_size):
            crafting = getattr(defense, "steps", 0)
            if isinstance(defense, AdversarialCurriculum):
                crafting = defense.level((epoch + start / size) / recipe.epochs).steps
            total += (1 + crafting) * min(recipe.batch_size, size - start)
    return total


def ratios() -> str:
    spent, rows = seconds(), []
    for dataset in SPLITS:
        one, other = (f"avbench--{dataset}-{name}" for name in ("curriculum", "adversarial"))
        try:
            found = avbench.compare(*(folder(dataset, name, "standard") for name in ("curriculum", "adversarial")))
        except AvbenchError:
            continue  # not evaluated yet
        gain = found[found["threat"] == MEAN_OF_THREATS].iloc[0]
        one_passes, other_passes = (passes(ROOT / "recipes" / f"{name}.yaml") for name in (one, other))
        rows.append([
            NAMES[dataset], f"{spent[one] / spent[other]:.2f}", f"{one_passes / other_passes:.2f}",
            f"{round(gain['difference'], 2) + 0:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]",
        ])  # fmt: skip
    heads = ["board", "seconds", "passes", "Avg, curriculum minus plain"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
