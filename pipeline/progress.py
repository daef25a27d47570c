"""Progress bars on long steps, in images where units of images are done: on a terminal, and nothing elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from store.errors import ParameterError
from store.units import Unit

VERBOSITY = "GLIMPSE_VERBOSITY"
"""Environment variable: quiet, verbose, or nothing for the usual."""


def verbosity() -> str:
    """quiet, usual or verbose.

    Raises:
        ParameterError: the variable says something else.
    """
    said = os.environ.get(VERBOSITY) or "usual"
    if said not in ("quiet", "usual", "verbose"):
        raise ParameterError(f"environment {VERBOSITY}: expected quiet, usual or verbose, got {said!r}")
    return said


def track(items: Sequence[Any], label: str) -> Iterable[Any]:
    """Yield ``items`` and show how far they are, when standard error is a terminal; a unit counts as its inputs."""
    if not sys.stderr.isatty() or verbosity() == "quiet":
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=sum(map(_size, items)))
        for item in items:
            yield item
            progress.advance(task, _size(item))


def _size(item: Any) -> int:
    return len(item.inputs) if isinstance(item, Unit) else 1


@contextmanager
def byte_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar of ``total`` bytes, 0 where that is not known; yields what is called with the bytes just done. Nothing shows off
    a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal or verbosity() == "quiet"
    ) as progress:
        task = progress.add_task(label, total=total or None)
        yield lambda done: progress.advance(task, done)
