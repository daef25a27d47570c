"""Errors of the system and of other libraries end a command with one message: where, what, what to do."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipeline.foreign import explained, how_it_ended, report
from store.errors import DataError, StoreError, plain, reading
from tests.helpers.profile import ROOT, demo_values

WORDS = ["run", "score", "--profile", "x"]


def h5py_error() -> None:
    import h5py

    h5py.File(io.BytesIO(b"\x89HDF\r\n\x1a\n" + bytes(100)), "r")


def zarr_error() -> None:
    import zarr

    zarr.create_array(zarr.storage.MemoryStore(), shape=(3,), chunks=(-1, -2), dtype="f4")


def torch_error() -> None:
    import torch

    torch.nn.Linear(2, 3)(torch.zeros(2, 3))


def torch_memory() -> None:
    import torch

    torch.empty(1 << 50, dtype=torch.uint8)


def torch_load() -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({"a": os.getcwd}, buffer)
    torch.load(io.BytesIO(buffer.getvalue()))


def numpy_memory() -> None:
    import numpy as np

    np.ones(1 << 50)


def numba_error() -> None:
    import numba

    numba.njit(lambda x: x.no_such_attribute)(3)


def killed_worker() -> None:
    from distributed import KilledWorker

    raise KilledWorker("unit-0x7f8e12345678", SimpleNamespace(address="tcp://h:1"), 3)  # type: ignore[arg-type]


def nested() -> None:
    json.loads("[" * 100_000)


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


FAILURES: dict[str, tuple[Callable[[], None], str, str]] = {
    "h5py": (h5py_error, "h5py failed", "glimpse repair"),
    "zarr": (zarr_error, "zarr failed", "glimpse repair"),
    "torch": (torch_error, "torch failed .*cannot be multiplied", "GLIMPSE_DEVICE"),
    "torch, memory": (torch_memory, "too little memory", "GLIMPSE_BATCH"),
    "torch, pickle": (torch_load, "torch failed", "check the weights"),
    "numpy, memory": (numpy_memory, "too little memory", "GLIMPSE_BATCH"),
    "memory": (raising(MemoryError()), "too little memory", "GLIMPSE_UNIT"),
    "numba": (numba_error, "numba failed", "__pycache__"),
    "numba, cache": (
        raising(RuntimeError("cannot cache function 'f': no locator available for file '/x'")),
        "numba has no folder that it may write",
        "NUMBA_CACHE_DIR",
    ),
    "dask": (killed_worker, "a worker process died", "GLIMPSE_WORKERS"),
    "pool": (raising(BrokenProcessPool("abruptly")), "a worker process died", "GLIMPSE_WORKERS"),
    "text": (lambda: b"\xff\xfe".decode(), "no UTF-8 text", "save it as UTF-8"),  # type: ignore[dict-item,return-value]
    "recursion": (nested, "nested too deep", "flatter"),
    "import": (raising(ModuleNotFoundError("no", name="wheel_of_fortune")), "cannot import wheel_of_fortune", "make env"),
    "missing": (lambda: open("/no/such"), "No such file or directory: /no/such", "correct the path"),  # type: ignore[dict-item,return-value]  # noqa: SIM115
    "folder": (lambda: open("/"), "Is a directory: /", "move it away"),  # type: ignore[dict-item,return-value]  # noqa: SIM115
    "full": (raising(OSError(errno.ENOSPC, "", "/x/y")), "No space left on device: /x/y", "glimpse clean"),
    "limit": (raising(OSError(errno.EFBIG, "", "/x/y")), "File too large: /x/y", "ulimit -f"),
    "read-only": (raising(OSError(errno.EROFS, "", "/x/y")), "Read-only file system: /x/y", "mount"),
    "rights": (raising(PermissionError(errno.EACCES, "", "/x/y")), "Permission denied: /x/y", "the right"),
    "any number": (raising(OSError(errno.EXDEV, "", b"/x", None, b"/y")), "Invalid cross-device link: /x and /y", "check"),
    "unknown": (raising(KeyError("a\x1b]0;title\x07b")), "does not expect", "GLIMPSE_TRACEBACK=1"),
    "assertion": (raising(AssertionError()), r"does not expect \(AssertionError\)", "GLIMPSE_TRACEBACK=1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_foreign_error_is_one_message(name: str) -> None:
    fail, what, remedy = FAILURES[name]
    with pytest.raises(Exception) as raised:  # any kind
        fail()
    said = report(raised.value, WORDS)
    assert said.startswith("error: glimpse run score: ")
    assert re.search(what, said)
    assert remedy in said
    assert "\n" not in said
    assert "\x1b" not in said
    assert "\x07" not in said
    assert not re.search("0x[0-9a-f]{6}|Traceback|weights_only|https?:|[Pp]lease", said)


def test_the_place_is_the_innermost_function_of_ours_and_the_file_it_is_at_work_on(tmp_path: Path) -> None:
    from store.document import write_document

    with pytest.raises(ValueError, match="JSON") as raised:
        write_document(tmp_path / "x.json", {"a": float("nan")}, "score")
    assert re.search(rf"\(in store/\w+\.py, line \d+, at work on {tmp_path}/x\.json\)", explained(raised.value))


def test_the_switch_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018
    monkeypatch.setenv("GLIMPSE_TRACEBACK", "1")
    shown = report(raised.value, WORDS)
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith("error: glimpse run score: ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, größer: 象", "plain text, größer: 象"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2J\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07after", "after"),
        ("a\x9b31mb\rc\x08\x7f", "a?31mb?c??"),
        ("left\u202eright\u2066", "left?right?"),
        ("<x at 0x7f8e12345678>", "<x at ...>"),
        ("lone \udc80", "lone ?"),
    ],
)
def test_codes_and_addresses_are_taken_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    "error", [MemoryError(), AssertionError(), RecursionError(), OverflowError("x"), OSError("no signature")]
)
def test_any_error_of_a_reader_is_a_damaged_file(error: Exception) -> None:
    with (
        pytest.raises(StoreError, match=r"^/x: cannot be read, it is damaged .*; do this$"),
        reading(Path("/x"), "do this"),
    ):
        raise error


def test_a_file_that_may_not_be_read_is_not_called_damaged() -> None:
    with pytest.raises(StoreError, match=r"^/x: cannot be read: Permission denied; "), reading(Path("/x"), "do this"):
        raise PermissionError(errno.EACCES, "", "/x")


def test_what_killed_a_child_is_named() -> None:
    for number, said in (
        (signal.SIGKILL, "SIGKILL .*memory"),
        (signal.SIGSEGV, "SIGSEGV .*crashed"),
        (signal.SIGTERM, "SIGTERM"),
    ):
        done = subprocess.run([sys.executable, "-c", f"import os; os.kill(os.getpid(), {number.value})"], check=False)
        assert re.search(f"was killed by {said}.* is safe", how_it_ended(done.returncode))
    assert how_it_ended(3) == "ended with status 3"
    assert "signal 99" in how_it_ended(-99)


def typed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`glimpse WORDS` in a process of its own."""
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def assert_one_message(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 1
    assert re.search(said, done.stderr), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_commands_end_with_one_message(tmp_path: Path) -> None:
    """A params file that is a folder, a link in a circle, a device; damaged records; an output where it may not be."""
    (tmp_path / "circle").symlink_to("circle")
    for file in (tmp_path, tmp_path / "circle", Path("/dev/zero"), Path("/proc/self/mem")):
        assert_one_message(typed("status", "--params", str(file)), "expected a params file")
    values: dict[str, Any] = demo_values(tmp_path)
    (tmp_path / "file").write_text("")
    for name, place in (("data", tmp_path / "file/x"), ("work", tmp_path / "file"), ("data", Path("/proc/x"))):
        (tmp_path / "refer").mkdir(exist_ok=True)
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({**values, name: str(place)}))
        assert_one_message(typed("run", "parse", "--profile", str(params)), ".")


def test_a_reader_that_ends_early_is_no_error() -> None:
    """`glimpse methods | head -1`."""
    line = f"{sys.executable} -m pipeline methods --params demo/params.yaml | head -1"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("profile ")
    assert done.stderr == ""


def test_our_own_errors_keep_their_words() -> None:
    assert report(DataError("x: expected a, got b; do c"), WORDS) == "error: x: expected a, got b; do c"
