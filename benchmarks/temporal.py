"""Do the attacks of [Z25] beat MIM at equal steps, on the attacked model and on another one?

Clips are crafted on each model and scored on all. Success is measured on the samples that every model classifies right
when clean; differences are paired by sample, p is of that from MIM. Prints a Markdown table.

    python benchmarks/temporal.py --samples 500
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from tabulate import tabulate

from avbench.attacks import Attack, Setting, parse_attack
from avbench.datasets.splits import open_split
from avbench.device import deterministic, find_device
from avbench.metrics.intervals import bootstrap, wilson
from avbench.metrics.significance import holm, sign_flip_test
from avbench.oracle import Oracle, Victim
from avbench.rng import Rng
from avbench.submission import find_candidate
from avbench.threats import ThreatModel, parse_threat
from avbench.threats.region import Region
from avbench.types import AVInput, Batch

BASELINE = "mim"
MAXIMIZED = "tia:l1=-1"  # the variance over time, in place of minimizing it


def main() -> None:
    options = arguments()
    device = find_device(options.device)
    victims, split = open_models(options, device)
    with deterministic(device):
        batches = right_for_all(victims, split, options)
        rows = [
            row
            for radius in options.radii
            for source in victims
            for row in compare(victims, source, parse_threat(f"XAV:linf:{radius}:linf:{radius}"), batches, options)
        ]
    corrected = iter(holm(np.array([row["p"] for row in rows if row["p"] is not None])))
    for row in rows:
        row["p"] = "" if row["p"] is None else f"{next(corrected):.3f}"
    n = sum(len(batch.ids) for batch in batches)
    print(f"{split.card.name} {split.name}: {n} of the first {options.samples} samples; p after Holm's correction\n")
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["avbench--synthav-concat", "avbench--synthav-sum"])
    parser.add_argument("--dataset", default="synthav")
    parser.add_argument("--split", default="test")
    parser.add_argument("--radii", nargs="+", type=float, default=[0.006])
    parser.add_argument("--attacks", nargs="+", default=["tia", MAXIMIZED, "mma", "tma"])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def open_models(options: argparse.Namespace, device: torch.device):
    split = open_split(options.dataset, options.split)
    found = {name: find_candidate(name, options.dataset)[0].module for name in options.models}
    return {name: Victim(module, len(split.card.classes), device) for name, module in found.items()}, split


def right_for_all(victims: dict[str, Victim], split, options: argparse.Namespace) -> list[Batch]:
    """Read the samples that every model classifies right."""
    present = [index for index in split.present if index < options.samples]
    kept = []
    for start in range(0, len(present), options.batch_size):
        batch = split.batch(present[start : start + options.batch_size]).to(next(iter(victims.values())).device)
        right = torch.stack([correct(victim, batch, batch.inputs) for victim in victims.values()]).all(dim=0)
        if right.any():
            index = right.nonzero()[:, 0]
            kept.append(Batch(tuple(batch.ids[i] for i in index), batch.inputs.pick(index), batch.labels[index]))
    return kept


def compare(victims: dict[str, Victim], source: str, threat: ThreatModel, batches: list[Batch], options) -> list[dict]:
    """Craft on one model with every attack, score on all."""
    wrong: dict[str, dict[str, np.ndarray]] = {name: {} for name in victims}
    for text in (BASELINE, *options.attacks):
        start = time.perf_counter()
        answers = {name: [] for name in victims}
        for batch in batches:
            clips = craft(victims[source], batch, threat, parse_attack(text), options.seed)
            for name, victim in victims.items():
                answers[name].append(~correct(victim, batch, clips).cpu())
        for name, parts in answers.items():
            wrong[name][text] = torch.cat(parts).numpy()
        counts = {name: int(outcomes[text].sum()) for name, outcomes in wrong.items()}
        print(f"{threat} {source} {text}: {time.perf_counter() - start:.0f} s, wrong {counts}", file=sys.stderr)
    frames = batches[0].inputs.video.shape[1]
    setting = Setting(tuple(threat.budgets), victims[source].two_stage, frames, victims[source].classes)
    return [
        {
            "threat": str(threat),
            "crafted on": source,
            "scored on": "itself" if name == source else name,
            "attack": text,
            "passes": parse_attack(text).cost(setting).backward,
            "success %": rate(found),
            "minus MIM": "" if text == BASELINE else difference(found, outcomes[BASELINE]),
            "minus tia": difference(found, outcomes["tia"]) if text == MAXIMIZED and "tia" in outcomes else "",
            "p": None if text == BASELINE else sign_flip_test(found.astype(np.int64) - outcomes[BASELINE]),
        }
        for name, outcomes in wrong.items()
        for text, found in outcomes.items()
    ]


def rate(found: np.ndarray) -> str:
    return f"{100 * found.mean():.1f} {interval(wilson(int(found.sum()), len(found)))}"


def difference(found: np.ndarray, other: np.ndarray) -> str:
    """Points of success, paired by sample."""
    paired = found.astype(np.float64) - other
    return f"{100 * paired.mean():+.1f} {interval(bootstrap(paired, -1, 1))}"


def interval(ends: tuple[float, float]) -> str:
    return "[{:.1f}, {:.1f}]".format(*(100 * end for end in ends))


def craft(victim: Victim, batch: Batch, threat: ThreatModel, attack: Attack, seed: int) -> AVInput:
    """Attack as the runner does, and refuse clips outside the threat set."""
    region = Region(threat, batch.inputs)
    oracle = Oracle(victim, batch, tuple(threat.budgets), {}, attack.needs)
    clips = attack.run(oracle, batch, region, Rng(seed, attack.identity["name"], batch.ids))
    region.check(clips, batch.ids, str(attack))
    return clips


@torch.no_grad()
def correct(victim: Victim, batch: Batch, clips: AVInput) -> torch.Tensor:
    return victim.logits(clips, {}, batch.ids).argmax(dim=1) == batch.labels


if __name__ == "__main__":
    main()
