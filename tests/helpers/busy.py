"""Another process that holds the lock of a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.profile import ROOT

_SCRIPT = """
import sys, time
from pathlib import Path
from store.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def holding(folder: Path, seconds: float = 600) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock of ``folder`` for ``seconds``, or to the end of the block; then it is killed (SIGKILL)."""
    command = [sys.executable, "-c", _SCRIPT, str(folder), str(seconds)]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()
