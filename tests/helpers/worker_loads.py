"""What tests send to workers: loads of stand-in models, in a module that a worker process can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import DataError
from store.units import Compute, Result


def logged(folder: Path, kill_at: int, device: str) -> Compute:
    """Squares its inputs and logs each; the first process to reach ``kill_at`` dies without a word."""
    (folder / f"load-{os.getpid()}").touch()

    def compute(inputs: Sequence[Any], kinds: tuple[str, ...]) -> list[Result]:
        for number in inputs:
            (folder / f"{number}-{os.getpid()}").touch()
            if number == kill_at and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [
            Result({kind: {"square": np.array([n * n])} for kind in kinds}, [f"{n} is odd"] * (n % 2)) for n in inputs
        ]

    return compute


def refusing(device: str) -> Compute:
    def compute(inputs: Sequence[Any], kinds: tuple[str, ...]) -> list[Result]:
        raise DataError("picture 7: broken; put it right")

    return compute


def scaled(file: Path, device: str) -> Compute:
    """Multiplies its inputs by the number in ``file``, which it reads once."""
    factor = int(file.read_text())
    return lambda inputs, kinds: [Result({kind: {"product": np.array([n * factor])} for kind in kinds}) for n in inputs]


def replacing_meanwhile(file: Path, device: str) -> Compute:
    """Reads ``file`` once, then somebody replaces it."""
    compute = scaled(file, device)
    file.write_text("1000")
    return compute
