"""Workers by Ray: on the cores or GPUs of this machine, or on a cluster that is there. Only this file imports it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from avbench.engines.bench import Bench, Made, Work
from avbench.engines.drive import Ended, Event, Lost, drive
from avbench.engines.plan import Plan, opened, sending, serve
from avbench.errors import AvbenchError, EngineUnavailable
from avbench.options import RunOptions

UNIT = 45.0  # seconds that a unit should take: far above its cost, and little to lose
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_LOOPBACK = "127.0.0.1"
_opened: dict[str, Bench] = {}  # of a worker process, by run


@contextmanager
def open_ray(plan: Callable[[], Plan], options: RunOptions, device: torch.device) -> Iterator[Any]:
    """Compute in tasks of Ray, which live as long as the block; see `avbench.engines.open_engine`."""
    here = torch.cuda.device_count()
    if device.type == "cuda" and options.ray_address is None and (options.workers or 0) > here:
        raise EngineUnavailable(f"--workers {options.workers} need a GPU each, and there are {here} here")
    workers = RayWorkers(plan, options.ray_address, options.workers, int(device.type == "cuda"))
    try:
        yield partial(drive, workers)
    finally:
        workers.stop()


class RayWorkers:
    """Hand units to tasks, each of which streams its parts.

    Args:
        plan: makes what tasks need.
        address: of a cluster that is there; by default one is made, which listens on the loopback interface only.
        count: how many tasks at once; by default as many as there are cores or GPUs.
        gpus: of each task.
    """

    def __init__(self, plan: Callable[[], Plan], address: str | None, count: int | None, gpus: int) -> None:
        self._plan, self._address, self._gpus = plan, address, gpus
        self.slots = count or 0  # or as many as there are, when it starts
        self._ray: Any = None
        self._folder = ""
        self._made, self._seconds = 0, 0.0

    def start(self) -> None:
        """Start or join a cluster and send it the plan."""
        if self._ray:
            return
        os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
        self._ray = _import_ray(self._address)
        if self._address is None:
            self._make()
        else:
            self._join(self._address)
        self._key = secrets.token_hex(8)
        with sending():
            self._sent = [self._ray.put(self._plan())]  # in a list, so that a task fetches it only if it has to
        task = self._ray.remote(
            num_returns="streaming", num_cpus=1, num_gpus=self._gpus, max_retries=0, max_calls=0
        )  # a GPU would mean a new process for each task
        self._task = task(_work)

    def stop(self) -> None:
        """End the cluster that was made here, or leave the one that was there."""
        if self._ray:
            self._ray.shutdown()
            self._ray = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def size(self, waiting: Sequence[Work], free: int) -> int:
        """Take what lasts UNIT by what was measured so far, but leave enough for the others."""
        if not self._made:
            return 1
        wanted = UNIT / max(1e-3, self._seconds / self._made * len(waiting[0].cells))
        return max(1, min(int(wanted), len(waiting) // (2 * self.slots)))

    def submit(self, units: Sequence[list[Work]]) -> list[Any]:
        """Begin to compute units."""
        return [self._task.remote(self._key, self._sent, unit) for unit in units]

    def poll(self, units: Sequence[Any], seconds: float) -> Iterator[tuple[Any, Event]]:
        """Wait for parts."""
        ready, _ = self._ray.wait(list(units), num_returns=1, timeout=seconds)
        for unit in ready:
            yield unit, self._next(unit)

    def _next(self, unit: Any) -> Event:
        errors = self._ray.exceptions
        try:
            event: Made | AvbenchError = self._ray.get(next(unit))
        except StopIteration:
            return Ended()
        except errors.RayTaskError as error:
            said = str(error).strip().rpartition("\n")[2]
            raise EngineUnavailable(f"a worker failed ({said}); is the same avbench installed there?") from error
        except errors.RayError as error:
            return Lost(_first_line(error).partition(". ")[0])
        if isinstance(event, Made):
            self._made, self._seconds = self._made + 1, self._seconds + event.part.seconds
        return event

    def _make(self) -> None:
        """Start Ray on this machine for this run alone."""
        self.slots = self.slots or (torch.cuda.device_count() if self._gpus else len(os.sched_getaffinity(0)))
        self._folder = tempfile.mkdtemp(prefix="avbench-ray-")
        for again in (True, False):  # Ray waits 30 s for itself, which a busy machine may not reach the first time
            try:
                self._ray.init(
                    "local", num_cpus=self.slots, num_gpus=self.slots * self._gpus, include_dashboard=False,
                    log_to_driver=False, logging_level="ERROR", _temp_dir=self._folder,
                )  # fmt: skip
                return
            except Exception as error:  # Ray has no kind of its own for it
                self._ray.shutdown()
                if not again:
                    said = _first_line(error)
                    raise EngineUnavailable(f"Ray does not start here ({said}); use --engine local") from error

    def _join(self, address: str) -> None:
        try:
            self._ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineUnavailable(f"no Ray cluster answers at {address} ({_first_line(error)})") from error
        kind = "GPU" if self._gpus else "CPU"
        if not (found := int(self._ray.cluster_resources().get(kind, 0))):
            raise EngineUnavailable(f"the Ray cluster at {address} has no {kind}; say by --device what it has")
        self.slots = self.slots or found


def _import_ray(address: str | None) -> Any:
    """Import Ray after what it reads only then: interfaces, and a secret of our own, not one in a readable file."""
    here = address is None or address.startswith(("127.", "localhost:"))
    if here:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else it listens on all interfaces, whatever one says
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        raise EngineUnavailable("Ray runs in this process already; call ray.shutdown() first")
    if here and ray.util.get_node_ip_address() != _LOOPBACK:
        raise EngineUnavailable(
            "Ray was imported before and would listen on all interfaces; set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 first"
        )
    return ray


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _work(key: str, sent: list[Any], unit: list[Work]) -> Iterator[Made | AvbenchError]:
    """Compute a unit in a worker process, part by part."""
    import ray

    def find() -> Bench:
        if key not in _opened:
            _opened.clear()
            _opened[key] = opened(lambda: ray.get(sent[0]))
        return _opened[key]

    yield from serve(find, unit)
