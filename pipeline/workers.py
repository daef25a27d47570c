"""The same units on other processes: a local cluster of ``workers``, or whatever stands behind a dask ``scheduler``.

What is sent is a unit (ids and keys); a worker loads the models once, reads what it needs from the shared files, writes its
parts itself and returns their names. Only this process holds the lock and counts the parts. A unit whose worker dies is
given to another one; a half-written part is ignored.

A worker may outlive a run. It identifies what it has loaded by content (``store.loader``): other weights, tables or values
are loaded anew; a worker that has loaded other code or libraries than the run's raises an error.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import CodeError, ParameterError, StoreError
from store.fingerprint import library_versions
from store.loader import Loader, code_of, require_loaded
from store.registry import extensions_folder, load_extensions
from store.units import Compute, Done, Load, Unit, finish, recovered

if TYPE_CHECKING:
    from distributed import Client

_RETRIES = 3
_loaded: dict[bytes, Compute] = {}
"""In a worker: the models it has, by their pickled ``Loader``; one at a time."""
_versions: dict[str, str] = {}
"""In a worker: the version of each library when it was first needed, so the one that is loaded."""


class Workers:
    """Runs units on dask; a context manager. Nothing starts before the first unit is there to run.

    Args:
        workers: processes to start on this machine, each with its share of the cores (and of the GPUs, taken in turn).
        scheduler: address of a running scheduler, ``tcp://host:port``, instead.
    """

    def __init__(self, workers: int, scheduler: str) -> None:
        self._workers, self._scheduler = workers, scheduler
        self._stack = ExitStack()
        self._client: Client | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __call__(self, load: Load, units: Sequence[Unit], device: str) -> Iterator[Done]:
        """Run ``units``; yield each as it is finished."""
        from distributed import KilledWorker, as_completed

        client = self._connected()
        local = self._workers and "OMP_NUM_THREADS" not in os.environ
        threads = max(1, (os.cpu_count() or 1) // self._workers) if local else 0
        sent = (pickle.dumps(load), device, threads, extensions_folder(), code_of(__name__))
        futures = [client.submit(_work, unit, *sent, pure=False, retries=_RETRIES) for unit in units]
        for future in as_completed(futures):
            try:
                done = future.result()
            except KilledWorker as error:
                raise StoreError(
                    f"{error.allowed_failures + 1} workers died of the same unit, the last one at "
                    f"{error.last_worker.address}: most often for want of memory; run again with fewer workers, or with "
                    "GLIMPSE_BATCH or GLIMPSE_UNIT smaller"
                ) from error
            yield done
            future.release()

    def _connected(self) -> Client:
        if self._client is None:
            from distributed import Client, LocalCluster

            if self._scheduler:
                try:
                    client = Client(self._scheduler, timeout=10)
                except (OSError, ValueError) as error:
                    raise ParameterError(
                        f"scheduler {self._scheduler}: expected the address of a running dask scheduler, tcp://host:port, "
                        f"cannot reach it ({error}); start one with: dask scheduler"
                    ) from error
            else:
                cluster = LocalCluster(
                    n_workers=self._workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,  # the batch bounds the memory; dask would stop a worker that holds a large model
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                )
                client = Client(self._stack.enter_context(cluster))
            self._client = self._stack.enter_context(client)
        return self._client


def _work(unit: Unit, load: bytes, device: str, threads: int, extensions: Path | None, code: dict[str, str]) -> Done:
    """In a worker: compute a unit and write its parts.

    Args:
        load: a pickled ``Load``, which may be of a module that only ``extensions`` has.
        threads: for torch, 0 to leave its own choice.
        extensions: the run's folder of additions.
        code: of this module where the run was started (see ``store.loader.code_of``).
    """
    from distributed import get_worker

    if extensions is not None and load_extensions(extensions):
        _loaded.clear()
    key = pickle.dumps((load, device, threads, code))
    if key not in _loaded:
        _loaded.clear()
        require_loaded(code)
        loader = pickle.loads(load)
        if isinstance(loader, Loader):
            _require_libraries(loader.libraries)
        devices = 0
        if device == "cuda":
            import torch

            devices = torch.cuda.device_count()
        _loaded[key] = loader(_device_of(device, get_worker().name, devices))
    if threads:
        import torch

        torch.set_num_threads(threads)  # each time: dask may run a unit in another thread than the one before
    return recovered(unit) or finish(unit, _loaded[key])


def _require_libraries(expected: Mapping[str, str]) -> None:
    """Raise a CodeError unless this worker has the libraries of the run.

    What is installed may be newer than what a living process has loaded, so the first look counts.
    """
    _versions.update(library_versions(*(set(expected) - set(_versions))))
    other = [f"{n} {_versions[n]} instead of {version}" for n, version in expected.items() if _versions[n] != version]
    if other:
        raise CodeError(
            f"this worker has other libraries than the run: {', '.join(other)}; install the run's there (pip install -c "
            "constraints.txt -e .), restart the dask workers, and run the same command again"
        )


def _device_of(device: str, worker: object, devices: int) -> str:
    """``cuda`` for the numbered workers of a local cluster: the GPUs in turn. Others see the one they were given."""
    if device == "cuda" and devices > 1 and isinstance(worker, int):
        return f"cuda:{worker % devices}"
    return device
