"""Settings of all tests, and what the tests of ``glimpse fetch`` share."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # before anything loads a library that reads it
    share = str(max(1, len(os.sched_getaffinity(0)) // processes))
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", share)

import pytest
from hypothesis import settings

from pipeline.project import LoadedProject
from tests.helpers.fetch_sources import full_project

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a job in the background has it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("glimpse", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("glimpse")


@pytest.fixture
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches any other machine."""
    resolve = socket.getaddrinfo

    def guarded(host: Any, *rest: Any, **named: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(f"the test asked for {host}")
        return resolve(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def project(tmp_path: Path) -> LoadedProject:
    """The full benchmark's profile in a folder of its own."""
    return full_project(tmp_path)
