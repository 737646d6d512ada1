"""Where parts are computed: in this process, or by workers of an optional engine. The loop does not know which.

An engine takes work and gives back finished parts, in any order; only the loop writes them. Results of all engines are
bit-identical within one fingerprint of the numerics.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from avbench.engines.bench import Bench, Made, Work
from avbench.engines.plan import Plan

Compute = Callable[[Iterable[Work]], Generator[Made, None, None]]


def open_engine(bench: Bench, plan: Callable[[], Plan], folder: Path) -> AbstractContextManager[Compute]:
    """Make an engine ready; workers start when there is work, and end with the block.

    Args:
        bench: of this process, with the options of the run.
        plan: makes what workers need to have the same.
        folder: of the run.

    Raises:
        EngineUnavailable, OtherNumerics, WorkFailed: when it computes, as they say.
    """
    if bench.options.engine == "ray":
        from avbench.engines.ray import open_ray

        return open_ray(plan, bench.options, bench.victim.device)
    if bench.options.engine == "submitit":
        from avbench.engines.submitit import open_submitit

        return open_submitit(plan, bench.options, bench.victim.device, folder)
    return nullcontext(partial(Bench.compute, bench))
