"""What cannot be written: one message with a remedy, the first error chained, and what stood there before unchanged."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from store import publish, table
from store.errors import StoreError
from store.locks import locked
from store.table import read_table
from tests.helpers.full_disk import small_disk
from tests.helpers.profile import ROOT
from tests.helpers.store_files import proposals, write, write_features

SCRIPT = """
import os, sys
from pathlib import Path
from store.errors import StoreError
from store.publish import write_file
if os.getuid() == 0:
    os.setuid(65534)
try:
    write_file(Path(sys.argv[1]), "new")
except StoreError as error:
    print(error)
"""


def as_nobody(path: Path) -> str:
    """What a process without root's rights says when it writes ``path``."""
    command = [sys.executable, "-c", SCRIPT, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}).stdout


def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    outside = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        outside.chmod(0o555)
        assert re.fullmatch(
            rf"{outside}/t: cannot be written: Permission denied \([\d,]+ bytes free there\); give yourself the right .*\n",
            as_nobody(outside / "t"),
        )
        assert not list(outside.iterdir())
    finally:
        shutil.rmtree(outside)


def test_a_read_only_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            pytest.skip("mounting a tmpfs is not allowed here")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        with pytest.raises(StoreError, match=r"t\.h5: cannot be written: Read-only file system .*mount it for writing"):
            write(tmp_path / "disk" / "t.h5")
        with pytest.raises(StoreError, match=r"v: cannot be written: Read-only file system"):
            write_features(tmp_path / "disk" / "v")
        with pytest.raises(StoreError, match=r"work: cannot be written: Read-only"), locked(tmp_path / "disk" / "work"):
            pass


def test_something_else_stands_there(tmp_path: Path) -> None:
    (tmp_path / "t.h5" / "mine").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"t\.h5: cannot be written: Is a directory .*move it away"):
        write(tmp_path / "t.h5")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "t.h5", tmp_path / "file" / "deep" / "t.h5"):
        with pytest.raises(StoreError, match=r"t\.h5: cannot be written: (Not a directory|File exists) .*move it away"):
            write(path)
    with pytest.raises(StoreError, match=r"cannot be written: File name too long"):
        write(tmp_path / ("x" * 300))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(StoreError, match=r"cannot be written: .*(circle|exists)"):
        write(tmp_path / "circle" / "t.h5")
    assert {p.name for p in tmp_path.iterdir()} == {"t.h5", "file", "circle"}
    assert (tmp_path / "t.h5" / "mine").is_dir()


@pytest.mark.parametrize("number", sorted(publish.REMEDIES))
def test_every_error_of_a_write_has_a_remedy(number: int, tmp_path: Path) -> None:
    """Whatever call raises it; the first error is the one that is told and chained."""
    publish.write_file(tmp_path / "t", "old")
    failed = OSError(number, os.strerror(number))

    def write_and_fail() -> None:
        with publish.replacing(tmp_path / "t") as temporary:
            temporary.write_text("half")
            raise failed

    with pytest.raises(StoreError, match=rf"t: cannot be written: {os.strerror(number)} .*, then run the same") as told:
        write_and_fail()
    assert told.value.__cause__ is failed
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("t", "old")]


def test_the_clean_up_does_not_hide_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    def broken(path: Any, *rest: Any, **named: Any) -> None:
        if not named.get("ignore_errors"):
            raise OSError(errno.EIO, "the disk failed as well")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    monkeypatch.setattr(shutil, "rmtree", broken)
    with pytest.raises(StoreError, match="No space left on device"):
        publish.write_file(tmp_path / "t", "x")


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "input"
    source.mkdir(parents=True)
    with pytest.raises(IsADirectoryError), publish.replacing(tmp_path / "out" / "t"):
        source.read_bytes()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("rows", [0, 3, 700])
def test_every_write_of_a_table_may_fail(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 loses the error of a failed write, or crashes on it, when the file is closed; it also writes half of a block."""
    path = tmp_path / "t.h5"
    write(path, proposals(50))
    good, left = path.read_bytes(), 0

    class Faulty(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "full")
            return super().write(data[: (len(data) + 1) // 2] if left == 0 else data)

    class Failing(publish.DeferredErrors, Faulty):
        pass

    monkeypatch.setattr(table, "DeferredErrors", Failing)
    left = sys.maxsize
    write(tmp_path / "whole", proposals(rows))
    writes = sys.maxsize - left
    (tmp_path / "whole").unlink()
    for number in range(writes):
        left = number
        with pytest.raises(StoreError, match="No space left on device"):
            write(path, proposals(rows))
        assert path.read_bytes() == good
    assert writes > 10
    left = sys.maxsize
    write(path, proposals(rows))
    assert len(read_table(path, "proposals")["area"]) == rows
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_shorter_than_what_was_written_is_not_published(tmp_path: Path) -> None:
    def write_and_cut() -> None:
        with publish.replacing(tmp_path / "t") as temporary, publish.DeferredErrors(temporary) as file:
            file.write(b"12345678")
            os.truncate(temporary, 5)

    publish.write_file(tmp_path / "t", "old")
    with pytest.raises(StoreError, match="8 bytes were written, 5 are there"):
        write_and_cut()
    assert (tmp_path / "t").read_text() == "old"


def test_an_interrupt_at_any_write_of_a_table_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 loses a KeyboardInterrupt as it loses an error: the table would be published with a hole."""
    path, writes, at = tmp_path / "t.h5", 0, 0
    write(path, proposals(50))
    good = path.read_bytes()

    class Interrupted(publish.DeferredErrors):
        def write(self, data: Any) -> int:
            nonlocal writes
            writes += 1
            if writes == at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(data)

    monkeypatch.setattr(table, "DeferredErrors", Interrupted)
    write(tmp_path / "whole", proposals(700))
    (tmp_path / "whole").unlink()
    total = writes
    assert total > 10
    for at in range(1, total + 1):  # noqa: B007
        writes = 0
        with pytest.raises(KeyboardInterrupt):
            write(path, proposals(700))
        assert (path.read_bytes(), list(tmp_path.iterdir())) == (good, [path])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_the_system_s_own_handlers_stay(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with publish.uninterrupted():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_holds_nothing_back() -> None:
    """It may not set handlers; an interrupt ends the main thread's work, not its."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: publish.uninterrupted().__enter__()).result()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
