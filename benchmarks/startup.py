"""Measure what a command costs before it does anything, in turn with a Python that does nothing.

python benchmarks/startup.py > benchmarks/startup.md
"""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from avbench.cli.look import LISTS

REPEATS = 7
LONGEST = 8  # imports to name
EMPTY = ("-c", "pass")
COMMANDS = [("--help",), ("evaluate", "--help"), *(("list", what) for what in LISTS)]
TIMED = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")


class Seconds(NamedTuple):
    """Of one process and its children."""

    clock: float
    user: float  # CPU time, to which what other programs do adds little


def run(words: tuple[str, ...]) -> Seconds:
    """Run a command of Python and time it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    clock = time.perf_counter() - start
    return Seconds(clock, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)


def imports(words: tuple[str, ...]) -> dict[str, float]:
    """Milliseconds in the imports of each package, its own and not those that it causes."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    found: dict[str, float] = {}
    for own, module in TIMED.findall(done.stderr):
        package = module.partition(".")[0]
        found[package] = found.get(package, 0.0) + int(own) / 1000
    return dict(sorted(found.items(), key=lambda one: -one[1])[:LONGEST])


def main() -> None:
    """Print a table, and what is imported longest."""
    tried = [EMPTY, *(("-m", "avbench", *words) for words in COMMANDS)]
    times: dict[tuple[str, ...], list[Seconds]] = {words: [] for words in tried}
    for _ in range(REPEATS):
        for words in tried:
            times[words].append(run(words))
    found = {words: Seconds(*map(statistics.median, zip(*all_of, strict=True))) for words, all_of in times.items()}
    nothing = found[EMPTY]
    print("# Start-up\n")
    print(f"{platform.machine()}, Python {platform.python_version()}; median of {REPEATS} tries in turn, load average")
    print(f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. `python benchmarks/startup.py`\n")
    print(f"`python -c pass` takes {nothing.clock:.3f} s, {nothing.user:.3f} s of them user CPU time.\n")
    print("| command | s | user CPU time, s | times `python -c pass` | longest imports, ms |\n|---|---|---|---|---|")
    for words in tried[1:]:
        clock, user = found[words]
        longest = ", ".join(f"{package} {spent:.0f}" for package, spent in imports(words).items())
        print(
            f"| `avbench {' '.join(words[2:])}` | {clock:.2f} | {user:.2f} | {clock / nothing.clock:.0f} | {longest} |"
        )


if __name__ == "__main__":
    main()
