"""Workers by submitit: the jobs of a SLURM array, or processes of this machine where there is no SLURM."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avbench import store
from avbench.engines.bench import Made, Work
from avbench.engines.drive import POLL, Ended, Event, Lost, drive
from avbench.engines.plan import Plan, opened, sending, serve
from avbench.errors import AvbenchError, EngineUnavailable
from avbench.options import RunOptions

HOURS = 24  # of a job; SBATCH_TIMELIMIT says otherwise
LEASE = 3600.0  # seconds, after which a job gives back what it has: less than its limit, and all that can be lost
_RULE = "-" * 22 + "\n"  # around the trace in what submitit says of a job that failed
PATIENCE = 60.0  # seconds, for jobs to end that were canceled


@contextmanager
def open_submitit(plan: Callable[[], Plan], options: RunOptions, device: torch.device, folder: Path) -> Iterator[Any]:
    """Compute in jobs, which end with the block; see `avbench.engines.open_engine`."""
    assert options.workers is not None
    workers = SubmititWorkers(plan, folder / store.JOBS, options.workers, int(device.type == "cuda"))
    try:
        yield partial(drive, workers)
    finally:
        workers.stop()


class SubmititWorkers:
    """Hand units to jobs, each of which gives its parts back at its end, through files.

    Args:
        plan: makes what jobs need.
        folder: where jobs and this process meet; all machines see it under this name.
        count: how many jobs at once.
        gpus: of each job.
    """

    def __init__(self, plan: Callable[[], Plan], folder: Path, count: int, gpus: int) -> None:
        self._make_plan, self._folder, self._gpus = plan, folder.resolve(), gpus
        self._plan = self._folder / "plan.pkl"
        self.slots = count
        self._executor: Any = None
        self._jobs: list[Any] = []

    def start(self) -> None:
        """Make an executor, of SLURM if it is there, and write the plan where jobs find it."""
        if self._executor:
            return
        import submitit
        from submitit.core.utils import cloudpickle_dump

        self._executor = submitit.AutoExecutor(folder=self._folder)
        if self._gpus and self.slots > 1 and self._executor.cluster != "slurm":
            raise EngineUnavailable("without SLURM all jobs would share one GPU; use --engine ray")
        with sending():
            cloudpickle_dump(self._make_plan(), self._plan)
        self._executor.update_parameters(
            name="avbench", timeout_min=60 * HOURS, cpus_per_task=1, gpus_per_node=self._gpus,
            slurm_array_parallelism=self.slots,
        )  # fmt: skip

    def stop(self) -> None:
        """Cancel what runs, wait for its end and remove what the jobs wrote."""
        for job in self._jobs:
            job.cancel(check=False)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not all(job.done(force_check=job is self._jobs[0]) for job in self._jobs):
            time.sleep(POLL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def size(self, waiting: Sequence[Work], free: int) -> int:
        """Share the work among the jobs: each opens the model anew, and may have to queue."""
        return -(-len(waiting) // free)

    def submit(self, units: Sequence[list[Work]]) -> list[Any]:
        """Submit units as one array."""
        with sending(), self._executor.batch():
            jobs = [self._executor.submit(_work, self._plan, unit) for unit in units]
        self._jobs += jobs
        return jobs

    def poll(self, units: Sequence[Any], seconds: float) -> Iterator[tuple[Any, Event]]:
        """Look for jobs that have ended."""
        time.sleep(seconds)
        for job in units:
            if job.done():
                self._jobs.remove(job)
                yield from ((job, event) for event in _events(job))


def _events(job: Any) -> Iterator[Event]:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        yield from job.result()
        yield Ended()
    except FailedJobError as error:
        said = str(error).split(_RULE)[1].strip().rpartition("\n")[2]
        yield EngineUnavailable(f"a job failed ({said}); is the same avbench installed there?")
    except UncompletedJobError as error:
        yield Lost(str(error).strip().rpartition("\n")[2])


def _work(plan: Path, unit: list[Work]) -> list[Made | AvbenchError]:
    """Compute a unit, or as much of it as can be done in time; what is left is handed out again."""
    from submitit.core.utils import pickle_load

    end, made = time.monotonic() + LEASE, []
    for one in serve(lambda: opened(partial(pickle_load, plan)), unit):
        made.append(one)
        if time.monotonic() > end:
            break
    return made
