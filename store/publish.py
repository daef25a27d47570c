"""Complete or absent: an output appears under its name only when all of it is on disk.

    .<name>.<8 hex digits>.tmp/lock     held (flock) by the process that writes
                              /new      what it writes, with the suffix of <name>; renamed to <name> at the end

A write that fails leaves the previous output as it was, and raises one ``StoreError``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import io
import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from store.errors import StoreError

_HERE, _RENAME_EXCHANGE = -100, 2
"""Of Linux: paths are relative to the working folder; two names are exchanged."""
_ROOM = "free some (`glimpse clean` frees parts that nothing uses) or name another place in the params file"
_IN_THE_WAY = "a folder stands where a file should be, or a file where a folder should be: move it away"
_RIGHTS = "give yourself the right to write there, or name another place in the params file"
_LOCKS = "the file system has no locks (flock): name a place on another one in the params file"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f unlimited`), or name a file system without one",
    errno.EROFS: "the file system is read-only: mount it for writing, or name another place in the params file",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.EBUSY: "something else is mounted there: name another place in the params file",
    errno.ENOLCK: _LOCKS,
    errno.ENOSYS: _LOCKS,
    errno.ENOTSUP: _LOCKS,
    errno.ELOOP: "its symbolic links lead in a circle: remove them",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "raise the limit on open files (`ulimit -n`)",
    errno.EIO: "the disk failed: check it, or name another place in the params file",
}
"""Error number of a failed write -> what to do about it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of writing ``path`` into a ``StoreError`` that names the file, the free space and a remedy.

    Errors about other files, such as one being read, are passed on unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES or not _concerns(error.filename, path):
            raise
        raise StoreError(
            f"{path}: cannot be written: {os.strerror(error.errno)} ({_free(path)}); {REMEDIES[error.errno]}, then run "
            "the same command again"
        ) from error


def _concerns(filename: Any, path: Path) -> bool:
    """Whether a failed system call was about ``path``: its folders, its temporary, or a file already open (no name)."""
    if filename is None:
        return True
    named, target = (Path(os.path.abspath(os.fsdecode(name))) for name in (filename, path))
    return named.is_relative_to(target.parent) or target.is_relative_to(named)


def _free(path: Path) -> str:
    """The free space on the file system of ``path``, which need not exist."""
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            room = os.statvfs(place)
            none_left = ", no room for another file" if room.f_files and not room.f_favail else ""
            return f"{room.f_bavail * room.f_frsize:,} bytes free there{none_left}"
    return "free space unknown"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` on success, remove it on an error.

    What is at ``path`` is replaced in one step, never written to (it may be a hard link into DVC's cache). Several
    processes may replace one path at once: each has its own temporary folder, and the result of the last to finish stays.

    Raises:
        StoreError: it cannot be written: the disk is full, a limit, a missing right (see ``writing``).
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _temporary_folder(path) as folder:
            temporary = folder / f"new{path.suffix}"
            yield temporary
            _flush(temporary)
            if temporary.is_dir():
                _replace_folder(temporary, path, folder / "old")
            else:
                os.replace(temporary, path)


def _replace_folder(new: Path, path: Path, old: Path) -> None:
    """Put the folder ``new`` in the place of what is at ``path``, in one step, so that ``path`` is never without one.

    Where the system or the file system cannot exchange two names, it is two steps, with ``old`` for what was there; a
    reader that comes between them tries again (``store.vectors``).
    """
    while True:
        if _exchange(new, path):
            return
        with suppress(FileNotFoundError):
            os.rename(path, old)
        try:
            os.replace(new, path)
            return
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer was faster: replace its output
                remove(old)
                continue
            with suppress(OSError):
                os.rename(old, path)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange what two names stand for (Linux: renameat2); False where this cannot be done or there is no ``other``."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)  # as the functions of os do
    if not rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def write_file(path: Path, content: bytes | memoryview | str) -> None:
    """Write ``content`` (a str as UTF-8) to ``path``, whole or not at all. Raises as ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporaries of killed writers (of output ``name``, or of all) in ``folder``; those of a living writer stay."""
    for left in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        try:
            with (left / "lock").open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(left)
        except BlockingIOError:  # its writer lives
            continue
        except (FileNotFoundError, NotADirectoryError):  # just created, already removed, or from an older version
            _discard_without_lock(left)
        except OSError:  # another user's: it does no harm
            continue


def _discard_without_lock(left: Path) -> None:
    try:
        left.rmdir()  # a writer that has just created it creates another one
    except OSError:
        if not (left / "lock").exists():
            _discard(left)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Create a locked temporary folder next to ``path``; remove it at the end."""
    while True:
        folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        folder.mkdir()
        try:
            lock = (folder / "lock").open("xb")
        except FileNotFoundError:  # removed as a leftover before it was locked
            continue
        except OSError:
            _discard(folder)
            raise
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.fstat(lock.fileno()).st_nlink:
                    yield folder
                    return
            finally:
                _discard(folder)


def _discard(path: Path) -> None:
    """Remove a temporary folder. A failure is ignored, so that it hides no other error; the next writer tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _flush(path: Path) -> None:
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while the block lasts; it acts when the block has ended.

    For a library that loses an exception raised in what it calls back, and goes on: HDF5 would close a file with a hole.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # Python runs handlers in its main thread alone; the system's own end the process, or do nothing
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(signal.SIGINT, None)


class DeferredErrors(io.FileIO):
    """A new file for HDF5, which loses the error of a failed write or crashes on it when the file is closed.

    After the first failed write nothing more is written and every call reports success; leaving the ``with`` block raises
    that first error, whatever HDF5 made of it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+b")
        self.path = path
        self._error: OSError | None = None
        self._end = 0

    def write(self, data: Any) -> int:
        """Write all of ``data`` (a bare file may take less, which HDF5 would not notice)."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self._error is None and len(rest):
                rest = rest[super().write(rest) :]
            self._end = max(self._end, self.tell())
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, in bytes."""
        size = self.tell() if size is None else size
        try:
            if self._error is None:
                super().truncate(size)
                self._end = size
        except OSError as error:
            self._error = error
        return size

    def __exit__(self, *raised: Any) -> None:
        super().close()
        if self._error is not None and (raised[0] is None or issubclass(raised[0], Exception)):
            raise self._error
        size = self.path.stat().st_size
        if raised[0] is None and size != self._end:
            raise StoreError(f"{self.path}: {self._end:,} bytes were written, {size:,} are there; check the disk")
