"""The lock of a folder that one process at a time may write, and who holds it.

<folder>/.lock      locked (flock) while a process works; the operating system releases it when the process ends
<folder>/.holder    what the process that has the lock says of itself: process, host, time, command (JSON)
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from store.errors import BusyError, plain
from store.publish import writing

_LONGEST = 120


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the exclusive writer lock of ``folder``, which is made if it is not there.

    The thread that holds it may take it again.

    Args:
        wait: seconds to wait for another process that has it. 0: do not wait.

    Raises:
        BusyError: another process had it all that time; says which.
        StoreError: the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / ".lock", is_singleton=True, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _wait(lock, folder, wait)
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            _sign(folder)
        yield
    finally:
        if outermost:
            with suppress(OSError):
                (folder / ".holder").unlink()
        lock.release()


def _wait(lock: FileLock, folder: Path, wait: float) -> None:
    if wait > 0:
        print(plain(f"{folder}: waits for {_holder(folder)}, at most {wait:g} s"), file=sys.stderr, flush=True)
        with suppress(Timeout):
            lock.acquire(timeout=wait)
            return
    so_far = f" and still does after {wait:g} s" if wait > 0 else ""
    raise BusyError(
        f"{folder}: another process writes here{so_far}: {_holder(folder)}; wait for it (GLIMPSE_WAIT=3600 before the same "
        "command waits up to an hour), or stop it (killing only dvc leaves its child running)"
    )


def _sign(folder: Path) -> None:
    """Say who holds the lock. A full disk does not matter: the lock holds without it."""
    said = {
        "process": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "command": shlex.join(sys.argv)[:_LONGEST],
    }
    with suppress(OSError):
        (folder / ".holder").write_text(json.dumps(said), encoding="utf-8")


def _holder(folder: Path) -> str:
    """Who holds the lock of ``folder``, as far as that is known."""
    try:
        said: dict[str, Any] = json.loads((folder / ".holder").read_text(encoding="utf-8"))
        text = f"process {said['process']} on {said['host']}, since {said['since']} ({said['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or its disk is full
        return "one that has not said who it is"
    if said["host"] == platform.node() and not Path("/proc", str(said["process"])).exists() and Path("/proc").exists():
        return "one that has not said who it is"  # the file is that of a process that was killed
    return text
