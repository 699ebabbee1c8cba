"""Where the work is done: in this process, in processes of this machine, or on a Ray cluster.

    with open_engine("local", workers=2) as engine:
        for result in engine.map(work, items): ...

A step is a function over items; an engine maps it with a bounded number of items on their way, so that memory does not
grow with the set, and gives results as they become ready.  Results must therefore say what they are of, and files must
not depend on the order.  On several machines `root` and `out` have to be folders that all of them see.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from wan_alpha.data.errors import DataError
from wan_alpha.data.resize import one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")
ENGINES = ("local", "ray")
IN_FLIGHT = 4
"""Items on their way for each worker: enough that none waits, few enough that memory stays flat."""
RAY_ATTEMPTS = 3


class Engine(Protocol):
    """Something that maps a function over items."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of `work` in the order in which they become ready; `items` is read no further than needed.

        `work` must be picklable: a function of a module, or a `functools.partial` of one.

        Raises:
            Exception: whatever `work` raised first; what was on its way is dropped.
        """
        ...


@contextmanager
def open_engine(name: str, workers: int, address: str | None = None) -> Iterator[Engine]:
    """An engine by name, closed at the end.

    Args:
        name: "local" or "ray".
        workers: processes; 0: work in this one.  With the address of a cluster, the cluster's cores decide.
        address: of a running Ray cluster ("auto", "host:port", "ray://host:port"); none: one is started here.

    Raises:
        DataError: the name is unknown, Ray is not installed, or the cluster does not answer.
    """
    if name not in ENGINES:
        raise DataError(f"engine={name}: expected one of {', '.join(ENGINES)}")
    if name == "ray":
        with _ray(workers, address) as engine:
            yield engine
    elif workers == 0:
        yield InProcess()
    else:
        processes = LocalProcesses(workers)
        try:
            yield processes
        finally:
            processes.close()


class InProcess:
    """One item after the other, here."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Engine.map`."""
        return map(work, items)


class LocalProcesses:
    """A pool of processes on this machine; they start with the first item, as loading their libraries takes seconds."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Engine.map`."""
        if isinstance(items, list) and len(items) <= 1:
            yield from map(work, items)  # another process would gain nothing
            return
        queue = iter(items)
        waiting: set[Future[Result]] = set()
        while True:
            try:
                for item in itertools.islice(queue, IN_FLIGHT * self.workers - len(waiting)):
                    waiting.add(self._started().submit(work, item))
                if not waiting:
                    return
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
            except BrokenProcessPool as error:
                raise DataError(
                    "a worker process ended without a word, most often because memory was short; "
                    "give fewer workers= or a smaller size= and run the same command again, which continues"
                ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _as_worker)
        return self._pool

    def close(self) -> None:
        """End the processes; what was on its way is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _as_worker() -> None:
    one_thread()
    end_with_parent()


def end_with_parent() -> None:
    """Let this worker process end when the one that started it does, however: killed, it would leave it waiting for
    ever, or writing where the next run writes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class RayCluster:
    """Tasks on a Ray cluster."""

    def __init__(self, ray: Any, in_flight: int) -> None:
        self.ray, self.in_flight = ray, in_flight

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Engine.map`."""
        task = self.ray.remote(num_cpus=1)(_in_one_thread)
        shared = self.ray.put(work)
        queue = iter(items)
        waiting: list[Any] = []
        while True:
            waiting += [task.remote(shared, item) for item in itertools.islice(queue, self.in_flight - len(waiting))]
            if not waiting:
                return
            ready, waiting = self.ray.wait(waiting, num_returns=1)
            yield from self.ray.get(ready)


def _in_one_thread(work: Callable[[Item], Result], item: Item) -> Result:
    """Run a task with one thread, as the local processes do: tasks are the parallelism."""
    one_thread()
    return work(item)


@contextmanager
def _ray(workers: int, address: str | None) -> Iterator[RayCluster]:
    """A Ray engine on a cluster, or on one that is started for this run and stopped after it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody; Ray knows no other way
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU leave its variables alone
    try:
        import ray
    except ImportError as error:
        raise DataError(f"engine=ray needs Ray ({error}); pip install 'wan-alpha[ray]', or engine=local") from error
    if ray.is_initialized():  # by whoever called us, who will also end it
        yield RayCluster(ray, IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1))))
        return
    _connect(ray, workers, address)
    try:
        yield RayCluster(ray, IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


def _connect(ray: Any, workers: int, address: str | None) -> None:
    """Join the cluster at `address`, or start one here; on a busy machine that may take more than one attempt."""
    started_here: dict[str, Any] = {"num_cpus": max(workers, 1), "include_dashboard": False} if address is None else {}
    for attempt in range(RAY_ATTEMPTS):
        others = _children()
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **started_here)
            return
        except Exception as error:  # Ray raises bare Exceptions when a part of it starts too slowly
            ray.shutdown()
            for process in _children() - others:  # and leaves the parts that did start
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if attempt + 1 == RAY_ATTEMPTS or address is not None:
                what = f"the cluster at ray={address} does not answer" if address else "Ray does not start here"
                raise DataError(f"{what} ({error}); see ray's logs, or give engine=local") from error


def _children() -> set[int]:
    """Processes that this one started, where the system says so (Linux)."""
    found: set[int] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found.update(int(process) for process in file.read_text().split())
    return found
