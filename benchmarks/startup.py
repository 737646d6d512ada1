"""Measure what a command costs before it does anything, as user CPU time, in turn with a Python that does nothing.

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

from avbench.cli.look import LISTS

REPEATS = 7
LONGEST = 8  # imports to name
EMPTY = ("-c", "pass")
COMMANDS = [("--help",), ("evaluate", "--help"), *(("list", what) for what in LISTS)]
TIMED = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")


def user_seconds(words: tuple[str, ...]) -> float:
    """User CPU time of one process and its children: what other programs do adds little to it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


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
    times: dict[tuple[str, ...], list[float]] = {words: [] for words in tried}
    for _ in range(REPEATS):
        for words in tried:
            times[words].append(user_seconds(words))
    nothing = statistics.median(times[EMPTY])
    print("# Start-up\n")
    print(f"{platform.machine()}, Python {platform.python_version()}; median of {REPEATS} tries in turn, load average")
    print(f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. `python benchmarks/startup.py`\n")
    print(f"`python -c pass` takes {nothing:.3f} s of user CPU time.\n")
    print("| command | user CPU time, s | times `python -c pass` | longest imports, ms |\n|---|---|---|---|")
    for words in tried[1:]:
        seconds = statistics.median(times[words])
        longest = ", ".join(f"{package} {spent:.0f}" for package, spent in imports(words).items())
        print(f"| `avbench {' '.join(words[2:])}` | {seconds:.2f} | {seconds / nothing:.0f} | {longest} |")


if __name__ == "__main__":
    main()
