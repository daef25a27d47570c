"""The one boundary for errors of other libraries and of the system: whatever ends a command becomes one message.

A message says which command, what happened, where (a file, or the line of our code) and what to do. What another library
advises is left out, since it does not know Glimpse ("set weights_only to False"), and so are addresses and control codes.
``GLIMPSE_TRACEBACK=1`` prints the traceback, too. A process that is killed by a signal says nothing: its parent does
(``how_it_ended``).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from store.errors import GlimpseError, plain, reason
from store.fingerprint import PACKAGES
from store.publish import REMEDIES

TRACEBACK = "GLIMPSE_TRACEBACK"
_MEMORY = (
    "close other programs, set GLIMPSE_BATCH and GLIMPSE_UNIT to smaller numbers (and GLIMPSE_WORKERS), or take a machine with "
    "more memory; what was computed so far is kept, the same command goes on from there"
)
_READING = {
    errno.ENOENT: "put it there, or correct the path",
    errno.EACCES: "give yourself the right to it, or name another place in the params file",
    errno.EPERM: "give yourself the right to it, or name another place in the params file",
    errno.EISDIR: "a folder stands where a file should be: move it away, or correct the path",
    errno.ENOTDIR: "a file stands where a folder should be: move it away, or correct the path",
    errno.EPIPE: "the program that read the output has ended",
    errno.ECONNREFUSED: "start the program that should listen there, or correct its address",
    errno.ETIMEDOUT: "check the network or the file server, then run the same command again",
    errno.ENOMEM: _MEMORY,
}
"""Error number -> what to do, where it differs from a failed write's (``store.publish.REMEDIES``)."""
_WORKERS = (
    "a dask worker or scheduler is gone: restart them and run again, or unset GLIMPSE_WORKERS and GLIMPSE_SCHEDULER"
)
_BY_LIBRARY = {
    "h5py": "an HDF5 file is damaged or cannot be read: glimpse repair OUTPUT makes an output of a stage again",
    "zarr": "a folder of vectors is damaged or cannot be read: glimpse repair OUTPUT makes an output of a stage again",
    "numba": "a compiled function failed: remove the folders __pycache__ of the project and run again",
    "distributed": _WORKERS,
    "dask": _WORKERS,
    "torch": "check the weights and GLIMPSE_DEVICE; GLIMPSE_DEVICE=cpu runs without a GPU",
}
"""Library in whose code an error arose -> what to do."""


def report(error: BaseException, words: Sequence[str]) -> str:
    """What a command that failed prints: one message, preceded by the traceback where GLIMPSE_TRACEBACK asks for it.

    Args:
        error: what ended it.
        words: the command line after the program's name, to say which command it was.
    """
    shown = "".join(traceback.format_exception(error)) if os.environ.get(TRACEBACK) else ""
    if isinstance(error, GlimpseError):
        return f"{shown}error: {plain(str(error))}"
    return f"{shown}error: {_command(words)}: {plain(explained(error))}"


def explained(error: BaseException) -> str:
    """What happened, where and what to do, for an error that is none of Glimpse's own."""
    what, remedy = _cause(error)
    return f"{what}{_place(error)}; {remedy}"


def how_it_ended(status: int) -> str:
    """How a child process ended, from its return code: its exit status, or the signal that killed it and what is safe."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in {s.value for s in signal.Signals} else f"signal {-status}"
    why = {
        "SIGKILL": " (most often the system's, for want of memory)",
        "SIGSEGV": " (a library crashed)",
        "SIGABRT": " (a library gave up, most often for want of memory)",
        "SIGBUS": " (a full or failing disk, or a file that was cut off meanwhile)",
    }.get(name, "")
    return (
        f"was killed by {name}{why}; outputs and parts are written whole or not at all, so what is there is safe, and the same "
        "command goes on from there"
    )


def _cause(error: BaseException) -> tuple[str, str]:
    """What happened, and what to do."""
    name = type(error).__name__
    library = type(error).__module__.partition(".")[0]
    source = _library(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in name or "allocate memory" in str(error):
        return "too little memory", _MEMORY
    if isinstance(error, UnicodeDecodeError):
        return f"a file is no {error.encoding.upper()} text (byte {error.start})", "save it as UTF-8, and run again"
    if isinstance(error, RecursionError):
        return "something is nested too deep", "make the file flatter that the command reads"
    if isinstance(error, ImportError):
        return f"cannot import {error.name or 'a library'}", "build the environment again: make env"
    if "KilledWorker" in name or "BrokenProcessPool" in name:
        return "a worker process died, most often for want of memory", _MEMORY
    if "no locator available" in str(error):  # numba's way to say so
        return (
            "numba has no folder that it may write",
            "name one that you may write: NUMBA_CACHE_DIR=FOLDER before the command",
        )
    if isinstance(error, OSError) and error.errno is not None and library == "builtins":
        remedy = _READING.get(error.errno) or REMEDIES.get(error.errno) or "check that file or place, and run again"
        return os.strerror(error.errno), remedy
    if library in _BY_LIBRARY or source in _BY_LIBRARY:
        known = library if library in _BY_LIBRARY else source
        return f"{known} failed ({_shown(error)})", _BY_LIBRARY[known]
    return (
        f"an error that Glimpse does not expect ({_shown(error)})",
        f"a file that it reads may be damaged, or it is a fault of Glimpse: {TRACEBACK}=1 before the same command shows more; "
        "report that",
    )


def _shown(error: BaseException) -> str:
    """The name of an error, and what of its text is no advice."""
    name, text = type(error).__name__, reason(error)
    return name if text == name else f"{name}: {text}"


def _place(error: BaseException) -> str:
    """ " at FILE" or " (in LINE)": the file that a system call or our innermost function was about, and that function."""
    if isinstance(error, OSError) and error.filename is not None:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        return f": {' and '.join(names)}" if names else ""
    frames = [frame for frame in _frames(error.__traceback__) if _is_ours(frame)]
    if not frames:
        return ""
    last = frames[-1]
    files = [
        value for frame in reversed(frames) for value in frame.tb_frame.f_locals.values() if isinstance(value, Path)
    ]
    code = last.tb_frame.f_code
    about = f", at work on {files[0]}" if files else ""
    return f" (in {'/'.join(Path(code.co_filename).parts[-2:])}, line {last.tb_lineno}{about})"


def _library(error: BaseException) -> str:
    """The library whose code is innermost in the traceback."""
    for frame in reversed(_frames(error.__traceback__)):
        library = str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if library in _BY_LIBRARY or library in PACKAGES:
            return library
    return ""


def _frames(trace: TracebackType | None) -> list[TracebackType]:
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _is_ours(frame: TracebackType) -> bool:
    """Whether a frame runs code of Glimpse below the command line."""
    module = str(frame.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in PACKAGES and module not in ("pipeline.cli", __name__)


def _command(words: Sequence[str]) -> str:
    names = [word for word in words if re.fullmatch(r"[a-z_]+", word)]
    return " ".join(["glimpse", *names[: 2 if names[:1] in (["run"], ["fetch"]) else 1]])


def close_output() -> None:
    """Let standard output go: whoever read it has ended, and Python would say so at its own end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
