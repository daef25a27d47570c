"""Faults at the n-th file operation of a process, by Python's audit events: before it, the process is killed or told to stop,
or the operation fails with an error of the system."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.publish import DeferredErrors

_PATHS = (
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.listdir",
    "os.scandir",
    "os.utime",
)
_WRITES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Act = Callable[[str], None]
"""What happens instead of an operation; gets the path that it is about."""


class Operations:
    """Counts the operations of this process on files below ``root``, and does ``act`` before number ``at`` (from 1).

    Installed for good: for a process that ends with what it tries.
    """

    def __init__(self, root: Path, at: int, act: Act, writes_only: bool = False) -> None:
        self.root, self.at, self.act, self.writes_only = str(root), at, act, writes_only
        self.count = 0
        sys.addaudithook(self._hook)
        self._wrap_fsync()
        self._wrap_write()

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _PATHS or not isinstance(args[0], str | bytes | os.PathLike):
            return
        writes = event in _WRITES or (event == "open" and isinstance(args[2], int) and bool(args[2] & _WRITING))
        if writes or not self.writes_only:
            self._step(os.fsdecode(args[0]))

    def _step(self, path: str) -> None:
        if os.path.abspath(path).startswith(self.root):
            self.count += 1
            if self.count == self.at:
                self.act(path)

    def _wrap_fsync(self) -> None:
        real = os.fsync

        def counted(file: Any) -> None:
            self._step(self.root)
            real(file)

        os.fsync = counted

    def _wrap_write(self) -> None:
        """Of HDF5, which hears of no error: the file remembers the first."""
        real = DeferredErrors.write

        def counted(file: DeferredErrors, data: Any) -> int:
            try:
                self._step(self.root)
            except OSError as error:
                file._error = file._error or error
            return real(file, data)

        DeferredErrors.write = counted  # type: ignore[method-assign]


def kill(path: str) -> None:
    """As by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(path: str) -> None:
    """As by Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def failing(number: int) -> Act:
    """An operation that fails with this error number."""

    def act(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return act


class Child:
    """A fork of this process that does ``task``; started at once."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._said, self._returned = Path(self._folder.name, "said"), Path(self._folder.name, "returned")
        self.process = os.fork()
        if not self.process:
            self._work(task)

    def _work(self, task: Callable[[], Any]) -> None:
        status = 1
        try:
            with self._said.open("wb", buffering=0) as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
            result = task()
            self._returned.write_text(json.dumps(result))
            status = 0
        except BaseException:
            with contextlib.suppress(BaseException):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def end(self, seconds: float) -> tuple[int, Any, str]:
        """Wait for it, and kill it after ``seconds``: see ``in_child``."""
        until = time.monotonic() + seconds
        ended, code = os.waitpid(self.process, os.WNOHANG)
        while not ended and time.monotonic() < until:
            time.sleep(0.002)
            ended, code = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            os.kill(self.process, signal.SIGKILL)
            _, code = os.waitpid(self.process, 0)
        with self._folder:
            said = self._said.read_text(errors="replace") if self._said.exists() else ""
            written = self._returned.read_text() if self._returned.exists() else ""
        return os.waitstatus_to_exitcode(code), json.loads(written) if written else None, said


def in_child(task: Callable[[], Any], seconds: float = 120, after: float | None = None) -> tuple[int, Any, str]:
    """Do ``task`` in a fork of this process.

    Args:
        seconds: it is killed after so many. after: kill it after so many seconds, on purpose.

    Returns:
        Its exit status (negative: the signal that killed it), what it returned (JSON-able; None if it did not), and
        what it printed.
    """
    return Child(task).end(seconds if after is None else after)
