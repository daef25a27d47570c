"""What a check finds: one bad unit, and how to drop just that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A unit that is not what was written.

    Attributes:
        kind: output, reference (made from another input than lies there), part, manifest line, configuration, record, or
            cached object (of DVC).
        stage: name of the instance that it belongs to (``stage`` or ``stage@encoder``), whose lock dropping it takes.
        path: the file or folder, from here. line: of a manifest, counted from 1; 0 for the whole.
        what: what was expected and what was found.
        drop: removes it, so that the next `dvc repro` makes it again.
    """

    kind: str
    stage: str
    path: Path
    what: str
    drop: Callable[[], None]
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}{f', line {self.line}' if self.line else ''}: {self.kind}: {self.what}"
