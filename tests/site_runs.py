"""For the tests of the site: small generated run folders, as `avbench evaluate` writes them, and a reader of pages."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avbench import files, store
from avbench.diagnose import FLAGS, THRESHOLDS, Flag, Health, Where

THREATS = ("XA:linf:0.012", "XV:linf:0.012", "XAV:linf:0.006:linf:0.006")
ATTACKS = ("fgsm", "pgd", "mim")
UNATTACKED = ("none", "silence-audio", "silence-video")
SIZE = 500  # of synthav's test split


def sha(text: str) -> str:
    """Any hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_rows(seed: int, strength: float, n: int, threats: tuple[str, ...] = THREATS) -> pd.DataFrame:
    """Draw rows of a model that survives attacks with chance `strength`."""
    draw = np.random.default_rng(seed)
    clean = draw.random(n) < 0.9
    parts = []
    for threat, attack in [("clean", a) for a in UNATTACKED] + [(t, a) for t in threats for a in ATTACKS]:
        hard = 1.0 if threat == "clean" else strength * (0.7 if threat.startswith("XAV") else 1.0)
        right = clean & (draw.random(n) < (0.5 if attack.startswith("silence") else hard))
        frame = pd.DataFrame({"sample": [f"test-{i:05d}" for i in range(n)], "threat": threat, "attack": attack})
        frame = frame.assign(label=0, prediction=1 - right.astype(int), correct=right, margin=0.0, loss=1.0)
        for name in list(store.COLUMNS)[8:]:
            frame[name] = 0.006 if name.endswith("linf") else 30.0
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def write_run(
    root: Path,
    name: str,
    seed: int = 0,
    strength: float = 0.5,
    n: int = SIZE,
    suite: str = "cvpr21-attack",
    **changes: Any,
) -> Path:
    """Write a run folder; `changes` replace entries of run.json, `model__title` reaching into `model`."""
    published = suite != "quick"
    folder = root / f"synthav-test-{suite}@1" / name
    folder.mkdir(parents=True)
    rows = make_rows(seed, strength, n)
    cells = [*(("clean", attack) for attack in UNATTACKED), *((t, a) for t in THREATS for a in ATTACKS)]
    record: dict[str, Any] = {
        "protocol": store.PROTOCOL,
        "run": sha(f"{name} {suite}"),
        "track": f"synthav-test-{suite}@1",
        "model": {"id": f"avbench--{name}", "title": f"Model {name}", "architecture": "avnet",
                  "arguments": {"fusion": "concat"}, "weights_sha256": sha(name), "description": "A small model."},
        "dataset": {"name": "synthav", "split": "test", "lock_sha256": sha("lock"), "size": SIZE, "evaluated": n},
        "suite": {"name": suite, "version": 1, "mode": "every", "published": published},
        "seed": 0,
        "threats": list(THREATS),
        "attacks": list(ATTACKS),
        "cells": [{"threat": t, "attack": a, "fingerprint": sha(f"{name}{t}{a}"), "rows": n,
                   "forward": 10 * n, "backward": 0, "seconds": 1.5} for t, a in cells],
        "numerics": {"micro_batch": 64, "device": "cpu"},
        "provenance": {"created": f"2026-11-{seed % 28 + 1:02d}T10:00:00+00:00", "avbench": "0.1.0",
                       "git_commit": "0" * 40, "dirty": False, "python": "3.12", "torch": "2.11.0", "device": "cpu",
                       "cpu": "a processor",
                       "command": f"avbench evaluate avbench--{name} --dataset synthav --suite {suite}"},
    }  # fmt: skip
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            record[outer][inner] = value
        else:
            record[outer] = value
    store.write_table(folder / "rows.parquet", rows, {"protocol": str(store.PROTOCOL)})
    record.setdefault("rows_sha256", files.sha256_file(folder / "rows.parquet"))
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    write_health(folder)
    return folder


def write_health(folder: Path, raised: tuple[Where, ...] = (), **changes: Any) -> None:
    """Write the flags of a run: all passed, but zero gradients raised in some modalities."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    flags = [
        Flag(name=name, where=where, state="passed", value=0, threshold=1, n=64)
        for name, places in FLAGS.items()
        for where in places
        if name != "zero-gradients" or where not in raised
    ]
    flags += [Flag(name="zero-gradients", where=m, state="raised", value=100, threshold=1, n=64) for m in raised]
    about = {
        "thresholds": THRESHOLDS,
        "run": str(record["run"]),
        "rows_sha256": str(record["rows_sha256"]),
        "probed": 64,
    }
    Health.model_validate(about | {"flags": flags} | changes).write(folder)


class Page(HTMLParser):
    """What the tests want to know of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []  # of the board
        self.data = ""
        self.text = ""
        self._in: list[str] = []
        self._board = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._board |= found.get("id") == "table"
        self._json = tag == "script" and found.get("id") == "board-data"
        if tag not in {"meta", "link", "img", "input", "br"}:
            self._in.append(tag)
        if self._board and tag == "tr":
            self.rows.append([])
        if self._board and tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._in.pop() == tag, f"{self.path}: </{tag}> closes another element"
        self._board &= tag != "table"

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] == "script":
            self.data += data if self._json else ""
        else:
            self.text += data
        if self._board and "td" in self._in:
            self.rows[-1][-1] += data

    @property
    def ids(self) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get("id"))]
