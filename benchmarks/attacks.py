"""Measure the attacks against those of other libraries and against each other; write benchmarks/attacks.md.

Needs the peers: see attacks_peers.py. About an hour and a half on one core; a part can be made again by its own
command, which stands above its table.

    OMP_NUM_THREADS=1 PYTHONPATH=.:build/peers python benchmarks/attacks.py
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
PARTS = {
    "Other libraries": (
        """Samples still right of those attacked, at equal steps and radius, one modality attacked; `+` counts what ours
alone breaks, `-` what the peer alone breaks, p is McNemar's exact. APGD and Square draw at random, so they differ by
chance too. A video's frames are channels to the peers: their Square draws one box for all frames, ours also fewer.""",
        [
            "attacks_peers.py --samples 500 --attacks pgd mim nim",
            "attacks_peers.py --samples 250 --attacks pgd:steps=100 apgd-ce apgd-dlr",
            "attacks_peers.py --samples 50 --attacks apgd-t",
            "attacks_peers.py --samples 100 --modalities video --attacks square",
            "attacks_peers.py --samples 100 --modalities video --attacks pgd square "
            "--model avbench--avmnist-concat --radii 0.1",
        ],
    ),
    "TIA, MMA and TMA": (
        """Share of the samples that all models classify right which an attack breaks, on the model that it was crafted
on and on another one (transfer), at equal steps. `tia:l1=-1` maximizes the variance over time in place of minimizing
it. Differences are paired by sample, with 95 % bootstrap intervals; p by exact sign-flip tests against MIM, after
Holm's correction.""",
        [
            "temporal.py --samples 500",
            "temporal.py --samples 100 --radii 0.003 --dataset grid --models avbench--grid-concat avbench--grid-sum",
        ],
    ),
}


def main() -> None:
    sections = [
        "# Attacks\n\nMade by `OMP_NUM_THREADS=1 PYTHONPATH=.:build/peers python benchmarks/attacks.py` on "
        f"{time.strftime('%Y-%m-%d')} with {versions()}.\n"
    ]
    for title, (about, commands) in PARTS.items():
        sections.append(f"## {title}\n\n{about}\n")
        for command in commands:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *f"{HERE}/{command}".split()], stdout=subprocess.PIPE, text=True, check=True
            )
            took = f"{(time.perf_counter() - start) / 60:.0f} minutes"
            sections.append(f"`python benchmarks/{command}` ({took})\n\n{done.stdout}")
        (HERE / "attacks.md").write_text("\n".join(sections))


def versions() -> str:
    peers = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")
    found = [f"{peer} {importlib.metadata.version(peer)}" for peer in peers]
    return ", ".join([f"Python {platform.python_version()}", f"torch {torch.__version__}", *found])


if __name__ == "__main__":
    main()
