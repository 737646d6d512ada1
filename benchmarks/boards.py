"""Train and evaluate every model of the small boards: `make boards`.

Each step is skipped where its result is there, and continues where it was stopped:

1. recipes/<id>.yaml is trained below build/boards/train/<id>, unless submissions/<id> has its weights;
2. the weights and what describes them are written to submissions/<id>;
3. each model is evaluated by each suite, below build/boards/results; whole runs are copied to leaderboard/results.

As many processes run as there are cores, each with one thread. benchmarks/boards.csv says what each step took.

    python benchmarks/boards.py [--datasets synthav avmnist grid] [--only train|evaluate]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from rich.progress import track

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "boards"
COSTS = ROOT / "benchmarks" / "boards.csv"  # submission, step, CPU seconds, seconds; a stopped step is not in it
SUITES = ("standard", "cvpr21-defense", "iclr25")
SPLITS = {"synthav": "test-128", "avmnist": "test-256", "grid": "test-48"}
NAMES = {"synthav": "SynthAV", "avmnist": "AV-MNIST", "grid": "GRID"}
T21, L22, Z25 = (f"https://arxiv.org/abs/{number}" for number in ("2104.02000", "2203.12122", "2502.11858"))
DEFENSES = {  # what a reader calls it, what it is, paper
    "none": ("", "trained without a defense", T21),
    "maxsim": ("MaxSim", "trained to make both embeddings alike", T21),
    "minsim": ("MinSim", "trained to make both embeddings unlike", T21),
    "exfmem": ("ExFMem", "its embeddings coded over a memory of clean ones", T21),
    "minsim-exfmem": ("MinSim+ExFMem", "trained to make both embeddings unlike, then coded over a memory", T21),
    "pcl": ("PCL", "trained with the prototype conformity loss", "https://arxiv.org/abs/1904.00887"),
    "g-blend": ("G-Blend", "trained with blended gradients of three heads", "https://arxiv.org/abs/1905.12681"),
    "mixup": ("multimodal mix-up", "trained on mixed clips, less convex classes more", L22),
    "adversarial-training": ("adversarial training", "trained on clips of PGD", "https://arxiv.org/abs/1706.06083"),
    "adversarial-curriculum": ("adversarial curriculum", "trained on clips of PGD on few frames, ever harder", Z25),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--only", choices=("train", "evaluate"))
    args = parser.parse_args()
    paths = [p for p in sorted((ROOT / "recipes").glob("*.yaml")) if read(p)["dataset"] in args.datasets]
    if args.only != "evaluate":
        todo = [path for path in paths if not (ROOT / "submissions" / path.stem / "weights.safetensors").exists()]
        run("train", train, todo)
    if args.only != "train":
        cells = [(path, suite) for suite in SUITES for path in paths if not finished(path, suite).exists()]
        run("evaluate", evaluate, cells)


def run(what: str, job: Callable, todo: list) -> None:
    """Do jobs side by side; the first that fails stops those that have not begun."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        futures = [pool.submit(job, one) for one in todo]
        try:
            for future in track(futures, what):
                future.result()
        finally:
            for future in futures:
                future.cancel()


def avbench(path: Path, step: str, *words: object) -> None:
    """Run a command with one thread, and note what it took."""
    before = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "avbench", *map(str, words)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    errors = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"avbench {' '.join(map(str, words))}\n{errors[-2000:]}")
    cpu, wall = used.ru_utime + used.ru_stime, time.perf_counter() - before
    with COSTS.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow([path.stem, step, round(cpu), round(wall)])


def train(path: Path) -> None:
    folder = BUILD / "train" / path.stem
    if not (folder / "weights.safetensors").exists():
        avbench(path, "train", "train", path, "--output-dir", folder, "--device", "cpu")
    submit(path, folder / "weights.safetensors")


def submit(path: Path, weights: Path) -> None:
    """Write submissions/<id>."""
    recipe, folder = read(path), ROOT / "submissions" / path.stem
    folder.mkdir(exist_ok=True)
    shutil.copy(weights, folder / weights.name)
    defense, arguments = recipe.get("defense", "none"), recipe["arguments"]
    name, what, paper = DEFENSES[defense]
    unimodal = recipe["architecture"].startswith("unimodal")
    kind = f"{recipe['architecture'].split('-')[-1]} only" if unimodal else f"{arguments['fusion']} fusion"
    kind += " after localization" if recipe["architecture"] == "localization" else ""
    role = (
        recipe["architecture"]
        if unimodal
        else "undefended"
        if path.stem == f"avbench--{recipe['dataset']}-concat"
        else None
    )
    submission = {
        "title": f"{NAMES[recipe['dataset']]} {name or kind}",
        "summary": f"The CVPR 2021 network at width {arguments['width']}, {kind}, {what}.",
        "architecture": recipe["architecture"],
        "arguments": arguments,
        "dataset": recipe["dataset"],
        "weights": {
            "file": weights.name,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "size": weights.stat().st_size,
        },
        "defense": defense,
        "training_data": f"{recipe['dataset']} train",
        "license": "MIT",
        "authors": "The avbench authors",
        "paper": paper,
    } | ({"reference": role} if role else {})
    (folder / "submission.yaml").write_text(yaml.safe_dump(submission, sort_keys=False, width=120))


def evaluate(cell: tuple[Path, str]) -> None:
    path, suite = cell
    split, results = SPLITS[read(path)["dataset"]], BUILD / "results"
    avbench(
        path, suite, "evaluate", path.stem, "--suite", suite, "--split", split,
        "--output-dir", results.relative_to(ROOT),  # the record keeps the command, and is to name no path of a machine
        "--device", "cpu", "--batch-size", 128,
    )  # fmt: skip
    made = results / finished(path, suite).parent.relative_to(ROOT / "leaderboard" / "results")
    shutil.copytree(
        made, finished(path, suite).parent, ignore=shutil.ignore_patterns("cells", "quarantine", ".lock"),
        dirs_exist_ok=True,
    )  # fmt: skip


def finished(path: Path, suite: str) -> Path:
    """Tell where the record of a committed run lies."""
    dataset = read(path)["dataset"]
    track = f"{dataset}-{SPLITS[dataset]}-{suite}@1"
    return ROOT / "leaderboard" / "results" / track / path.stem / "run.json"


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


if __name__ == "__main__":
    main()
